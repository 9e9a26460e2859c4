#![no_main]

use flux2_fuzz::Kind;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flux2_fuzz::run(Kind::Mask, bytes));

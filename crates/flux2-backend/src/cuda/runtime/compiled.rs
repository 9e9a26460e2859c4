//! Kernels compiled ahead of time and embedded in the program, so that the first picture does not wait for NVRTC.
//!
//! One archive for each architecture and compute format: deflated entries of a 64-bit key, a 32-bit length and the
//! machine code (cubin). The key is the hash of the program that was compiled, so code that is out of date is not
//! found. `just kernels` writes the archives; a test fails if one is out of date.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::DeflateDecoder;

use crate::Compute;

/// Machine code by the key of its program.
pub(crate) type Archive = HashMap<u64, Vec<u8>>;

/// Archives in the program: architecture, format, bytes.
macro_rules! archives {
    ($($architecture:literal),+) => {
        [$(
            ($architecture, Compute::Bf16, include_bytes!(concat!("../compiled/", $architecture, "-bf16.deflate"))),
            ($architecture, Compute::F32, include_bytes!(concat!("../compiled/", $architecture, "-f32.deflate"))),
        )+]
    };
}
static ARCHIVES: &[(&str, Compute, &[u8])] = &archives!["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// Machine code for `architecture`, if it is one of those in the program.
pub(crate) fn archive(architecture: &str, compute: Compute) -> Option<&'static Archive> {
    static UNPACKED: OnceLock<Vec<OnceLock<Archive>>> = OnceLock::new();
    let at = ARCHIVES.iter().position(|(known, format, _)| *known == architecture && *format == compute)?;
    let unpacked = UNPACKED.get_or_init(|| ARCHIVES.iter().map(|_| OnceLock::new()).collect());
    Some(unpacked[at].get_or_init(|| unpack(ARCHIVES[at].2)))
}

/// Key of a program: FNV-1a, a guard against accidents only.
pub(crate) fn key(program: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    program.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn unpack(archive: &[u8]) -> Archive {
    let mut bytes = Vec::new();
    DeflateDecoder::new(archive).read_to_end(&mut bytes).expect("an archive of the program unpacks");
    let mut rest = &bytes[..];
    let mut entries = Archive::new();
    while let Some((key, tail)) = rest.split_first_chunk::<8>() {
        let (len, tail) = tail.split_first_chunk::<4>().expect("an entry has a length");
        let (code, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        entries.insert(u64::from_le_bytes(*key), code.to_vec());
        rest = tail;
    }
    entries
}

#[cfg(test)]
pub(crate) fn pack(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write as _;

    let mut archive = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    for (key, code) in entries {
        archive.write_all(&key.to_le_bytes()).unwrap();
        archive.write_all(&(code.len() as u32).to_le_bytes()).unwrap();
        archive.write_all(code).unwrap();
    }
    archive.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let entries = [(key("a"), vec![1, 2, 3]), (key("b"), vec![]), (u64::MAX, vec![7; 1000])];
        assert_eq!(unpack(&pack(&entries)), Archive::from(entries));
        assert_eq!(key("a"), 0xaf63_dc4c_8601_ec8c);
    }
}

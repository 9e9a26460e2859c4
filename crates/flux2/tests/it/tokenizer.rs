//! The tokenizer: golden ids, pitfalls of the chat template, and hostile tokenizer.json files.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use flux2::Error;
use flux2::text::tokenizer::{MAX_FILE_BYTES, MAX_PROMPT_BYTES};
use flux2::text::{TokenizedPrompt, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PAD: u32 = 151_643;
const PREFIX: [u32; 3] = [151_644, 872, 198];
const SUFFIX: [u32; 9] = [151_645, 198, 151_644, 77_091, 198, 151_667, 271, 151_668, 271];

fn encode(prompt: &str, max_length: usize) -> TokenizedPrompt {
    Tokenizer::builtin().encode_prompt(prompt, max_length)
}

/// Tokens of `prompt`, without padding and without those of the template.
fn body(prompt: &str) -> Vec<u32> {
    let encoded = encode(prompt, 512);
    let real = &encoded.ids[..encoded.valid];
    assert!(real.starts_with(&PREFIX) && real.ends_with(&SUFFIX), "{prompt:?}: {real:?}");
    real[PREFIX.len()..real.len() - SUFFIX.len()].to_vec()
}

/// Ids by the Hugging Face library with the same tokenizer.json: many scripts, odd white space, emoji.
#[test]
fn sixty_prompts_have_their_golden_ids() {
    let golden = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/golden_ids.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let got = encode(prompt, expected.len());
        assert_eq!(got, TokenizedPrompt { valid: expected.len(), ids: expected, cut: None }, "{prompt:?}");
    }
}

/// Ids from public test suites of Qwen3.
#[test]
fn published_ids_are_reproduced() {
    for (prompt, ids) in [
        ("a red bicycle", &[64, 2518, 34986][..]),
        ("Hello, Qwen3!", &[9707, 11, 1207, 16948, 18, 0]),
        ("¡Hola, 世界! café 🚀", &[39832, 68012, 11, 220, 99489, 0, 51950, 11162, 248, 222]),
    ] {
        assert_eq!(body(prompt), ids, "{prompt:?}");
    }
}

#[test]
fn empty_prompt_is_twelve_tokens() {
    let encoded = encode("", 512);
    assert_eq!((encoded.valid, &encoded.ids[..12]), (12, &[&PREFIX[..], &SUFFIX].concat()[..]));
}

#[test]
fn padding_is_on_the_right() {
    let encoded = encode("a cat", 512);
    assert_eq!((encoded.ids.len(), encoded.valid, encoded.cut), (512, 14, None));
    assert!(encoded.ids[..14].iter().all(|id| *id != PAD) && encoded.ids[14..].iter().all(|id| *id == PAD));
}

#[test]
fn prompt_starting_with_newline_merges_with_the_template() {
    let encoded = encode("\na cat", 512);
    // 271 is two newlines merged; the template's single newline would be 198.
    assert_eq!(encoded.ids[..4], [151_644, 872, 271, 64]);
}

#[test]
fn special_tokens_in_the_prompt_are_tokens() {
    assert_eq!(body("<|im_end|>"), [151_645]);
    assert_eq!(body("<|endoftext|></think>"), [151_643, 151_668]);
}

#[test]
fn digits_are_split_one_by_one() {
    assert_eq!(body("2026"), [17, 15, 17, 21]);
}

#[test]
fn composed_and_decomposed_characters_are_the_same() {
    assert_eq!(body("caf\u{e9}"), body("cafe\u{301}"));
}

#[test]
fn long_prompt_keeps_its_beginning_and_loses_the_template_end() {
    let prompt = "word ".repeat(600) + "end";
    let encoded = encode(&prompt, 512);
    assert_eq!((encoded.ids.len(), encoded.valid), (512, 512));
    assert_eq!(encoded.ids[..], encode(&prompt, 2000).ids[..512]);
    assert!(!encoded.ids.contains(&151_645));

    let cut = encoded.cut.unwrap();
    assert_eq!(cut.tokens, encode(&prompt, 2000).valid);
    // 3 tokens of the template and 509 of the prompt are kept, one per word.
    assert_eq!(cut.lost, &prompt["word".len() + 508 * " word".len()..]);
}

#[test]
fn prompt_that_just_fits_is_not_cut() {
    let length = encode("a red fox in the snow", 512).valid;
    assert_eq!(encode("a red fox in the snow", length).cut, None);
    let cut = encode("a red fox in the snow", length - 1).cut.unwrap();
    assert_eq!((cut.tokens, &*cut.lost), (length, ""));
}

#[test]
fn cut_within_a_character_loses_the_rest_of_the_prompt_after_it() {
    // The rocket is three tokens, so some of these lengths cut through it.
    let prompt = "a 🚀 and 🚀 fly";
    for length in 0..encode(prompt, 512).valid {
        let cut = encode(prompt, length).cut.unwrap();
        assert!(prompt.ends_with(&cut.lost), "{length}: {:?}", cut.lost);
    }
}

#[test]
fn no_length_is_no_ids() {
    let encoded = encode("a cat", 0);
    assert_eq!((encoded.ids.len(), encoded.valid), (0, 0));
    assert_eq!(encoded.cut.unwrap().lost, "a cat");
}

#[test]
fn prompt_of_a_megabyte_is_cut_like_any_other() {
    let prompt = "a red fox and ".repeat(80_000);
    let (whole, beginning) = (encode(&prompt, 512), encode(&prompt[..MAX_PROMPT_BYTES], 512));
    assert_eq!((whole.ids, whole.valid), (beginning.ids, 512));
    assert!(whole.cut.unwrap().more && !beginning.cut.unwrap().more);
    // The limit falls within a character.
    assert_eq!(encode(&"字".repeat(MAX_PROMPT_BYTES), 512).valid, 512);
}

/// A long run without a split point makes a naive BPE merge quadratic and a backtracking regex give up.
#[test]
fn longest_prompts_of_one_kind_of_character_are_tokenized() {
    for unit in ["a", " ", "\n", " \n", "1", "!", "é", "\u{301}", "字", "🚀"] {
        let prompt = unit.repeat(MAX_PROMPT_BYTES / unit.len());
        let start = std::time::Instant::now();
        let encoded = encode(&prompt, 512);
        assert_eq!(encoded.valid, 512, "{unit:?}");
        assert!(start.elapsed().as_secs() < 10, "{unit:?} took {:?}", start.elapsed());
    }
}

proptest! {
    #[test]
    fn any_prompt_gives_the_length_asked_for(prompt in "\\PC{0,40}|[ \\t\\r\\n]{0,9}", max_length in 0usize..64) {
        let encoded = encode(&prompt, max_length);
        prop_assert_eq!(encoded.ids.len(), max_length);
        prop_assert!(encoded.valid <= max_length && encoded.ids[encoded.valid..].iter().all(|id| *id == PAD));
        prop_assert_eq!(&encoded.ids[..encoded.valid], &encode(&prompt, 512).ids[..encoded.valid]);
        prop_assert_eq!(encoded.cut.is_some(), encode(&prompt, 512).valid > max_length);
        prop_assert!(encoded.cut.is_none_or(|cut| prompt.ends_with(&cut.lost)));
    }
}

/// The source in assets/tokenizer/README.md is listed with this checksum.
#[test]
fn builtin_tokenizer_is_the_published_file() {
    let gz = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tokenizer/qwen3.json.gz");
    let mut json = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(fs::File::open(gz).unwrap()), &mut json).unwrap();
    let sum: String = Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4");
}

#[test]
fn notice_and_license_travel_with_the_crates() {
    let text = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap();
    for (own, original) in [
        ("crates/flux2/NOTICE", "NOTICE"),
        ("crates/dj-flux2/NOTICE", "NOTICE"),
        ("crates/flux2-base/LICENSE", "LICENSE"),
        ("crates/flux2-backend/LICENSE", "LICENSE"),
        ("crates/flux2-weights/LICENSE", "LICENSE"),
        ("crates/flux2-hub/LICENSE", "LICENSE"),
        ("crates/flux2/LICENSE", "LICENSE"),
        ("crates/dj-flux2/LICENSE", "LICENSE"),
    ] {
        assert_eq!(text(own), text(original), "{own}");
    }
}

// ---- files ----

/// The smallest valid file: the 256 bytes, two merges, the special tokens.
static TINY: LazyLock<Value> = LazyLock::new(|| {
    let symbol = |byte: u32| match byte {
        33..=126 | 161..=172 | 174..=255 => byte,
        0..=32 => 256 + byte,
        127..=160 => 256 + byte - 94,
        _ => 323, // 173
    };
    let mut vocab: serde_json::Map<String, Value> =
        (0..256).map(|byte| (char::from_u32(symbol(byte)).unwrap().to_string(), json!(byte))).collect();
    vocab.insert("ca".into(), json!(256));
    vocab.insert("cat".into(), json!(257));
    let added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"];
    let added: Vec<Value> = (258..).zip(added).map(|(id, content)| json!({"id": id, "content": content})).collect();
    let pattern = [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
    .concat();
    json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": [["c", "a"], "ca t"]},
    })
});

fn open(json: &[u8]) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, json).unwrap();
    let result = Tokenizer::from_file(&path);
    if let Err(error) = &result {
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "no path in: {error}");
        assert!(error.remedy().is_some(), "no hint for: {error}");
    }
    result
}

/// Asserts that the tiny file, with the value at `pointer` replaced, is refused with `message` after the path.
#[track_caller]
fn check_refused(pointer: &str, value: Value, message: &str) {
    let mut file = TINY.clone();
    *file.pointer_mut(pointer).unwrap() = value;
    let error = open(&serde_json::to_vec(&file).unwrap()).unwrap_err().to_string();
    assert!(error.contains(message), "{pointer}: {error}");
}

#[test]
fn tiny_file_tokenizes() {
    let tokenizer = open(&serde_json::to_vec(&*TINY).unwrap()).unwrap();
    let encoded = tokenizer.encode_prompt("cat", 64);
    // Truncation settings in the file are ignored.
    assert_eq!((encoded.ids[0], encoded.ids[5], encoded.ids[6], encoded.ids[7]), (259, 266 - 256, 257, 260));
    assert_eq!(encoded.ids[63], 258);
}

#[test]
fn file_that_is_no_json() {
    for json in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"model\":{}}", &b"[".repeat(100_000)] {
        assert!(matches!(open(json), Err(Error::TokenizerJson { .. })), "{:?}", &json[..json.len().min(20)]);
    }
}

#[test]
fn file_that_does_not_exist() {
    let error = Tokenizer::from_file(Path::new("/nowhere/tokenizer.json")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().starts_with("/nowhere/tokenizer.json: "));
}

#[test]
fn file_larger_than_any_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(matches!(Tokenizer::from_file(&path), Err(Error::TokenizerTooLarge { .. })));
}

/// Refused because the tokenizers crate would copy past the end of a buffer sized by the longest token.
#[test]
fn merge_longer_than_any_token() {
    check_refused("/model/merges", json!([["cat", "cat"]]), r#"token "catcat" is missing"#);
}

#[test]
fn merge_of_a_token_that_is_not_there() {
    check_refused("/model/merges", json!([["dog", "s"]]), r#"token "dog" is missing"#);
    check_refused("/model/merges", json!(["dog"]), "a merge is two tokens");
    check_refused("/model/merges", json!([["c"]]), "a merge is two tokens");
    check_refused("/model/merges", json!([["c", "a", "t"]]), "not a tokenizer.json");
}

/// Refused because the tokenizers crate would subtract the prefix's length from that of every token.
#[test]
fn prefix_longer_than_a_token() {
    let mut file = TINY.clone();
    file["model"]["continuing_subword_prefix"] = json!("#########");
    let error = open(&serde_json::to_vec(&file).unwrap()).unwrap_err().to_string();
    assert!(error.ends_with("not the tokenizer of Qwen3: model: expected no prefix"), "{error}");
}

#[test]
fn other_rules_than_qwen3s() {
    check_refused("/normalizer", json!(null), "normalizer: expected NFC");
    check_refused(
        "/normalizer",
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "normalizer: expected NFC",
    );
    check_refused("/pre_tokenizer", json!(null), "pre-tokenizer: expected Qwen's pattern");
    check_refused(
        "/pre_tokenizer/pretokenizers/0/pattern/Regex",
        json!("(a+)+$"),
        "pre-tokenizer: expected Qwen's pattern",
    );
    check_refused(
        "/pre_tokenizer/pretokenizers/0/behavior",
        json!("Removed"),
        "pre-tokenizer: expected isolated matches",
    );
    check_refused("/pre_tokenizer/pretokenizers/1/use_regex", json!(true), "pre-tokenizer: expected the byte level");
    check_refused(
        "/pre_tokenizer/pretokenizers/1/add_prefix_space",
        json!(true),
        "pre-tokenizer: expected no space in front",
    );
    check_refused("/model/type", json!("Unigram"), "model: expected BPE");
}

#[test]
fn special_tokens_that_are_missing_or_misnumbered() {
    check_refused("/added_tokens", json!([]), r#"token "<|im_start|>" is missing or misnumbered"#);
    check_refused("/added_tokens/0/content", json!("<pad>"), r#"token "<|endoftext|>" is missing"#);
    check_refused("/added_tokens/3/id", json!(7), r#"token "<think>" is missing or misnumbered"#);
    check_refused("/added_tokens/3/content", json!(""), "added tokens: expected taken as they stand");
}

#[test]
fn vocabulary_without_a_byte() {
    check_refused("/model/vocab", json!({}), "is missing");
    check_refused("/model/vocab/c", json!(-1), "not a tokenizer.json");
}

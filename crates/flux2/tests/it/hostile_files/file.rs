//! Safetensors files with an invalid header.

use super::*;

/// The problem reported for a file of these bytes.
fn problem(bytes: &[u8]) -> FileProblem {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("hostile.safetensors");
    std::fs::write(&path, bytes).unwrap();
    match Component::<TransformerConfig>::open(&path) {
        Err(error @ Error::Checkpoint { .. }) => {
            assert!(error.to_string().contains("hostile.safetensors") && error.remedy().is_some());
            let Error::Checkpoint { problem, .. } = error else { unreachable!("matched above") };
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// The problem reported for a file with this header and this many bytes of data.
fn header_problem(header: &str, data: usize) -> FileProblem {
    problem(&join(header, &vec![0; data]))
}

#[test]
fn empty_file() {
    assert_eq!(problem(b""), FileProblem::TooShort { bytes: 0 });
}

#[test]
fn file_of_seven_bytes() {
    assert_eq!(problem(&[0; 7]), FileProblem::TooShort { bytes: 7 });
}

#[cfg(unix)]
#[test]
fn a_device_is_not_read() {
    let error = Component::<VaeConfig>::open(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { problem: FileProblem::NotAFile, .. }), "{error}");
}

#[test]
fn a_shard_that_is_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("model.safetensors")).unwrap();
    let error = Component::<VaeConfig>::open(temp.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { problem: FileProblem::NotAFile, .. }), "{error}");
}

#[test]
fn header_longer_than_file() {
    let bytes = [&100u64.to_le_bytes()[..], b"{}"].concat();
    assert_eq!(problem(&bytes), FileProblem::HeaderBeyondFile { header: 100, file: 10 });
}

#[test]
fn header_of_a_gigabyte() {
    let bytes = [&(1u64 << 30).to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(problem(&bytes), FileProblem::HeaderTooLong { header: 0x4000_0000, .. }));
}

#[test]
fn header_length_that_overflows_when_eight_is_added() {
    let bytes = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(problem(&bytes), FileProblem::HeaderTooLong { header: u64::MAX, .. }));
}

#[test]
fn header_without_json() {
    assert!(matches!(problem(&join("", b"")), FileProblem::Json { .. }));
    assert!(matches!(header_problem("not json", 0), FileProblem::Json { .. }));
    assert!(matches!(header_problem("{\"a\"", 0), FileProblem::Json { .. }));
    assert!(matches!(header_problem("{\"a\":", 0), FileProblem::Entry { .. }));
    assert!(matches!(header_problem("{} {}", 0), FileProblem::Json { .. }));
}

#[test]
fn header_that_is_an_array() {
    assert!(matches!(header_problem("[]", 0), FileProblem::Json { .. }));
}

#[test]
fn header_that_is_not_utf8() {
    let bytes = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    assert!(matches!(problem(&bytes), FileProblem::Json { .. }));
}

#[test]
fn header_nested_a_hundred_thousand_deep() {
    let deep = "[".repeat(100_000);
    assert!(matches!(header_problem(&format!("{{\"a\":{deep}"), 0), FileProblem::Entry { .. }));
    let unknown = format!(r#"{{"a":{{"x":{deep}"#);
    assert!(matches!(header_problem(&unknown, 0), FileProblem::Entry { .. }));
    assert!(matches!(header_problem(&format!(r#"{{"__metadata__":{deep}"#), 0), FileProblem::Json { .. }));
}

/// A header with one tensor.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn a_tensor_without_a_shape() {
    let found = header_problem(r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#, 4);
    assert!(matches!(&found, FileProblem::Entry { name, message } if name == "a" && message.contains("shape")));
}

#[test]
fn an_axis_that_is_negative_or_no_number() {
    for shape in ["[-1]", "[1.5]", "[\"1\"]", "[18446744073709551616]", "null", "{}"] {
        assert!(matches!(header_problem(&one("F32", shape, "[0,4]"), 4), FileProblem::Entry { .. }), "{shape}");
    }
}

#[test]
fn offsets_that_are_negative_or_too_many() {
    for offsets in ["[-4,0]", "[0]", "[0,4,8]", "[0,1e30]"] {
        assert!(matches!(header_problem(&one("F32", "[1]", offsets), 4), FileProblem::Entry { .. }), "{offsets}");
    }
}

#[test]
fn a_shape_of_a_thousand_axes() {
    let shape = format!("[{}1]", "1,".repeat(999));
    assert!(matches!(header_problem(&one("F32", &shape, "[0,4]"), 4), FileProblem::Entry { .. }));
}

#[test]
fn a_shape_whose_product_overflows() {
    let shape = "[4294967296,4294967296]";
    let expected = FileProblem::SizeOverflow { name: "a".into(), shape: vec![1 << 32; 2], dtype: "f32".into() };
    assert_eq!(header_problem(&one("F32", shape, "[0,4]"), 4), expected);
}

#[test]
fn a_shape_that_needs_other_bytes_than_it_is_given() {
    let found = header_problem(&one("BF16", "[3]", "[0,4]"), 4);
    assert!(matches!(found, FileProblem::ByteCount { expected: 6, found: 4, .. }), "{found}");
}

#[test]
fn a_dtype_nobody_knows() {
    let expected = FileProblem::UnknownDType { name: "a".into(), dtype: "F33".into() };
    assert_eq!(header_problem(&one("F33", "[1]", "[0,4]"), 4), expected);
}

#[test]
fn a_tensor_beyond_the_end_of_the_file() {
    let expected = FileProblem::BeyondFile { name: "a".into(), end: 8, available: 7 };
    assert_eq!(header_problem(&one("F32", "[2]", "[0,8]"), 7), expected);
}

#[test]
fn bytes_after_the_last_tensor() {
    assert_eq!(header_problem(&one("F32", "[1]", "[0,4]"), 5), FileProblem::Trailing { bytes: 1 });
}

/// A header with two tensors.
fn two(a: [u64; 2], b: [u64; 2]) -> String {
    let entry =
        |[from, to]: [u64; 2]| json!({"dtype": "U8", "shape": [to.saturating_sub(from)], "data_offsets": [from, to]});
    json!({"a": entry(a), "b": entry(b)}).to_string()
}

#[test]
fn tensors_that_overlap() {
    let found = header_problem(&two([0, 4], [2, 6]), 6);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 2, to: 6, expected: 4 });
}

#[test]
fn a_gap_between_tensors() {
    let found = header_problem(&two([0, 4], [5, 6]), 6);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 5, to: 6, expected: 4 });
}

#[test]
fn offsets_that_run_backwards() {
    let found = header_problem(&two([0, 4], [4, 2]), 4);
    assert_eq!(found, FileProblem::Offsets { name: "b".into(), from: 4, to: 2, expected: 4 });
}

#[test]
fn a_name_given_twice() {
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    assert_eq!(header_problem(&format!("{{{entry},{entry}}}"), 4), FileProblem::Duplicate { name: "a".into() });
}

#[test]
fn the_answer_of_a_server_is_shown() {
    for (text, shown) in [
        ("{\"error\":\"Invalid username\"}", "text: {\"error\":\"Invalid username\"}"),
        ("\n\n  <HTML>\r\n<b>Not Found", "text: <HTML> <b>Not Found"),
        ("Entry not found", "text: Entry not found"),
        ("Zugriff verweigert f\u{fc}r alle, die nicht angemeldet sind", "text: Zugriff verweigert f\u{fc}r alle"),
    ] {
        let found = problem(text.as_bytes());
        assert!(matches!(found, FileProblem::Text { .. }) && found.to_string().contains(shown), "{found}");
    }
    // Control characters cannot drive the terminal, and long texts are cut.
    let found = problem("a\u{202e}b ".repeat(1000).as_bytes()).to_string();
    assert!(found.len() < 1200 && found.contains("\\u{202e}") && !found.contains('\u{202e}'), "{found}");
    assert!(!matches!(problem(b"abc\x1b[2Jdefgh"), FileProblem::Text { .. }));
}

#[test]
fn other_formats_are_recognized() {
    for (start, expected) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00"[..], "git LFS"),
        (b"PK\x03\x04\0\0\0\0", "PyTorch"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "a PNG picture"),
    ] {
        let found = problem(start);
        assert!(matches!(found, FileProblem::OtherFormat { looks_like } if looks_like.contains(expected)), "{found}");
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let name = "\u{1b}]0;owned\u{7}\n".to_owned() + &"x".repeat(100_000);
    let header = json!({name: {"dtype": "\u{1b}[2J", "shape": [1], "data_offsets": [0, 4]}}).to_string();
    let message = header_problem(&header, 4).to_string();
    assert!(!message.contains(char::is_control) && message.len() < 500, "{message}");
}

fn small_header() -> Vec<u8> {
    let entry = |name: &str, shape: &[usize], from: usize| {
        let bytes = 2 * shape.iter().product::<usize>();
        format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{from},{}]}}"#, from + bytes)
    };
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
        entry("img_in.weight", &[4, 2], 0),
        entry("double_stream_modulation_img.lin.weight", &[3], 16)
    );
    join(&header, &[0; 22])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    /// A file that this loader accepts is also accepted by the `safetensors` crate.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0..1usize << 16, any::<u8>()), 1..4)) {
        let mut bytes = small_header();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let error = Component::<TransformerConfig>::open(&path).unwrap_err();
        if !matches!(error, Error::Checkpoint { .. }) {
            prop_assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), "{error}");
        }
    }
}

#[test]
fn the_small_header_is_whole() {
    assert!(safetensors::SafeTensors::deserialize(&small_header()).is_ok());
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("f.safetensors");
    std::fs::write(&path, small_header()).unwrap();
    let error = Component::<TransformerConfig>::open(&path).unwrap_err();
    assert!(matches!(error, Error::Tensors { .. }), "{error}");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = std::fs::read(tiny("klein-bfl/ae.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for len in [9, header - 1, header, header + 1, whole.len() - 1] {
        problem(&whole[..len]);
    }
}

//! Invalid GGUF files: each is refused with an error that names the file and the offending values. None causes a panic
//! or an allocation of a claimed but absent size.

use flux2::weights::{Component, Error, FileProblem, TransformerConfig};
use proptest::prelude::*;

use crate::gguf::{Gguf, Tensor, Value, long_text, number_u32, text};

/// The problem reported for a file of these bytes.
fn problem(bytes: &[u8]) -> FileProblem {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("hostile.gguf");
    std::fs::write(&path, bytes).unwrap();
    match Component::<TransformerConfig>::open(&path) {
        Err(error @ Error::Checkpoint { .. }) => {
            let message = error.to_string();
            assert!(message.contains("hostile.gguf") && error.remedy().is_some());
            assert!(!message.contains(char::is_control) && message.len() < 1000, "{message}");
            let Error::Checkpoint { problem, .. } = error else { unreachable!("matched above") };
            problem
        }
        other => panic!("{other:?}"),
    }
}

fn tensor(name: &str, shape: &[usize], kind: u32, bytes: usize) -> Tensor {
    Tensor { name: name.into(), shape: shape.into(), kind, bytes: vec![0; bytes] }
}

/// A valid file with two tensors.
fn small() -> Gguf {
    Gguf::new(vec![tensor("a", &[2, 32], 8, 68), tensor("b", &[4], 0, 16)]).with("general.architecture", text("flux"))
}

/// Start of a header: magic, version and the two counts.
fn start(version: u32, tensors: u64, entries: u64) -> Vec<u8> {
    [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

/// A file with one metadata entry, which is these bytes.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&start(3, 0, 1)[..], &long_text(key), &kind.to_le_bytes(), value].concat()
}

/// A file with one tensor and this many bytes of data.
fn one(name: &str, dims: &[u64], kind: u32, offset: u64, data: usize) -> Vec<u8> {
    let mut bytes = start(3, 1, 0);
    bytes.extend(long_text(name));
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn array(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

#[test]
fn a_whole_file_of_another_model_is_no_damaged_file() {
    let temp = tempfile::tempdir().unwrap();
    let error = Component::<TransformerConfig>::open(small().write(temp.path(), "small.gguf")).unwrap_err();
    assert!(matches!(error, Error::WrongPart { .. }), "{error}");
}

#[test]
fn every_cut_is_seen() {
    let bytes = small().bytes();
    let header = small().parts().0.len();
    // The last tensor ends here; the padding after it may be missing.
    let end = header + 96 + 16;
    assert!(end < bytes.len());
    for len in 4..end {
        let found = problem(&bytes[..len]);
        assert!(matches!(found, FileProblem::GgufCut { .. } | FileProblem::BeyondFile { .. }), "{len}: {found}");
    }
}

#[test]
fn versions_that_are_not_read() {
    for version in [0, 1, 4, 0x0300_0000, u32::MAX] {
        assert_eq!(problem(&start(version, 0, 0)), FileProblem::GgufVersion { version });
    }
}

#[test]
fn counts_that_no_file_holds() {
    for (tensors, entries) in [(16_385, 0), (0, 65_537), (1 << 32, 0), (0, 1 << 32), (u64::MAX, 0), (0, u64::MAX)] {
        let found = problem(&start(3, tensors, entries));
        let count = tensors.max(entries);
        assert!(matches!(found, FileProblem::GgufCount { found, .. } if found == count), "{tensors}, {entries}");
    }
    for bytes in [start(3, 16_384, 0), start(3, 0, 65_536), start(2, 1, 1)] {
        assert!(matches!(problem(&bytes), FileProblem::GgufCut { .. }));
    }
}

#[test]
fn names_that_are_too_long_or_no_text() {
    for length in [65_536, 1 << 40, u64::MAX] {
        let key = [&start(3, 0, 1)[..], &length.to_le_bytes()].concat();
        let name = [&start(3, 1, 0)[..], &length.to_le_bytes()].concat();
        for bytes in [key, name] {
            assert!(matches!(problem(&bytes), FileProblem::GgufCount { found, .. } if found == length), "{length}");
        }
    }
    let not_utf8 = [&start(3, 1, 0)[..], &2u64.to_le_bytes(), b"\xff\xfe"].concat();
    assert!(matches!(problem(&not_utf8), FileProblem::Gguf { message } if message.contains("UTF-8")));
    let beyond = [&start(3, 1, 0)[..], &60_000u64.to_le_bytes(), b"short"].concat();
    assert!(matches!(problem(&beyond), FileProblem::GgufCut { needed: 60_000, .. }));
}

#[test]
fn values_that_end_beyond_the_file_or_mean_nothing() {
    for kind in [13, 14, 100, u32::MAX] {
        assert!(matches!(problem(&entry("k", kind, &[0; 64])), FileProblem::Gguf { .. }), "type {kind}");
    }
    for kind in 0..13 {
        assert!(matches!(problem(&entry("k", kind, &[])), FileProblem::GgufCut { .. }), "type {kind}");
    }
    for length in [1, 4097, 1 << 30, u64::MAX] {
        let found = problem(&entry("k", 8, &length.to_le_bytes()));
        assert!(matches!(found, FileProblem::GgufCut { needed, .. } if needed == length), "{found}");
    }
}

#[test]
fn arrays_that_hold_more_than_the_file() {
    for kind in (0..13).filter(|kind| *kind != 9) {
        for count in [1u64 << 20, 1 << 60, u64::MAX] {
            let found = problem(&entry("k", 9, &array(kind, count, &[0; 100])));
            assert!(matches!(found, FileProblem::GgufCut { .. }), "{count} of type {kind}: {found}");
        }
    }
    let found = problem(&entry("k", 9, &array(77, 1, &[0; 100])));
    assert!(matches!(found, FileProblem::Gguf { message } if message.contains("77")));
    // A string in the array claims to be longer than the file.
    let texts = [&long_text("a")[..], &u64::MAX.to_le_bytes()].concat();
    assert!(matches!(problem(&entry("k", 9, &array(8, 2, &texts))), FileProblem::GgufCut { .. }));
}

#[test]
fn arrays_in_arrays_have_an_end() {
    for depth in [5, 100, 100_000] {
        let nested: Vec<u8> = (0..depth).flat_map(|_| array(9, 1, &[])).collect();
        let found = problem(&entry("k", 9, &nested));
        assert!(matches!(found, FileProblem::Gguf { message } if message.contains("nested")), "{depth}");
    }
    let wide: Vec<u8> = array(9, 1000, &(0..1000).flat_map(|_| array(0, 0, &[])).collect::<Vec<u8>>());
    let bytes = [entry("k", 9, &wide), vec![0; 64]].concat();
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("t"), bytes).unwrap();
    let error = Component::<TransformerConfig>::open(temp.path().join("t")).unwrap_err();
    assert!(matches!(error, Error::WrongPart { .. }), "{error}");
}

#[test]
fn entries_and_tensors_given_twice() {
    let twice = small().with("general.architecture", text("flux"));
    assert!(
        matches!(problem(&twice.bytes()), FileProblem::Gguf { message } if message.contains("general.architecture"))
    );
    let mut twice = small();
    twice.tensors[1].name = "a".into();
    assert_eq!(problem(&twice.bytes()), FileProblem::Duplicate { name: "a".into() });
}

#[test]
fn alignments_that_are_none() {
    let values: [Value; 7] = [
        number_u32(0),
        number_u32(3),
        number_u32(33),
        number_u32(1 << 21),
        number_u32(u32::MAX),
        (5, (-32i32).to_le_bytes().into()),
        text("32"),
    ];
    for value in values {
        let found = problem(&small().with("general.alignment", value.clone()).bytes());
        assert!(matches!(&found, FileProblem::Gguf { message } if message.contains("general.alignment")), "{value:?}");
    }
    // An alignment that the offsets do not obey.
    let found = problem(&small().with("general.alignment", number_u32(4096)).bytes());
    assert!(matches!(found, FileProblem::Offsets { .. } | FileProblem::BeyondFile { .. }), "{found}");
}

#[test]
fn axes_that_are_too_many_or_too_long() {
    for axes in [9u32, 1000, u32::MAX] {
        let bytes = [&start(3, 1, 0)[..], &long_text("a"), &axes.to_le_bytes(), &[0; 4096]].concat();
        assert!(matches!(problem(&bytes), FileProblem::GgufCount { found, .. } if found == u64::from(axes)));
    }
    for dims in [&[1u64 << 63, 2][..], &[u64::MAX], &[1 << 32, 1 << 32], &[u64::MAX; 8], &[1 << 62, 1]] {
        let found = problem(&one("a", dims, 0, 0, 64));
        assert!(
            matches!(found, FileProblem::SizeOverflow { .. } | FileProblem::BeyondFile { .. }),
            "{dims:?}: {found}"
        );
    }
    // Blocks of 256: counting neither blocks nor bytes may overflow.
    let found = problem(&one("a", &[1 << 62, 2], 12, 0, 64));
    assert!(matches!(found, FileProblem::SizeOverflow { .. } | FileProblem::BeyondFile { .. }), "{found}");
}

#[test]
fn rows_that_are_not_whole_blocks() {
    for (kind, width) in [(8, 16), (2, 33), (3, 1), (6, 31), (7, 48), (12, 128), (13, 255), (14, 32), (23, 64)] {
        let found = problem(&one("a", &[width, 2], kind, 0, 1024));
        assert!(matches!(found, FileProblem::Blocks { .. }), "{width} of type {kind}: {found}");
    }
}

#[test]
fn types_that_nobody_knows() {
    for kind in [4, 5, 31, 32, 33, 36, 37, 38, 1000, u32::MAX] {
        let found = problem(&one("a", &[32], kind, 0, 1024));
        assert_eq!(found, FileProblem::UnknownDType { name: "a".into(), dtype: kind.to_string() });
    }
}

#[test]
fn offsets_that_lead_elsewhere() {
    for (offset, data) in [(64, 64), (1 << 40, 64), (u64::MAX, 64), (u64::MAX - 100, 64), (0, 8)] {
        let found = problem(&one("a", &[4], 0, offset, data));
        assert!(matches!(found, FileProblem::BeyondFile { .. }), "{offset}: {found}");
    }
    // Not at the start, unaligned, overlapping, after a gap.
    for offset in [1, 4, 32, 96] {
        assert!(matches!(problem(&one("a", &[4], 0, offset, 256)), FileProblem::Offsets { .. }), "{offset}");
    }
    let two = |second: u64| {
        let mut bytes = start(3, 2, 0);
        for (name, offset) in [("a", 0), ("b", second)] {
            bytes.extend(long_text(name));
            [1u32.to_le_bytes().to_vec(), 16u64.to_le_bytes().into(), 0u32.to_le_bytes().into()]
                .iter()
                .for_each(|part| bytes.extend(part));
            bytes.extend(u64::to_le_bytes(offset));
        }
        bytes.resize(bytes.len().next_multiple_of(32) + 512, 0);
        bytes
    };
    for second in [0, 16, 32, 63, 65, 96, 128] {
        assert!(matches!(problem(&two(second)), FileProblem::Offsets { .. }), "{second}");
    }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let name = "\u{1b}]0;owned\u{7}\n".to_owned() + &"x".repeat(60_000);
    problem(&one(&name, &[32], 999, 0, 64));
    problem(&one(&name, &[u64::MAX, 3], 0, 0, 64));
    problem(&entry(&name, 99, &[]));
    problem(&entry(&name, 9, &array(9, 1, &array(9, 1, &array(9, 1, &array(9, 1, &array(9, 1, &[])))))));
    problem(&entry(&name, 4, &[]));
}

#[test]
fn a_header_longer_than_any() {
    // An array of 120 MB that is actually present.
    let bytes = entry("k", 9, &array(0, 120_000_000, &vec![0; 120_000_000]));
    assert!(matches!(problem(&bytes), FileProblem::HeaderTooLong { .. }));
}

proptest! {
    /// Arbitrary bytes give an error or a file, but no panic.
    #[test]
    fn any_change_of_a_whole_file_is_survived(
        at in 0usize..400, value in any::<u8>(), also in 0usize..400, bits in any::<u64>(), version in 2u32..4,
    ) {
        let mut bytes = Gguf { version, ..small() }.bytes();
        let end = bytes.len();
        bytes[4 + at % (end - 4)] = value;
        let also = 4 + also % (end - 12);
        bytes[also..also + 8].copy_from_slice(&bits.to_le_bytes());
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("changed.gguf");
        std::fs::write(&path, bytes).unwrap();
        let result = Component::<TransformerConfig>::open(&path);
        prop_assert!(matches!(result, Err(Error::Checkpoint { .. } | Error::WrongPart { .. })), "{:?}", result);
    }
}

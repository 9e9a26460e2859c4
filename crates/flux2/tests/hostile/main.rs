//! Every loader against several hundred hostile files: none may panic, take a second, or take much more memory than the
//! length of the file.
//!
//! A separate binary because of its counting allocator. Here a file only has to be accepted or refused; the error
//! messages are tested in `tests/it/hostile_files`.

#[path = "../allocator/mod.rs"]
mod allocator;
mod corpus;
mod load;
mod meter;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flux2::weights::{Component, TextConfig};

use corpus::{Hostile, Kind, corpus};
use load::{Model, Opened};
use meter::alone;

/// Limit on the CPU time of opening a file.
const TIME: Duration = Duration::from_secs(1);
/// Limit on the length of an error message, in bytes.
const MESSAGE: usize = 1 << 20;
const MIB: usize = 1 << 20;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Opens every file of a kind and asserts the limits; that on memory is the length of the file plus `more` bytes.
fn check(kind: Kind, more: usize) {
    let (meter, model) = (alone(), Model::new(&fixtures()));
    let mut wrong = vec![];
    let mut refused = 0;
    for Hostile { what, place, bytes } in corpus(kind, &fixtures()) {
        let folder = model.path("");
        let open = move || Opened::open(kind, &folder, place).map_err(|e| format!("{e}\n{:?}", e.remedy()));
        let mut hold = |problem: String| wrong.push(format!("{place}: {what}: {problem}"));
        model.with(place, &bytes, || match meter.measure(open) {
            Err(how) => hold(format!("opening {how}")),
            Ok((opened, taken)) => {
                if taken.time > TIME {
                    hold(format!("opening takes {:?}", taken.time));
                }
                if taken.bytes > bytes.len() + more {
                    hold(format!("opening takes {} bytes, the file has {}", taken.bytes, bytes.len()));
                }
                match opened {
                    Err(message) if message.len() > MESSAGE => hold(format!("a message of {} bytes", message.len())),
                    Err(_) => refused += 1,
                    Ok(opened) => match meter.measure(move || opened.read()) {
                        Ok((Ok(()), _)) => {}
                        Ok((Err(error), _)) => hold(format!("was accepted and cannot be read: {error}")),
                        Err(how) => hold(format!("reading {how}")),
                    },
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{} files:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > 40, "only {refused} are refused: they are not hostile");
}

#[test]
fn there_are_over_1200_different_files_and_always_the_same() {
    let _meter = alone();
    let all = || Kind::ALL.into_iter().flat_map(|kind| corpus(kind, &fixtures()));
    let different: BTreeSet<Vec<u8>> = all().map(|file| file.bytes).collect();
    assert!(different.len() >= 1200, "{}", different.len());
    assert!(all().zip(all()).all(|(a, b)| a.what == b.what && a.bytes == b.bytes));
    for kind in Kind::ALL {
        let files = corpus(kind, &fixtures());
        let different: BTreeSet<&[u8]> = files.iter().map(|file| &file.bytes[..]).collect();
        assert!(different.len() >= 50 && 10 * different.len() >= 9 * files.len(), "{kind:?}: {}", different.len());
    }
}

#[test]
fn the_whole_files_are_accepted() {
    let (_meter, model) = (alone(), Model::new(&fixtures()));
    for (kind, place) in [
        (Kind::Lora, "lora.safetensors"),
        (Kind::Pth, "upscaler.pth"),
        (Kind::Config, "transformer/config.json"),
        (Kind::Config, "model_index.json"),
        (Kind::Tokenizer, "tokenizer/tokenizer.json"),
        (Kind::Index, "text_encoder/model.safetensors.index.json"),
    ] {
        fs::copy(fixtures().join("tiny/lora.safetensors"), model.path("lora.safetensors")).unwrap();
        fs::copy(fixtures().join("golden/upscale/srvgg_x4.pth"), model.path("upscaler.pth")).unwrap();
        Opened::open(kind, &model.path(""), place).unwrap().read().unwrap();
    }
}

// The memory allowed beyond the length of a file is about twice the measured amount. Most of it holds 20000 parsed
// names, texts or numbers, which take a few times their bytes in the file; schemaless JSON takes the most.

#[test]
fn safetensors() {
    check(Kind::Safetensors, 8 * MIB);
}

#[test]
fn gguf() {
    check(Kind::Gguf, 8 * MIB);
}

#[test]
fn lora() {
    check(Kind::Lora, 12 * MIB);
}

#[test]
fn adapters() {
    check(Kind::Adapter, 12 * MIB);
}

#[test]
fn configurations_of_adapters() {
    check(Kind::AdapterConfig, 12 * MIB);
}

#[test]
fn whole_models() {
    check(Kind::WholeModel, 8 * MIB);
}

#[test]
fn configurations() {
    check(Kind::Config, 4 * MIB);
}

#[test]
fn tokenizers() {
    check(Kind::Tokenizer, 8 * MIB);
}

#[test]
fn indices() {
    check(Kind::Index, 32 * MIB);
}

/// The tables of a pickle have a fixed size.
#[test]
fn pytorch_files() {
    check(Kind::Pth, 16 * MIB);
}

/// A compressed text may have 16 MB, and is copied once.
#[test]
fn pictures() {
    check(Kind::Picture, 56 * MIB);
}

/// Masks of any size are decoded before they are scaled.
#[test]
fn masks() {
    check(Kind::Mask, 16 * MIB);
}

#[test]
fn the_meter_sees_memory_time_and_panics() {
    let meter = alone();
    let (_, taken) = meter.measure(|| drop(vec![1u8; 10 * MIB])).unwrap();
    assert!((10 * MIB..11 * MIB).contains(&taken.bytes), "{}", taken.bytes);
    let (sum, taken) = meter.measure(|| (0..200_000_000u64).fold(0, |sum, i| sum ^ i.wrapping_mul(sum | 1))).unwrap();
    assert!(sum > 0 && taken.time > Duration::from_millis(20), "{:?}", taken.time);
    assert_eq!(meter.measure(|| panic!("of {}", 7)).map(|((), _)| ()).unwrap_err(), "panics: of 7");
}

/// A symbolic link to itself is refused as a shard and does not cause an endless loop.
#[cfg(unix)]
#[test]
fn a_shard_that_is_a_link_to_itself() {
    let (meter, model) = (alone(), Model::new(&fixtures()));
    let shard = model.path("text_encoder/model-00001-of-00002.safetensors");
    fs::remove_file(&shard).unwrap();
    std::os::unix::fs::symlink(&shard, &shard).unwrap();
    let folder = model.path("text_encoder");
    let (error, _) =
        meter.measure(move || Component::<TextConfig>::open(folder).map(drop).unwrap_err().to_string()).unwrap();
    assert!(error.contains("model-00001-of-00002.safetensors"), "{error}");
}

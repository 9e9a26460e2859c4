//! Hostile files, derived from valid ones by a seeded generator: the same files on every machine.
//!
//! In:  the repository's `fixtures`. Out: [`Hostile`] files, each with a description of the change. Changes target the
//! structure of a format (numbers, counts, names, nesting, order) and single bytes. The corpus also seeds `fuzz/`.

#[path = "corpus/gguf.rs"]
mod gguf;
#[path = "corpus/lora.rs"]
mod lora;
#[path = "corpus/model.rs"]
mod model;
#[path = "corpus/safetensors.rs"]
mod safetensors;

// The path holds here and in `fuzz`, which includes this file by its path.
#[path = "corpus/pictures.rs"]
mod pictures;
#[path = "corpus/plain.rs"]
mod plain;
#[path = "corpus/pth.rs"]
mod pth;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use gguf::*;
use lora::*;
use model::*;
use safetensors::*;

/// Kind of file, which selects the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Safetensors,
    Gguf,
    Lora,
    /// LoHa, LoKr, cores and whole differences.
    Adapter,
    /// `adapter_config.json` beside an adapter.
    AdapterConfig,
    /// All networks of a model in one file.
    WholeModel,
    Config,
    Tokenizer,
    Index,
    Picture,
    /// An upscaler as PyTorch saves it.
    Pth,
    /// The mask of a source, and what is done with it.
    Mask,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Safetensors,
        Kind::Gguf,
        Kind::Lora,
        Kind::Adapter,
        Kind::AdapterConfig,
        Kind::WholeModel,
        Kind::Config,
        Kind::Tokenizer,
        Kind::Index,
        Kind::Picture,
        Kind::Pth,
        Kind::Mask,
    ];
}

/// A mutated file: invalid, or unusual but valid.
pub struct Hostile {
    /// Description of the change.
    pub what: String,
    /// Path in the tiny model of the file that it replaces.
    pub place: &'static str,
    pub bytes: Vec<u8>,
}

/// All hostile files of a kind.
pub fn corpus(kind: Kind, fixtures: &Path) -> Vec<Hostile> {
    let mut rng = Rng(0x5eed + kind as u64);
    let read = |path: &str| std::fs::read(fixtures.join("tiny").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut files = Files { place: "", files: vec![] };
    match kind {
        Kind::Safetensors => {
            files.place = "transformer.safetensors";
            let transformer = Tensors::parse(&read("klein-bfl/transformer.safetensors"));
            safetensors(&mut files, &mut rng, &transformer);
            files.place = "packed.safetensors";
            let packed = transformer.with_matrices_of_few_bits(&Tensors::parse(&read("../golden/nvfp4.safetensors")));
            matrices_of_few_bits(&mut files, &packed);
            tensors(&mut files, &mut rng, &packed);
            files.place = "vae.safetensors";
            tensors(&mut files, &mut rng, &Tensors::parse(&read("klein-bfl/ae.safetensors")));
            files.place = "text.safetensors";
            tensors(&mut files, &mut rng, &Tensors::parse(&read("klein-bfl/text_encoder.safetensors")));
        }
        Kind::Gguf => {
            files.place = "transformer.gguf";
            gguf(&mut files, &mut rng, &Gguf::of(&Tensors::parse(&read("klein-bfl/transformer.safetensors"))));
            files.place = "text.gguf";
            let text = Gguf::text_encoder(&Tensors::parse(&read("klein-bfl/text_encoder.safetensors")));
            text_encoder_metadata(&mut files, &text);
            gguf(&mut files, &mut rng, &text);
        }
        Kind::Lora => {
            files.place = "lora.safetensors";
            lora(&mut files, &mut rng, &Tensors::parse(&read("lora.safetensors")));
        }
        Kind::Adapter => {
            files.place = "lora.safetensors";
            let cases = Tensors::parse(&read("../golden/lycoris.safetensors"));
            for case in ["loha", "lokr", "lokr_both", "lokr_whole", "full", "locon_core", "loha_core", "lokr_core"] {
                adapter(&mut files, &mut rng, &cases.case(case));
            }
        }
        Kind::AdapterConfig => {
            files.place = "adapter/adapter_config.json";
            // Patterns that fit few modules or none, so that most changes are of something that is read.
            let patterns = |value: fn(usize) -> Value| -> Map<String, Value> {
                (0..12).map(|i| (format!("^nowhere\\.{i}\\.(?:a|b)+"), value(i))).collect()
            };
            let (mut ranks, mut alphas) = (patterns(|i| json!(i + 1)), patterns(|i| json!(i as f64 + 0.5)));
            ranks.extend([("attn.to_k".into(), json!(2)), ("ff.linear_out".into(), json!(3))]);
            alphas.extend([("attn.to_k".into(), json!(5)), ("^proj_out".into(), json!(1))]);
            let configuration = json!({
                "r": 4, "lora_alpha": 6, "use_rslora": false, "rank_pattern": ranks, "alpha_pattern": alphas,
            });
            json_file(&mut files, &mut rng, configuration.to_string().as_bytes(), 90, 40);
            // Of few fields, many changes are the same.
            let mut seen = BTreeSet::new();
            files.files.retain(|file| seen.insert(file.bytes.clone()));
        }
        Kind::WholeModel => {
            files.place = "whole.safetensors";
            let parts = ["transformer", "text_encoder", "ae"].map(|it| format!("klein-bfl/{it}.safetensors"));
            let whole = Tensors::whole_model(parts.map(|part| Tensors::parse(&read(&part))));
            whole_model(&mut files, &mut rng, &whole);
        }
        Kind::Config => {
            for place in ["transformer/config.json", "text_encoder/config.json", "vae/config.json", "model_index.json"]
            {
                files.place = place;
                json_file(&mut files, &mut rng, &read(&format!("klein/{place}")), 20, 6);
            }
        }
        Kind::Tokenizer => {
            files.place = "tokenizer/tokenizer.json";
            let whole = read("klein/tokenizer/tokenizer.json");
            json_file(&mut files, &mut rng, &whole, 40, 20);
            tokenizer(&mut files, &parse(&whole));
        }
        Kind::Index => {
            files.place = "text_encoder/model.safetensors.index.json";
            let whole = read("klein/text_encoder/model.safetensors.index.json");
            json_file(&mut files, &mut rng, &whole, 40, 15);
            index(&mut files, &parse(&whole));
        }
        Kind::Pth => {
            files.place = "upscaler.pth";
            let (whole, legacy) = (read("../golden/upscale/srvgg_x4.pth"), read("../golden/pth/legacy.pth"));
            pth::pth(&mut files, &mut rng, &whole, &legacy);
        }
        Kind::Picture => {
            pictures::pictures(&mut files, &mut rng, fixtures);
            files.place = pictures::WHOLE;
            plain::plain(&mut files, &mut rng, fixtures);
        }
        Kind::Mask => pictures::masks(&mut files, &mut rng, fixtures),
    }
    files.files
}

struct Files {
    place: &'static str,
    files: Vec<Hostile>,
}

impl Files {
    fn add(&mut self, what: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.push(Hostile { what: what.into(), place: self.place, bytes: bytes.into() });
    }
}

/// Random numbers by SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number in `0..n`; `n` must not be 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("the fixture is valid")
}

// ---- bytes ----

/// `count` format-agnostic changes: truncated, flipped, inserted, removed or swapped bytes. Positions are below
/// `important`.
fn bytes(files: &mut Files, rng: &mut Rng, whole: &[u8], important: usize, count: usize) {
    for i in 0..count {
        let mut bytes = whole.to_vec();
        let at = rng.below(important.min(bytes.len()));
        let what = match i % 10 {
            0 => {
                bytes.truncate(at);
                format!("cut at byte {at}")
            }
            1..=3 => {
                let flips = 1 + rng.below(4);
                for _ in 0..flips {
                    let at = rng.below(important.min(bytes.len()));
                    bytes[at] ^= 1 << rng.below(8);
                }
                format!("{flips} bits flipped, one about byte {at}")
            }
            4 => {
                const INVALID: [&[u8]; 5] = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\0"];
                let invalid = rng.pick(&INVALID);
                bytes.splice(at..at, invalid.iter().copied());
                format!("{invalid:x?} at byte {at}")
            }
            5 => {
                let end = (at + 1 + rng.below(64)).min(bytes.len());
                bytes.drain(at..end);
                format!("bytes {at} to {end} gone")
            }
            6 => {
                let end = (at + 1 + rng.below(256)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
                format!("bytes {at} to {end} twice")
            }
            7 => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(*rng.pick(&[0, 0xff, b'9', b'"', b'[']));
                format!("bytes {at} to {end} of one value")
            }
            8 => {
                let more = 1 + rng.below(1 << 16);
                bytes.resize(bytes.len() + more, *rng.pick(&[0, b' ', b'}', 0xff]));
                format!("{more} bytes more")
            }
            _ => {
                let other = rng.below(important.min(bytes.len()));
                let len = 16.min(bytes.len() - at.max(other));
                (0..len).for_each(|i| bytes.swap(at + i, other + i));
                format!("{len} bytes at {at} and {other} exchanged")
            }
        };
        files.add(what, bytes);
    }
}

// ---- JSON ----

/// Placeholder for one of [`hostile_values`], which serde_json could not serialize.
const RAW: &str = "@@raw@@";
/// Prefix of a key that becomes a duplicate when it is removed.
const TWICE: &str = "@@twice@@";

/// JSON texts that are invalid, extreme or of an unexpected type.
fn hostile_values() -> Vec<(&'static str, String)> {
    let mut values: Vec<(&str, String)> = [
        "null",
        "true",
        "-1",
        "0",
        "-0.0",
        "1.5",
        "1e400",
        "-1e400",
        "1e308",
        "1e-400",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775808",
        "4294967296",
        "NaN",
        "Infinity",
        "0x10",
        "007",
        "\"\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"../../etc/passwd\"",
        "\"\\u001b[2J\"",
        "[]",
        "{}",
        "[null]",
        "[-1, 1e400]",
        "'",
        "",
    ]
    .iter()
    .map(|text| (*text, (*text).to_owned()))
    .collect();
    values.push(("a text of 70000", format!("\"{}\"", "x".repeat(70_000))));
    values.push(("an array of 20000", format!("[{}0]", "0,".repeat(20_000))));
    values.push(("100 arrays deep", "[".repeat(100) + &"]".repeat(100)));
    values.push(("100000 arrays deep", "[".repeat(100_000)));
    values.push(("100000 objects deep", "{\"a\":".repeat(100_000)));
    values
}

/// One random change of a document.
fn mutant(rng: &mut Rng, whole: &Value) -> (String, Vec<u8>) {
    let mut document = whole.clone();
    let values = hostile_values();
    let (name, value) = rng.pick(&values).clone();
    // Descends to a random place.
    let (mut place, mut path) = (&mut document, String::new());
    loop {
        let stop = rng.below(3) == 0;
        match place {
            Value::Object(map) if !map.is_empty() && (!stop || path.is_empty()) => {
                let key = map.keys().nth(rng.below(map.len())).expect("below its length").clone();
                path = format!("{path}/{key}");
                place = place.get_mut(&key).expect("one of its keys");
            }
            Value::Array(array) if !array.is_empty() && !stop => {
                let i = rng.below(array.len());
                path = format!("{path}/{i}");
                place = &mut place[i];
            }
            _ => break,
        }
    }
    let what = match rng.below(8) {
        0 => {
            *place = json!([place.take()]);
            format!("{path}: in an array")
        }
        1 => {
            let again = place.take();
            *place = json!({"a": again});
            format!("{path}: in an object")
        }
        2 => {
            *place = Value::Array(vec![place.take(); 1000]);
            format!("{path}: 1000 times")
        }
        3 => {
            if let Some((parent, key)) = path.rsplit_once('/')
                && let Some(map) = document.pointer_mut(parent).and_then(Value::as_object_mut)
                && let Some(value) = map.get(key).cloned()
            {
                map.insert(format!("{TWICE}{key}"), value);
            }
            format!("{path}: twice")
        }
        4 => {
            if let Some((parent, key)) = path.rsplit_once('/')
                && let Some(map) = document.pointer_mut(parent).and_then(Value::as_object_mut)
            {
                map.remove(key);
            }
            format!("{path}: gone")
        }
        _ => {
            *place = RAW.into();
            format!("{path}: {name}")
        }
    };
    let text = document.to_string().replace(&format!("\"{RAW}\""), &value).replace(TWICE, "");
    (what, text.into_bytes())
}

/// Changes of a JSON file: `mutants` of its values, `others` of its bytes, and a few other documents.
fn json_file(files: &mut Files, rng: &mut Rng, whole: &[u8], mutants: usize, others: usize) {
    let document = parse(whole);
    for _ in 0..mutants {
        let (what, bytes) = mutant(rng, &document);
        files.add(what, bytes);
    }
    bytes(files, rng, whole, whole.len(), others);
    files.add("empty", b"");
    files.add("a byte order mark", [b"\xef\xbb\xbf", whole].concat());
    files.add("UTF-16", String::from_utf8_lossy(whole).encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    files.add("two documents", [whole, whole].concat());
    files.add("zeros", vec![0; whole.len()]);
    let keys: Map<String, Value> = (0..5000).map(|i| (format!("key{i}"), json!(i))).collect();
    files.add("5000 keys of no meaning", Value::Object(keys).to_string());
}

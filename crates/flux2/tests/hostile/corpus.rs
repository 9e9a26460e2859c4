//! Hostile files, derived from valid ones by a seeded generator: the same files on every machine.
//!
//! In:  the repository's `fixtures`. Out: [`Hostile`] files, each with a description of the change. Changes target the
//! structure of a format (numbers, counts, names, nesting, order) and single bytes. The corpus also seeds `fuzz/`.

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

// ---- safetensors ----

/// A safetensors file: header and data.
struct Tensors {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Tensors {
    fn parse(bytes: &[u8]) -> Self {
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("a fixture")) as usize;
        let Value::Object(header) = parse(&bytes[8..8 + length]) else { panic!("a header is an object") };
        Tensors { header, data: bytes[8 + length..].to_vec() }
    }

    /// The file with another header.
    fn with(&self, header: impl AsRef<[u8]>) -> Vec<u8> {
        let header = header.as_ref();
        [&(header.len() as u64).to_le_bytes()[..], header, &self.data].concat()
    }

    fn text(&self) -> String {
        Value::Object(self.header.clone()).to_string()
    }

    /// Header entry and bytes of a tensor.
    fn get(&self, name: &str) -> (Value, &[u8]) {
        let entry = &self.header[name];
        let place = |i: usize| entry["data_offsets"][i].as_u64().expect("a number") as usize;
        (entry.clone(), &self.data[place(0)..place(1)])
    }

    /// The transformer with an NVFP4 matrix, a scaled fp8 matrix, and ComfyUI's metadata for both.
    fn with_matrices_of_few_bits(&self, golden: &Tensors) -> Self {
        let mut packed = Tensors { header: Map::new(), data: vec![] };
        let mut add = |name: String, dtype: Value, shape: Value, bytes: &[u8]| {
            let from = packed.data.len();
            packed.data.extend(bytes);
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [from, packed.data.len()]});
            packed.header.insert(name, entry);
        };
        let (nvfp4, fp8) = (format!("{BLOCK}0.linear2"), format!("{BLOCK}1.linear2"));
        for name in self.names() {
            let (entry, bytes) = self.get(&name);
            if name == format!("{fp8}.weight") {
                add(name, json!("F8_E4M3"), entry["shape"].clone(), &bytes[..bytes.len() / 2]);
            } else if name != format!("{nvfp4}.weight") {
                add(name, entry["dtype"].clone(), entry["shape"].clone(), bytes);
            }
        }
        for part in ["weight", "weight_scale", "weight_scale_2"] {
            let (entry, bytes) = golden.get(&format!("small.{part}"));
            add(format!("{nvfp4}.{part}"), entry["dtype"].clone(), entry["shape"].clone(), bytes);
        }
        add(format!("{fp8}.weight_scale"), json!("F32"), json!([]), &1f32.to_le_bytes());
        for (stem, said) in [(&nvfp4, &b"{\"format\": \"nvfp4\"}"[..]), (&fp8, b"{\"format\": \"float8_e4m3fn\"}")] {
            add(format!("{stem}.comfy_quant"), json!("U8"), json!([said.len()]), said);
        }
        packed
    }

    /// The tensors whose names begin with `case` and a slash.
    fn case(&self, case: &str) -> Self {
        self.renamed(|name| name.strip_prefix(case)?.strip_prefix("/lycoris_").map(|rest| format!("lycoris_{rest}")))
    }

    /// The three networks in one file, under the prefixes that ComfyUI writes.
    fn whole_model([transformer, text, vae]: [Tensors; 3]) -> Self {
        let mut all = transformer;
        for (part, prefix) in [(text, "text_encoders.qwen3_4b.transformer."), (vae, "first_stage_model.")] {
            let from = all.data.len() as u64;
            all.data.extend(&part.data);
            for name in part.names() {
                let mut entry = part.header[&name].clone();
                for offset in entry["data_offsets"].as_array_mut().expect("a pair") {
                    *offset = json!(offset.as_u64().expect("a number") + from);
                }
                all.header.insert(format!("{prefix}{name}"), entry);
            }
        }
        all
    }

    /// The tensors to which `rename` gives a name, and their bytes alone.
    fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let mut renamed = Tensors { header: Map::new(), data: vec![] };
        for name in self.names() {
            let Some(new) = rename(&name) else { continue };
            let (mut entry, bytes) = self.get(&name);
            let from = renamed.data.len();
            renamed.data.extend(bytes);
            entry["data_offsets"] = json!([from, renamed.data.len()]);
            renamed.header.insert(new, entry);
        }
        renamed
    }

    /// Names of the tensors.
    fn names(&self) -> Vec<String> {
        self.header.keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    /// The file with `change` applied to its header.
    fn changed(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
        let mut header = self.header.clone();
        change(&mut header);
        self.with(Value::Object(header).to_string())
    }
}

const NUMBERS: [u64; 12] =
    [0, 1, 3, 63, 0xffff, 1 << 24, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 48, i64::MAX as u64, u64::MAX];

fn safetensors(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    let text = whole.text();
    let header = Value::Object(whole.header.clone());
    for _ in 0..40 {
        let (what, header) = mutant(rng, &header);
        files.add(what, whole.with(header));
    }
    tensors(files, rng, whole);
    let file = whole.with(&text);
    bytes(files, rng, &file, text.len() + 8, 30);
    for length in NUMBERS.iter().chain(&[text.len() as u64 - 1, text.len() as u64 + 1, file.len() as u64 - 8]) {
        files.add(format!("a header of {length}"), [&length.to_le_bytes()[..], &file[8..]].concat());
    }
    for (what, start) in [
        ("a pickle", &b"\x80\x02}q\0"[..]),
        ("an archive", b"PK\x03\x04"),
        ("a pointer of git LFS", b"version https://git-lfs.github.com/spec/v1\n"),
        ("a web page", b"<!DOCTYPE html><html></html>"),
        ("nothing", b""),
        ("seven bytes", b"\x02\0\0\0\0\0\0"),
    ] {
        files.add(what, start);
    }
    let many = |count: usize, name: &dyn Fn(usize) -> String| {
        let entry = json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]});
        let header: Map<String, Value> = (0..count).map(|i| (name(i), entry.clone())).collect();
        Tensors { header, data: vec![] }
    };
    let empty = many(10_000, &|i| format!("t{i}"));
    files.add("10000 empty tensors", empty.with(empty.text()));
    let most = many(16_385, &|i| format!("double_blocks.{i}.q"));
    files.add("16385 tensors", most.with(most.text()));
    let alike = many(3000, &|i| format!("double_blocks.{i}.img_attn.qkv.weights"));
    files.add("3000 names that are nearly right", alike.with(alike.text()));
    let long = many(20, &|i| format!("{i}{}", "\u{1b}[2Jé".repeat(10_000)));
    files.add("20 names of 70000 bytes", long.with(long.text()));
    let blocks = many(5000, &|i| format!("single_blocks.{i}.norm.query_norm.scale"));
    files.add("5000 blocks", blocks.with(blocks.text()));
}

/// Blocks of the fixture in Black Forest Labs' layout.
const BLOCK: &str = "model.diffusion_model.single_blocks.";

/// Faults in the scales of quantized matrices and in their metadata.
fn matrices_of_few_bits(files: &mut Files, whole: &Tensors) {
    files.add("as it is", whole.with(whole.text()));
    for part in
        ["0.linear2.weight_scale", "0.linear2.weight_scale_2", "1.linear2.weight_scale", "0.linear2.comfy_quant"]
    {
        let name = format!("{BLOCK}{part}");
        for (dtype, shape) in
            [("F32", json!([1u64 << 40])), ("BF16", json!([])), ("U8", json!([0])), ("I64", json!([1, 1, 1]))]
        {
            let file = whole.changed(|header| {
                header[&name]["dtype"] = json!(dtype);
                header[&name]["shape"] = shape.clone();
            });
            files.add(format!("{part}: {dtype} of {shape}"), file);
        }
    }
    // An axis that overflows when doubled.
    let axis = whole.changed(|header| {
        for (name, dtype, shape) in
            [("img_in.weight", "U8", json!([0, 1u64 << 63])), ("img_in.weight_scale_2", "F32", json!([0]))]
        {
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [0, 0]});
            header.insert(format!("model.diffusion_model.{name}"), entry);
        }
    });
    files.add("an axis of two in a byte that is 2^63", axis);
    for said in ["", "[", "null", "{\"layers\": 7}", "{\"layers\": {\"single_blocks.0.linear2\": {\"format\": [[]]}}}"]
    {
        let file = whole.changed(|header| {
            header.insert("__metadata__".into(), json!({"_quantization_metadata": said}));
        });
        files.add(format!("formats said to be {said}"), file);
    }
    let long = format!("{{\"x\": [{}0]}}", "0,".repeat(2_000_000));
    let file = whole.changed(|header| {
        header.insert("__metadata__".into(), json!({"_quantization_metadata": long}));
    });
    files.add("a list of 2 million numbers among the formats", file);
}

/// Changes of single tensors' header entries.
fn tensors(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    let mut names = whole.names();
    names.retain(|name| whole.header[name]["shape"].as_array().is_some_and(|shape| !shape.is_empty()));
    for i in 0..30 {
        let (name, other) = (rng.pick(&names).clone(), rng.pick(&names).clone());
        let number = *rng.pick(&NUMBERS);
        let what = match i % 10 {
            0 => format!("{name}: offsets reversed"),
            1 => format!("{name}: where {other} is"),
            2 => format!("{name}: an axis of {number}"),
            3 => format!("{name}: ends at {number}"),
            4 => format!("{name}: begins at {number}"),
            5 => format!("{name}: two axes of {number}"),
            6 => format!("{name}: of another dtype"),
            7 => format!("{name}: no tensor"),
            8 => format!("{name}: axes exchanged"),
            _ => format!("{name}: called like {other}"),
        };
        let dtype = *rng.pick(&["F64", "I8", "U8", "F8_E5M2", "f32", "F4", "BOOL", "", "Q8_0"]);
        let file = whole.changed(|header| {
            let place = header[&other]["data_offsets"].clone();
            let entry = &mut header[&name];
            match i % 10 {
                0 => entry["data_offsets"].as_array_mut().expect("a pair").reverse(),
                1 => entry["data_offsets"] = place,
                2 => entry["shape"][0] = json!(number),
                3 => entry["data_offsets"][1] = json!(number),
                4 => entry["data_offsets"][0] = json!(number),
                5 => entry["shape"] = json!([number, number]),
                6 => entry["dtype"] = json!(dtype),
                7 => *entry = json!(number),
                8 => entry["shape"].as_array_mut().expect("a list").reverse(),
                _ => {
                    let entry = entry.clone();
                    header.remove(&name);
                    header.insert(format!("{TWICE}{other}"), entry);
                }
            }
        });
        let header = u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
        let text = String::from_utf8_lossy(&file[8..8 + header]).replace(TWICE, "");
        files.add(what, whole.with(text));
    }
}

// ---- LoRA ----

fn lora(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let long = format!("{{\"x\": [{}0]}}", "0,".repeat(2_000_000));
    let file = whole.changed(|header| {
        header.insert("__metadata__".into(), json!({"lora_adapter_metadata": long}));
    });
    files.add("a list of 2 million numbers in its configuration", file);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 20);
    let said = whole.header["__metadata__"]["lora_adapter_metadata"].as_str().expect("the fixture has some");
    let configuration = parse(said.as_bytes());
    for _ in 0..25 {
        let (what, said) = mutant(rng, &configuration);
        let said = String::from_utf8_lossy(&said).into_owned();
        files.add(
            format!("metadata{what}"),
            whole.changed(|h| h["__metadata__"]["lora_adapter_metadata"] = said.into()),
        );
    }
    for (from, to) in [
        ("lora_A", "lora_B"),
        ("lora_A.weight", "lora_A"),
        ("lora_A", "lora_A.a.b"),
        ("lora_A", "lora_mid"),
        ("lora_A.weight", "lokr_w1"),
        ("lora_A.weight", "hada_w1_a"),
        ("lora_B.weight", "lora_magnitude_vector"),
        ("lora_B.weight", "diff_b"),
        ("lora_A.weight", "alpha"),
        (".weight", ".weight.weight"),
        ("transformer.", ""),
        ("transformer.", "transformer.transformer.transformer."),
        ("transformer.", "lora_unet_"),
        ("transformer.", "text_encoder."),
        ("transformer.transformer_blocks.0", "transformer.transformer_blocks.00"),
        ("transformer_blocks.0", "transformer_blocks.18446744073709551616"),
        ("transformer_blocks.1", "transformer_blocks.-1"),
        ("attn.to_q", "norm1.linear"),
        ("attn.", ""),
    ] {
        let renamed = text.replace(from, to);
        files.add(format!("{from} is {to}"), whole.with(renamed));
    }
    files.add("every name twice, with another prefix", {
        let mut header = whole.header.clone();
        for name in whole.names() {
            let mut entry = header[&name].clone();
            entry["shape"] = json!([0]);
            entry["data_offsets"] = json!([whole.data.len(), whole.data.len()]);
            header.insert(name.replace("transformer.", "diffusion_model."), entry);
        }
        whole.with(Value::Object(header).to_string())
    });
    files.add("no tensors", Tensors { header: Map::new(), data: vec![] }.with("{}"));
    for (what, alpha) in
        [("no number", f32::NAN), ("infinite", f32::INFINITY), ("enormous", f32::MAX), ("nothing", 0.0)]
    {
        let end = whole.data.len();
        let mut data = whole.data.clone();
        data.extend(alpha.to_le_bytes());
        let with_alpha = Tensors { header: whole.header.clone(), data };
        files.add(
            format!("alpha is {what}"),
            with_alpha.changed(|header| {
                let entry = json!({"dtype": "F32", "shape": [], "data_offsets": [end, end + 4]});
                header.insert("transformer.x_embedder.alpha".into(), entry);
            }),
        );
    }
    let nearly: Map<String, Value> = (0..3000)
        .map(|i| {
            (
                format!("transformer.transformer_blocks.{i}.attn.to_qq.lora_A.weight"),
                json!({"dtype": "F32", "shape": [0, 64], "data_offsets": [0, 0]}),
            )
        })
        .collect();
    let nearly = Tensors { header: nearly, data: vec![] };
    files.add("3000 names that are nearly right", nearly.with(nearly.text()));
}

// ---- tokenizer and index ----

/// Changes of an adapter of one kind, whose tensors are called alike.
fn adapter(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 10);
    const ENDS: [&str; 10] = [
        "lokr_w1",
        "lokr_w2_a",
        "lokr_t2",
        "hada_w1_a",
        "hada_t1",
        "diff",
        "alpha",
        "lora_mid.weight",
        "dora_scale",
        "",
    ];
    for name in whole.names() {
        let end = *rng.pick(&ENDS);
        let to = format!("{}.{end}", name.split('.').next().unwrap_or_default());
        files.add(format!("{name} is {to}"), whole.with(text.replace(&format!("{name}\""), &format!("{to}\""))));
        let without = whole.changed(|header| _ = header.remove(&name));
        files.add(format!("without {name}"), without);
        // A matrix of no rows or no columns, and one with axes of length 1 behind it.
        for shape in [json!([0, 64]), json!([64, 0]), json!([]), json!([1, 1, 1, 1, 1, 1, 1, 1, 1])] {
            let file = whole.changed(|header| {
                let from = header[&name]["data_offsets"][0].clone();
                header[&name]["data_offsets"] = json!([from, from]);
                header[&name]["shape"] = shape.clone();
            });
            files.add(format!("{name} is {shape}"), file);
        }
    }
}

fn whole_model(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 20);
    for (from, to) in [
        ("text_encoders.qwen3_4b.transformer.", ""),
        ("text_encoders.qwen3_4b.transformer.", "first_stage_model."),
        ("text_encoders.qwen3_4b.transformer.", "model.diffusion_model."),
        ("first_stage_model.", ""),
        ("first_stage_model.", "vae."),
        ("first_stage_model.", "first_stage_model.first_stage_model."),
        ("model.diffusion_model.", ""),
        ("model.diffusion_model.", "text_encoders.qwen3_4b.transformer."),
        ("model.diffusion_model.img_in", "model_ema.img_in"),
        ("text_encoders", "cond_stage_model"),
        ("layers.0.", "layers.99."),
        ("decoder.", "encoder."),
    ] {
        files.add(format!("{from} is {to}"), whole.with(text.replace(from, to)));
    }
    for prefix in ["model.diffusion_model.", "text_encoders.", "first_stage_model."] {
        let names = whole.names();
        let of_part: Vec<&String> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        let without = whole.renamed(|name| (!name.starts_with(prefix)).then(|| name.to_owned()));
        files.add(format!("without {prefix}"), without.with(without.text()));
        let name = *rng.pick(&of_part);
        let without = whole.renamed(|other| (other != name).then(|| other.to_owned()));
        files.add(format!("without {name}"), without.with(without.text()));
        let twice = whole.renamed(|name| Some(name.to_owned()));
        let twice = twice.changed(|header| {
            for name in &of_part {
                let entry = header[*name].clone();
                header.insert(format!("ema.{name}"), entry);
            }
        });
        files.add(format!("{prefix} twice, of the same bytes"), twice);
    }
}

fn tokenizer(files: &mut Files, whole: &Value) {
    let mut add = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut document = whole.clone();
        change(&mut document);
        files.add(what, document.to_string());
    };
    add("an id of 2^32 - 1", &|d| d["model"]["vocab"]["a"] = json!(u32::MAX));
    add("an id of 2^32", &|d| d["model"]["vocab"]["a"] = json!(1u64 << 32));
    add("all ids are 0", &|d| d["model"]["vocab"].as_object_mut().unwrap().values_mut().for_each(|id| *id = json!(0)));
    add("no vocabulary", &|d| d["model"]["vocab"] = json!({}));
    add("20000 merges of nothing", &|d| d["model"]["merges"] = json!(vec!["x y"; 20_000]));
    add("a merge without a space", &|d| d["model"]["merges"] = json!(["xy"]));
    add("a merge of three", &|d| d["model"]["merges"] = json!([["a", "b", "c"]]));
    add("a merge of empty texts", &|d| d["model"]["merges"] = json!([["", ""]]));
    add("a token of a megabyte", &|d| d["model"]["vocab"]["x".repeat(1 << 20)] = json!(5));
    add("an added token without text", &|d| d["added_tokens"][0]["content"] = json!(""));
    add("20000 added tokens", &|d| {
        let token = d["added_tokens"][0].clone();
        d["added_tokens"] = Value::Array(vec![token; 20_000]);
    });
    add("a regular expression that explodes", &|d| {
        d["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a*)*b"}})
    });
    add("a normalizer that replaces", &|d| {
        d["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "xx"})
    });
    add("a model of another kind", &|d| d["model"]["type"] = json!("Unigram"));
    add("dropout", &|d| d["model"]["dropout"] = json!(1.0));
}

fn index(files: &mut Files, whole: &Value) {
    let names: Vec<String> = whole["weight_map"].as_object().expect("a map").keys().cloned().collect();
    let mut all = |what: &str, shard: &dyn Fn(usize) -> Value| {
        let map: Map<String, Value> = names.iter().enumerate().map(|(i, name)| (name.clone(), shard(i))).collect();
        files.add(what, json!({"metadata": {}, "weight_map": map}).to_string());
    };
    all("every shard is the index", &|_| "model.safetensors.index.json".into());
    all("every shard is the folder", &|_| ".".into());
    all("every shard is the folder above", &|_| "../text_encoder".into());
    all("every shard is another part's", &|_| "../vae/diffusion_pytorch_model.safetensors".into());
    all("every tensor has a shard of its own", &|i| format!("model-{i}.safetensors").into());
    all("shards out of order", &|i| format!("model-0000{}-of-00002.safetensors", 2 - i % 2).into());
    all("one shard for all", &|_| "model-00001-of-00002.safetensors".into());
    all("another case", &|_| "MODEL-00001-OF-00002.SAFETENSORS".into());
    all("names with a NUL", &|_| "model\0.safetensors".into());
    all("names of 5000 bytes", &|i| format!("{}{i}.safetensors", "x".repeat(5000)).into());
    all("numbers", &|i| i.into());
    all("an index in an index", &|_| whole.clone());
    let many: Map<String, Value> = (0..20_000).map(|i| (format!("t{i}"), format!("{i}.safetensors").into())).collect();
    files.add("20000 shards", json!({"weight_map": many}).to_string());
    let none: Map<String, Value> =
        (0..20_000).map(|i| (format!("t{i}"), "model-00001-of-00002.safetensors".into())).collect();
    files.add("20000 tensors that are nowhere", json!({"weight_map": none}).to_string());
}

// ---- GGUF ----

/// A GGUF file in which every number of the header can be changed.
#[derive(Clone)]
struct Gguf {
    magic: [u8; 4],
    version: u32,
    /// Offsets added to the counts of tensors and metadata entries.
    counts: [u64; 2],
    /// Metadata entries: key, type, value.
    entries: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// Tensors: name, axes (innermost first), type, offset.
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

fn gguf_text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Gguf {
    fn of(whole: &Tensors) -> Self {
        let (mut tensors, mut data) = (vec![], vec![]);
        for name in whole.names() {
            let numbers = |key: &str| -> Vec<u64> {
                whole.header[&name][key].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
            };
            let (shape, range) = (numbers("shape"), numbers("data_offsets"));
            const BF16: u32 = 30;
            tensors.push((name.into_bytes(), shape.into_iter().rev().collect(), BF16, data.len() as u64));
            data.extend(&whole.data[range[0] as usize..range[1] as usize]);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let entries = vec![
            (b"general.architecture".to_vec(), 8, gguf_text(b"flux")),
            (b"general.alignment".to_vec(), 4, 32u32.to_le_bytes().to_vec()),
            (
                b"general.tags".to_vec(),
                9,
                [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &gguf_text(b"a"), &gguf_text(b"b")].concat(),
            ),
        ];
        Gguf { magic: *b"GGUF", version: 3, counts: [0, 0], entries, tensors, data }
    }

    /// A text encoder with llama.cpp's names and metadata.
    fn text_encoder(whole: &Tensors) -> Self {
        let mut file = Self::of(whole);
        for (name, ..) in &mut file.tensors {
            let renamed = [
                ("model.layers.", "blk."),
                ("model.embed_tokens.", "token_embd."),
                ("model.norm.", "output_norm."),
                ("lm_head.", "output."),
                ("input_layernorm", "attn_norm"),
                ("post_attention_layernorm", "ffn_norm"),
                ("self_attn.q_norm", "attn_q_norm"),
                ("self_attn.k_norm", "attn_k_norm"),
                ("self_attn.q_proj", "attn_q"),
                ("self_attn.k_proj", "attn_k"),
                ("self_attn.v_proj", "attn_v"),
                ("self_attn.o_proj", "attn_output"),
                ("mlp.gate_proj", "ffn_gate"),
                ("mlp.up_proj", "ffn_up"),
                ("mlp.down_proj", "ffn_down"),
            ]
            .iter()
            .fold(String::from_utf8_lossy(name).into_owned(), |name, (from, to)| name.replace(from, to));
            *name = renamed.into_bytes();
        }
        file.entries[0].2 = gguf_text(b"qwen3");
        for (key, value) in [("qwen3.rope.freq_base", 1e6f32), ("qwen3.attention.layer_norm_rms_epsilon", 1e-6)] {
            file.entries.push((key.into(), 6, value.to_le_bytes().to_vec()));
        }
        file
    }

    fn header(&self) -> Vec<u8> {
        let mut header = self.magic.to_vec();
        header.extend(self.version.to_le_bytes());
        for (count, more) in [self.tensors.len(), self.entries.len()].into_iter().zip(self.counts) {
            header.extend((count as u64).wrapping_add(more).to_le_bytes());
        }
        for (key, kind, value) in &self.entries {
            header.extend(gguf_text(key));
            header.extend(kind.to_le_bytes());
            header.extend(value);
        }
        for (name, axes, kind, offset) in &self.tensors {
            header.extend(gguf_text(name));
            header.extend((axes.len() as u32).to_le_bytes());
            axes.iter().for_each(|axis| header.extend(axis.to_le_bytes()));
            header.extend(kind.to_le_bytes());
            header.extend(offset.to_le_bytes());
        }
        header
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

/// Faults in the metadata of a text encoder.
fn text_encoder_metadata(files: &mut Files, whole: &Gguf) {
    files.add("as it is", whole.bytes());
    let number = |value: f64| (value as f32).to_le_bytes().to_vec();
    for (key, values) in [
        ("qwen3.rope.freq_base", [0.0, -1.0, f64::NAN, 5e6, 1e30]),
        ("qwen3.attention.layer_norm_rms_epsilon", [0.0, -1.0, f64::NAN, 1.0, f64::INFINITY]),
    ] {
        let at = whole.entries.iter().position(|(k, ..)| k == key.as_bytes()).expect("an entry of it");
        for value in values {
            let mut file = whole.clone();
            file.entries[at].2 = number(value);
            files.add(format!("{key} of {value}"), file.bytes());
        }
        let mut file = whole.clone();
        file.entries[at] = (key.into(), 8, gguf_text(b"1"));
        files.add(format!("{key} as a text"), file.bytes());
        file.entries.remove(at);
        files.add(format!("no {key}"), file.bytes());
    }
    for architecture in [&b"llama"[..], b"", b"\xff", b"\x1b[2J"] {
        let mut file = whole.clone();
        file.entries[0].2 = gguf_text(architecture);
        files.add(format!("of the architecture {}", architecture.escape_ascii()), file.bytes());
    }
}

fn gguf(files: &mut Files, rng: &mut Rng, whole: &Gguf) {
    let header = whole.header().len();
    bytes(files, rng, &whole.bytes(), header, 40);
    let mut add = |what: String, change: &dyn Fn(&mut Gguf)| {
        let mut file = whole.clone();
        change(&mut file);
        files.add(what, file.bytes());
    };
    for number in NUMBERS {
        let (low, tensor) = (number as u32, rng.below(whole.tensors.len()));
        add(format!("{number} tensors more"), &|f| f.counts[0] = number);
        add(format!("{number} entries more"), &|f| f.counts[1] = number);
        add(format!("version {low}"), &|f| f.version = low);
        add(format!("an alignment of {low}"), &|f| f.entries[1].2 = low.to_le_bytes().to_vec());
        add(format!("an axis of {number}"), &|f| f.tensors[tensor].1[0] = number);
        add(format!("four axes of {number}"), &|f| f.tensors[tensor].1 = vec![number; 4]);
        add(format!("a type {low}"), &|f| f.tensors[tensor].2 = low);
        add(format!("an offset of {number}"), &|f| f.tensors[tensor].3 = number);
        add(format!("an entry of type {low}"), &|f| f.entries[2].1 = low);
        add(format!("a text of {number}"), &|f| f.entries[0].2 = number.to_le_bytes().to_vec());
        let array = |kind: u32| [&kind.to_le_bytes()[..], &number.to_le_bytes()].concat();
        add(format!("an array of {number} bytes"), &|f| f.entries[2].2 = array(0));
        add(format!("an array of {number} texts"), &|f| f.entries[2].2 = array(8));
        add(format!("an array of {number} arrays"), &|f| f.entries[2].2 = array(9));
    }
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(10_000);
    add("arrays 10000 deep".into(), &|f| f.entries[2].2 = nested.clone());
    add("no text".into(), &|f| f.tensors[0].0 = b"\xff\xfe".to_vec());
    add("a name of 70000 bytes".into(), &|f| f.tensors[0].0 = vec![b'x'; 70_000]);
    add("one name twice".into(), &|f| f.tensors[1].0 = f.tensors[0].0.clone());
    add("one key twice".into(), &|f| f.entries[1].0 = f.entries[0].0.clone());
    add("one place twice".into(), &|f| f.tensors[1].3 = f.tensors[0].3);
    add("nine axes".into(), &|f| f.tensors[0].1 = vec![1; 9]);
    add("no axes".into(), &|f| f.tensors[0].1 = vec![]);
    add("the other order of bytes".into(), &|f| f.version = 3u32.swap_bytes());
    add("another magic".into(), &|f| f.magic = *b"GGML");
    add("no data".into(), &|f| f.data.clear());
    add("a text as alignment".into(), &|f| f.entries[1] = (b"general.alignment".to_vec(), 8, gguf_text(b"32")));
    add("20000 empty tensors".into(), &|f| {
        f.tensors = (0..20_000).map(|i| (format!("t{i}").into_bytes(), vec![0], 0, 0)).collect();
        f.data.clear();
    });
    for kind in 0..40 {
        add(format!("all tensors of type {kind}"), &|f| f.tensors.iter_mut().for_each(|tensor| tensor.2 = kind));
    }
}

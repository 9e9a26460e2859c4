//! Hostile safetensors files.

use super::*;

/// A safetensors file: header and data.
pub(super) struct Tensors {
    pub(super) header: Map<String, Value>,
    pub(super) data: Vec<u8>,
}

impl Tensors {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("a fixture")) as usize;
        let Value::Object(header) = parse(&bytes[8..8 + length]) else { panic!("a header is an object") };
        Tensors { header, data: bytes[8 + length..].to_vec() }
    }

    /// The file with another header.
    pub(super) fn with(&self, header: impl AsRef<[u8]>) -> Vec<u8> {
        let header = header.as_ref();
        [&(header.len() as u64).to_le_bytes()[..], header, &self.data].concat()
    }

    pub(super) fn text(&self) -> String {
        Value::Object(self.header.clone()).to_string()
    }

    /// Header entry and bytes of a tensor.
    pub(super) fn get(&self, name: &str) -> (Value, &[u8]) {
        let entry = &self.header[name];
        let place = |i: usize| entry["data_offsets"][i].as_u64().expect("a number") as usize;
        (entry.clone(), &self.data[place(0)..place(1)])
    }

    /// The transformer with an NVFP4 matrix, a scaled fp8 matrix, and ComfyUI's metadata for both.
    pub(super) fn with_matrices_of_few_bits(&self, golden: &Tensors) -> Self {
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
    pub(super) fn case(&self, case: &str) -> Self {
        self.renamed(|name| name.strip_prefix(case)?.strip_prefix("/lycoris_").map(|rest| format!("lycoris_{rest}")))
    }

    /// The three networks in one file, under the prefixes that ComfyUI writes.
    pub(super) fn whole_model([transformer, text, vae]: [Tensors; 3]) -> Self {
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
    pub(super) fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
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
    pub(super) fn names(&self) -> Vec<String> {
        self.header.keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    /// The file with `change` applied to its header.
    pub(super) fn changed(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
        let mut header = self.header.clone();
        change(&mut header);
        self.with(Value::Object(header).to_string())
    }
}

pub(super) const NUMBERS: [u64; 12] =
    [0, 1, 3, 63, 0xffff, 1 << 24, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 48, i64::MAX as u64, u64::MAX];

pub(super) fn safetensors(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
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
pub(super) const BLOCK: &str = "model.diffusion_model.single_blocks.";

/// Faults in the scales of quantized matrices and in their metadata.
pub(super) fn matrices_of_few_bits(files: &mut Files, whole: &Tensors) {
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
pub(super) fn tensors(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
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

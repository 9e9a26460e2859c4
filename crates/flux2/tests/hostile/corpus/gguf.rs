//! Hostile GGUF files.

use super::*;

/// A GGUF file in which every number of the header can be changed.
#[derive(Clone)]
pub(super) struct Gguf {
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

pub(super) fn gguf_text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Gguf {
    pub(super) fn of(whole: &Tensors) -> Self {
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
    pub(super) fn text_encoder(whole: &Tensors) -> Self {
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

    pub(super) fn header(&self) -> Vec<u8> {
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

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

/// Faults in the metadata of a text encoder.
pub(super) fn text_encoder_metadata(files: &mut Files, whole: &Gguf) {
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

pub(super) fn gguf(files: &mut Files, rng: &mut Rng, whole: &Gguf) {
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

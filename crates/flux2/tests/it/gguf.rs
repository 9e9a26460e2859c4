//! GGUF files hold the same model as safetensors files: to the bit if nothing was quantized, else within the error of
//! the format.

use std::path::{Path, PathBuf};

use flux2::weights::{
    Component, ConfigProblem, Error, Layout, ModelFiles, ModelPaths, TextConfig, TransformerConfig, VaeConfig,
};
use flux2::{EngineOptions, GenerateRequest, Precision, engine};
use flux2_backend::{DType, HostBytes, HostTensor};
use safetensors::SafeTensors;

use crate::golden::Golden;
use crate::layouts::{File, assert_same, f32_bytes, open, single_files, tiny};

/// Value of a metadata entry: type number and bytes.
pub type Value = (u32, Vec<u8>);
/// Metadata entries in file order.
pub type Entries = Vec<(String, Value)>;

pub fn number_u32(value: u32) -> Value {
    (4, value.to_le_bytes().into())
}

pub fn number_f32(value: f32) -> Value {
    (6, value.to_le_bytes().into())
}

pub fn text(value: &str) -> Value {
    (8, long_text(value))
}

/// A GGUF string: 64-bit length, then the text.
pub fn long_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor to write; its shape is outermost first, unlike in the file.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A GGUF file to write.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    pub entries: Entries,
    pub tensors: Vec<Tensor>,
}

impl Gguf {
    pub fn new(tensors: Vec<Tensor>) -> Self {
        Gguf { version: 3, alignment: 32, entries: vec![], tensors }
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.entries.push((key.into(), value));
        self
    }

    /// Serializes header and data.
    pub fn parts(&self) -> (Vec<u8>, Vec<u8>) {
        let mut header = b"GGUF".to_vec();
        header.extend(self.version.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        for (key, (kind, value)) in &self.entries {
            header.extend(long_text(key));
            header.extend(kind.to_le_bytes());
            header.extend(value);
        }
        let mut data = vec![];
        for Tensor { name, shape, kind, bytes } in &self.tensors {
            header.extend(long_text(name));
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|n| header.extend((*n as u64).to_le_bytes()));
            header.extend(kind.to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        header.resize(header.len().next_multiple_of(self.alignment), 0);
        (header, data)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (header, data) = self.parts();
        [header, data].concat()
    }

    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

// ---- the formats ----

/// Dtypes with their type numbers in GGUF files.
const KINDS: [(u32, DType); 11] = [
    (0, DType::F32),
    (1, DType::F16),
    (30, DType::Bf16),
    (8, DType::Q8_0),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (12, DType::Q4K),
    (13, DType::Q5K),
    (14, DType::Q6K),
];

fn f16(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}

fn rounded_f16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// Rounds to the nearest step in `0..=max`.
fn step(value: f32, size: f32, max: f32) -> u8 {
    if size == 0.0 { 0 } else { (value / size).round().clamp(0.0, max) as u8 }
}

/// Encodes values in blocks of `dtype` by plain rounding: scales follow from the range, without search.
fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let most = |v: &[f32]| v.iter().fold(0f32, |m, x| m.max(x.abs()));
    let range = |v: &[f32]| (v.iter().fold(0f32, |m, x| m.min(*x)), v.iter().fold(0f32, |m, x| m.max(*x)));
    // 32 codes: low nibbles hold the first half, high nibbles the second; then their fifth bits.
    let nibbles = |codes: &[u8]| (0..16).map(|i| codes[i] & 15 | codes[i + 16] << 4).collect::<Vec<u8>>();
    let fifths = |codes: &[u8]| (0..32).fold(0u32, |bits, i| bits | u32::from(codes[i] >> 4) << i).to_le_bytes();
    let each = |block: &[f32]| -> Vec<u8> {
        match dtype {
            DType::F32 => block.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => block.iter().flat_map(|v| f16(*v)).collect(),
            DType::Bf16 => block.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            DType::Q8_0 => {
                let d = rounded_f16(most(block) / 127.0);
                let codes = block.iter().map(|v| if d == 0.0 { 0 } else { (v / d).round() as i8 as u8 });
                f16(d).into_iter().chain(codes).collect()
            }
            DType::Q4_0 | DType::Q5_0 => {
                let (zero, max) = if dtype == DType::Q4_0 { (8.0, 15.0) } else { (16.0, 31.0) };
                let d = rounded_f16(most(block) / (zero - 1.0));
                let codes: Vec<u8> = block.iter().map(|v| step(v + zero * d, d, max)).collect();
                let fifths = if dtype == DType::Q5_0 { fifths(&codes).to_vec() } else { vec![] };
                [f16(d).to_vec(), fifths, nibbles(&codes)].concat()
            }
            DType::Q4_1 | DType::Q5_1 => {
                let max = if dtype == DType::Q4_1 { 15.0 } else { 31.0 };
                let (low, high) = range(block);
                let (d, m) = (rounded_f16((high - low) / max), rounded_f16(low));
                let codes: Vec<u8> = block.iter().map(|v| step(v - m, d, max)).collect();
                let fifths = if dtype == DType::Q5_1 { fifths(&codes).to_vec() } else { vec![] };
                [f16(d).to_vec(), f16(m).to_vec(), fifths, nibbles(&codes)].concat()
            }
            DType::Q4K | DType::Q5K => {
                let max = if dtype == DType::Q4K { 15.0 } else { 31.0 };
                let ranges: Vec<(f32, f32)> = block.chunks_exact(32).map(range).collect();
                let largest = |of: &dyn Fn(&(f32, f32)) -> f32| ranges.iter().map(of).fold(0f32, f32::max);
                let d = rounded_f16(largest(&|(low, high)| (high - low) / max) / 63.0);
                let dmin = rounded_f16(largest(&|(low, _)| -low) / 63.0);
                let mut scales = [0u8; 12];
                let mut codes = vec![];
                for (i, (chunk, (low, high))) in block.chunks_exact(32).zip(&ranges).enumerate() {
                    let (s, m) = (step((high - low) / max, d, 63.0), step(-low, dmin, 63.0));
                    if i < 4 {
                        (scales[i], scales[i + 4]) = (scales[i] | s, scales[i + 4] | m);
                    } else {
                        scales[i + 4] = s & 15 | (m & 15) << 4;
                        scales[i - 4] |= s >> 4 << 6;
                        scales[i] |= m >> 4 << 6;
                    }
                    let (size, min) = (d * f32::from(s), dmin * f32::from(m));
                    codes.extend(chunk.iter().map(|v| step(v + min, size, max)));
                }
                let low = (0..128).map(|i| {
                    let (pair, at) = (i / 32, i % 32);
                    codes[64 * pair + at] & 15 | codes[64 * pair + 32 + at] << 4
                });
                let high = (0..32).map(|at| (0..8).fold(0, |bits, i| bits | codes[32 * i + at] >> 4 << i));
                let high: Vec<u8> = if dtype == DType::Q5K { high.collect() } else { vec![] };
                [f16(d).to_vec(), f16(dmin).to_vec(), scales.to_vec(), high, low.collect()].concat()
            }
            DType::Q6K => {
                let d = rounded_f16(block.chunks_exact(16).map(|c| most(c) / 31.0).fold(0f32, f32::max) / 127.0);
                let scales: Vec<u8> = block.chunks_exact(16).map(|c| step(most(c) / 31.0, d, 127.0)).collect();
                let code = |i: usize| {
                    let size = d * f32::from(scales[i / 16]);
                    step(block[i] + 32.0 * size, size, 63.0)
                };
                let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
                for i in 0..256 {
                    let (half, run, at) = (i / 128, i % 128 / 32, i % 32);
                    low[64 * half + run % 2 * 32 + at] |= (code(i) & 15) << (run / 2 * 4);
                    high[32 * half + at] |= code(i) >> 4 << (2 * run);
                }
                [&low[..], &high, &scales, &f16(d)].concat()
            }
            other => panic!("{other} is no type of a GGUF file"),
        }
    };
    values.chunks_exact(dtype.block_len()).flat_map(each).collect()
}

fn decoded(dtype: DType, shape: &[usize], bytes: &[u8]) -> Vec<f32> {
    HostTensor::new(dtype, shape, HostBytes::new(std::sync::Arc::new(bytes.to_vec()))).unwrap().to_f32()
}

#[test]
fn blocks_decode_to_what_ggml_makes_of_them() {
    let golden = Golden::open("gguf_blocks");
    let tensors = SafeTensors::deserialize(&golden.bytes).unwrap();
    for dtype in KINDS[3..].iter().map(|(_, dtype)| *dtype) {
        let blocks = tensors.tensor(&format!("{dtype}.blocks")).unwrap();
        let expected = golden.values(&format!("{dtype}.decoded"));
        assert_eq!(dtype.bytes(dtype.block_len()), blocks.shape()[1]);
        let len = blocks.shape()[0] * dtype.block_len();
        let row =
            HostTensor::new(dtype, [1, len], HostBytes::new(std::sync::Arc::new(blocks.data().to_vec()))).unwrap();
        assert!(row.to_f32() == expected, "{dtype}");
        // Any window, including those that start or end within a block.
        for (from, n) in [(0, 1), (1, 31), (31, 2), (33, 64), (64, 128), (100, 300), (len - 1, 1), (128, 256)] {
            let mut window = vec![f32::NAN; n];
            row.decode_row(0, from, &mut window);
            assert!(window == expected[from..from + n], "{dtype}: {n} values from {from}");
        }
    }
}

#[test]
fn packed_matrices_join_and_part_by_rows() {
    for (_, dtype) in &KINDS[3..] {
        let len = 4 * dtype.block_len();
        let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
        let bytes = HostBytes::new(std::sync::Arc::new(encode(*dtype, &values)));
        let whole = HostTensor::new(*dtype, [4, dtype.block_len()], bytes).unwrap();
        let (top, bottom) = (whole.slice_rows(0..1).unwrap(), whole.slice_rows(1..4).unwrap());
        assert_eq!(bottom.to_f32(), whole.to_f32()[dtype.block_len()..]);
        let joined = HostTensor::concat_rows(&[top, bottom]).unwrap();
        assert_eq!((joined.dtype(), &joined.bytes()[..]), (*dtype, &whole.bytes()[..]));
        assert!(HostTensor::new(*dtype, [len / 2, 2], whole.bytes().clone()).is_err(), "{dtype}: rows of half a block");
    }
}

// ---- whole models ----

/// A model as a GGUF file: matrices whose rows are whole blocks in `dtype`, all other tensors in f32.
pub fn packed(file: &File, dtype: DType) -> Gguf {
    let floats = file.0.iter().filter(|(_, (stored, ..))| stored != "I64"); // the VAE's batch counter
    let tensors = floats.map(|(name, (stored, shape, bytes))| {
        let stored = if stored == "F32" { DType::F32 } else { DType::Bf16 };
        let values = decoded(stored, shape, bytes);
        let fits = shape.len() == 2 && shape[1].is_multiple_of(dtype.block_len());
        let dtype = if fits { dtype } else { DType::F32 };
        let (kind, _) = KINDS.iter().find(|(_, d)| *d == dtype).unwrap();
        Tensor { name: name.clone(), shape: shape.clone(), kind: *kind, bytes: encode(dtype, &values) }
    });
    Gguf::new(tensors.collect())
}

pub fn transformer() -> File {
    File::read(&tiny("klein-bfl/transformer.safetensors"))
}

/// The tiny text encoder with llama.cpp's tensor names and the metadata that its converter writes.
fn text_encoder(dtype: DType) -> Gguf {
    let rename = |name: &str| {
        [
            ("model.layers.", "blk."),
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("input_layernorm", "attn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("self_attn.o_proj", "attn_output"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ]
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
    };
    let vocabulary: Vec<u8> = ["<|endoftext|>", "fox", ""].iter().flat_map(|word| long_text(word)).collect();
    let vocabulary = [&8u32.to_le_bytes()[..], &3u64.to_le_bytes(), &vocabulary].concat();
    packed(&File::read(&tiny("klein-bfl/text_encoder.safetensors")).renamed(rename), dtype)
        .with("general.architecture", text("qwen3"))
        .with("tokenizer.ggml.tokens", (9, vocabulary))
        .with("qwen3.rope.freq_base", number_f32(1e6))
        .with("qwen3.attention.layer_norm_rms_epsilon", number_f32(1e-6))
        .with("qwen3.context_length", number_u32(40_960))
}

#[test]
fn a_transformer_and_a_text_encoder_are_the_same_in_either_container() {
    let temp = tempfile::tempdir().unwrap();
    let safetensors = open(&single_files());
    for (dtype, same) in [(DType::Bf16, false), (DType::F32, false)] {
        let path = packed(&transformer(), dtype).write(temp.path(), "transformer.gguf");
        let component = Component::<TransformerConfig>::open(&path).unwrap();
        assert_eq!((component.layout(), component.dtype()), (Layout::Bfl, dtype));
        assert_eq!(component.config, safetensors.transformer.config);
        assert_same(&component, &safetensors.transformer, same);

        let path = text_encoder(dtype).write(temp.path(), "text_encoder.gguf");
        let component = Component::<TextConfig>::open(&path).unwrap();
        assert_eq!((component.layout(), component.dtype()), (Layout::LlamaCpp, dtype));
        assert_eq!(component.config, safetensors.text_encoder.config);
        assert_same(&component, &safetensors.text_encoder, same);
    }
}

#[test]
fn a_vae_may_be_a_gguf_file_too() {
    let temp = tempfile::tempdir().unwrap();
    let path = packed(&File::read(&tiny("klein-bfl/ae.safetensors")), DType::F32).write(temp.path(), "ae.gguf");
    assert_same(&Component::<VaeConfig>::open(&path).unwrap(), &open(&single_files()).vae, true);
}

#[test]
fn norms_may_be_called_weight_as_newer_comfyui_files_have_them() {
    let temp = tempfile::tempdir().unwrap();
    let renamed = transformer().renamed(|n| n.replace("_norm.scale", "_norm.weight"));
    assert!(renamed.0.keys().any(|n| n.ends_with("single_blocks.2.norm.key_norm.weight")));
    let path = packed(&renamed, DType::F32).write(temp.path(), "transformer.gguf");
    let component = Component::<TransformerConfig>::open(&path).unwrap();
    assert_same(&component, &open(&single_files()).transformer, false);
}

#[test]
fn the_container_is_told_by_its_first_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let path = packed(&transformer(), DType::F32).write(temp.path(), "transformer.safetensors");
    assert_same(&Component::<TransformerConfig>::open(&path).unwrap(), &open(&single_files()).transformer, false);
}

#[test]
fn a_folder_may_hold_a_gguf_file() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("klein/text_encoder/config.json"), temp.path().join("config.json")).unwrap();
    text_encoder(DType::F32).write(temp.path(), "model.gguf");
    let component = Component::<TextConfig>::open(temp.path()).unwrap();
    assert_same(&component, &open(&single_files()).text_encoder, false);
}

#[test]
fn versions_alignments_and_prefixes_that_are_in_use_load() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&single_files()).transformer;
    let file = transformer().renamed(|n| n.strip_prefix("model.diffusion_model.").unwrap_or(n).to_owned());
    for (version, alignment) in [(2, 32), (3, 32), (3, 64), (3, 4096), (2, 8)] {
        let gguf = Gguf { version, alignment, ..packed(&file, DType::F32) };
        let gguf = if alignment == 32 { gguf } else { gguf.with("general.alignment", number_u32(alignment as u32)) };
        let path = gguf.write(temp.path(), "t.gguf");
        assert_same(&Component::<TransformerConfig>::open(&path).unwrap(), &reference, false);
    }
}

#[test]
fn a_text_encoder_is_what_its_metadata_says() {
    let temp = tempfile::tempdir().unwrap();
    let problem = |change: &dyn Fn(&mut Entries)| {
        let mut gguf = text_encoder(DType::F32);
        change(&mut gguf.entries);
        match Component::<TextConfig>::open(gguf.write(temp.path(), "te.gguf")) {
            Ok(component) => Ok(component.config),
            Err(Error::Config { problem, .. }) => Err(problem),
            Err(other) => panic!("{other}"),
        }
    };
    let set = |key: &'static str, value: Value| {
        problem(&move |entries: &mut Entries| {
            entries.retain(|(k, _)| k != key);
            entries.push((key.into(), value.clone()));
        })
    };
    // The RoPE base is read, not assumed; that of the later Qwen3 release is refused.
    assert_eq!(set("qwen3.rope.freq_base", number_f32(10_000.0)).unwrap().rope_theta, 10_000.0);
    assert_eq!(set("qwen3.attention.layer_norm_rms_epsilon", number_f32(1e-5)).unwrap().rms_eps, 1e-5);
    let yarn = set("qwen3.rope.scaling.type", text("yarn")).unwrap_err();
    assert_eq!(yarn.to_string(), r#"`qwen3.rope.scaling.type` is "yarn", only none is supported"#);
    let later = set("qwen3.rope.freq_base", number_f32(5e6)).unwrap_err();
    assert!(matches!(&later, ConfigProblem::Unsupported { found, .. } if found == "5000000.0"), "{later}");
    for (key, value) in [
        ("general.architecture", text("llama")),
        ("qwen3.rope.freq_base", number_f32(f32::NAN)),
        ("qwen3.rope.freq_base", text("many")),
    ] {
        set(key, value).unwrap_err();
    }
    for gone in ["qwen3.rope.freq_base", "general.architecture"] {
        problem(&|entries| entries.retain(|(key, _)| key != gone)).unwrap_err();
    }
}

#[test]
fn a_type_that_is_not_computed_with_is_named_with_its_tensor() {
    let temp = tempfile::tempdir().unwrap();
    let mut gguf = packed(&transformer(), DType::F32);
    let tensor = gguf.tensors.iter_mut().find(|t| t.name.ends_with("single_blocks.0.linear2.weight")).unwrap();
    (tensor.kind, tensor.bytes) = (23, vec![0; 64 * 136]);
    let error = Component::<TransformerConfig>::open(gguf.write(temp.path(), "t.gguf")).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("single_blocks.0.linear2.weight` is iq4_xs"), "{message}");
}

fn picture(paths: &ModelPaths) -> Vec<u8> {
    let options = EngineOptions { precision: Precision::F32, ..Default::default() };
    let mut engine = engine::load(paths, &options).unwrap();
    let request = GenerateRequest {
        prompt: "a red fox".into(),
        width: Some(64),
        height: Some(64),
        seed: 1,
        ..Default::default()
    };
    engine.generate(&request).unwrap().image.pixels().to_vec()
}

/// Mean squared difference of bytes.
fn distance(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>() / a.len() as f64
}

#[test]
fn pictures_are_those_of_the_decoded_values_and_near_those_of_the_exact_ones() {
    let temp = tempfile::tempdir().unwrap();
    let exact = picture(&single_files());
    for (_, dtype) in KINDS {
        let gguf = packed(&transformer(), dtype);
        let plain = gguf.tensors.iter().map(|t| {
            let (_, dtype) = KINDS.iter().find(|(kind, _)| *kind == t.kind).unwrap();
            let values = decoded(*dtype, &t.shape, &t.bytes);
            (t.name.clone(), ("F32".into(), t.shape.clone(), f32_bytes(values)))
        });
        let plain = File(plain.collect()).write(temp.path(), "plain.safetensors");
        let packed = gguf.write(temp.path(), "packed.gguf");
        let of = |path: PathBuf| picture(&ModelPaths { model: path.into(), ..single_files() });
        let (packed, plain) = (of(packed), of(plain));
        assert!(packed == plain, "{dtype}: not the picture of its values");
        // A loose bound, not the quality of the format: a wrong order of values gives thousands.
        let limit = match dtype {
            DType::F32 | DType::F16 | DType::Bf16 => 0.01,
            DType::Q8_0 => 10.0,
            _ => 600.0,
        };
        let found = distance(&packed, &exact);
        assert!(found <= limit, "{dtype}: {found} from the exact picture, at most {limit}");
    }
}

#[test]
fn a_whole_model_of_gguf_files_draws_what_the_safetensors_do() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("tokenizer")).unwrap();
    let tokenizer = "tokenizer/tokenizer.json";
    std::fs::copy(tiny("klein-bfl").join(tokenizer), temp.path().join(tokenizer)).unwrap();
    let paths = ModelPaths {
        model: packed(&transformer(), DType::F32).write(temp.path(), "transformer.gguf").into(),
        text_encoder: Some(text_encoder(DType::F32).write(temp.path(), "text.gguf").into()),
        ..single_files()
    };
    assert!(ModelFiles::open(&paths).is_ok());
    assert!(picture(&paths) == picture(&single_files()));
}

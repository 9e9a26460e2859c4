//! LoRAs: every dialect patches the same rows with the same values; a file with a single unknown tensor is refused.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::pipeline::{Pipeline, Residency};
use flux2::weights::{
    Component, Error, LoraPath, LoraProblem, Mismatch, ModelFiles, ModelPaths, Precision, TransformerConfig,
    WeightSource, WithLoras,
};
use flux2::{CancelToken, ErrorKind, Event, GenerateRequest, GeneratedImage, Variant};
use flux2_backend::{CpuBackend, CpuOptions, DType, HostTensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gguf;
use crate::golden::{f32_backend, fixture};
use crate::layouts::{File, f32_bytes, folder, join, open, single_files, tiny, with_fp8};

const RANK: usize = 3;

/// A LoRA with BFL's module names.
struct Made {
    /// Modules with their factors.
    modules: BTreeMap<String, ([usize; 2], Down, Up)>,
}

/// `[rank, in]`.
type Down = Vec<f32>;
/// `[out, rank]`.
type Up = Vec<f32>;

impl Made {
    /// Random factors for those matrices of the tiny transformer that `wanted` selects.
    fn new(wanted: impl Fn(&str) -> bool) -> Self {
        let stored = File::read(&tiny("klein-bfl/transformer.safetensors"));
        let matrices = stored.0.iter().filter(|(_, (_, shape, _))| shape.len() == 2);
        let module = |name: &str| name.replace("model.diffusion_model.", "").replace(".weight", "");
        let modules = matrices.map(|(name, (_, shape, _))| (module(name), [shape[1], shape[0]]));
        let made = modules.filter(|(name, _)| wanted(name)).map(|(name, [cols, rows])| {
            let factors = ([cols, rows], random(&name, RANK * cols), random(&(name.clone() + "up"), rows * RANK));
            (name, factors)
        });
        Made { modules: made.collect() }
    }

    /// A LoRA on all matrices.
    fn whole() -> Self {
        let made = Self::new(|_| true);
        assert_eq!(made.modules.len(), 7 + 2 * 8 + 3 * 2 + 2);
        made
    }

    /// Builds a file; `name` maps modules to tensor names.
    fn bfl(&self, name: impl Fn(&str) -> String, [down, up]: [&str; 2], alpha: Option<f32>) -> File {
        let mut file = File::default();
        for (module, ([cols, rows], d, u)) in &self.modules {
            add(&mut file, &(name(module) + down), [RANK, *cols], d);
            add(&mut file, &(name(module) + up), [*rows, RANK], u);
            if let Some(alpha) = alpha {
                file.0.insert(name(module) + ".alpha", ("F32".into(), vec![], f32_bytes([alpha])));
            }
        }
        file
    }

    /// In diffusers' layout: q, k and v are three matrices, and the halves of the final modulation are swapped.
    fn diffusers(&self, name: impl Fn(&str) -> String) -> File {
        let mut file = File::default();
        for (module, ([cols, rows], down, up)) in &self.modules {
            let parts = diffusers_modules(module);
            let height = rows / parts.len();
            for (part, up) in parts.iter().zip(up.chunks(height * RANK)) {
                let mut up = up.to_vec();
                if part == "norm_out.linear" {
                    up.rotate_left(rows / 2 * RANK);
                }
                add(&mut file, &(name(part) + ".lora_A.weight"), [RANK, *cols], down);
                add(&mut file, &(name(part) + ".lora_B.weight"), [height, RANK], &up);
            }
        }
        file
    }
}

fn add(file: &mut File, name: &str, shape: [usize; 2], values: &[f32]) {
    file.0.insert(name.into(), ("F32".into(), shape.into(), f32_bytes(values.iter().copied())));
}

/// Values in -0.2..0.2, seeded by the name.
fn random(name: &str, count: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(17u64, |h, b| h.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.4
    };
    (0..count).map(|_| next()).collect()
}

fn diffusers_modules(module: &str) -> Vec<String> {
    let renamed = [
        ("img_in", "x_embedder"),
        ("txt_in", "context_embedder"),
        ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
        ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
        ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
        ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
        ("single_stream_modulation.lin", "single_stream_modulation.linear"),
        ("final_layer.adaLN_modulation.1", "norm_out.linear"),
        ("final_layer.linear", "proj_out"),
    ];
    if let Some((_, name)) = renamed.iter().find(|(bfl, _)| *bfl == module) {
        return vec![(*name).into()];
    }
    let (block, part) = module.split_at(module.match_indices('.').nth(1).unwrap().0 + 1);
    let block =
        block.replace("double_blocks", "transformer_blocks").replace("single_blocks", "single_transformer_blocks");
    let parts: &[&str] = match part {
        "img_attn.qkv" => &["attn.to_q", "attn.to_k", "attn.to_v"],
        "txt_attn.qkv" => &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
        "img_attn.proj" => &["attn.to_out.0"],
        "txt_attn.proj" => &["attn.to_add_out"],
        "img_mlp.0" => &["ff.linear_in"],
        "img_mlp.2" => &["ff.linear_out"],
        "txt_mlp.0" => &["ff_context.linear_in"],
        "txt_mlp.2" => &["ff_context.linear_out"],
        "linear1" => &["attn.to_qkv_mlp_proj"],
        "linear2" => &["attn.to_out"],
        other => panic!("{other}"),
    };
    parts.iter().map(|part| block.clone() + part).collect()
}

fn canonical(module: &str) -> String {
    let mut name = module.to_owned();
    for (bfl, ours) in [
        ("time_in.in_layer", "time_in.0"),
        ("time_in.out_layer", "time_in.1"),
        ("double_stream_modulation_img.lin", "modulation.img"),
        ("double_stream_modulation_txt.lin", "modulation.txt"),
        ("single_stream_modulation.lin", "modulation.single"),
        ("final_layer.adaLN_modulation.1", "final.modulation"),
        ("final_layer.linear", "final.proj"),
        ("double_blocks.", "double."),
        ("single_blocks.", "single."),
        ("img_attn.", "img."),
        ("txt_attn.", "txt."),
        ("img_mlp.0", "img.mlp_in"),
        ("img_mlp.2", "img.mlp_out"),
        ("txt_mlp.0", "txt.mlp_in"),
        ("txt_mlp.2", "txt.mlp_out"),
        ("linear1", "qkv_mlp"),
        ("linear2", "out"),
    ] {
        name = name.replace(bfl, ours);
    }
    name
}

const PEFT: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
const KOHYA: [&str; 2] = [".lora_down.weight", ".lora_up.weight"];

fn underscored(module: &str) -> String {
    format!("lora_unet_{}", module.replace('.', "_"))
}

/// The same LoRA in every dialect, with alpha equal to the rank.
fn dialects(made: &Made) -> Vec<(&'static str, File)> {
    let dotted = |prefix: &'static str| move |module: &str| format!("{prefix}{module}");
    let alias = |module: &str| format!("diffusion_model.{}", module.strip_prefix("tran").unwrap_or(module));
    let infix = [".lora_A.default.weight", ".lora_B.default.weight"];
    vec![
        ("diffusers", made.diffusers(dotted("transformer."))),
        ("ai-toolkit", made.bfl(dotted("diffusion_model."), PEFT, None)),
        ("raw PEFT", made.bfl(dotted("base_model.model."), PEFT, None)),
        ("raw PEFT with the adapter's name", made.bfl(dotted("base_model.model."), infix, None)),
        ("raw PEFT of diffusers", made.diffusers(dotted("base_model.model."))),
        ("kohya", made.bfl(underscored, KOHYA, Some(RANK as f32))),
        ("kohya without alpha", made.bfl(underscored, KOHYA, None)),
        ("kohya of diffusers", made.diffusers(underscored)),
        ("OneTrainer", made.diffusers(|m| underscored(m).replace("lora_unet_", "lora_transformer_"))),
        ("LyCORIS", made.diffusers(|m| underscored(m).replace("lora_unet_", "lycoris_"))),
        ("older diffusers", made.bfl(dotted("transformer."), [".lora.down.weight", ".lora.up.weight"], None)),
        ("older diffusers, processors", made.bfl(dotted("unet."), ["_lora.down.weight", "_lora.up.weight"], None)),
        ("down and up behind dots", made.bfl(dotted("diffusion_model."), KOHYA, Some(RANK as f32))),
        ("down and up behind the name of a checkpoint", made.bfl(dotted("model.diffusion_model."), KOHYA, None)),
        ("diffusers blocks of ai-toolkit", made.diffusers(dotted("diffusion_model."))),
        ("cut names of blocks", made.diffusers(alias)),
        ("no prefix", made.bfl(dotted(""), PEFT, None)),
        ("no prefix, diffusers", made.diffusers(dotted(""))),
    ]
}

/// Opens a model with LoRAs.
pub fn with(paths: ModelPaths, loras: &[(&Path, f32)]) -> ModelPaths {
    let loras = loras.iter().map(|(path, scale)| LoraPath { location: (*path).into(), scale: *scale });
    ModelPaths { loras: loras.collect(), ..paths }
}

pub fn merged(files: &ModelFiles, name: &str) -> HostTensor {
    let base = files.transformer.map().unwrap();
    WithLoras { base: &base, loras: &files.loras, threads: NonZeroUsize::new(2).unwrap() }.tensor(name).unwrap()
}

fn bf16(value: f64) -> f32 {
    half::bf16::from_f32(value as f32).to_f32()
}

#[test]
fn every_dialect_adds_the_same_to_both_layouts() {
    let (made, temp) = (Made::whole(), TempDir::new().unwrap());
    let scale = 0.7f32;
    let mut first: Option<BTreeMap<String, HostTensor>> = None;
    for (dialect, file) in dialects(&made) {
        let path = file.write(temp.path(), "lora.safetensors");
        for paths in [folder(), single_files()] {
            let files = open(&with(paths, &[(&path, scale)]));
            assert_eq!(files.loras[0].matrices(), made.modules.len(), "{dialect}");
            let all: BTreeMap<_, _> = files.transformer.names().map(|n| (n.to_owned(), merged(&files, n))).collect();
            let first = first.get_or_insert_with(|| all.clone());
            for (name, tensor) in &all {
                assert_eq!(tensor.dtype(), DType::Bf16);
                assert!(tensor.bytes()[..] == first[name].bytes()[..], "{dialect}: {name}");
            }
        }
    }

    // The merged weight is W + s · alpha / rank · B · A.
    let (base, got) = (open(&folder()).transformer.map().unwrap(), first.unwrap());
    for (module, ([cols, rows], down, up)) in &made.modules {
        let name = canonical(module);
        let (base, got) = (base.tensor(&name).unwrap().to_f32(), got[&name].to_f32());
        for i in 0..rows * cols {
            let product: f64 =
                (0..RANK).map(|k| f64::from(up[i / cols * RANK + k]) * f64::from(down[k * cols + i % cols])).sum();
            let expected = f64::from(base[i]) + f64::from(scale) * product;
            // f32 sums differ by less than 1e-7, which may change the rounding to bf16.
            let (low, high) = (bf16(expected - 1e-7), bf16(expected + 1e-7));
            assert!((low..=high).contains(&got[i]), "{name} [{i}]: {} for {expected}", got[i]);
        }
    }
}

/// The tiny transformer, decoded to f32.
pub fn f32_transformer(temp: &Path) -> PathBuf {
    let mut file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    for (dtype, _, bytes) in file.0.values_mut() {
        assert_eq!(dtype, "BF16");
        *bytes = bytes.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
        *dtype = "F32".into();
    }
    file.write(temp, "transformer_f32.safetensors")
}

#[test]
fn weights_in_f32_stay_f32_and_8_bit_ones_become_bf16() {
    let temp = TempDir::new().unwrap();
    let made = Made::new(|module| module == "single_blocks.0.linear2");
    let lora = made.bfl(|m| m.into(), PEFT, None).write(temp.path(), "lora.safetensors");
    let ([cols, _], down, up) = &made.modules["single_blocks.0.linear2"];
    let added = |i: usize| (0..RANK).map(|k| up[i / cols * RANK + k] * down[k * cols + i % cols]).sum::<f32>();

    let paths = ModelPaths { model: f32_transformer(temp.path()).into(), ..single_files() };
    let files = open(&with(paths, &[(&lora, 1.0)]));
    let (got, base) =
        (merged(&files, "single.0.out"), files.transformer.map().unwrap().tensor("single.0.out").unwrap());
    assert_eq!(got.dtype(), DType::F32);
    assert!(got.to_f32().iter().zip(base.to_f32()).enumerate().all(|(i, (got, base))| *got == base + added(i)));

    let name = "model.diffusion_model.single_blocks.0.linear2.weight";
    let scales: Vec<f32> = (1..=64).map(|r| r as f32 / 64.0).collect();
    let fp8 = with_fp8("bfl", &[name], &[(&format!("{name}_scale"), vec![64], scales.clone())]);
    let paths = ModelPaths { model: fp8.write(temp.path(), "fp8.safetensors").into(), ..single_files() };
    let got = merged(&open(&with(paths, &[(&lora, -1.0)])), "single.0.out");
    assert_eq!(got.dtype(), DType::Bf16);
    let expected = |i: usize| bf16(f64::from(scales[i / cols] - added(i)));
    assert!(got.to_f32().iter().enumerate().all(|(i, got)| *got == expected(i)));
}

#[test]
fn blocks_of_a_gguf_file_are_decoded_first() {
    let temp = TempDir::new().unwrap();
    let made = Made::whole();
    let lora = made.bfl(underscored, KOHYA, None).write(temp.path(), "lora.safetensors");
    let model: PathBuf = gguf::packed(&gguf::transformer(), DType::Q8_0).write(temp.path(), "transformer.gguf");
    let files = open(&with(ModelPaths { model: model.into(), ..single_files() }, &[(&lora, 0.5)]));
    let base = files.transformer.map().unwrap();
    let (before, got) = (base.tensor("double.1.img.mlp_out").unwrap(), merged(&files, "double.1.img.mlp_out"));
    assert_eq!((before.dtype(), got.dtype()), (DType::Q8_0, DType::Bf16));
    let ([cols, _], down, up) = &made.modules["double_blocks.1.img_mlp.2"];
    for (i, (before, got)) in before.to_f32().into_iter().zip(got.to_f32()).enumerate() {
        let product = (0..RANK).map(|k| up[i / cols * RANK + k] * 0.5 * down[k * cols + i % cols]).sum::<f32>();
        assert_eq!(got, bf16(f64::from(before + product)), "{i}");
    }
}

#[test]
fn matrices_that_no_lora_touches_stay_where_they_are() {
    let temp = TempDir::new().unwrap();
    let lora = Made::new(|m| m == "img_in").bfl(underscored, KOHYA, None).write(temp.path(), "lora.safetensors");
    let files = open(&with(single_files(), &[(&lora, 1.0)]));
    assert_eq!(files.loras[0].matrices(), 1);
    let base = files.transformer.map().unwrap();
    let merged = WithLoras { base: &base, loras: &files.loras, threads: NonZeroUsize::MIN };
    for name in files.transformer.names() {
        let (before, after) = (base.tensor(name).unwrap(), merged.tensor(name).unwrap());
        assert_eq!(before.bytes().as_ptr() == after.bytes().as_ptr(), name != "img_in", "{name}");
    }
}

#[test]
fn a_block_diagonal_factor_is_three_of_a_third_of_its_rank() {
    let temp = TempDir::new().unwrap();
    let module = "double_blocks.1.img_attn.qkv";
    let (hidden, rank) = (64, 2);
    let (mut split, mut fused) = (File::default(), File::default());
    let (mut down, mut up) = (vec![], vec![0.0; 3 * hidden * 3 * rank]);
    for (i, part) in diffusers_modules(module).iter().enumerate() {
        let (d, u) = (random(part, rank * hidden), random(&format!("{part}u"), hidden * rank));
        add(&mut split, &format!("transformer.{part}.lora_A.weight"), [rank, hidden], &d);
        add(&mut split, &format!("transformer.{part}.lora_B.weight"), [hidden, rank], &u);
        for (row, values) in u.chunks(rank).enumerate() {
            up[(i * hidden + row) * 3 * rank + i * rank..][..rank].copy_from_slice(values);
        }
        down.extend(d);
    }
    add(&mut fused, &(underscored(module) + KOHYA[0]), [3 * rank, hidden], &down);
    add(&mut fused, &(underscored(module) + KOHYA[1]), [3 * hidden, 3 * rank], &up);
    let [split, fused] = [split, fused].map(|file| {
        let path = file.write(temp.path(), "lora.safetensors");
        merged(&open(&with(folder(), &[(&path, 1.0)])), "double.1.img.qkv").to_f32()
    });
    assert!(split == fused);
    // The rows of k changed by the factors made for k.
    let base = open(&folder()).transformer.map().unwrap().tensor("double.1.img.qkv").unwrap().to_f32();
    assert!((0..3).all(|i| (0..64).any(|row| split[(i * 64 + row) * 64] != base[(i * 64 + row) * 64])));
}

/// The file with a configuration in its metadata.
fn with_metadata(file: &File, metadata: &Value, temp: &Path) -> PathBuf {
    with_texts(file, json!({"lora_adapter_metadata": metadata.to_string()}), temp)
}

/// The file with texts as metadata.
fn with_texts(file: &File, texts: Value, temp: &Path) -> PathBuf {
    let (mut header, data) = file.parts();
    header.insert("__metadata__".into(), texts);
    let path = temp.join("metadata.safetensors");
    std::fs::write(&path, join(&Value::Object(header).to_string(), &data)).unwrap();
    path
}

#[test]
fn alpha_is_divided_by_the_rank_and_a_tensor_beats_the_metadata() {
    let temp = TempDir::new().unwrap();
    let made = Made::new(|module| module == "img_in");
    let file = |alpha| made.bfl(|m| m.into(), PEFT, alpha);
    let values = |path: &Path, scale| merged(&open(&with(folder(), &[(path, scale)])), "img_in").to_f32();
    let plain = file(None).write(temp.path(), "plain.safetensors");
    let (once, twice) = (values(&plain, 1.0), values(&plain, 2.0));
    assert_ne!(once, twice);
    let alpha = file(Some(6.0)).write(temp.path(), "alpha.safetensors");
    assert!(values(&alpha, 1.0) == twice && values(&alpha, 0.5) == once);
    let said = |json| with_metadata(&file(None), &json, temp.path());
    assert!(values(&said(json!({"transformer.r": 3, "transformer.lora_alpha": 6})), 1.0) == twice);
    assert!(
        values(&said(json!({"r": 8, "rank_pattern": {"img_in": 3}, "alpha_pattern": {"img_in": 6}})), 1.0) == twice
    );
    let both = with_metadata(&file(Some(3.0)), &json!({"lora_alpha": 100}), temp.path());
    assert!(values(&both, 1.0) == once);
}

#[test]
fn alpha_is_read_from_texts_of_the_header_and_from_a_configuration_beside_the_file() {
    let temp = TempDir::new().unwrap();
    let made = Made::new(|module| module.starts_with("double_blocks.0.img_attn"));
    let file = made.diffusers(|m| format!("base_model.model.{m}"));
    let opened = |path: &Path, scale| open(&with(folder(), &[(path, scale)]));
    let values = |path: &Path, scale| merged(&opened(path, scale), "double.0.img.qkv").to_f32();
    let plain = file.write(temp.path(), "plain.safetensors");
    let (once, twice) = (values(&plain, 1.0), values(&plain, 2.0));
    let strength = opened(&plain, 1.0).loras[0].strength;
    assert_eq!((strength.least, strength.most, strength.source, strength.unsaid), (1.0, 1.0, None, 4));
    assert_eq!(strength.to_string(), "alpha / rank 1, as nothing gives alpha");

    for key in ["lora_alpha", "alpha", "network_alpha", "ss_network_alpha"] {
        let path = with_texts(&file, json!({key: "6", "format": "pt"}), temp.path());
        assert!(values(&path, 1.0) == twice, "{key}");
        let strength = opened(&path, 1.0).loras[0].strength;
        assert_eq!(strength.to_string(), "alpha / rank 2, from its metadata");
    }

    // The folder that PEFT writes, as a folder and by its file, which may be renamed if it is the only one.
    let adapter = temp.path().join("style");
    std::fs::create_dir(&adapter).unwrap();
    let inside = file.write(&adapter, "adapter_model.safetensors");
    let says = |json: Value| std::fs::write(adapter.join("adapter_config.json"), json.to_string()).unwrap();
    says(json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["to_q"]}));
    for path in [&adapter, &inside] {
        assert!(values(path, 1.0) == twice);
    }
    let lora = opened(&adapter, 1.0).loras.remove(0);
    assert_eq!(lora.strength.to_string(), "alpha / rank 2, from adapter_config.json");
    assert_eq!((lora.name.as_str(), lora.sha256), ("style", flux2::digest::sha256(&std::fs::read(&inside).unwrap())));
    let renamed = adapter.join("mine.safetensors");
    std::fs::rename(&inside, &renamed).unwrap();
    assert!(values(&renamed, 1.0) == twice && values(&adapter, 1.0) == twice);
    // Beside other files it is not known whose configuration it is, unless a file has PEFT's name.
    std::fs::copy(&renamed, adapter.join("other.safetensors")).unwrap();
    assert!(values(&renamed, 1.0) == once);
    let folder_of_two = ModelFiles::open(&with(folder(), &[(&adapter, 1.0)])).unwrap_err();
    assert!(matches!(folder_of_two, Error::Lora { problem: LoraProblem::SeveralFiles { count: 2 }, .. }));
    std::fs::rename(&renamed, &inside).unwrap();
    assert!(values(&adapter, 1.0) == twice);
    says(json!({"r": 3, "lora_alpha": 3, "alpha_pattern": {r"transformer_blocks\.\d\.attn\.to_[qkv]": 6}}));
    assert!(values(&adapter, 1.0) == twice);
    let strength = opened(&adapter, 1.0).loras[0].strength;
    assert_eq!(strength.to_string(), "alpha / rank 1 to 2, from adapter_config.json");
    let empty = ModelFiles::open(&with(folder(), &[(temp.path().join("style/..").as_path(), 1.0)]));
    assert!(empty.is_err());
}

#[test]
fn alpha_may_be_of_any_number_type_and_shape() {
    let temp = TempDir::new().unwrap();
    let made = Made::new(|module| module == "img_in");
    let values = |file: &File, scale| {
        let path = file.write(temp.path(), "lora.safetensors");
        merged(&open(&with(folder(), &[(&path, scale)])), "img_in").to_f32()
    };
    let plain = made.bfl(|m| m.into(), PEFT, None);
    let twice = values(&plain, 2.0);
    let numbers: [(&str, Vec<u8>); 13] = [
        ("I64", 6i64.to_le_bytes().into()),
        ("U64", 6u64.to_le_bytes().into()),
        ("I32", 6i32.to_le_bytes().into()),
        ("U32", 6u32.to_le_bytes().into()),
        ("I16", 6i16.to_le_bytes().into()),
        ("U16", 6u16.to_le_bytes().into()),
        ("I8", vec![6]),
        ("U8", vec![6]),
        ("F64", 6f64.to_le_bytes().into()),
        ("F32", 6f32.to_le_bytes().into()),
        ("F16", half::f16::from_f32(6.0).to_le_bytes().into()),
        ("BF16", half::bf16::from_f32(6.0).to_le_bytes().into()),
        ("F8_E4M3", vec![0x4c]),
    ];
    for (dtype, bytes) in numbers {
        for shape in [vec![], vec![1], vec![1, 1], vec![1, 1, 1, 1]] {
            let mut file = made.bfl(|m| m.into(), PEFT, None);
            file.0.insert("img_in.alpha".into(), (dtype.into(), shape.clone(), bytes.clone()));
            assert!(values(&file, 1.0) == twice, "{dtype} {shape:?}");
        }
    }
}

#[test]
fn a_lora_with_values_that_are_not_finite_is_to_blame() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in [DOWN, UP] {
            let damaged = edited(|f| f.get_mut(name).unwrap().2[8..12].copy_from_slice(&value.to_le_bytes()));
            assert_eq!(problem(&damaged), LoraProblem::NotFinite { name: name.into() });
        }
    }
}

#[test]
fn several_add_up_and_so_does_one_given_twice() {
    let temp = TempDir::new().unwrap();
    let lora = Made::new(|m| m == "txt_in").bfl(|m| m.into(), PEFT, None).write(temp.path(), "a.safetensors");
    let paths = ModelPaths { model: f32_transformer(temp.path()).into(), ..single_files() };
    let values = |loras: &[(&Path, f32)]| merged(&open(&with(paths.clone(), loras)), "txt_in").to_f32();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let base = values(&[]);
    assert!(near(&values(&[(&lora, 0.5), (&lora, 0.5)]), &values(&[(&lora, 1.0)])));
    assert!(near(&values(&[(&lora, 1.5), (&lora, -1.5)]), &base));
    assert!(values(&[(&lora, 0.0)]) == base);
    assert!(!near(&values(&[(&lora, -1.0)]), &values(&[(&lora, 1.0)])));
}

// ---- pictures ----

fn draw(pipeline: Pipeline<CpuBackend>) -> GeneratedImage {
    let mut pipeline = pipeline;
    let request = GenerateRequest {
        prompt: "a red fox".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        ..Default::default()
    };
    pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
}

fn picture(paths: &ModelPaths) -> GeneratedImage {
    draw(Pipeline::load(f32_backend(), paths, Residency::OneAtATime).unwrap())
}

#[test]
fn a_picture_is_the_same_in_every_dialect_and_says_what_was_added() {
    let (made, temp) = (Made::whole(), TempDir::new().unwrap());
    let mut pictures = vec![];
    for (dialect, file) in dialects(&made).into_iter().filter(|(d, _)| ["diffusers", "ai-toolkit", "kohya"].contains(d))
    {
        let path = file.write(temp.path(), &format!("{dialect}.safetensors"));
        for paths in [folder(), single_files()] {
            let GeneratedImage { image, parameters, .. } = picture(&with(paths, &[(&path, 0.7)]));
            let [lora] = &parameters.loras[..] else { panic!("{parameters:?}") };
            assert_eq!((lora.name.as_str(), lora.scale), (dialect, 0.7));
            assert_eq!(lora.sha256, flux2::digest::sha256(&std::fs::read(&path).unwrap()));
            pictures.push(image);
        }
    }
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
    let without = picture(&folder());
    assert!(pictures[0] != without.image && without.parameters.loras.is_empty());
    // A scale of 0 changes nothing.
    let none = picture(&with(folder(), &[(&temp.path().join("kohya.safetensors"), 0.0)]));
    assert!(none.image == without.image);
}

#[test]
fn merged_weights_are_rounded_to_bytes_like_others() {
    let temp = TempDir::new().unwrap();
    let lora = dialects(&Made::whole()).swap_remove(0).1.write(temp.path(), "lora.safetensors");
    let be = || CpuBackend::new(CpuOptions::default()).unwrap();
    let draw = |paths: &ModelPaths, precision| {
        draw(Pipeline::load(be(), paths, Residency::OneAtATime).unwrap().with_precision(precision)).image
    };
    let with_lora = with(folder(), &[(&lora, 1.0)]);
    let distance = |a: &flux2::image::RgbImage, b: &flux2::image::RgbImage| {
        a.pixels().iter().zip(b.pixels()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.pixels().len() as f64
    };
    let (bf16, int8) = (draw(&with_lora, Precision::BF16), draw(&with_lora, Precision::INT8));
    let without = draw(&folder(), Precision::INT8);
    let (near, far) = (distance(&bf16, &int8), distance(&without, &int8));
    assert!(near > 0.0 && 3.0 * near < far, "{near} from bf16, {far} from int8 without the LoRA");
}

// ---- refused files ----

fn refused(file: &File, scale: f32) -> Error {
    let temp = TempDir::new().unwrap();
    let path = file.write(temp.path(), "style.safetensors");
    let error = ModelFiles::open(&with(folder(), &[(&path, scale)])).unwrap_err();
    assert!(error.remedy().is_some(), "{error}");
    error
}

fn mismatch(file: &File) -> Mismatch {
    match refused(file, 1.0) {
        Error::Lora { problem: LoraProblem::Tensors(mismatch), .. } => *mismatch,
        other => panic!("{other}"),
    }
}

fn problem(file: &File) -> LoraProblem {
    match refused(file, 1.0) {
        Error::Lora { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

/// A LoRA on one matrix.
fn small() -> File {
    Made::new(|module| module == "img_in").bfl(|m| format!("diffusion_model.{m}"), PEFT, None)
}

fn edited(edit: impl FnOnce(&mut BTreeMap<String, crate::layouts::Stored>)) -> File {
    let mut file = small();
    edit(&mut file.0);
    file
}

const DOWN: &str = "diffusion_model.img_in.lora_A.weight";
const UP: &str = "diffusion_model.img_in.lora_B.weight";

fn number(dtype: &str, value: f32) -> crate::layouts::Stored {
    (dtype.into(), vec![], f32_bytes([value]))
}

#[test]
fn every_tensor_without_a_place_is_listed_with_the_nearest() {
    let mut file = dialects(&Made::new(|m| m.contains("qkv"))).swap_remove(0).1;
    let names: Vec<String> = file.0.keys().filter(|n| n.contains("to_q")).cloned().collect();
    for name in &names {
        let tensor = file.0.remove(name).unwrap();
        file.0.insert(name.replace("to_q", "to_qq"), tensor);
    }
    file.0.insert("something".into(), number("F32", 1.0));
    let found = mismatch(&file);
    assert_eq!(found.unused.len(), names.len() + 1);
    let nearest = &found.nearest["transformer.transformer_blocks.1.attn.to_qq.lora_B.weight"];
    assert_eq!(nearest, "transformer.transformer_blocks.1.attn.to_q.lora_B.weight");
    let message = refused(&file, 1.0).to_string();
    assert!(
        message.contains("5 not used:") && message.contains("(nearest: transformer.transformer_blocks.0"),
        "{message}"
    );

    let kohya = Made::new(|m| m == "single_blocks.2.linear1").bfl(underscored, KOHYA, None);
    let found = mismatch(&kohya.renamed(|n| n.replace("linear1", "linaer1")));
    assert_eq!(
        found.nearest["lora_unet_single_blocks_2_linaer1.lora_up.weight"],
        "lora_unet_single_blocks_2_linear1.lora_up.weight"
    );
    // Blocks that this model does not have.
    let found = mismatch(&kohya.renamed(|n| n.replace("blocks_2", "blocks_3")));
    assert_eq!(found.unused.len(), 2);
    // A LoRA on a vector.
    let found = mismatch(&edited(|f| {
        f.insert("diffusion_model.double_blocks.0.img_attn.norm.query_norm.lora_A.weight".into(), number("F32", 1.0));
    }));
    assert_eq!(found.unused.len(), 1);
}

#[test]
fn a_factor_without_the_other_is_missing_it() {
    assert_eq!(mismatch(&edited(|f| _ = f.remove(UP))).missing, [UP]);
    assert_eq!(mismatch(&edited(|f| _ = f.remove(DOWN))).missing, [DOWN]);
    let alone = edited(|f| *f = [("lora_unet_img_in.alpha".into(), number("F32", 1.0))].into());
    assert_eq!(mismatch(&alone).missing, ["lora_unet_img_in.lora_down.weight"]);
}

#[test]
fn shapes_and_ranks_that_do_not_fit_are_listed() {
    let shapes = |name: &str, shape: Vec<usize>| {
        let found = mismatch(&edited(|f| {
            _ = f.insert(name.into(), ("F32".into(), shape.clone(), vec![0; 4 * shape.iter().product::<usize>()]))
        }));
        found.shapes.iter().map(|s| (s.name.clone(), s.found.clone(), s.expected.clone())).collect::<Vec<_>>()
    };
    // The first factor determines the rank.
    assert_eq!(shapes(DOWN, vec![2, 32]), [(UP.to_owned(), vec![64, 3], vec![64, 2])]);
    assert_eq!(shapes(UP, vec![64, 4]), [(UP.to_owned(), vec![64, 4], vec![64, 3])]);
    assert_eq!(shapes(UP, vec![63, 3]), [(UP.to_owned(), vec![63, 3], vec![64, 3])]);
    assert_eq!(shapes(DOWN, vec![3, 31]), [(DOWN.to_owned(), vec![3, 31], vec![3, 32])]);
    assert_eq!(shapes(DOWN, vec![3, 32, 2]), [(DOWN.to_owned(), vec![3, 32, 2], vec![3, 32])]);
    assert_eq!(
        shapes(DOWN, vec![96]),
        [(DOWN.to_owned(), vec![96], vec![96, 32]), (UP.to_owned(), vec![64, 3], vec![64, 96])]
    );
    assert_eq!(shapes(DOWN, vec![0, 32])[0], (DOWN.to_owned(), vec![0, 32], vec![1, 32]));
    assert_eq!(shapes("diffusion_model.img_in.alpha", vec![2])[0].2, [0; 0]);
}

#[test]
fn factors_that_are_no_floats_are_listed() {
    let found = mismatch(&edited(|f| _ = f.insert(DOWN.into(), ("I8".into(), vec![3, 32], vec![0; 96]))));
    assert_eq!(found.dtypes, [(DOWN.to_owned(), "i8".to_owned())]);
    let alpha = "diffusion_model.img_in.alpha".to_owned();
    let found = mismatch(&edited(|f| _ = f.insert(alpha.clone(), ("BOOL".into(), vec![], vec![1]))));
    assert_eq!(found.dtypes, [(alpha, "BOOL".to_owned())]);
}

#[test]
fn factors_in_fp8_are_decoded() {
    let temp = TempDir::new().unwrap();
    // 0x38 is 1, 0x30 is 0.5.
    let of = |dtype: &str, one: &[u8], half: &[u8]| {
        let file = edited(|f| {
            f.insert(DOWN.into(), (dtype.into(), vec![3, 32], one.repeat(96)));
            f.insert(UP.into(), (dtype.into(), vec![64, 3], half.repeat(192)));
        });
        let path = file.write(temp.path(), "lora.safetensors");
        merged(&open(&with(folder(), &[(&path, 1.0)])), "img_in").to_f32()
    };
    let expected = of("F32", &1f32.to_le_bytes(), &0.5f32.to_le_bytes());
    assert!(of("F8_E4M3", &[0x38], &[0x30]) == expected);
    let no_number = edited(|f| {
        f.insert(DOWN.into(), ("F8_E4M3".into(), vec![3, 32], vec![0x7f; 96]));
    });
    assert_eq!(problem(&no_number), LoraProblem::NotFinite { name: DOWN.into() });
}

#[test]
fn scales_that_are_no_numbers_are_refused() {
    for scale in [f32::NAN, f32::INFINITY] {
        let error = refused(&small(), scale);
        assert!(matches!(error, Error::LoraScale { .. }) && error.kind() == ErrorKind::Usage, "{error}");
    }
    let alpha = |value| edited(|f| _ = f.insert("diffusion_model.img_in.alpha".into(), number("F32", value)));
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(problem(&alpha(value)), LoraProblem::Factor { .. }), "{value}");
    }
    assert!(matches!(refused(&alpha(1e30), 1e30), Error::Lora { problem: LoraProblem::Factor { .. }, .. }));
}

#[test]
fn other_kinds_of_files_are_called_what_they_are() {
    let kind = |name: &str| match problem(&edited(|f| _ = f.insert(name.into(), number("F32", 1.0)))) {
        LoraProblem::Unsupported { what, name: found } => {
            assert_eq!(found, name);
            what
        }
        LoraProblem::OtherFamily { family, .. } => family,
        other => panic!("{name}: {other}"),
    };
    for (name, expected) in [
        ("lora_unet_double_blocks_0_img_attn_qkv.lokr_t1", "a LoKr of a convolution"),
        ("lycoris_img_in.a1.weight", "a GLoRA"),
        ("lycoris_img_in.on_input", "an IA3"),
        ("transformer.x_embedder.ia3_l", "an IA3"),
        ("transformer.x_embedder.vera_lambda_b", "a VeRA"),
        ("base_model.model.x_embedder.boft_R", "a BOFT"),
        ("diffusion_model.img_in.set_weight", "new values of whole weights"),
        ("lora_unet_double_blocks_0_img_attn_norm_query_norm.w_norm", "changes of norms"),
        ("diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff", "changes of norms"),
        ("transformer.transformer_blocks.0.attn.norm_added_q.diff", "changes of norms"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector", "a DoRA"),
        ("lora_unet_img_in.dora_scale", "a DoRA"),
        ("diffusion_model.img_in.oft_blocks", "an OFT"),
        ("diffusion_model.img_in.diff_b", "changes of biases"),
        ("transformer.x_embedder.lora_B.bias", "changes of biases"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a LoRA of a text encoder"),
        ("text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight", "a LoRA of a text encoder"),
        ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", "FLUX.1"),
        ("transformer.transformer_blocks.0.norm1.linear.lora_A.weight", "FLUX.1"),
        ("transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight", "FLUX.1"),
        ("transformer.transformer_blocks.0.ff.net.0.proj.lora_A.weight", "FLUX.1"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
    assert_eq!(problem(&File::default()), LoraProblem::Empty);
    let twice = edited(|f| _ = f.insert("img_in.lora_down.weight".into(), number("F32", 1.0)));
    assert_eq!(problem(&twice), LoraProblem::Twice { first: DOWN.into(), second: "img_in.lora_down.weight".into() });
    let temp = TempDir::new().unwrap();
    let gguf = gguf::packed(&gguf::transformer(), DType::Bf16).write(temp.path(), "lora.gguf");
    let gguf = ModelFiles::open(&with(folder(), &[(&gguf, 1.0)])).unwrap_err();
    assert!(matches!(gguf, Error::Lora { problem: LoraProblem::Gguf, .. }), "{gguf}");
    // A model given as a LoRA, and a LoRA given as a model.
    let model = ModelFiles::open(&with(folder(), &[(&tiny("klein-bfl/transformer.safetensors"), 1.0)])).unwrap_err();
    assert!(matches!(model, Error::Lora { problem: LoraProblem::Tensors(_), .. }), "{model}");
    let missing = ModelFiles::open(&with(folder(), &[(Path::new("nowhere.safetensors"), 1.0)])).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[test]
fn metadata_that_contradict_the_tensors_are_refused() {
    let temp = TempDir::new().unwrap();
    let refused = |json: Value| {
        let path = with_metadata(&small(), &json, temp.path());
        match ModelFiles::open(&with(folder(), &[(&path, 1.0)])) {
            Err(Error::Lora { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(json!({"r": 4})), LoraProblem::Rank { module: "img_in".into(), declared: 4, found: 3 });
    assert!(matches!(refused(json!({"r": "x"})), LoraProblem::Metadata { .. }));
    assert!(matches!(refused(json!([])), LoraProblem::Metadata { .. }));
    assert!(matches!(refused(json!({"lora_alpha": 1e300})), LoraProblem::Factor { .. }));
}

#[test]
fn a_lora_for_another_size_says_which() {
    let temp = TempDir::new().unwrap();
    let of_size = |name: &str| ModelFiles::synthetic(Variant::by_name(name).unwrap()).unwrap();
    let lora = |width: usize| {
        let mut file = File::default();
        add(&mut file, "lora_unet_single_blocks_3_linear2.lora_down.weight", [1, 4 * width], &vec![0.0; 4 * width]);
        add(&mut file, "lora_unet_single_blocks_3_linear2.lora_up.weight", [width, 1], &vec![0.0; width]);
        LoraPath { location: file.write(temp.path(), &format!("{width}.safetensors")).into(), scale: 1.0 }
    };
    let added = |model: &str, width| of_size(model).with_loras(&[lora(width)]);
    assert_eq!(added("klein-4b", 3072).unwrap().loras[0].matrices(), 1);
    assert_eq!(added("klein-base-9b", 4096).unwrap().loras[0].matrices(), 1);
    for (model, width, expected, made_for) in [
        ("klein-4b", 4096, 3072, "klein-9b"),
        ("klein-9b", 3072, 4096, "klein-4b"),
        ("klein-4b", 6144, 3072, "FLUX.2 [dev]"),
    ] {
        match added(model, width) {
            Err(Error::Lora { problem, .. }) => {
                assert_eq!(problem, LoraProblem::OtherSize { made_for, width, expected })
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(added("klein-4b", 1000), Err(Error::Lora { problem: LoraProblem::Tensors(_), .. })));
}

#[test]
fn a_lora_in_the_place_of_a_model_is_called_one() {
    let error = Component::<TransformerConfig>::open(fixture("tiny/lora.safetensors")).unwrap_err();
    assert!(error.to_string().contains("is a LoRA, not the transformer"), "{error}");
}

//! LoRAs: every dialect patches the same rows with the same values; a file with a single unknown tensor is refused.

mod alpha;
mod refused;

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

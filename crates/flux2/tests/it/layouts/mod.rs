//! Both layouts of a model load to the same tensors. Also helpers to build checkpoints for other tests.

mod foreign;
mod index;
mod quantized;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flux2::weights::{
    Component, Layout, ModelFiles, ModelPaths, TextConfig, TransformerConfig, VaeConfig, WeightSource,
};
use flux2_backend::DType;
use flux2_backend::testing::repository;
use serde_json::{Value, json};

/// Path of a checkpoint in the repository's fixtures.
pub fn tiny(name: &str) -> PathBuf {
    repository("fixtures/tiny").join(name)
}

/// Paths of the tiny model as single files.
pub fn single_files() -> ModelPaths {
    let file = |name: &str| tiny("klein-bfl").join(name).into();
    ModelPaths {
        model: file("transformer.safetensors"),
        text_encoder: Some(file("text_encoder.safetensors")),
        vae: Some(file("ae.safetensors")),
        ..Default::default()
    }
}

/// A tensor to write: dtype, shape, bytes.
pub type Stored = (String, Vec<usize>, Vec<u8>);

/// A safetensors file as a map, for tests that change a tensor and write the file again.
#[derive(Clone, Default)]
pub struct File(pub BTreeMap<String, Stored>);

impl File {
    /// Reads all tensors of a file.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let stored =
            |t: safetensors::tensor::TensorView| (t.dtype().to_string(), t.shape().to_vec(), t.data().to_vec());
        File(tensors.tensors().into_iter().map(|(name, t)| (name, stored(t))).collect())
    }

    /// Reads all tensors of the shards in a folder.
    pub fn read_folder(path: &Path) -> Self {
        let mut all = File::default();
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                all.0.extend(File::read(&path).0);
            }
        }
        all
    }

    /// The header as JSON, and the data.
    pub fn parts(&self) -> (serde_json::Map<String, Value>, Vec<u8>) {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (dtype, shape, bytes)) in &self.0 {
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend(bytes);
        }
        (header, data)
    }

    /// Serializes the file.
    pub fn bytes(&self) -> Vec<u8> {
        let (header, data) = self.parts();
        join(&Value::Object(header).to_string(), &data)
    }

    /// Writes the file into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }

    /// Renames all tensors.
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Self {
        File(self.0.iter().map(|(name, t)| (rename(name), t.clone())).collect())
    }
}

/// Serializes header and data.
pub fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// f32 values as little-endian bytes.
pub fn f32_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Opens a valid model.
pub fn open(paths: &ModelPaths) -> ModelFiles {
    ModelFiles::open(paths).unwrap_or_else(|e| panic!("{e}\nremedy: {:?}", e.remedy()))
}

/// The tiny model as a folder.
pub fn folder() -> ModelPaths {
    ModelPaths { model: tiny("klein").into(), ..ModelPaths::default() }
}

/// Asserts equal names, shapes and values, and equal bytes if both have the same dtype.
pub fn assert_same<C>(a: &Component<C>, b: &Component<C>, same_dtype: bool) {
    let (mapped_a, mapped_b) = (a.map().unwrap(), b.map().unwrap());
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>());
    for name in a.names() {
        let (a, b) = (mapped_a.tensor(name).unwrap(), mapped_b.tensor(name).unwrap());
        assert_eq!(a.shape(), b.shape(), "{name}");
        if same_dtype {
            assert_eq!(a.dtype(), b.dtype(), "{name}");
            assert!(a.bytes()[..] == b.bytes()[..], "{name}: bytes differ");
        } else {
            assert!(a.to_f32() == b.to_f32(), "{name}: values differ");
        }
    }
}

/// The tiny transformer with one matrix of e4m3 ones, and additional tensors.
pub fn with_fp8(layout: &str, names: &[&str], beside: &[(&str, Vec<usize>, Vec<f32>)]) -> File {
    let mut file = match layout {
        "bfl" => File::read(&tiny("klein-bfl/transformer.safetensors")),
        _ => File::read_folder(&tiny("klein/transformer")),
    };
    for name in names {
        let (_, shape, bytes) = file.0[*name].clone();
        file.0.insert((*name).into(), ("F8_E4M3".into(), shape, vec![0x38; bytes.len() / 2])); // 1.0
    }
    for (name, shape, values) in beside {
        file.0.insert((*name).into(), ("F32".into(), shape.clone(), f32_bytes(values.iter().copied())));
    }
    file
}

fn bare_transformer() -> File {
    let file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    file.renamed(|n| n.strip_prefix("model.diffusion_model.").unwrap_or(n).to_owned())
}

#[test]
fn both_layouts_load_to_identical_bytes() {
    let (diffusers, bfl) = (open(&folder()), open(&single_files()));
    assert_eq!(diffusers.transformer.layout(), Layout::Diffusers);
    assert_eq!(bfl.transformer.layout(), Layout::Bfl);
    assert_same(&diffusers.transformer, &bfl.transformer, true);
    assert_same(&diffusers.text_encoder, &bfl.text_encoder, true);
    // BFL publishes its VAE in f32; the folder stores bf16.
    assert_same(&diffusers.vae, &bfl.vae, false);
}

#[test]
fn sizes_read_off_the_shapes_are_those_of_the_configuration() {
    let (with, without) = (open(&folder()), open(&single_files()));
    assert_eq!(with.transformer.config, without.transformer.config);
    assert_eq!(with.text_encoder.config, without.text_encoder.config);
    assert_eq!(with.vae.config, without.vae.config);
}

#[test]
fn every_expected_tensor_is_handed_out_in_its_shape() {
    fn check<C>(component: &Component<C>, expected: Vec<(String, Vec<usize>)>) {
        let mapped = component.map().unwrap();
        assert_eq!(component.names().count(), expected.len());
        for (name, shape) in expected {
            assert_eq!(mapped.tensor(&name).unwrap().shape(), shape, "{name}");
        }
    }
    for paths in [folder(), single_files()] {
        let files = open(&paths);
        check(&files.transformer, files.transformer.config.expected_tensors());
        check(&files.text_encoder, files.text_encoder.config.expected_tensors());
        check(&files.vae, files.vae.config.expected_tensors());
    }
}

#[test]
fn published_sizes_have_the_published_number_of_parameters() {
    let count = |tensors: Vec<(String, Vec<usize>)>| -> usize {
        let parameters = tensors.iter().filter(|(name, _)| !name.starts_with("bn."));
        parameters.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    let vae = VaeConfig {
        latent_channels: 32,
        encoder_channels: vec![128, 256, 512, 512],
        decoder_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        groups: 32,
        group_norm_eps: 1e-6,
        bn_eps: 1e-4,
    };
    assert_eq!(count(vae.expected_tensors()), 84_046_115);
    let small = VaeConfig { decoder_channels: vec![96, 192, 384, 384], ..vae };
    assert_eq!(count(small.expected_tensors()), 84_046_115 - 49_619_203 + 27_946_179);
    let qwen3_4b = TextConfig {
        vocab: 151_936,
        hidden: 2560,
        intermediate: 9728,
        layers: 36,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ..open(&folder()).text_encoder.config
    };
    assert_eq!(count(qwen3_4b.expected_tensors()), 2_725_132_032 + 388_956_160);
}

#[test]
fn qkv_is_q_then_k_then_v() {
    let stored = File::read_folder(&tiny("klein/transformer"));
    let mapped = open(&folder()).transformer.map().unwrap();
    let part = |name: &str| stored.0[&format!("transformer_blocks.1.attn.{name}.weight")].2.clone();
    let qkv = [part("to_q"), part("to_k"), part("to_v")].concat();
    assert!(mapped.tensor("double.1.img.qkv").unwrap().bytes()[..] == qkv);
    let qkv = [part("add_q_proj"), part("add_k_proj"), part("add_v_proj")].concat();
    assert!(mapped.tensor("double.1.txt.qkv").unwrap().bytes()[..] == qkv);
}

#[test]
fn final_modulation_is_shift_then_scale_in_both_layouts() {
    // diffusers stores scale first, BFL shift first.
    let stored = File::read_folder(&tiny("klein/transformer")).0["norm_out.linear.weight"].2.clone();
    let (scale, shift) = stored.split_at(stored.len() / 2);
    assert_ne!(scale, shift);
    for paths in [folder(), single_files()] {
        let mapped = open(&paths).transformer.map().unwrap();
        let modulation = mapped.tensor("final.modulation").unwrap();
        let (first, second) = modulation.bytes().split_at(stored.len() / 2);
        assert!(first == shift && second == scale);
    }
}

#[test]
fn decoder_levels_are_reversed_in_bfl() {
    let stored = File::read(&tiny("klein-bfl/ae.safetensors"));
    let mapped = open(&single_files()).vae.map().unwrap();
    // The coarsest level runs first; BFL numbers it last.
    let first = mapped.tensor("decoder.up.0.upsample.weight").unwrap();
    assert!(first.bytes()[..] == stored.0["decoder.up.3.upsample.conv.weight"].2);
    let last = mapped.tensor("decoder.up.3.res.2.conv2.weight").unwrap();
    assert!(last.bytes()[..] == stored.0["decoder.up.0.block.2.conv2.weight"].2);
}

#[test]
fn attention_of_the_bfl_vae_is_a_matrix() {
    let stored = File::read(&tiny("klein-bfl/ae.safetensors"));
    let mapped = open(&single_files()).vae.map().unwrap();
    let (_, shape, bytes) = &stored.0["decoder.mid.attn_1.proj_out.weight"];
    let matrix = mapped.tensor("decoder.mid.attn.out.weight").unwrap();
    assert_eq!((&shape[..2], &shape[2..]), (matrix.shape(), &[1, 1][..]));
    assert!(matrix.bytes()[..] == bytes[..]);
}

/// One file of all three networks, with these prefixes.
pub fn all_in_one([transformer, text, vae]: [&str; 3]) -> File {
    let parts = [
        bare_transformer().renamed(|n| format!("{transformer}{n}")),
        File::read(&tiny("klein-bfl/text_encoder.safetensors")).renamed(|n| format!("{text}{n}")),
        File::read(&tiny("klein-bfl/ae.safetensors")).renamed(|n| format!("{vae}{n}")),
    ];
    File(parts.into_iter().flat_map(|file| file.0).collect())
}

#[test]
fn a_decoder_may_be_narrower_than_its_encoder() {
    let paths = ModelPaths { vae: Some(tiny("vae_small_decoder").into()), ..folder() };
    let vae = open(&paths).vae;
    assert_eq!(vae.config.encoder_channels, [8, 16, 24, 24]);
    assert_eq!(vae.config.decoder_channels, [8, 8, 16, 16]);
    let temp = tempfile::tempdir().unwrap();
    let alone = File::read_folder(&tiny("vae_small_decoder")).write(temp.path(), "vae.safetensors");
    assert_eq!(Component::<VaeConfig>::open(&alone).unwrap().config, vae.config);
}

#[test]
fn a_transformer_may_take_the_place_of_the_folders_own() {
    let file = tiny("klein-bfl/transformer.safetensors");
    let files = open(&ModelPaths { transformer: Some(file.clone().into()), ..folder() });
    assert_eq!((files.transformer.layout(), files.vae.layout()), (Layout::Bfl, Layout::Diffusers));
    let two = ModelPaths { transformer: Some(file.into()), ..single_files() };
    assert!(matches!(ModelFiles::open(&two), Err(flux2::weights::Error::TwoTransformers { .. })));
}

#[test]
fn layers_after_the_last_tap_need_not_be_there_nor_be_right() {
    let temp = tempfile::tempdir().unwrap();
    let text = File::read(&tiny("klein-bfl/text_encoder.safetensors"));
    let used = Component::<TextConfig>::open(tiny("klein-bfl/text_encoder.safetensors")).unwrap();
    assert!(used.names().any(|n| n == "layer.26.q") && !used.names().any(|n| n == "layer.27.q"));
    let mut cut = text.clone();
    cut.0.retain(|name, _| !name.starts_with("model.layers.27.") && name != "model.norm.weight");
    assert_same(&Component::<TextConfig>::open(cut.write(temp.path(), "cut.safetensors")).unwrap(), &used, true);
    let mut more = text;
    more.0.insert("lm_head.weight".into(), ("U8".into(), vec![3], vec![0; 3]));
    more.0.insert("model.layers.27.mlp.gate_proj.weight_scale_inv".into(), ("F32".into(), vec![], vec![0; 4]));
    assert_same(&Component::<TextConfig>::open(more.write(temp.path(), "more.safetensors")).unwrap(), &used, true);
}

#[test]
fn dropping_a_mapped_component_leaves_taken_tensors_whole() {
    let component = open(&folder()).transformer;
    let mapped = component.map().unwrap();
    let tensor = mapped.tensor("img_in").unwrap();
    let before = tensor.to_f32();
    drop((mapped, component));
    assert_eq!(tensor.to_f32(), before);
}

/// Copies the tiny model's folder to `folder/copy`, for tests that damage it.
pub fn copy_of_tiny(folder: &Path) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    let to = folder.join("copy");
    if to.exists() {
        std::fs::remove_dir_all(&to).unwrap();
    }
    copy(&tiny("klein"), &to);
    to
}

/// Edits the object in a JSON file.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let mut object = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut object);
    std::fs::write(path, serde_json::to_string(&object).unwrap()).unwrap();
}

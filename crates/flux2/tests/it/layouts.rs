//! Both layouts of a model load to the same tensors. Also helpers to build checkpoints for other tests.

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

#[test]
fn names_may_have_the_prefix_of_other_programs() {
    let temp = tempfile::tempdir().unwrap();
    let published = "model.diffusion_model.";
    let file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    let bare = file.renamed(|n| n.strip_prefix(published).unwrap_or(n).to_owned());
    assert!(bare.0.contains_key("img_in.weight"));
    let reference = open(&single_files()).transformer;
    for prefix in ["", "diffusion_model.", published] {
        let path = bare.renamed(|n| format!("{prefix}{n}")).write(temp.path(), "transformer.safetensors");
        let component = Component::<TransformerConfig>::open(&path).unwrap();
        assert_same(&component, &reference, true);
    }
}

#[test]
fn fp8_scale_multiplies() {
    let folder = tiny("text_encoder_fp8");
    let stored = File::read_folder(&folder);
    let component = Component::<TextConfig>::open(&folder).unwrap();
    assert_eq!(component.dtype(), DType::F8E4M3);
    let mapped = component.map().unwrap();
    let tensor = mapped.tensor("layer.3.gate").unwrap(); // [144, 16]: blocks of 128 rows, the last one of 16
    let (_, _, codes) = &stored.0["model.layers.3.mlp.gate_proj.weight"];
    let (_, shape, scales) = &stored.0["model.layers.3.mlp.gate_proj.weight_scale_inv"];
    assert_eq!(shape, &[2, 1]);
    let scale = |i: usize| half::bf16::from_le_bytes([scales[2 * i], scales[2 * i + 1]]).to_f32();
    assert_ne!(scale(0), scale(1));
    let values = tensor.to_f32();
    for row in [0, 127, 128, 143] {
        let code = flux2_backend::quant::fp8::e4m3_to_f32(codes[row * 16 + 5]);
        assert_eq!(values[row * 16 + 5], code * scale(row / 128));
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

#[test]
fn fp8_scale_of_a_whole_matrix_or_of_each_row() {
    let temp = tempfile::tempdir().unwrap();
    let name = "model.diffusion_model.single_blocks.0.linear2.weight"; // [64, 256]
    let (scale, input) = (format!("{name}_scale"), name.replace("weight", "input_scale"));
    let rows: Vec<f32> = (1..=64).map(|r| r as f32).collect();
    for (shape, values, at_row_2) in
        [(vec![], vec![3.0], 3.0), (vec![1], vec![3.0], 3.0), (vec![64], rows.clone(), 3.0), (vec![64, 1], rows, 3.0)]
    {
        let file = with_fp8("bfl", &[name], &[(&scale, shape, values), (&input, vec![], vec![0.5])]);
        let component = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap();
        let tensor = component.map().unwrap().tensor("single.0.out").unwrap();
        assert_eq!(tensor.dtype(), DType::F8E4M3);
        assert_eq!(tensor.to_f32()[2 * 256 + 7], at_row_2);
    }
}

#[test]
fn fp8_without_a_scale_is_taken_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let file = with_fp8("bfl", &["model.diffusion_model.single_blocks.0.linear2.weight"], &[]);
    let component = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap();
    assert_eq!(component.map().unwrap().tensor("single.0.out").unwrap().to_f32()[0], 1.0);
}

#[test]
fn fp8_q_k_and_v_keep_their_scales_when_joined() {
    let temp = tempfile::tempdir().unwrap();
    let names: Vec<String> = ["q", "k", "v"].map(|n| format!("transformer_blocks.0.attn.to_{n}.weight")).into();
    let scales: Vec<String> = names.iter().map(|n| format!("{n}_scale")).collect();
    let check = |quantized: &[&str], expected: [f32; 3], dtype| {
        let beside: Vec<_> = quantized
            .iter()
            .map(|n| names.iter().position(|m| m == n).unwrap())
            .map(|i| (scales[i].as_str(), vec![], vec![2.0 + i as f32]))
            .collect();
        let file = with_fp8("diffusers", quantized, &beside);
        let component = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap();
        let joined = component.map().unwrap().tensor("double.0.img.qkv").unwrap();
        assert_eq!(joined.dtype(), dtype);
        let values = joined.to_f32();
        for (i, expected) in expected.into_iter().enumerate() {
            assert!(expected.is_nan() || values[(i * 64 + 63) * 64] == expected, "part {i}");
        }
    };
    check(&[&names[0], &names[1], &names[2]], [2.0, 3.0, 4.0], DType::F8E4M3);
    // One part has another dtype: all are decoded, so that no value changes.
    check(&[&names[0], &names[2]], [2.0, f32::NAN, 4.0], DType::F32);
}

/// An NVFP4 matrix of the golden file: its stored tensors and its decoded values.
fn nvfp4(name: &str) -> (BTreeMap<String, Stored>, Vec<f32>) {
    let golden = File::read(&tiny("../golden/nvfp4.safetensors"));
    let part = |n: &String| n.strip_prefix(name).and_then(|n| n.strip_prefix('.')).map(str::to_owned);
    let mut tensors: BTreeMap<String, Stored> =
        golden.0.iter().filter_map(|(n, stored)| Some((part(n)?, stored.clone()))).collect();
    let (_, _, values) = tensors.remove("values").unwrap();
    (tensors, values.chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect())
}

#[test]
fn nvfp4_has_the_values_that_comfyui_reads() {
    let temp = tempfile::tempdir().unwrap();
    let stem = "model.diffusion_model.single_blocks.0.linear2"; // [64, 256]
    let mut file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    let (tensors, values) = nvfp4("small");
    file.0.extend(tensors.into_iter().map(|(name, stored)| (format!("{stem}.{name}"), stored)));
    file.0.insert(format!("{stem}.input_scale"), ("F32".into(), vec![], f32_bytes([0.5])));
    let marked = |format: &str| {
        let json = format!("{{\"format\": \"{format}\"}}").into_bytes();
        let mut file = file.clone();
        file.0.insert(format!("{stem}.comfy_quant"), ("U8".into(), vec![json.len()], json));
        file
    };
    for file in [&file, &marked("nvfp4")] {
        let component = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap();
        let tensor = component.map().unwrap().tensor("single.0.out").unwrap();
        assert_eq!(tensor.dtype(), DType::F4E2M1);
        assert!(tensor.to_f32() == values);
        // Any slice of rows and columns decodes to the same values.
        let rows = tensor.slice_rows(33..35).unwrap();
        let mut window = [0.0; 50];
        rows.decode_row(1, 17, &mut window);
        assert_eq!(window, values[34 * 256 + 17..][..50]);
    }
    let refused = |file: &File| {
        let opened = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors"));
        opened.map(|_| ()).unwrap_err().to_string()
    };
    let error = refused(&marked("mxfp4"));
    assert!(error.contains("linear2.weight` is U8 as mxfp4"), "{error}");
    let mut short = file.clone();
    short.0.remove(&format!("{stem}.weight_scale"));
    assert!(refused(&short).contains(&format!("{stem}.weight_scale`")));
    // Without the second scale it is a plain matrix of bytes.
    short.0.remove(&format!("{stem}.weight_scale_2"));
    assert!(refused(&short).contains("linear2.weight` is U8"));
}

#[test]
fn what_comfyui_says_of_a_matrix_must_be_known() {
    let temp = tempfile::tempdir().unwrap();
    let (name, stem) = ("model.diffusion_model.single_blocks.0.linear2.weight", "single_blocks.0.linear2");
    let scale = (format!("{name}_scale"), vec![], vec![3.0]);
    let file = with_fp8("bfl", &[name], &[(&scale.0, scale.1, scale.2)]);
    let described = |format: Value| {
        let (mut header, data) = file.parts();
        let said = json!({"format_version": "1.0", "layers": {stem: format}}).to_string();
        header.insert("__metadata__".into(), json!({"_quantization_metadata": said}));
        let path = temp.path().join("t.safetensors");
        std::fs::write(&path, join(&Value::Object(header).to_string(), &data)).unwrap();
        Component::<TransformerConfig>::open(&path)
            .map(|c| c.map().unwrap().tensor("single.0.out").unwrap().to_f32()[0])
    };
    assert_eq!(described(json!({"format": "float8_e4m3fn"})).unwrap(), 3.0);
    let error = described(json!({"format": "mxfp8"})).unwrap_err().to_string();
    assert!(error.contains("linear2.weight` is f8_e4m3 as mxfp8"), "{error}");
}

#[test]
fn names_of_older_comfyui_files() {
    let temp = tempfile::tempdir().unwrap();
    let name = "model.diffusion_model.single_blocks.0.linear2.weight";
    let [scale, input] = ["scale_weight", "scale_input"].map(|s| name.replace("weight", s));
    let mut file = with_fp8("bfl", &[name], &[(&scale, vec![], vec![3.0]), (&input, vec![], vec![0.5])]);
    file.0.insert("model.diffusion_model.scaled_fp8".into(), ("F8_E4M3".into(), vec![2], vec![0; 2]));
    let component = Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap();
    assert_eq!(component.map().unwrap().tensor("single.0.out").unwrap().to_f32()[0], 3.0);
}

#[test]
fn text_encoder_and_vae_may_have_prefixes_too() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&single_files());
    let text = File::read(&tiny("klein-bfl/text_encoder.safetensors"));
    let path = text.renamed(|n| format!("text_encoders.qwen3_4b.transformer.{n}")).write(temp.path(), "t.safetensors");
    assert_same(&Component::<TextConfig>::open(&path).unwrap(), &reference.text_encoder, true);
    let vae = File::read(&tiny("klein-bfl/ae.safetensors"));
    for prefix in ["vae.", "first_stage_model."] {
        let path = vae.renamed(|n| format!("{prefix}{n}")).write(temp.path(), "v.safetensors");
        assert_same(&Component::<VaeConfig>::open(&path).unwrap(), &reference.vae, true);
    }
}

#[test]
fn any_prefix_that_all_names_have_is_taken_off() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&single_files());
    let transformer = bare_transformer();
    for prefix in ["model.", "transformer.", "net.diffusion_model."] {
        let path = transformer.renamed(|n| format!("{prefix}{n}")).write(temp.path(), "t.safetensors");
        assert_same(&Component::<TransformerConfig>::open(&path).unwrap(), &reference.transformer, true);
    }
    let mut text = File::read(&tiny("klein-bfl/text_encoder.safetensors"));
    for prefix in ["qwen3_4b.transformer.", "qwen3_8b.transformer.", "text_encoders.qwen3_8b.transformer."] {
        let outside = format!("{}logit_scale", prefix.strip_suffix("transformer.").unwrap());
        let mut file = text.renamed(|n| format!("{prefix}{n}"));
        file.0.insert(outside, ("F32".into(), vec![], f32_bytes([4.6])));
        let path = file.write(temp.path(), "e.safetensors");
        assert_same(&Component::<TextConfig>::open(&path).unwrap(), &reference.text_encoder, true);
    }
    text.0.insert("logit_scale".into(), ("F32".into(), vec![], f32_bytes([4.6])));
    text.0.insert("logit_shift".into(), ("F32".into(), vec![], f32_bytes([4.6])));
    let error = Component::<TextConfig>::open(text.write(temp.path(), "e.safetensors")).unwrap_err().to_string();
    assert!(error.contains("1 not used:") && error.contains("`logit_shift`"), "{error}");
}

fn bare_transformer() -> File {
    let file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    file.renamed(|n| n.strip_prefix("model.diffusion_model.").unwrap_or(n).to_owned())
}

#[test]
fn names_of_newer_comfyui_files() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&single_files());
    let norms =
        |n: &str| n.replace("query_norm.scale", "query_norm.weight").replace("key_norm.scale", "key_norm.weight");
    let top =
        |n: &str| n.replace("encoder.quant_conv", "quant_conv").replace("decoder.post_quant_conv", "post_quant_conv");
    for prefix in ["", "model.diffusion_model."] {
        let file = bare_transformer().renamed(|n| format!("{prefix}{}", norms(n)));
        assert_eq!(file.0.keys().filter(|n| n.contains("_norm.weight")).count(), 2 * (2 * 2 + 3));
        let path = file.write(temp.path(), "t.safetensors");
        assert_same(&Component::<TransformerConfig>::open(&path).unwrap(), &reference.transformer, true);
    }
    let vae = File::read(&tiny("klein-bfl/ae.safetensors"));
    for prefix in ["", "first_stage_model.", "vae."] {
        let file = vae.renamed(|n| format!("{prefix}{}", top(n)));
        assert!(file.0.contains_key(&format!("{prefix}post_quant_conv.bias")));
        let path = file.write(temp.path(), "v.safetensors");
        assert_same(&Component::<VaeConfig>::open(&path).unwrap(), &reference.vae, true);
    }
    // A tensor under both names is one too many.
    let mut both = bare_transformer();
    let norm = both.0["single_blocks.0.norm.key_norm.scale"].clone();
    both.0.insert("single_blocks.0.norm.key_norm.weight".into(), norm);
    let error = Component::<TransformerConfig>::open(both.write(temp.path(), "b.safetensors")).unwrap_err().to_string();
    assert!(error.contains("1 not used:") && error.contains("key_norm.weight"), "{error}");
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
fn one_file_of_all_networks_is_a_model() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&single_files());
    for prefixes in [
        ["model.diffusion_model.", "text_encoders.qwen3_4b.transformer.", "vae."],
        ["model.diffusion_model.", "text_encoders.qwen3_8b.transformer.", "first_stage_model."],
        ["transformer.", "text_encoder.", "vae."],
        ["", "", ""],
    ] {
        let mut file = all_in_one(prefixes);
        if prefixes[1].starts_with("text_encoders.") {
            let outside = prefixes[1].replace("transformer.", "logit_scale");
            file.0.insert(outside, ("F32".into(), vec![], f32_bytes([4.6])));
        }
        let path = file.write(temp.path(), "all.safetensors");
        let files = open(&ModelPaths { model: path.clone().into(), ..ModelPaths::default() });
        assert_same(&files.transformer, &reference.transformer, true);
        assert_same(&files.text_encoder, &reference.text_encoder, true);
        assert_same(&files.vae, &reference.vae, true);
        // Each network alone, in place of a folder's own.
        let paths = ModelPaths { vae: Some(path.clone().into()), text_encoder: Some(path.clone().into()), ..folder() };
        assert_same(&open(&paths).vae, &reference.vae, true);
        let found = flux2::weights::inspect(&path.into()).unwrap();
        assert!(found.model.is_some() && found.parts.len() == 3, "{prefixes:?}");
        assert!(found.parts.iter().all(|part| part.problem.is_none()), "{found:?}");
        let bytes: u64 = found.parts.iter().map(|part| part.bytes).sum();
        assert_eq!(bytes, file.0.values().map(|(_, _, bytes)| bytes.len() as u64).sum::<u64>());
    }
    // Without one network, that is asked for; a tensor of none is refused.
    let prefixes = ["model.diffusion_model.", "text_encoders.qwen3_4b.transformer.", "vae."];
    let mut file = all_in_one(prefixes);
    let refused = |file: &File| {
        let path = file.write(temp.path(), "part.safetensors");
        ModelFiles::open(&ModelPaths { model: path.into(), ..ModelPaths::default() }).unwrap_err().to_string()
    };
    file.0.insert("clip_vision.weight".into(), ("F32".into(), vec![], f32_bytes([1.0])));
    assert!(refused(&file).contains("`clip_vision.weight`"), "{}", refused(&file));
    file.0.retain(|name, _| !name.starts_with("vae.") && !name.starts_with("clip"));
    assert!(refused(&file).ends_with("holds no VAE, and none is named"), "{}", refused(&file));
}

#[test]
fn one_file_of_all_networks_draws_with_the_built_in_tokenizer() {
    use flux2::pipeline::{Pipeline, Residency};
    const ROWS: usize = 151_936; // of the published text encoders
    let mut file = all_in_one(["model.diffusion_model.", "text_encoders.qwen3_4b.transformer.", "vae."]);
    let embedding = file.0.get_mut("text_encoders.qwen3_4b.transformer.model.embed_tokens.weight").unwrap();
    let row = embedding.2.len() / embedding.1[0];
    embedding.2 = embedding.2.iter().copied().cycle().take(ROWS * row).collect();
    embedding.1[0] = ROWS;
    let temp = tempfile::tempdir().unwrap();
    let paths = ModelPaths { model: file.write(temp.path(), "all.safetensors").into(), ..ModelPaths::default() };
    assert!(open(&paths).tokenizer.is_none());
    let mut pipeline = Pipeline::load(crate::golden::f32_backend(), &paths, Residency::OneAtATime).unwrap();
    let request = flux2::GenerateRequest {
        prompt: "a red fox".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        ..Default::default()
    };
    let made = pipeline.generate(&request, &mut |_: &flux2::Event| {}, &flux2::CancelToken::new()).unwrap();
    assert_eq!((made.image.width(), made.image.height()), (64, 64));
}

#[test]
fn of_several_files_of_a_network_the_standard_one_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let reference = open(&folder()).vae;
    let (diffusers, bfl) = (File::read_folder(&tiny("klein/vae")), File::read(&tiny("klein-bfl/ae.safetensors")));
    let wrong =
        File(diffusers.0.iter().map(|(n, (d, s, b))| (n.clone(), (d.clone(), s.clone(), vec![0; b.len()]))).collect());
    let check = |files: &[(&str, &File)], read: &str| {
        let folder = tempfile::tempdir_in(temp.path()).unwrap();
        std::fs::copy(tiny("klein/vae/config.json"), folder.path().join("config.json")).unwrap();
        for (name, file) in files {
            file.write(folder.path(), name);
        }
        let vae = Component::<VaeConfig>::open(folder.path()).unwrap();
        assert_same(&vae, &reference, true);
        let read_files: Vec<_> = vae.files().map(|file| file.path().file_name().unwrap().to_owned()).collect();
        assert_eq!((read_files.as_slice(), vae.passed_over().len()), (&[read.into()][..], files.len() - 1));
        let found = flux2::weights::inspect(&folder.path().into()).unwrap();
        assert_eq!((found.parts[0].files, found.parts[0].passed_over.len()), (1, files.len() - 1));
    };
    let standard = "diffusion_pytorch_model.safetensors";
    check(&[(standard, &diffusers)], standard);
    check(&[(standard, &diffusers), ("diffusion_pytorch_model.fp16.safetensors", &wrong)], standard);
    check(&[(standard, &diffusers), ("ae.safetensors", &bfl), ("a.safetensors", &wrong)], standard);
    check(&[("model.safetensors", &diffusers), ("model.non_ema.safetensors", &wrong)], "model.safetensors");
    // A decoder alone shares a name and has others that no rule knows.
    let decoder =
        File(bfl.0.iter().filter_map(|(n, t)| Some((n.strip_prefix("decoder.")?.to_owned(), t.clone()))).collect());
    assert!(decoder.0.contains_key("conv_in.weight"));
    check(&[(standard, &diffusers), ("small_decoder.safetensors", &decoder)], standard);
    let variant = "diffusion_pytorch_model.bf16.safetensors";
    check(&[(variant, &diffusers), ("diffusion_pytorch_model.fp16.safetensors", &wrong)], variant);
    // A file that completes the standard one is read with it.
    let split = tempfile::tempdir_in(temp.path()).unwrap();
    let part = |is_end: bool| {
        let tensors = diffusers.0.iter().filter(|(name, _)| name.starts_with("decoder.") == is_end);
        File(tensors.map(|(name, tensor)| (name.clone(), tensor.clone())).collect())
    };
    part(false).write(split.path(), standard);
    part(true).write(split.path(), "rest.safetensors");
    assert_same(&Component::<VaeConfig>::open(split.path()).unwrap(), &reference, true);
    // The index of a variant is not used beside a whole file.
    let indexed = tempfile::tempdir_in(temp.path()).unwrap();
    diffusers.write(indexed.path(), standard);
    let index = json!({"weight_map": {"x": "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"}});
    std::fs::write(indexed.path().join("diffusion_pytorch_model.fp16.safetensors.index.json"), index.to_string())
        .unwrap();
    assert_same(&Component::<VaeConfig>::open(indexed.path()).unwrap(), &reference, true);
    // Without a standard name, what is appended tells a variant; of names of one length it is the first.
    check(&[("vae_fp8_scaled.safetensors", &wrong), ("vae.safetensors", &diffusers)], "vae.safetensors");
    check(&[("x.safetensors", &diffusers), ("y.safetensors", &wrong), ("a.safetensors", &decoder)], "x.safetensors");
    // Shards that overlap are no variants of one another.
    let overlapping = tempfile::tempdir_in(temp.path()).unwrap();
    for name in ["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"] {
        diffusers.write(overlapping.path(), name);
    }
    let error = Component::<VaeConfig>::open(overlapping.path()).unwrap_err();
    assert!(matches!(error, flux2::weights::Error::TensorTwice { .. }), "{error}");
}

#[test]
fn networks_of_others_are_called_what_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let refused = |file: &File| {
        let path = file.write(temp.path(), "other.safetensors");
        let found = flux2::weights::inspect(&path.into()).unwrap();
        let other = matches!(found.parts[0].kind, flux2::weights::PartKind::Other(_));
        assert!(other, "{found:?}");
        found.parts[0].kind.to_string()
    };
    let latents = |channels: usize, name: &str| {
        let mut vae = File::read_folder(&tiny("klein/vae"));
        vae.0.retain(|name, _| !name.starts_with("bn."));
        let (_, shape, bytes) = vae.0.get_mut("decoder.conv_in.weight").unwrap();
        shape[1] = channels;
        *bytes = vec![0; 2 * shape.iter().product::<usize>()];
        vae.0.get_mut("decoder.conv_in.weight").unwrap().0 = "BF16".into();
        assert_eq!(refused(&vae), name);
    };
    latents(4, "the VAE of Stable Diffusion");
    latents(16, "the VAE of FLUX.1 or Stable Diffusion 3");
    for (beside, name) in [
        ("weight.quant_state.bitsandbytes__nf4", "packed by bitsandbytes in 4 bits"),
        ("weight.quant_state.bitsandbytes__fp4", "packed by bitsandbytes in 4 bits"),
        ("SCB", "packed by bitsandbytes in 8 bits"),
        ("biases", "packed by MLX, as mflux does"),
        ("qweight", "packed by GPTQ, AWQ or Nunchaku"),
    ] {
        let mut packed = File::read_folder(&tiny("klein/transformer"));
        packed.0.insert(format!("transformer_blocks.0.attn.to_q.{beside}"), ("U8".into(), vec![1], vec![0]));
        assert_eq!(refused(&packed), name);
    }
    let mut flux1 = File::default();
    flux1
        .0
        .insert("model.diffusion_model.double_blocks.0.img_mod.lin.weight".into(), ("F32".into(), vec![], vec![0; 4]));
    flux1.0.insert("model.diffusion_model.guidance_in.in_layer.weight".into(), ("F32".into(), vec![], vec![0; 4]));
    assert_eq!(refused(&flux1), "FLUX.1");
    // A whole model of another family has an autoencoder with the same names.
    let vae = File::read(&tiny("klein-bfl/ae.safetensors")).renamed(|n| format!("first_stage_model.{n}"));
    let with_vae = |name: &str| {
        let mut file = vae.clone();
        file.0.insert(name.into(), ("F32".into(), vec![], vec![0; 4]));
        refused(&file)
    };
    assert_eq!(with_vae("model.diffusion_model.double_blocks.0.img_mod.lin.weight"), "FLUX.1");
    assert_eq!(with_vae("model.diffusion_model.input_blocks.0.0.weight"), "Stable Diffusion");
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
fn what_the_model_index_says_decides_the_variant() {
    let temp = tempfile::tempdir().unwrap();
    let variant = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let model = copy_of_tiny(temp.path());
        edit_json(&model.join("model_index.json"), change);
        let files = open(&ModelPaths { model: model.into(), ..ModelPaths::default() });
        assert_eq!(files.name, "copy");
        (files.variant.name, files.text_encoder.config)
    };
    assert_eq!(variant(&|_| {}).0, "klein (custom size)");
    assert_eq!(variant(&|index| _ = index.remove("is_distilled")).0, "klein-base (custom size)");
    let kv = |index: &mut serde_json::Map<String, Value>| {
        index.insert("_class_name".into(), "Flux2KleinKVPipeline".into());
    };
    assert_eq!(variant(&kv).0, "klein-kv (custom size)");
}

#[test]
fn what_the_model_index_says_decides_the_taps_and_the_prompt_length() {
    let temp = tempfile::tempdir().unwrap();
    let text = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let model = copy_of_tiny(temp.path());
        edit_json(&model.join("model_index.json"), change);
        let config = open(&ModelPaths { model: model.into(), ..ModelPaths::default() }).text_encoder.config;
        (config.taps.clone(), config.max_length, config.used_layers())
    };
    let set = |layers: Value, length: Value| {
        text(&|index| {
            index.insert("text_encoder_out_layers".into(), layers.clone());
            index.insert("max_sequence_length".into(), length.clone());
        })
    };
    assert_eq!(set(json!([2, 4, 6]), json!(64)), (vec![2, 4, 6], 64, 6));
    let family = (vec![9, 18, 27], 512, 27);
    assert_eq!(text(&|index| index.retain(|key, _| !key.contains("layers") && !key.contains("length"))), family);
    assert_eq!(set(json!(null), json!(null)), family);
}

#[test]
fn the_tokenizer_comes_with_the_folder_or_with_the_text_encoder() {
    let found = |paths: &ModelPaths| open(paths).tokenizer.map(|file| file.path().canonicalize().unwrap());
    let own = found(&folder()).unwrap();
    assert_eq!(own, tiny("klein/tokenizer/tokenizer.json").canonicalize().unwrap());
    assert!(found(&single_files()).unwrap().ends_with("klein-bfl/tokenizer/tokenizer.json"));
    // The same file in a folder without a tokenizer.
    let alone = tempfile::tempdir().unwrap();
    let transformer = alone.path().join("transformer.safetensors");
    std::fs::copy(tiny("klein-bfl/transformer.safetensors"), &transformer).unwrap();
    let bare = alone.path().join("text_encoder.safetensors");
    std::fs::copy(tiny("klein-bfl/text_encoder.safetensors"), &bare).unwrap();
    let alone = ModelPaths { model: transformer.into(), text_encoder: Some(bare.into()), ..single_files() };
    assert_eq!(found(&alone), None);
    let borrowed = ModelPaths { text_encoder: Some(tiny("klein/text_encoder").into()), ..alone };
    assert!(found(&borrowed).unwrap().ends_with("klein/tokenizer/tokenizer.json"));
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

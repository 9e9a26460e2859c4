//! Conversion: the result draws the same pictures as its source in that format; it can be interrupted and resumed;
//! existing files are not damaged.

mod interrupted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flux2::weights::convert::{Conversion, ConvertProblem, Converted};
use flux2::weights::{
    Component, Compute, Error, Format, Layout, Location, ModelFiles, ModelPaths, Part, TextConfig, TransformerConfig,
    VaeConfig, WeightSource,
};
use flux2::{CancelToken, EngineOptions, GenerateRequest, Precision, TransferEvent, engine};
use flux2_backend::DType;
use safetensors::SafeTensors;

use crate::layouts::{
    File, all_in_one, assert_same, copy_of_tiny, edit_json, f32_bytes, folder, open, single_files, tiny,
};
use crate::{evaluation, gguf};

const FORMATS: [Format; 4] = [Format::Bf16, Format::Int8, Format::Q8_0, Format::Q4K];

fn conversion(model: impl Into<Location>, format: Format, out: &Path) -> Conversion {
    Conversion { model: model.into(), part: None, format, out: out.into(), replace: false, threads: None }
}

fn run(conversion: &Conversion) -> Result<Converted, Error> {
    conversion.run(&mut |_: &TransferEvent| {}, &CancelToken::new())
}

fn precision(format: Format) -> Precision {
    Precision::new(Compute::Bf16, format).unwrap()
}

fn picture(paths: &ModelPaths, precision: Precision) -> Vec<u8> {
    let options = EngineOptions { precision, ..Default::default() };
    let mut engine = engine::load(paths, &options).unwrap();
    let request = GenerateRequest {
        prompt: "a cat on a blue background".into(),
        width: Some(64),
        height: Some(64),
        seed: 1,
        ..Default::default()
    };
    engine.generate(&request).unwrap().image.pixels().to_vec()
}

fn model(path: &Path) -> ModelPaths {
    ModelPaths { model: path.into(), ..ModelPaths::default() }
}

/// All files below a folder, by relative path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_converted_model_draws_what_its_source_draws_in_that_format() {
    let temp = tempfile::tempdir().unwrap();
    let mini = evaluation::mini();
    for (i, source) in [folder(), mini].into_iter().enumerate() {
        for format in FORMATS {
            let out = temp.path().join(format!("{i} {format:?}"));
            let converted = run(&conversion(source.model.clone(), format, &out)).unwrap();
            assert!(converted.bytes > 0 && converted.rounded + converted.left > 0);
            let expected = picture(&source, precision(format));
            // An int8 file is multiplied in int8 only if the precision says so; other formats are multiplied as stored.
            let loaded = if format == Format::Int8 { Precision::INT8 } else { Precision::BF16 };
            assert!(picture(&model(&out), loaded) == expected, "{format:?} of {:?}", source.model);
            if i == 1 && format == Format::Q8_0 {
                assert_eq!((converted.left, expected == picture(&source, Precision::BF16)), (0, false));
            }
            let names: Vec<String> = files(&out).into_keys().filter(|name| name.contains("/.")).collect();
            assert!(names.is_empty(), "{names:?}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2 * FORMATS.len(), "{left:?}");
}

/// A transformer that fits the tiny model's text encoder and VAE, with rows of whole 256-blocks.
fn wide_transformer(folder: &Path) -> PathBuf {
    let tiny = open(&self::folder()).transformer.config;
    let config = TransformerConfig {
        heads: 2,
        head_dim: 128,
        mlp_hidden: 512,
        double_blocks: 1,
        single_blocks: 2,
        rope_axes: vec![32; 4],
        ..tiny
    };
    let names = [
        ("img_in", "img_in.weight"),
        ("txt_in", "txt_in.weight"),
        ("time_in.0", "time_in.in_layer.weight"),
        ("time_in.1", "time_in.out_layer.weight"),
        ("modulation.img", "double_stream_modulation_img.lin.weight"),
        ("modulation.txt", "double_stream_modulation_txt.lin.weight"),
        ("modulation.single", "single_stream_modulation.lin.weight"),
        ("final.modulation", "final_layer.adaLN_modulation.1.weight"),
        ("final.proj", "final_layer.linear.weight"),
    ];
    let stored = |name: &str| {
        if let Some((_, stored)) = names.iter().find(|(canonical, _)| *canonical == name) {
            return (*stored).to_owned();
        }
        let parts: Vec<&str> = name.split('.').collect();
        match parts[..] {
            ["double", i, stream, part] => {
                let part = match part {
                    "qkv" => format!("{stream}_attn.qkv.weight"),
                    "q_norm" => format!("{stream}_attn.norm.query_norm.scale"),
                    "k_norm" => format!("{stream}_attn.norm.key_norm.scale"),
                    "proj" => format!("{stream}_attn.proj.weight"),
                    "mlp_in" => format!("{stream}_mlp.0.weight"),
                    _ => format!("{stream}_mlp.2.weight"),
                };
                format!("double_blocks.{i}.{part}")
            }
            ["single", i, part] => {
                let part = match part {
                    "qkv_mlp" => "linear1.weight",
                    "q_norm" => "norm.query_norm.scale",
                    "k_norm" => "norm.key_norm.scale",
                    _ => "linear2.weight",
                };
                format!("single_blocks.{i}.{part}")
            }
            _ => panic!("{name}"),
        }
    };
    let mut state = 7u32;
    let mut unit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensors = config.expected_tensors().into_iter().map(|(name, shape)| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = match shape.len() {
            1 => (0..count).map(|_| 1.0 + 0.2 * unit()).collect(),
            _ => (0..count).map(|_| 3.0 * unit() / (shape[1] as f32).sqrt()).collect(),
        };
        (stored(&name), ("F32".to_owned(), shape, f32_bytes(values)))
    });
    File(tensors.collect()).write(folder, "wide.safetensors")
}

#[test]
fn rows_of_whole_blocks_become_q4_k_and_draw_what_they_do_when_rounded_on_loading() {
    let temp = tempfile::tempdir().unwrap();
    let wide = wide_transformer(temp.path());
    let with = |transformer: &Path| ModelPaths { transformer: Some(transformer.into()), ..folder() };
    // The rows of the tiny text encoder are not whole 256-blocks, so in both cases only the transformer is quantized.
    for (format, dtype) in [(Format::Q4K, DType::Q4K), (Format::Int8, DType::I8)] {
        let out = temp.path().join(format!("{format:?}"));
        let converted = run(&conversion(&*wide, format, &out)).unwrap();
        assert_eq!((converted.rounded, converted.left), (8 + 2 * 2, 0));
        let component = Component::<TransformerConfig>::open(&*out).unwrap();
        assert_eq!(component.layout(), Layout::Bfl);
        let mapped = component.map().unwrap();
        for (name, expected) in [
            ("single.1.out", dtype),
            ("double.0.txt.mlp_in", dtype),
            ("img_in", DType::F32),
            ("final.proj", DType::F32),
        ] {
            assert_eq!(mapped.tensor(name).unwrap().dtype(), expected, "{name}");
        }
        let loaded = if format == Format::Int8 { Precision::INT8 } else { Precision::BF16 };
        let rounded = picture(&with(&out), loaded);
        assert!(rounded == picture(&with(&wide), precision(format)), "{format:?}");
        assert!(rounded != picture(&with(&wide), Precision::BF16), "{format:?} rounded nothing");
        if format != Format::Int8 {
            let f32 = |weights| Precision::new(Compute::F32, weights).unwrap();
            assert!(picture(&with(&out), Precision::F32) == picture(&with(&wide), f32(format)), "{format:?} in f32");
        }
    }
}

#[test]
fn every_network_is_a_file_of_its_own_if_asked() {
    let temp = tempfile::tempdir().unwrap();
    let source = open(&folder());
    let convert = |part, format, name: &str| {
        let out = temp.path().join(name);
        let whole = conversion(tiny("klein"), format, &out);
        run(&Conversion { part: Some(part), ..whole }).unwrap();
        out
    };
    // The tiny model is stored in bf16, so this is exact.
    let bf16 = |part, name: &str| convert(part, Format::Bf16, name);
    let transformer = Component::<TransformerConfig>::open(&*bf16(Part::Transformer, "t")).unwrap();
    assert_eq!(transformer.layout(), Layout::Bfl);
    assert_same(&transformer, &source.transformer, true);
    let text = Component::<TextConfig>::open(&*bf16(Part::TextEncoder, "te")).unwrap();
    assert_same(&text, &source.text_encoder, true);
    assert_same(&Component::<VaeConfig>::open(&*bf16(Part::Vae, "vae")).unwrap(), &source.vae, true);

    // A text encoder reads from GGUF metadata what shapes do not tell; its 32 columns are one block.
    let text = Component::<TextConfig>::open(&*convert(Part::TextEncoder, Format::Q8_0, "te.gguf")).unwrap();
    assert_eq!((text.layout(), text.dtype()), (Layout::LlamaCpp, DType::Q8_0));
    let config = TextConfig { layers: source.text_encoder.config.used_layers(), ..source.text_encoder.config.clone() };
    assert_eq!(text.config, config);
    // The same from the file of the component alone, and from the converted file.
    for (i, from) in [tiny("klein/text_encoder"), temp.path().join("te")].into_iter().enumerate() {
        let out = temp.path().join(format!("alone {i}"));
        run(&conversion(&*from, Format::Q8_0, &out)).unwrap();
        assert_same(&Component::<TextConfig>::open(&*out).unwrap(), &text, true);
    }
    let packed = conversion(tiny("klein"), Format::Q8_0, &temp.path().join("no"));
    let refused = run(&Conversion { part: Some(Part::Vae), ..packed });
    assert!(matches!(refused, Err(Error::Convert(ConvertProblem::Vae { format: DType::Q8_0 }))));
}

#[test]
fn of_a_file_of_all_networks_one_is_converted_at_a_time() {
    let temp = tempfile::tempdir().unwrap();
    let prefixes = ["model.diffusion_model.", "text_encoders.qwen3_4b.transformer.", "vae."];
    let model = all_in_one(prefixes).write(temp.path(), "all.safetensors");
    let whole = conversion(&model, Format::Bf16, &temp.path().join("t.safetensors"));
    let refused = run(&whole).unwrap_err();
    assert!(
        matches!(&refused, Error::Convert(ConvertProblem::SeveralNetworks { path }) if *path == model),
        "{refused}"
    );
    assert!(refused.remedy().is_some() && !whole.out.exists());
    run(&Conversion { part: Some(Part::Transformer), ..whole.clone() }).unwrap();
    let transformer = Component::<TransformerConfig>::open(&*whole.out).unwrap();
    assert_same(&transformer, &open(&folder()).transformer, true);
}

/// The tiny transformer with two matrices stored as `how` says: one that conversion quantizes and one that it does not.
fn transformer_in(folder: &Path, how: &str) -> PathBuf {
    let blocks = [
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::F16,
    ];
    if let Some(dtype) = blocks.into_iter().find(|dtype| dtype.to_string() == how) {
        return gguf::packed(&gguf::transformer(), dtype).write(folder, &format!("{how}.gguf"));
    }
    let mut file = gguf::transformer();
    for stem in ["single_blocks.0.linear2", "img_in"].map(|name| format!("model.diffusion_model.{name}")) {
        let name = format!("{stem}.weight");
        let (_, shape, bf16) = file.0[&name].clone();
        let [rows, cols] = shape[..] else { panic!("{name} is a matrix") };
        let values: Vec<f32> = bf16.chunks_exact(2).map(|v| half::bf16::from_le_bytes([v[0], v[1]]).to_f32()).collect();
        let mut beside = |what: &str, dtype: &str, shape: Vec<usize>, bytes: Vec<u8>| {
            file.0.insert(format!("{stem}.{what}"), (dtype.into(), shape, bytes));
        };
        // Every code is a finite number.
        let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 0x70) as u8 | ((i % 2) << 7) as u8).collect();
        let grid = [rows.div_ceil(128), cols.div_ceil(128)];
        let steps = |count: usize| f32_bytes((0..count).map(|i| 0.001 * (1 + i % 7) as f32));
        match how {
            "f32" => beside("weight", "F32", shape, f32_bytes(values)),
            "bf16" => {}
            "fp8" => beside("weight", "F8_E4M3", shape, codes),
            "fp8 in blocks" => {
                beside("weight", "F8_E4M3", shape, codes);
                beside("weight_scale_inv", "F32", grid.into(), steps(grid[0] * grid[1]));
            }
            "int8 by rows" => {
                beside("weight", "I8", shape, codes);
                beside("weight_scale", "F32", vec![rows], steps(rows));
            }
            "int8" => {
                beside("weight", "I8", shape, codes);
                beside("weight_scale", "F32", vec![], steps(1));
            }
            "int8 in blocks" => {
                beside("weight", "I8", shape, codes);
                beside("weight_scale_inv", "F32", grid.into(), steps(grid[0] * grid[1]));
            }
            "nvfp4" => {
                let table = [rows.div_ceil(128) * 128, cols.div_ceil(64) * 4];
                let multipliers = (0..table[0] * table[1]).map(|i| 0x30 + (i % 16) as u8).collect();
                beside("weight", "U8", vec![rows, cols / 2], codes[..rows * cols / 2].into());
                beside("weight_scale", "F8_E4M3", table.into(), multipliers);
                beside("weight_scale_2", "F32", vec![], f32_bytes([0.01]));
            }
            _ => panic!("{how}"),
        }
    }
    file.write(folder, &format!("{how}.safetensors"))
}

#[test]
fn every_stored_format_becomes_every_other() {
    let temp = tempfile::tempdir().unwrap();
    let in_safetensors =
        ["f32", "bf16", "fp8", "fp8 in blocks", "int8", "int8 by rows", "int8 in blocks", "nvfp4"].into_iter();
    let in_gguf = ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"];
    for how in in_safetensors.chain(in_gguf) {
        let source = transformer_in(temp.path(), how);
        let before = Component::<TransformerConfig>::open(&*source).unwrap().map().unwrap();
        for format in FORMATS {
            let what = format!("{how} to {format:?}");
            let out = temp.path().join("out");
            run(&Conversion { replace: true, ..conversion(&*source, format, &out) }).unwrap();
            let after = Component::<TransformerConfig>::open(&*out).unwrap_or_else(|e| panic!("{what}: {e}"));
            let after = after.map().unwrap();
            for name in ["single.0.out", "img_in"] {
                let (before, after) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
                let is_rounded = name == "single.0.out" || format == Format::Bf16;
                if is_rounded {
                    assert_eq!(Some(after.dtype()), format.dtype(), "{what}: {name}");
                }
                // Relative to the largest value: half a step of the format; a few steps for q4_k, whose scales are
                // rounded too.
                let error = match format {
                    _ if !is_rounded => 1.0 / 256.0,
                    Format::Q4K => 3.0 / 15.0,
                    _ => 1.0 / 200.0,
                };
                let (stored, made) = (before.to_f32(), after.to_f32());
                let largest = stored.iter().fold(0f32, |most, v| most.max(v.abs()));
                assert!(largest > 0.0, "{what}: {name}");
                let worst = stored.iter().zip(&made).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(worst <= error * largest, "{what}: {name} is off by {worst} of {largest}");
                // int8 with one scale per row is the output format, so nothing is rounded again.
                if format == Format::Int8 && is_rounded && ["int8", "int8 by rows"].contains(&how) {
                    assert!(stored == made, "{what}");
                }
            }
        }
    }
}

#[test]
fn every_tensor_of_the_vae_that_has_axes_becomes_bf16() {
    let temp = tempfile::tempdir().unwrap();
    let mut file = File::read(&tiny("klein-bfl/ae.safetensors"));
    let halves = |bytes: &[u8]| {
        let values = bytes.chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap()));
        values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>()
    };
    let (mut matrices, mut eights) = (0, 0);
    for (name, (dtype, shape, bytes)) in file.0.iter_mut().filter(|(_, (_, shape, _))| shape.len() > 1) {
        matrices += 1;
        (*dtype, *bytes) = match name.contains("mid") {
            true => ("F8_E4M3".into(), vec![0x2c; shape.iter().product()]),
            false => ("F16".into(), halves(bytes)),
        };
        eights += usize::from(name.contains("mid"));
    }
    assert!(eights > 0 && eights < matrices);
    // Attention weights are 1x1 kernels, which may have scales as other matrices do.
    let scale = ("F32".into(), vec![], f32_bytes([3.0]));
    file.0.insert("decoder.mid.attn_1.proj_out.weight_scale".into(), scale);
    let (source, out) = (file.write(temp.path(), "ae.safetensors"), temp.path().join("vae"));
    let converted = run(&conversion(&*source, Format::Bf16, &out)).unwrap();
    assert_eq!((converted.rounded, converted.left), (matrices, 0));
    let (before, after) =
        (Component::<VaeConfig>::open(&*source).unwrap(), Component::<VaeConfig>::open(&*out).unwrap());
    let (before, mapped) = (before.map().unwrap(), after.map().unwrap());
    for name in after.names() {
        let (before, after) = (before.tensor(name).unwrap(), mapped.tensor(name).unwrap());
        let expected = if after.shape().len() > 1 { DType::Bf16 } else { DType::F32 };
        assert_eq!(after.dtype(), expected, "{name}");
        for (before, after) in before.to_f32().iter().zip(after.to_f32()) {
            assert!((before - after).abs() <= before.abs() * 2f32.powi(-8), "{name}: {before} became {after}");
        }
    }
}

#[test]
fn a_network_that_its_file_alone_would_not_describe_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let source = copy_of_tiny(temp.path());
    let out = temp.path().join("out");
    let untold = |part, format| match run(&Conversion { part: Some(part), ..conversion(&*source, format, &out) }) {
        Err(Error::Convert(ConvertProblem::LostValue { key, found, default, .. })) => (key, found, default),
        other => panic!("{other:?}"),
    };
    let set = |folder: &str, key: &str, value: f64| {
        edit_json(&source.join(folder).join("config.json"), |config| _ = config.insert(key.into(), value.into()));
    };
    set("text_encoder", "rope_theta", 5e5);
    set("transformer", "eps", 1e-5);
    edit_json(&source.join("vae/config.json"), |config| _ = config.insert("norm_num_groups".into(), 4.into()));
    let text = |found: &str, taken: &str| (found.to_owned(), taken.to_owned());
    let (key, found, taken) = untold(Part::TextEncoder, Format::Bf16);
    assert_eq!((key, (found, taken)), ("rope_theta", text("500000", "1000000")));
    for format in [Format::Int8, Format::Q8_0] {
        let (key, found, taken) = untold(Part::Transformer, format);
        assert_eq!((key, (found, taken)), ("eps", text("0.00001", "0.000001")));
    }
    let (key, found, taken) = untold(Part::Vae, Format::Bf16);
    assert_eq!((key, (found, taken)), ("norm_num_groups", text("4", "8")));
    assert!(!out.exists());

    // A GGUF file and a folder contain this information.
    let file = temp.path().join("te.gguf");
    run(&Conversion { part: Some(Part::TextEncoder), ..conversion(&*source, Format::Q8_0, &file) }).unwrap();
    assert_eq!(Component::<TextConfig>::open(&*file).unwrap().config.rope_theta, 5e5);
    run(&conversion(&*source, Format::Bf16, &out)).unwrap();
    let made = ModelFiles::open(&model(&out)).unwrap();
    assert_eq!(
        (made.text_encoder.config.rope_theta, made.transformer.config.eps, made.vae.config.groups),
        (5e5, 1e-5, 4)
    );
}

#[test]
fn the_tokenizer_that_is_read_comes_along_from_wherever_it_lies() {
    let temp = tempfile::tempdir().unwrap();
    let source = copy_of_tiny(temp.path());
    let old = std::fs::read(source.join("tokenizer/tokenizer.json")).unwrap();
    // The same tokens, but other bytes.
    let own = [&old[..], b"\n"].concat();
    for place in ["text_encoder", "text_encoder/tokenizer"] {
        for has_other in [true, false] {
            let out = temp.path().join(format!("{} {has_other}", place.len()));
            std::fs::create_dir_all(source.join(place)).unwrap();
            std::fs::write(source.join(place).join("tokenizer.json"), &own).unwrap();
            if has_other {
                std::fs::write(source.join("tokenizer/tokenizer.json"), &old).unwrap();
            } else {
                std::fs::remove_file(source.join("tokenizer/tokenizer.json")).unwrap();
            }
            run(&conversion(&*source, Format::Bf16, &out)).unwrap();
            let found = ModelFiles::open(&model(&out)).unwrap().tokenizer.unwrap();
            assert_eq!(found.path(), out.join("tokenizer/tokenizer.json"));
            assert!(std::fs::read(found.path()).unwrap() == own, "{place}");
            std::fs::remove_file(source.join(place).join("tokenizer.json")).unwrap();
        }
    }
}

#[test]
fn what_has_scales_beside_it_is_bf16_where_it_is_not_rounded() {
    let temp = tempfile::tempdir().unwrap();
    let source = Component::<TextConfig>::open(tiny("text_encoder_fp8")).unwrap();
    let before = source.map().unwrap();
    for format in FORMATS {
        let out = temp.path().join(format!("{format:?}"));
        run(&conversion(tiny("text_encoder_fp8"), format, &out)).unwrap();
        let made = Component::<TextConfig>::open(&*out).unwrap();
        let after = made.map().unwrap();
        for name in source.names() {
            let (before, after) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
            // The matrix whose rows are whole blocks of 32 values.
            if format == Format::Q8_0 && name.ends_with(".o") {
                assert_eq!(after.dtype(), DType::Q8_0, "{name}");
                continue;
            }
            assert!(matches!(after.dtype(), DType::Bf16 | DType::F32), "{name} is {}", after.dtype());
            for (before, after) in before.to_f32().iter().zip(after.to_f32()) {
                assert!((before - after).abs() <= before.abs() * 2f32.powi(-8), "{name}: {before} became {after}");
            }
        }
    }
}

#[test]
fn a_model_in_bf16_has_the_names_of_its_layout_for_other_programs() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    run(&conversion(tiny("klein"), Format::Bf16, &out)).unwrap();
    for folder in ["transformer", "text_encoder"] {
        let (mut found, mut source) =
            (File::read_folder(&out.join(folder)), File::read_folder(&tiny("klein").join(folder)));
        // Tensors that are not read are not written.
        source.0.retain(|name, _| !name.starts_with("model.layers.27.") && name != "model.norm.weight");
        found.0.retain(|_, (dtype, ..)| dtype == "BF16");
        assert_eq!(found.0.keys().collect::<Vec<_>>(), source.0.keys().collect::<Vec<_>>());
        assert!(found.0 == source.0, "{folder}");
    }
    let (made, source) = (files(&out), files(&tiny("klein")));
    for same in ["model_index.json", "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"] {
        assert!(made[same] == source[same], "{same}");
    }
    let bytes = &made["transformer/diffusion_pytorch_model.safetensors"];
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!((metadata["dj-flux2.format"].as_str(), metadata["dj-flux2.source"].as_str()), ("bf16", "klein"));
    assert_eq!(metadata["dj-flux2.source_fingerprint"].len(), 64);
}

#[test]
fn what_is_no_model_is_refused_as_it_is_everywhere() {
    let temp = tempfile::tempdir().unwrap();
    let (out, junk) = (temp.path().join("out"), temp.path().join("junk"));
    let missing = run(&conversion(temp.path().join("nowhere"), Format::Q8_0, &out));
    assert!(matches!(missing, Err(Error::ModelMissing { .. })));
    std::fs::write(&junk, b"GGUF\x03\0\0\0").unwrap();
    assert!(matches!(run(&conversion(&*junk, Format::Q8_0, &out)), Err(Error::Checkpoint { .. })));
    let wrong = Conversion { part: Some(Part::Vae), ..conversion(single_files().model, Format::Bf16, &out) };
    assert!(matches!(run(&wrong), Err(Error::WrongPart { .. })));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing was begun");
}

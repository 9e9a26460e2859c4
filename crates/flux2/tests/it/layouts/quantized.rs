//! Stored formats of few bits: fp8 and NVFP4, as other programs write them.

use super::*;

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

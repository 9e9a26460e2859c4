//! Tensors that are missing, unused or of the wrong shape.

use super::*;

/// The error for the tiny transformer in BFL's layout after `change`.
fn changed(change: impl FnOnce(&mut File)) -> Error {
    let temp = tempfile::tempdir().unwrap();
    let mut file = File::read(&tiny("klein-bfl/transformer.safetensors"));
    file = file.renamed(|n| n.trim_start_matches("model.diffusion_model.").to_owned());
    change(&mut file);
    Component::<TransformerConfig>::open(file.write(temp.path(), "t.safetensors")).unwrap_err()
}

#[test]
fn every_missing_and_every_unused_tensor_is_listed() {
    let error = changed(|file| {
        let proj = file.0.remove("double_blocks.1.img_attn.proj.weight").unwrap();
        file.0.insert("double_blocks.1.img_attn.porj.weight".into(), proj.clone());
        file.0.remove("final_layer.linear.weight");
        for i in 0..600 {
            file.0.insert(format!("something.else.{i:03}"), proj.clone());
        }
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["double_blocks.1.img_attn.proj.weight", "final_layer.linear.weight"]);
    assert_eq!(mismatch.unused.len(), 601);
    let message = error.to_string();
    assert!(message.contains("`double_blocks.1.img_attn.proj.weight` (nearest: double_blocks.1.img_attn.porj.weight)"));
    assert!(message.contains("something.else.498") && !message.contains("something.else.499"), "{message}");
    assert!(message.contains("601 not used") && message.contains("and 101 more"), "{message}");
}

#[test]
fn the_tensor_that_tells_the_layout_may_be_the_missing_one() {
    let error = changed(|file| {
        let tensor = file.0.remove("double_stream_modulation_img.lin.weight").unwrap();
        file.0.insert("double_stream_modulation_imgs.lin.weight".into(), tensor);
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["double_stream_modulation_img.lin.weight"]);
    assert!(error.to_string().contains("(nearest: double_stream_modulation_imgs.lin.weight)"), "{error}");
}

#[test]
fn tensors_of_the_wrong_shape_are_listed() {
    let error = changed(|file| {
        file.0.insert("single_blocks.1.norm.key_norm.scale".into(), ("BF16".into(), vec![31], vec![0; 62]));
        file.0.insert("single_blocks.2.linear2.weight".into(), ("BF16".into(), vec![256, 64], vec![0; 32768]));
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    let shapes: Vec<_> = mismatch.shapes.iter().map(|s| (s.found.clone(), s.expected.clone())).collect();
    assert_eq!(shapes, [(vec![31], vec![32]), (vec![256, 64], vec![64, 256])]);
}

#[test]
fn integer_weights_are_refused() {
    let error = changed(|file| {
        file.0.insert("single_blocks.0.linear2.weight".into(), ("U8".into(), vec![64, 256], vec![0; 64 * 256]));
    });
    assert!(error.to_string().contains("`single_blocks.0.linear2.weight` is U8"), "{error}");
}

#[test]
fn a_shape_with_a_zero_does_not_stand_for_a_size() {
    for (name, shape) in [
        ("img_in.weight", vec![1 << 40, 0]),
        ("txt_in.weight", vec![0, 96]),
        ("double_blocks.0.img_attn.norm.query_norm.scale", vec![0]),
        ("double_blocks.0.img_mlp.2.weight", vec![0, 1 << 40]),
    ] {
        let error = changed(|file| _ = file.0.insert(name.into(), ("BF16".into(), shape, vec![])));
        assert!(matches!(error, Error::Config { .. } | Error::Tensors { .. }), "{error}");
    }
}

#[test]
fn sizes_that_cannot_be_read_off_name_the_tensor() {
    let error = changed(|file| _ = file.0.remove("time_in.in_layer.weight"));
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing, ["time_in.in_layer.weight"]);
    let error = changed(|file| _ = file.0.insert("txt_in.weight".into(), ("BF16".into(), vec![6], vec![0; 12])));
    assert!(matches!(error, Error::Config { problem: ConfigProblem::Shape { axes: 2, .. }, .. }), "{error}");
}

#[test]
fn an_fp8_scale_of_the_wrong_shape() {
    let error = changed(|file| {
        let name = "single_blocks.0.linear2.weight";
        file.0.insert(name.into(), ("F8_E4M3".into(), vec![64, 256], vec![0; 64 * 256]));
        file.0.insert(format!("{name}_scale"), ("F32".into(), vec![63], f32_bytes([1.0; 63])));
    });
    let Error::Tensors { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!((mismatch.shapes[0].found.as_slice(), mismatch.shapes[0].expected.as_slice()), (&[63][..], &[64][..]));
    // A scale beside a matrix that needs none is not silently ignored.
    let error = changed(|file| {
        file.0.insert("single_blocks.0.linear2.weight_scale".into(), ("F32".into(), vec![], vec![0; 4]));
    });
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.unused.len() == 1), "{error}");
}

#[test]
fn a_model_with_a_guidance_embedding_is_not_klein() {
    let error = changed(|file| {
        file.0.insert("guidance_in.in_layer.weight".into(), ("BF16".into(), vec![64, 32], vec![0; 4096]));
    });
    assert!(matches!(&error, Error::WrongPart { found, .. } if found.contains("[dev]")), "{error}");
}

#[test]
fn a_lora_and_an_unknown_file_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let found = |name: &str| {
        let file = File([(name.to_owned(), ("F32".to_owned(), vec![1], vec![0; 4]))].into());
        match Component::<TransformerConfig>::open(file.write(temp.path(), "f.safetensors")) {
            Err(Error::WrongPart { found, .. }) => found,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found("transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight"), "a LoRA");
    assert_eq!(found("double_blocks.0.img_mod.lin.weight"), "FLUX.1");
    assert_eq!(found("weight"), "a file of unknown weights");
}

#[test]
fn swapped_files_are_called_what_they_are() {
    let check = |paths: ModelPaths, expected_found: &str, expected_wanted: Part| match ModelFiles::open(&paths) {
        Err(Error::WrongPart { found, wanted, .. }) => {
            assert_eq!((found.as_str(), wanted), (expected_found, expected_wanted));
        }
        other => panic!("{other:?}"),
    };
    let ModelPaths { model, text_encoder, vae, .. } = single_files();
    let (text, vae) = (text_encoder.unwrap(), vae.unwrap());
    check(ModelPaths { model: vae.clone(), ..ModelPaths::default() }, "the VAE", Part::Transformer);
    check(ModelPaths { vae: Some(text.clone()), ..single_files() }, "the text encoder", Part::Vae);
    check(ModelPaths { text_encoder: Some(model), ..single_files() }, "the transformer", Part::TextEncoder);
    let folder = ModelPaths { model: tiny("klein").into(), vae: Some(text), ..ModelPaths::default() };
    check(folder, "the text encoder", Part::Vae);
}

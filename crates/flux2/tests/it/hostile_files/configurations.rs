//! Configurations that are absurd, or contradict the tensors.

use super::*;

/// The error for the tiny folder with `key` of `file` set to `value`.
fn configured(file: &str, key: &str, value: &Value) -> Error {
    changed_folder(|model| {
        edit_json(&model.join(file), |object| {
            object.insert(key.into(), value.clone());
        });
    })
}

#[test]
fn what_is_not_implemented_is_refused_by_key() {
    for (file, key, value) in [
        ("model_index.json", "_class_name", json!("Flux2Pipeline")),
        ("transformer/config.json", "guidance_embeds", json!(true)),
        ("transformer/config.json", "patch_size", json!(2)),
        ("transformer/config.json", "out_channels", json!(64)),
        ("text_encoder/config.json", "attention_bias", json!(true)),
        ("text_encoder/config.json", "hidden_act", json!("gelu")),
        ("text_encoder/config.json", "use_sliding_window", json!(true)),
        ("text_encoder/config.json", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("text_encoder/config.json", "layer_types", json!(["full_attention", "sliding_attention"])),
        ("vae/config.json", "act_fn", json!("relu")),
        ("vae/config.json", "use_quant_conv", json!(false)),
        ("vae/config.json", "use_post_quant_conv", json!(false)),
        ("vae/config.json", "mid_block_add_attention", json!(false)),
        ("vae/config.json", "patch_size", json!([1, 1])),
        ("vae/config.json", "in_channels", json!(4)),
        ("vae/config.json", "up_block_types", json!(["AttnUpDecoderBlock2D"])),
    ] {
        let error = configured(file, key, &value);
        let named = matches!(&error, Error::Config { path, problem: ConfigProblem::Unsupported { key: found, .. } }
            if found == key && path.ends_with(file));
        assert!(named, "{file} {key}: {error}");
    }
}

#[test]
fn absurd_values_are_refused_by_key() {
    for (file, key, value) in [
        ("transformer/config.json", "num_layers", json!(0)),
        ("transformer/config.json", "num_layers", json!(1_000_000_000)),
        ("transformer/config.json", "num_single_layers", json!(-3)),
        ("transformer/config.json", "attention_head_dim", json!("32")),
        ("transformer/config.json", "num_attention_heads", json!(1.5)),
        ("transformer/config.json", "mlp_ratio", json!(1e300)),
        ("transformer/config.json", "axes_dims_rope", json!([8, 8, 8])),
        ("transformer/config.json", "axes_dims_rope", json!([7, 9, 8, 8])),
        ("transformer/config.json", "axes_dims_rope", json!([8, 8, 8, 16])),
        ("transformer/config.json", "rope_theta", json!(0)),
        ("transformer/config.json", "eps", json!(-1e-6)),
        ("transformer/config.json", "_class_name", json!("AutoencoderKLFlux2")),
        ("text_encoder/config.json", "num_key_value_heads", json!(3)),
        ("text_encoder/config.json", "head_dim", json!(15)),
        ("text_encoder/config.json", "rms_norm_eps", json!(7)),
        ("text_encoder/config.json", "vocab_size", json!(u64::MAX)),
        ("text_encoder/config.json", "quantization_config", json!(7)),
        ("vae/config.json", "norm_num_groups", json!(5)),
        ("vae/config.json", "block_out_channels", json!([])),
        ("vae/config.json", "block_out_channels", json!(vec![8; 9])),
        ("vae/config.json", "decoder_block_out_channels", json!([8, 8])),
        ("vae/config.json", "layers_per_block", json!(1000)),
        ("vae/config.json", "batch_norm_eps", json!("small")),
        ("model_index.json", "is_distilled", json!("yes")),
        ("model_index.json", "text_encoder_out_layers", json!([9, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([9, 18, 29])),
        ("model_index.json", "text_encoder_out_layers", json!([])),
        ("model_index.json", "text_encoder_out_layers", json!(9)),
        ("model_index.json", "text_encoder_out_layers", json!("9, 18, 27")),
        ("model_index.json", "text_encoder_out_layers", json!([0, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([-9, 9, 18])),
        ("model_index.json", "text_encoder_out_layers", json!([9.0, 18.5])),
        ("model_index.json", "text_encoder_out_layers", json!([9, 18, u64::MAX])),
        ("model_index.json", "text_encoder_out_layers", json!([18, 9, 27])),
        ("model_index.json", "text_encoder_out_layers", json!((1..=17).collect::<Vec<_>>())),
        ("model_index.json", "max_sequence_length", json!(0)),
        ("model_index.json", "max_sequence_length", json!(-1)),
        ("model_index.json", "max_sequence_length", json!(48.5)),
        ("model_index.json", "max_sequence_length", json!("512")),
        ("model_index.json", "max_sequence_length", json!(u64::MAX)),
        ("model_index.json", "max_sequence_length", json!([512])),
    ] {
        let error = configured(file, key, &value);
        let named = matches!(&error, Error::Config { problem: ConfigProblem::Value { key: found, .. }, .. }
            if found == key);
        assert!(named, "{file} {key} {value}: {error}");
    }
}

#[test]
fn attention_and_mlp_are_not_too_wide_together() {
    // 16416 and 49248 side by side: either would fit.
    let error = configured("transformer/config.json", "num_attention_heads", &json!(513)).to_string();
    assert!(error.contains("`(mlp_ratio + 1) x hidden size` is 65664"), "{error}");
}

#[test]
fn wrong_taps_and_lengths_are_told_what_would_do() {
    let error = configured("model_index.json", "text_encoder_out_layers", &json!([18, 9])).to_string();
    let expected = "`text_encoder_out_layers` is [18,9], expected 1 to 16 ascending whole numbers from 1 to 256";
    assert!(error.ends_with(expected), "{error}");
    let error = configured("model_index.json", "max_sequence_length", &json!(1e9)).to_string();
    let expected = "`max_sequence_length` is 1000000000.0, expected a whole number from 1 to 32768";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn the_state_after_the_last_layer_is_not_tapped() {
    // In the reference, the last hidden state comes after the final norm.
    let error = configured("model_index.json", "text_encoder_out_layers", &json!([9, 18, 28]));
    assert!(error.to_string().contains("[9, 18, 28] of 28 layers"), "{error}");
}

#[test]
fn a_configuration_without_a_size() {
    let error = changed_folder(|model| {
        edit_json(&model.join("text_encoder/config.json"), |object| _ = object.remove("rope_theta"));
    });
    let missing =
        matches!(&error, Error::Config { problem: ConfigProblem::Missing { key }, .. } if key == "rope_theta");
    assert!(missing, "{error}");
}

#[test]
fn a_configuration_that_is_no_object() {
    for text in ["", "[]", "{", "\u{0}", &"[".repeat(100_000)] {
        let error = changed_folder(|model| std::fs::write(model.join("vae/config.json"), text).unwrap());
        assert!(matches!(error, Error::Config { problem: ConfigProblem::Json { .. }, .. }), "{error}");
    }
}

#[test]
fn a_configuration_of_a_gigabyte_is_not_read() {
    let error = changed_folder(|model| {
        let file = std::fs::File::create(model.join("vae/config.json")).unwrap();
        file.set_len(1 << 30).unwrap(); // sparse
    });
    assert!(matches!(error, Error::Config { problem: ConfigProblem::NotReadable { .. }, .. }), "{error}");
}

#[test]
fn a_configuration_its_tensors_contradict() {
    let error = configured("transformer/config.json", "num_layers", &json!(3));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.missing.len() == 16), "{error}");
    let error = configured("transformer/config.json", "num_layers", &json!(1));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.unused.len() == 16), "{error}");
    let error = configured("text_encoder/config.json", "intermediate_size", &json!(81));
    assert!(matches!(&error, Error::Tensors { mismatch, .. } if mismatch.shapes.len() == 27 * 3), "{error}");
}

#[test]
fn parts_of_different_models() {
    let disagree = |paths: ModelPaths| match ModelFiles::open(&paths) {
        Err(Error::PartsDisagree { part, reads, makes }) => (part, reads, makes),
        other => panic!("{other:?}"),
    };
    let other_text = ModelPaths { text_encoder: Some(tiny("text_encoder_fp8").into()), ..single_files() };
    assert_eq!(disagree(other_text), (Part::TextEncoder, 96, 48));
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    edit_json(&model.join("model_index.json"), |index| {
        index.insert("text_encoder_out_layers".into(), json!([9, 18]));
    });
    assert_eq!(disagree(ModelPaths { model: model.into(), ..ModelPaths::default() }), (Part::TextEncoder, 96, 64));
}

#[test]
fn a_variant_of_another_size_is_refused() {
    let paths = ModelPaths { variant: Some(Variant::by_name("klein-9b").unwrap()), ..single_files() };
    assert!(matches!(ModelFiles::open(&paths), Err(Error::VariantSize { .. })));
    let paths = ModelPaths { variant: Some(Variant::by_name("klein-base").unwrap()), ..single_files() };
    let files = ModelFiles::open(&paths).unwrap();
    assert_eq!((files.variant.name, files.name.as_str()), ("klein-base (custom size)", "transformer"));
}

#[test]
fn no_value_of_any_key_panics() {
    let hostile = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(3),
        json!(1e308),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([0]),
        json!([65536, 65536, 65536, 65536]),
        json!({}),
        json!({"rope_theta": [], "quant_method": "gptq"}),
        json!([[[]]]),
    ];
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    for part in ["transformer", "text_encoder", "vae"] {
        let path = model.join(part).join("config.json");
        let original = std::fs::read(&path).unwrap();
        let keys: serde_json::Map<String, Value> = serde_json::from_slice(&original).unwrap();
        for key in keys.keys().map(String::as_str).chain(["rope_parameters", "quantization_config"]) {
            for value in &hostile {
                edit_json(&path, |object| _ = object.insert(key.into(), value.clone()));
                let folder = model.join(part);
                // Any content must be accepted or refused, without a panic.
                let _ = match part {
                    "transformer" => Component::<TransformerConfig>::open(&folder).err(),
                    "text_encoder" => Component::<TextConfig>::open(&folder).err(),
                    _ => Component::<VaeConfig>::open(&folder).err(),
                };
                std::fs::write(&path, &original).unwrap();
            }
        }
    }
}

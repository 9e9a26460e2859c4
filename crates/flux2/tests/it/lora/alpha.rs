//! Where alpha and rank come from.

use super::*;

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

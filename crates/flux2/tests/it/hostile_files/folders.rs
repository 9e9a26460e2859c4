//! Folders of a model with invalid or missing files.

use super::*;

#[test]
fn nothing_at_the_path() {
    let paths = ModelPaths { model: "/nowhere/at/all".into(), ..ModelPaths::default() };
    let error = ModelFiles::open(&paths).unwrap_err();
    assert!(matches!(error, Error::ModelMissing { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::ModelMissing);
    assert!(error.remedy().is_some());
}

#[test]
fn a_folder_without_model_index() {
    let error = changed_folder(|model| std::fs::remove_file(model.join("model_index.json")).unwrap());
    assert!(matches!(error, Error::NoModelIndex { .. }), "{error}");
}

#[test]
fn a_folder_without_one_of_the_parts() {
    for (part, what) in [("transformer", "transformer"), ("text_encoder", "text encoder"), ("vae", "VAE")] {
        let error = changed_folder(|model| std::fs::remove_dir_all(model.join(part)).unwrap());
        assert!(matches!(&error, Error::PartMissing { what: found, .. } if *found == what), "{error}");
        assert_eq!(error.kind(), ErrorKind::ModelMissing);
        let error = changed_folder(|model| {
            std::fs::remove_dir_all(model.join(part)).unwrap();
            std::fs::create_dir(model.join(part)).unwrap();
        });
        assert!(matches!(error, Error::NoWeights { .. }), "{error}");
    }
}

#[test]
fn a_single_file_needs_the_other_two_named() {
    let paths = ModelPaths { text_encoder: None, ..single_files() };
    let error = ModelFiles::open(&paths).unwrap_err();
    assert_eq!(error.remedy(), Some(flux2::Remedy::GivePart(flux2::Part::TextEncoder)));
    let paths = ModelPaths { vae: None, ..single_files() };
    assert_eq!(ModelFiles::open(&paths).unwrap_err().kind(), ErrorKind::ModelMissing);
}

/// The error for the tiny folder with another index of the text encoder's shards.
fn changed_index(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Error {
    changed_folder(|model| edit_json(&model.join("text_encoder/model.safetensors.index.json"), change))
}

#[test]
fn shards_outside_the_folder() {
    for shard in [
        "../vae/diffusion_pytorch_model.safetensors",
        "/etc/passwd.safetensors",
        "..\\x.safetensors",
        "c:x.safetensors",
        ".hidden.safetensors",
        "..",
        "",
        "config.json",
    ] {
        let error = changed_index(|index| {
            index["weight_map"]["model.embed_tokens.weight"] = shard.into();
        });
        let named =
            matches!(&error, Error::Config { problem: ConfigProblem::Value { key, .. }, .. } if key == "weight_map");
        assert!(named, "{shard}: {error}");
    }
}

#[test]
fn an_index_that_is_no_map_of_names() {
    for map in [json!(null), json!([]), json!("x"), json!({"a": 1}), json!({"a": {"b": "c"}})] {
        let error = changed_index(|index| _ = index.insert("weight_map".into(), map));
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    let error = changed_index(|index| _ = index.insert("weight_map".into(), json!({})));
    assert!(matches!(error, Error::NoWeights { .. }), "{error}");
}

#[test]
fn a_shard_that_is_not_there() {
    let error = changed_index(|index| index["weight_map"]["model.norm.weight"] = "model-9.safetensors".into());
    assert!(matches!(&error, Error::PartMissing { path, .. } if path.ends_with("model-9.safetensors")), "{error}");
}

#[test]
fn a_shard_without_a_tensor_its_index_promises() {
    let error = changed_index(|index| {
        index["weight_map"]["model.embed_tokens.weight"] = "model-00002-of-00002.safetensors".into();
    });
    assert!(matches!(&error, Error::ShardLacks { name, .. } if name == "model.embed_tokens.weight"), "{error}");
}

#[test]
fn a_tensor_in_two_shards() {
    let error = changed_folder(|model| {
        let folder = model.join("vae");
        let shard = |n: usize| folder.join(format!("diffusion_pytorch_model-0000{n}-of-00002.safetensors"));
        std::fs::rename(folder.join("diffusion_pytorch_model.safetensors"), shard(1)).unwrap();
        std::fs::copy(shard(1), shard(2)).unwrap();
    });
    assert!(matches!(error, Error::TensorTwice { .. }), "{error}");
}

#[test]
fn a_file_replaced_after_it_was_checked() {
    let temp = TempDir::new().unwrap();
    let path = File::read(&tiny("klein-bfl/ae.safetensors")).write(temp.path(), "ae.safetensors");
    let vae = Component::<VaeConfig>::open(&path).unwrap();
    assert!(vae.map().is_ok());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(vae.map(), Err(Error::FileChanged { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(vae.map(), Err(Error::Io { .. })));
}

#[test]
fn a_vae_without_its_encoder_is_called_that() {
    let temp = TempDir::new().unwrap();
    let mut file = File::read(&tiny("klein-bfl/ae.safetensors"));
    file.0.retain(|name, _| !name.starts_with("encoder."));
    let error = Component::<VaeConfig>::open(file.write(temp.path(), "ae.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Config { problem: ConfigProblem::DecoderOnly, .. }), "{error}");
}

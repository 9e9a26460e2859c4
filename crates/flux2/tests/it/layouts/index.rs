//! What the files of a folder say about the model.

use super::*;

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

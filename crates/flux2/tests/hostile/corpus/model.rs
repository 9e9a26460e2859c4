//! Hostile files of a whole model: all networks in one, tokenizer, index of shards.

use super::*;

pub(super) fn whole_model(files: &mut Files, rng: &mut Rng, whole: &Tensors) {
    tensors(files, rng, whole);
    let text = whole.text();
    bytes(files, rng, &whole.with(&text), text.len() + 8, 20);
    for (from, to) in [
        ("text_encoders.qwen3_4b.transformer.", ""),
        ("text_encoders.qwen3_4b.transformer.", "first_stage_model."),
        ("text_encoders.qwen3_4b.transformer.", "model.diffusion_model."),
        ("first_stage_model.", ""),
        ("first_stage_model.", "vae."),
        ("first_stage_model.", "first_stage_model.first_stage_model."),
        ("model.diffusion_model.", ""),
        ("model.diffusion_model.", "text_encoders.qwen3_4b.transformer."),
        ("model.diffusion_model.img_in", "model_ema.img_in"),
        ("text_encoders", "cond_stage_model"),
        ("layers.0.", "layers.99."),
        ("decoder.", "encoder."),
    ] {
        files.add(format!("{from} is {to}"), whole.with(text.replace(from, to)));
    }
    for prefix in ["model.diffusion_model.", "text_encoders.", "first_stage_model."] {
        let names = whole.names();
        let of_part: Vec<&String> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        let without = whole.renamed(|name| (!name.starts_with(prefix)).then(|| name.to_owned()));
        files.add(format!("without {prefix}"), without.with(without.text()));
        let name = *rng.pick(&of_part);
        let without = whole.renamed(|other| (other != name).then(|| other.to_owned()));
        files.add(format!("without {name}"), without.with(without.text()));
        let twice = whole.renamed(|name| Some(name.to_owned()));
        let twice = twice.changed(|header| {
            for name in &of_part {
                let entry = header[*name].clone();
                header.insert(format!("ema.{name}"), entry);
            }
        });
        files.add(format!("{prefix} twice, of the same bytes"), twice);
    }
}

pub(super) fn tokenizer(files: &mut Files, whole: &Value) {
    let mut add = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut document = whole.clone();
        change(&mut document);
        files.add(what, document.to_string());
    };
    add("an id of 2^32 - 1", &|d| d["model"]["vocab"]["a"] = json!(u32::MAX));
    add("an id of 2^32", &|d| d["model"]["vocab"]["a"] = json!(1u64 << 32));
    add("all ids are 0", &|d| d["model"]["vocab"].as_object_mut().unwrap().values_mut().for_each(|id| *id = json!(0)));
    add("no vocabulary", &|d| d["model"]["vocab"] = json!({}));
    add("20000 merges of nothing", &|d| d["model"]["merges"] = json!(vec!["x y"; 20_000]));
    add("a merge without a space", &|d| d["model"]["merges"] = json!(["xy"]));
    add("a merge of three", &|d| d["model"]["merges"] = json!([["a", "b", "c"]]));
    add("a merge of empty texts", &|d| d["model"]["merges"] = json!([["", ""]]));
    add("a token of a megabyte", &|d| d["model"]["vocab"]["x".repeat(1 << 20)] = json!(5));
    add("an added token without text", &|d| d["added_tokens"][0]["content"] = json!(""));
    add("20000 added tokens", &|d| {
        let token = d["added_tokens"][0].clone();
        d["added_tokens"] = Value::Array(vec![token; 20_000]);
    });
    add("a regular expression that explodes", &|d| {
        d["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a*)*b"}})
    });
    add("a normalizer that replaces", &|d| {
        d["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "xx"})
    });
    add("a model of another kind", &|d| d["model"]["type"] = json!("Unigram"));
    add("dropout", &|d| d["model"]["dropout"] = json!(1.0));
}

pub(super) fn index(files: &mut Files, whole: &Value) {
    let names: Vec<String> = whole["weight_map"].as_object().expect("a map").keys().cloned().collect();
    let mut all = |what: &str, shard: &dyn Fn(usize) -> Value| {
        let map: Map<String, Value> = names.iter().enumerate().map(|(i, name)| (name.clone(), shard(i))).collect();
        files.add(what, json!({"metadata": {}, "weight_map": map}).to_string());
    };
    all("every shard is the index", &|_| "model.safetensors.index.json".into());
    all("every shard is the folder", &|_| ".".into());
    all("every shard is the folder above", &|_| "../text_encoder".into());
    all("every shard is another part's", &|_| "../vae/diffusion_pytorch_model.safetensors".into());
    all("every tensor has a shard of its own", &|i| format!("model-{i}.safetensors").into());
    all("shards out of order", &|i| format!("model-0000{}-of-00002.safetensors", 2 - i % 2).into());
    all("one shard for all", &|_| "model-00001-of-00002.safetensors".into());
    all("another case", &|_| "MODEL-00001-OF-00002.SAFETENSORS".into());
    all("names with a NUL", &|_| "model\0.safetensors".into());
    all("names of 5000 bytes", &|i| format!("{}{i}.safetensors", "x".repeat(5000)).into());
    all("numbers", &|i| i.into());
    all("an index in an index", &|_| whole.clone());
    let many: Map<String, Value> = (0..20_000).map(|i| (format!("t{i}"), format!("{i}.safetensors").into())).collect();
    files.add("20000 shards", json!({"weight_map": many}).to_string());
    let none: Map<String, Value> =
        (0..20_000).map(|i| (format!("t{i}"), "model-00001-of-00002.safetensors".into())).collect();
    files.add("20000 tensors that are nowhere", json!({"weight_map": none}).to_string());
}

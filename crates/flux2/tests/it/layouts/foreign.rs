//! Names, prefixes and files of other programs.

use super::*;

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
    // A whole file goes before the index of shards of another precision (`fp16`).
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

//! LoRAs that do not fit, and files that are none.

use super::*;

const DOWN: &str = "diffusion_model.img_in.lora_A.weight";
const UP: &str = "diffusion_model.img_in.lora_B.weight";

fn refused(file: &File, scale: f32) -> Error {
    let temp = TempDir::new().unwrap();
    let path = file.write(temp.path(), "style.safetensors");
    let error = ModelFiles::open(&with(folder(), &[(&path, scale)])).unwrap_err();
    assert!(error.remedy().is_some(), "{error}");
    error
}

fn mismatch(file: &File) -> Mismatch {
    match refused(file, 1.0) {
        Error::Lora { problem: LoraProblem::Tensors(mismatch), .. } => *mismatch,
        other => panic!("{other}"),
    }
}

/// A LoRA on one matrix.
fn small() -> File {
    Made::new(|module| module == "img_in").bfl(|m| format!("diffusion_model.{m}"), PEFT, None)
}

fn number(dtype: &str, value: f32) -> crate::layouts::Stored {
    (dtype.into(), vec![], f32_bytes([value]))
}

fn problem(file: &File) -> LoraProblem {
    match refused(file, 1.0) {
        Error::Lora { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn edited(edit: impl FnOnce(&mut BTreeMap<String, crate::layouts::Stored>)) -> File {
    let mut file = small();
    edit(&mut file.0);
    file
}

#[test]
fn a_lora_with_values_that_are_not_finite_is_to_blame() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in [DOWN, UP] {
            let damaged = edited(|f| f.get_mut(name).unwrap().2[8..12].copy_from_slice(&value.to_le_bytes()));
            assert_eq!(problem(&damaged), LoraProblem::NotFinite { name: name.into() });
        }
    }
}

#[test]
fn every_tensor_without_a_place_is_listed_with_the_nearest() {
    let mut file = dialects(&Made::new(|m| m.contains("qkv"))).swap_remove(0).1;
    let names: Vec<String> = file.0.keys().filter(|n| n.contains("to_q")).cloned().collect();
    for name in &names {
        let tensor = file.0.remove(name).unwrap();
        file.0.insert(name.replace("to_q", "to_qq"), tensor);
    }
    file.0.insert("something".into(), number("F32", 1.0));
    let found = mismatch(&file);
    assert_eq!(found.unused.len(), names.len() + 1);
    let nearest = &found.nearest["transformer.transformer_blocks.1.attn.to_qq.lora_B.weight"];
    assert_eq!(nearest, "transformer.transformer_blocks.1.attn.to_q.lora_B.weight");
    let message = refused(&file, 1.0).to_string();
    assert!(
        message.contains("5 not used:") && message.contains("(nearest: transformer.transformer_blocks.0"),
        "{message}"
    );

    let kohya = Made::new(|m| m == "single_blocks.2.linear1").bfl(underscored, KOHYA, None);
    let found = mismatch(&kohya.renamed(|n| n.replace("linear1", "linaer1")));
    assert_eq!(
        found.nearest["lora_unet_single_blocks_2_linaer1.lora_up.weight"],
        "lora_unet_single_blocks_2_linear1.lora_up.weight"
    );
    // Blocks that this model does not have.
    let found = mismatch(&kohya.renamed(|n| n.replace("blocks_2", "blocks_3")));
    assert_eq!(found.unused.len(), 2);
    // A LoRA on a vector.
    let found = mismatch(&edited(|f| {
        f.insert("diffusion_model.double_blocks.0.img_attn.norm.query_norm.lora_A.weight".into(), number("F32", 1.0));
    }));
    assert_eq!(found.unused.len(), 1);
}

#[test]
fn a_factor_without_the_other_is_missing_it() {
    assert_eq!(mismatch(&edited(|f| _ = f.remove(UP))).missing, [UP]);
    assert_eq!(mismatch(&edited(|f| _ = f.remove(DOWN))).missing, [DOWN]);
    let alone = edited(|f| *f = [("lora_unet_img_in.alpha".into(), number("F32", 1.0))].into());
    assert_eq!(mismatch(&alone).missing, ["lora_unet_img_in.lora_down.weight"]);
}

#[test]
fn shapes_and_ranks_that_do_not_fit_are_listed() {
    let shapes = |name: &str, shape: Vec<usize>| {
        let found = mismatch(&edited(|f| {
            _ = f.insert(name.into(), ("F32".into(), shape.clone(), vec![0; 4 * shape.iter().product::<usize>()]))
        }));
        found.shapes.iter().map(|s| (s.name.clone(), s.found.clone(), s.expected.clone())).collect::<Vec<_>>()
    };
    // The first factor determines the rank.
    assert_eq!(shapes(DOWN, vec![2, 32]), [(UP.to_owned(), vec![64, 3], vec![64, 2])]);
    assert_eq!(shapes(UP, vec![64, 4]), [(UP.to_owned(), vec![64, 4], vec![64, 3])]);
    assert_eq!(shapes(UP, vec![63, 3]), [(UP.to_owned(), vec![63, 3], vec![64, 3])]);
    assert_eq!(shapes(DOWN, vec![3, 31]), [(DOWN.to_owned(), vec![3, 31], vec![3, 32])]);
    assert_eq!(shapes(DOWN, vec![3, 32, 2]), [(DOWN.to_owned(), vec![3, 32, 2], vec![3, 32])]);
    assert_eq!(
        shapes(DOWN, vec![96]),
        [(DOWN.to_owned(), vec![96], vec![96, 32]), (UP.to_owned(), vec![64, 3], vec![64, 96])]
    );
    assert_eq!(shapes(DOWN, vec![0, 32])[0], (DOWN.to_owned(), vec![0, 32], vec![1, 32]));
    assert_eq!(shapes("diffusion_model.img_in.alpha", vec![2])[0].2, [0; 0]);
}

#[test]
fn factors_that_are_no_floats_are_listed() {
    let found = mismatch(&edited(|f| _ = f.insert(DOWN.into(), ("I8".into(), vec![3, 32], vec![0; 96]))));
    assert_eq!(found.dtypes, [(DOWN.to_owned(), "i8".to_owned())]);
    let alpha = "diffusion_model.img_in.alpha".to_owned();
    let found = mismatch(&edited(|f| _ = f.insert(alpha.clone(), ("BOOL".into(), vec![], vec![1]))));
    assert_eq!(found.dtypes, [(alpha, "BOOL".to_owned())]);
}

#[test]
fn factors_in_fp8_are_decoded() {
    let temp = TempDir::new().unwrap();
    // 0x38 is 1, 0x30 is 0.5.
    let of = |dtype: &str, one: &[u8], half: &[u8]| {
        let file = edited(|f| {
            f.insert(DOWN.into(), (dtype.into(), vec![3, 32], one.repeat(96)));
            f.insert(UP.into(), (dtype.into(), vec![64, 3], half.repeat(192)));
        });
        let path = file.write(temp.path(), "lora.safetensors");
        merged(&open(&with(folder(), &[(&path, 1.0)])), "img_in").to_f32()
    };
    let expected = of("F32", &1f32.to_le_bytes(), &0.5f32.to_le_bytes());
    assert!(of("F8_E4M3", &[0x38], &[0x30]) == expected);
    let no_number = edited(|f| {
        f.insert(DOWN.into(), ("F8_E4M3".into(), vec![3, 32], vec![0x7f; 96]));
    });
    assert_eq!(problem(&no_number), LoraProblem::NotFinite { name: DOWN.into() });
}

#[test]
fn scales_that_are_no_numbers_are_refused() {
    for scale in [f32::NAN, f32::INFINITY] {
        let error = refused(&small(), scale);
        assert!(matches!(error, Error::LoraScale { .. }) && error.kind() == ErrorKind::Usage, "{error}");
    }
    let alpha = |value| edited(|f| _ = f.insert("diffusion_model.img_in.alpha".into(), number("F32", value)));
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(problem(&alpha(value)), LoraProblem::Factor { .. }), "{value}");
    }
    assert!(matches!(refused(&alpha(1e30), 1e30), Error::Lora { problem: LoraProblem::Factor { .. }, .. }));
}

#[test]
fn other_kinds_of_files_are_called_what_they_are() {
    let kind = |name: &str| match problem(&edited(|f| _ = f.insert(name.into(), number("F32", 1.0)))) {
        LoraProblem::Unsupported { what, name: found } => {
            assert_eq!(found, name);
            what
        }
        LoraProblem::OtherFamily { family, .. } => family,
        other => panic!("{name}: {other}"),
    };
    for (name, expected) in [
        ("lora_unet_double_blocks_0_img_attn_qkv.lokr_t1", "a LoKr of a convolution"),
        ("lycoris_img_in.a1.weight", "a GLoRA"),
        ("lycoris_img_in.on_input", "an IA3"),
        ("transformer.x_embedder.ia3_l", "an IA3"),
        ("transformer.x_embedder.vera_lambda_b", "a VeRA"),
        ("base_model.model.x_embedder.boft_R", "a BOFT"),
        ("diffusion_model.img_in.set_weight", "new values of whole weights"),
        ("lora_unet_double_blocks_0_img_attn_norm_query_norm.w_norm", "changes of norms"),
        ("diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff", "changes of norms"),
        ("transformer.transformer_blocks.0.attn.norm_added_q.diff", "changes of norms"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector", "a DoRA"),
        ("lora_unet_img_in.dora_scale", "a DoRA"),
        ("diffusion_model.img_in.oft_blocks", "an OFT"),
        ("diffusion_model.img_in.diff_b", "changes of biases"),
        ("transformer.x_embedder.lora_B.bias", "changes of biases"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a LoRA of a text encoder"),
        ("text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight", "a LoRA of a text encoder"),
        ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", "FLUX.1"),
        ("transformer.transformer_blocks.0.norm1.linear.lora_A.weight", "FLUX.1"),
        ("transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight", "FLUX.1"),
        ("transformer.transformer_blocks.0.ff.net.0.proj.lora_A.weight", "FLUX.1"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
    ] {
        assert_eq!(kind(name), expected, "{name}");
    }
    assert_eq!(problem(&File::default()), LoraProblem::Empty);
    let twice = edited(|f| _ = f.insert("img_in.lora_down.weight".into(), number("F32", 1.0)));
    assert_eq!(problem(&twice), LoraProblem::Twice { first: DOWN.into(), second: "img_in.lora_down.weight".into() });
    let temp = TempDir::new().unwrap();
    let gguf = gguf::packed(&gguf::transformer(), DType::Bf16).write(temp.path(), "lora.gguf");
    let gguf = ModelFiles::open(&with(folder(), &[(&gguf, 1.0)])).unwrap_err();
    assert!(matches!(gguf, Error::Lora { problem: LoraProblem::Gguf, .. }), "{gguf}");
    // A model given as a LoRA, and a LoRA given as a model.
    let model = ModelFiles::open(&with(folder(), &[(&tiny("klein-bfl/transformer.safetensors"), 1.0)])).unwrap_err();
    assert!(matches!(model, Error::Lora { problem: LoraProblem::Tensors(_), .. }), "{model}");
    let missing = ModelFiles::open(&with(folder(), &[(Path::new("nowhere.safetensors"), 1.0)])).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[test]
fn metadata_that_contradict_the_tensors_are_refused() {
    let temp = TempDir::new().unwrap();
    let refused = |json: Value| {
        let path = with_metadata(&small(), &json, temp.path());
        match ModelFiles::open(&with(folder(), &[(&path, 1.0)])) {
            Err(Error::Lora { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(json!({"r": 4})), LoraProblem::Rank { module: "img_in".into(), declared: 4, found: 3 });
    assert!(matches!(refused(json!({"r": "x"})), LoraProblem::Metadata { .. }));
    assert!(matches!(refused(json!([])), LoraProblem::Metadata { .. }));
    assert!(matches!(refused(json!({"lora_alpha": 1e300})), LoraProblem::Factor { .. }));
}

#[test]
fn a_lora_for_another_size_says_which() {
    let temp = TempDir::new().unwrap();
    let of_size = |name: &str| ModelFiles::synthetic(Variant::by_name(name).unwrap()).unwrap();
    let lora = |width: usize| {
        let mut file = File::default();
        add(&mut file, "lora_unet_single_blocks_3_linear2.lora_down.weight", [1, 4 * width], &vec![0.0; 4 * width]);
        add(&mut file, "lora_unet_single_blocks_3_linear2.lora_up.weight", [width, 1], &vec![0.0; width]);
        LoraPath { location: file.write(temp.path(), &format!("{width}.safetensors")).into(), scale: 1.0 }
    };
    let added = |model: &str, width| of_size(model).with_loras(&[lora(width)]);
    assert_eq!(added("klein-4b", 3072).unwrap().loras[0].matrices(), 1);
    assert_eq!(added("klein-base-9b", 4096).unwrap().loras[0].matrices(), 1);
    for (model, width, expected, made_for) in [
        ("klein-4b", 4096, 3072, "klein-9b"),
        ("klein-9b", 3072, 4096, "klein-4b"),
        ("klein-4b", 6144, 3072, "FLUX.2 [dev]"),
    ] {
        match added(model, width) {
            Err(Error::Lora { problem, .. }) => {
                assert_eq!(problem, LoraProblem::OtherSize { made_for, width, expected })
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(added("klein-4b", 1000), Err(Error::Lora { problem: LoraProblem::Tensors(_), .. })));
}

#[test]
fn a_lora_in_the_place_of_a_model_is_called_one() {
    let error = Component::<TransformerConfig>::open(fixture("tiny/lora.safetensors")).unwrap_err();
    assert!(error.to_string().contains("is a LoRA, not the transformer"), "{error}");
}

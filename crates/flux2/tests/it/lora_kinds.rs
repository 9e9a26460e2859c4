//! LoHa, LoKr, whole differences and cores: updates as LyCORIS makes them, and what is wrong with other files.

use std::collections::BTreeMap;
use std::path::Path;

use flux2::weights::{Error, LoraProblem, Mismatch, ModelFiles, ModelPaths};
use tempfile::TempDir;

use crate::golden::fixture;
use crate::layouts::{File, Stored, f32_bytes, folder, open, single_files};
use crate::lora::{f32_transformer, merged, with};

/// By module the matrix that an adapter adds.
type Updates = BTreeMap<String, Vec<f32>>;

/// The adapters of `golden/lycoris.safetensors` by case.
fn cases() -> BTreeMap<String, (File, Updates)> {
    let mut cases: BTreeMap<String, (File, Updates)> = BTreeMap::new();
    for (name, stored) in File::read(&fixture("golden/lycoris.safetensors")).0 {
        let (case, name) = name.split_once('/').unwrap();
        let (adapter, updates) = cases.entry(case.into()).or_default();
        match name.starts_with("lycoris_") {
            true => _ = adapter.0.insert(name.into(), stored),
            false => {
                let values = stored.2.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                updates.insert(name.into(), values.collect());
            }
        }
    }
    cases
}

/// Canonical name of the matrix of a module, and where its first and its last rows are.
fn place(module: &str) -> (&'static str, [usize; 2]) {
    match module {
        "x_embedder" => ("img_in", [0, 32]),
        "transformer_blocks_1_attn_to_k" => ("double.1.img.qkv", [64, 96]),
        // Diffusers has the scale before the shift.
        "norm_out_linear" => ("final.modulation", [64, 0]),
        other => panic!("{other}"),
    }
}

/// The same adapter in other dialects of names.
fn dialects(adapter: &File) -> Vec<File> {
    let dotted = |name: &str| {
        let (module, tensor) = name.strip_prefix("lycoris_").unwrap().split_once('.').unwrap();
        let module = match module {
            "transformer_blocks_1_attn_to_k" => "transformer_blocks.1.attn.to_k",
            "norm_out_linear" => "norm_out.linear",
            other => other,
        };
        format!("{module}.{tensor}")
    };
    let renamed = |name: &dyn Fn(&str) -> String| adapter.renamed(name);
    vec![
        adapter.renamed(|name| name.to_owned()),
        renamed(&|name| name.replace("lycoris_", "lora_unet_")),
        renamed(&|name| format!("transformer.{}", dotted(name))),
        renamed(&|name| format!("base_model.model.{}", dotted(name))),
        renamed(&|name| format!("diffusion_model.{}", dotted(name))),
    ]
}

#[test]
fn every_kind_adds_what_lycoris_adds() {
    let temp = TempDir::new().unwrap();
    let paths = ModelPaths { model: f32_transformer(temp.path()).into(), ..single_files() };
    let base = open(&paths).transformer.map().unwrap();
    let cases = cases();
    assert_eq!(cases.len(), 12);
    for (case, (adapter, updates)) in &cases {
        let mut first: Option<Vec<Vec<f32>>> = None;
        for file in dialects(adapter) {
            let path = file.write(temp.path(), "lora.safetensors");
            let files = open(&with(paths.clone(), &[(&path, -0.5)]));
            assert_eq!(files.loras[0].matrices(), updates.len(), "{case}");
            let all: Vec<Vec<f32>> = updates.keys().map(|m| merged(&files, place(m).0).to_f32()).collect();
            let first = first.get_or_insert_with(|| all.clone());
            assert!(*first == all, "{case}: the same in every dialect");
        }
        for ((module, update), got) in updates.iter().zip(first.unwrap()) {
            let (name, halves) = place(module);
            let base = flux2::weights::WeightSource::tensor(&base, name).unwrap();
            let (cols, half) = (base.shape()[1], update.len() / 2);
            let mut expected = base.to_f32();
            for (first, update) in halves.into_iter().zip(update.chunks(half)) {
                let rows = expected[first * cols..].iter_mut().zip(update);
                rows.for_each(|(value, update)| *value -= 0.5 * update);
            }
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                // Both are sums in f32 of at most 9 products of values below 4.
                assert!((got - expected).abs() < 2e-6, "{case} {module} [{i}]: {got} for {expected}");
            }
        }
    }
}

#[test]
fn strengths_of_other_kinds() {
    let temp = TempDir::new().unwrap();
    let strength = |case: &str| {
        let path = cases()[case].0.write(temp.path(), "lora.safetensors");
        open(&with(folder(), &[(&path, 1.0)])).loras[0].strength.to_string()
    };
    assert_eq!(strength("loha"), "alpha / rank 1.6666666, from its tensors");
    assert_eq!(strength("lokr_whole"), "alpha / rank 1, from its tensors");
    assert_eq!(strength("full"), "alpha / rank 1, as whole differences have no rank");
}

#[test]
fn a_folder_of_peft_scales_whole_matrices_by_its_own_rank() {
    let temp = TempDir::new().unwrap();
    let folder_of = |config: &str| {
        let mut file = cases()["lokr_whole"].0.renamed(|name| name.replace("lycoris_", "base_model.model."));
        file.0.retain(|name, _| !name.ends_with(".alpha"));
        file.write(temp.path(), "adapter_model.safetensors");
        std::fs::write(temp.path().join("adapter_config.json"), config).unwrap();
        let files = open(&with(folder(), &[(temp.path(), 1.0)]));
        (merged(&files, "img_in").to_f32(), files.loras[0].strength)
    };
    let (once, strength) = folder_of(r#"{"peft_type": "LOKR", "r": 8, "alpha": 8}"#);
    assert_eq!(strength.most, 1.0);
    let (twice, strength) = folder_of(r#"{"peft_type": "LOKR", "r": 8, "alpha": 16}"#);
    assert_eq!((strength.most, strength.unsaid), (2.0, 0));
    assert_ne!(once, twice);
}

#[test]
fn a_picture_is_drawn_with_a_lokr() {
    use flux2::pipeline::{Pipeline, Residency};
    let temp = TempDir::new().unwrap();
    let path = cases()["lokr"].0.write(temp.path(), "lora.safetensors");
    let draw = |paths: &ModelPaths| {
        let mut pipeline = Pipeline::load(crate::golden::f32_backend(), paths, Residency::OneAtATime).unwrap();
        let request = flux2::GenerateRequest {
            prompt: "a red fox".into(),
            width: Some(64),
            height: Some(64),
            steps: Some(1),
            ..Default::default()
        };
        pipeline.generate(&request, &mut |_: &flux2::Event| {}, &flux2::CancelToken::new()).unwrap().image
    };
    assert!(draw(&with(folder(), &[(&path, 1.0)])) != draw(&folder()));
    assert!(draw(&with(folder(), &[(&path, 1.0)])) == draw(&with(single_files(), &[(&path, 1.0)])));
}

// ---- refused files ----

fn problem(file: &File) -> LoraProblem {
    let temp = TempDir::new().unwrap();
    let path = file.write(temp.path(), "style.safetensors");
    match ModelFiles::open(&with(folder(), &[(Path::new(&path), 1.0)])) {
        Err(Error::Lora { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

fn mismatch(file: &File) -> Mismatch {
    match problem(file) {
        LoraProblem::Tensors(mismatch) => *mismatch,
        other => panic!("{other}"),
    }
}

/// A case of the fixture, on one matrix, edited.
fn edited(case: &str, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) -> File {
    let mut file = cases().remove(case).unwrap().0;
    file.0.retain(|name, _| name.starts_with("lycoris_x_embedder."));
    edit(&mut file.0);
    file
}

fn zeros(shape: &[usize]) -> Stored {
    ("F32".into(), shape.into(), f32_bytes(vec![0.0; shape.iter().product()]))
}

fn name(tensor: &str) -> String {
    format!("lycoris_x_embedder.{tensor}")
}

#[test]
fn what_a_kind_needs_and_lacks_is_named() {
    let missing = |case: &str, tensor: &str| mismatch(&edited(case, |f| _ = f.remove(&name(tensor)).unwrap())).missing;
    for tensor in ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"] {
        assert_eq!(missing("loha", tensor), [name(tensor)]);
    }
    assert_eq!(missing("loha_core", "hada_t2"), [name("hada_t2")]);
    for tensor in ["lokr_w1", "lokr_w2_a", "lokr_w2_b"] {
        assert_eq!(missing("lokr", tensor), [name(tensor)]);
    }
    assert_eq!(missing("lokr_whole", "lokr_w2"), [name("lokr_w2")]);
    assert_eq!(missing("lokr_both", "lokr_w1_b"), [name("lokr_w1_b")]);
    assert_eq!(missing("locon_core", "lora_up.weight"), [name("lora_up.weight")]);
}

#[test]
fn two_forms_of_one_matrix_have_no_place() {
    let both = edited("lokr", |f| _ = f.insert(name("lokr_w1_a"), zeros(&[8, 3])));
    assert_eq!(mismatch(&both).unused, [name("lokr_w1_a")]);
    let core = edited("lokr_whole", |f| _ = f.insert(name("lokr_t2"), zeros(&[3, 3])));
    assert_eq!(mismatch(&core).unused, [name("lokr_t2")]);
}

#[test]
fn shapes_of_other_kinds_that_do_not_fit_are_listed() {
    let shapes = |case: &str, tensor: &str, shape: &[usize]| {
        let found = mismatch(&edited(case, |f| _ = f.insert(name(tensor), zeros(shape))));
        found.shapes.iter().map(|s| (s.name.clone(), s.expected.clone())).collect::<Vec<_>>()
    };
    // The fixture has matrices [64, 32]; the outer one is [8, 4], the inner one [8, 8] of rank 3.
    assert_eq!(shapes("lokr", "lokr_w2_b", &[3, 9]), [(name("lokr_w2_b"), vec![3, 8])]);
    assert_eq!(shapes("lokr", "lokr_w1", &[7, 4]), [(name("lokr_w1"), vec![8, 4])]);
    assert_eq!(shapes("lokr_whole", "lokr_w1", &[0, 4])[0].1, [8, 4]);
    assert_eq!(shapes("lokr_whole", "lokr_w1", &[])[0].0, name("lokr_w1"));
    assert_eq!(shapes("lokr_core", "lokr_t2", &[3, 3, 3, 3]), [(name("lokr_t2"), vec![3, 3])]);
    assert_eq!(shapes("loha", "hada_w2_a", &[64, 2]), [(name("hada_w2_a"), vec![64, 3])]);
    assert_eq!(shapes("loha_core", "hada_w1_a", &[64, 3]), [(name("hada_w1_a"), vec![3, 64])]);
    assert_eq!(shapes("full", "diff", &[32, 64]), [(name("diff"), vec![64, 32])]);
    assert_eq!(shapes("locon_core", "lora_mid.weight", &[3, 2, 1, 1]), [(name("lora_mid.weight"), vec![3, 3])]);
}

#[test]
fn damaged_values_of_other_kinds_are_named() {
    for (case, tensor) in [("loha", "hada_w2_b"), ("lokr", "lokr_w2_a"), ("full", "diff"), ("lokr_core", "lokr_t2")] {
        let damaged = edited(case, |f| {
            f.get_mut(&name(tensor)).unwrap().2[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        assert_eq!(problem(&damaged), LoraProblem::NotFinite { name: name(tensor) });
    }
}

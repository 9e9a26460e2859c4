//! Choices of several sources, up to the settings that they make.

use flux2::image::{LoraParameters, Parameters, Stored};
use flux2::weights::LoraPath;
use flux2::{NoiseKind, Precision};

use super::*;
use crate::args::{Dtype, Seed};

pub fn args() -> GenerateArgs {
    GenerateArgs { model: Some("model".into()), ..Default::default() }
}

pub fn outside() -> Outside<'static> {
    Outside {
        model: None,
        gpu: GpuOptions::default(),
        text_cache: None,
        preview_cache: None,
        from: None,
        is_file: |_| false,
        is_folder: |_| false,
        prompts: vec!["a red fox".into()],
        files: Choices::default(),
        sources: Sources { templates: Default::default(), wildcards: None, read_wildcard: |_, _| Ok(None) },
        fresh_seed: 7,
        cells: None,
    }
}

fn recorded_parameters() -> Parameters {
    Parameters {
        prompt: "a blue hare".into(),
        negative_prompt: None,
        template: None,
        seed: 11,
        noise: "torch-cpu".into(),
        model: "klein-4b".into(),
        variant: None,
        dtype: "f32".into(),
        steps: 3,
        guidance: Some(2.5),
        width: 128,
        height: 96,
        references: vec![],
        source: None,
        background: None,
        compat: None,
        upscale: None,
        loras: vec![],
        software: "dj-flux2".into(),
        version: "0.1.0".into(),
    }
}

fn picture(parameters: Parameters) -> SourcePicture {
    SourcePicture { file: "pictures/fox.png".into(), stored: Stored::Ours(parameters.into()) }
}

fn refused(args: &GenerateArgs) -> Failure {
    resolve(args, outside()).unwrap_err()
}

#[test]
fn nothing_given_leaves_the_choice_to_the_model() {
    let settings = resolve(&args(), outside()).unwrap();
    let request = &settings.request;
    assert_eq!((request.width, request.height, request.steps, request.guidance), (None, None, None, None));
    assert_eq!((request.seed, settings.seed_is_fresh), (7, true));
    assert_eq!((settings.options.precision, request.noise), (Precision::BF16, NoiseKind::Philox));
    assert_eq!(settings.detail, Detail::Normal);
}

#[test]
fn text_embeddings_are_kept_where_the_environment_says_unless_a_flag_says_not() {
    let outside = || Outside { text_cache: Some("caches/text".into()), ..outside() };
    let folder = |args: &GenerateArgs, outside| {
        resolve(args, outside).unwrap().options.text_cache.map(|cache| cache.folder.display().to_string())
    };
    assert_eq!(folder(&args(), outside()).as_deref(), Some("caches/text"));
    assert_eq!(folder(&GenerateArgs { no_text_cache: true, ..args() }, outside()), None);
    assert_eq!(folder(&args(), Outside { text_cache: None, ..outside() }), None);
}

/// The path of the model, and whether nobody named it.
fn model_of(args: &GenerateArgs, outside: Outside) -> Result<(String, bool)> {
    let settings = resolve(args, outside)?;
    Ok((settings.paths.model.path().display().to_string(), settings.model_is_fallback))
}

#[test]
fn a_flag_beats_the_environment_and_no_name_at_all_is_the_built_in_model() {
    let model = |flag: Option<&str>, environment: Option<&str>| {
        let args = GenerateArgs { model: flag.map(PathBuf::from), ..args() };
        model_of(&args, Outside { model: environment.map(OsString::from), ..outside() })
    };
    assert_eq!(model(Some("flag"), Some("environment")).unwrap(), ("flag".into(), false));
    assert_eq!(model(None, Some("environment")).unwrap(), ("environment".into(), false));
    for environment in [None, Some("")] {
        match cfg!(feature = "mini") {
            true => assert_eq!(model(None, environment).unwrap(), ("klein-mini".into(), true)),
            false => assert_eq!(model(None, environment).unwrap_err().message, "no model is named"),
        }
    }
}

#[test]
fn a_part_or_a_variant_without_a_model_is_refused() {
    let args = || GenerateArgs { model: None, ..args() };
    for args in [
        GenerateArgs { transformer: Some("t".into()), ..args() },
        GenerateArgs { text_encoder: Some("te".into()), ..args() },
        GenerateArgs { vae: Some("vae".into()), ..args() },
        GenerateArgs { variant: Some("klein-mini".into()), ..args() },
        GenerateArgs { lora: vec!["style.safetensors".into()], ..args() },
    ] {
        let failure = refused(&args);
        assert_eq!((failure.code, failure.message.as_str()), (code::MODEL_MISSING, "no model is named"));
    }
}

#[test]
fn a_picture_of_another_model_is_not_made_again_by_the_built_in_one() {
    let model = |made_with: &str| {
        let from = picture(Parameters { model: made_with.into(), guidance: None, ..recorded_parameters() });
        let args = GenerateArgs { model: None, ..args() };
        model_of(&args, Outside { from: Some(&from), prompts: vec![], ..outside() })
    };
    let failure = model("klein-4b").unwrap_err();
    assert_eq!(failure.code, code::MODEL_MISSING);
    assert_eq!(failure.message, "the picture was made with the model \"klein-4b\", and no model is named");
    assert_eq!(model("klein-mini").ok(), cfg!(feature = "mini").then(|| ("klein-mini".into(), false)));
}

#[test]
fn a_picture_gives_what_flags_leave_out() {
    let from = picture(recorded_parameters());
    let outside = || Outside { from: Some(&from), prompts: vec![], ..outside() };
    let settings = resolve(&args(), outside()).unwrap();
    assert_eq!(settings.prompts[0].text, "a blue hare");
    let r = &settings.request;
    assert_eq!((r.width, r.height, r.steps, r.guidance), (Some(128), Some(96), Some(3), Some(2.5)));
    assert_eq!((r.seed, settings.seed_is_fresh, r.noise), (11, false, NoiseKind::TorchCpu));
    assert_eq!(settings.options.precision, Precision::F32);

    let args = GenerateArgs {
        seed: Some(Seed::Number(8)),
        steps: Some(5),
        width: Some(64),
        dtype: Some(Dtype::Bf16),
        noise: Some("philox".into()),
        ..args()
    };
    let settings = resolve(&args, Outside { prompts: vec!["a red fox".into()], ..outside() }).unwrap();
    assert_eq!(settings.prompts[0].text, "a red fox");
    let r = &settings.request;
    assert_eq!((r.width, r.height, r.steps, r.guidance), (Some(64), Some(96), Some(5), Some(2.5)));
    assert_eq!((r.seed, r.noise, settings.options.precision), (8, NoiseKind::Philox, Precision::BF16));
}

#[test]
fn a_picture_names_its_loras_and_they_are_looked_for_here_and_beside_it() {
    let lora = |name: &str| LoraParameters { name: name.into(), scale: 0.5, sha256: "00".into() };
    let from = |name| picture(Parameters { loras: vec![lora(name)], ..recorded_parameters() });
    let found = |name, typed: &[&str], is_file| {
        let args = GenerateArgs { lora: typed.iter().map(OsString::from).collect(), ..args() };
        let settings = resolve(&args, Outside { from: Some(&from(name)), is_file, ..outside() })?;
        let shown = |lora: &LoraPath| format!("{}:{}", lora.location.path().display(), lora.scale);
        Ok::<_, Failure>(settings.paths.loras.iter().map(shown).collect::<Vec<_>>())
    };
    assert_eq!(found("style", &[], |_| true).unwrap(), ["style.safetensors:0.5"]);
    assert_eq!(found("style", &[], |p| p.starts_with("pictures")).unwrap(), ["pictures/style.safetensors:0.5"]);
    let adapter = |p: &Path| p == Path::new("pictures/v1.5/adapter_model.safetensors");
    assert_eq!(found("v1.5", &[], adapter).unwrap(), ["pictures/v1.5:0.5"]);
    assert_eq!(found("style", &["other", "more:2"], |_| false).unwrap(), ["other:1", "more:2"]);
    let adapters = |p: &Path| p.ends_with("adapter_model.safetensors");
    assert_eq!(found("..", &[], adapters).unwrap_err().code, code::MODEL_MISSING);
    for name in ["style", "../style", "/style", "a/b"] {
        let is_elsewhere = |p: &Path| !["style.safetensors", "style", "pictures"].iter().any(|at| p.starts_with(at));
        let failure = found(name, &[], is_elsewhere);
        assert_eq!(failure.unwrap_err().code, code::MODEL_MISSING, "{name}");
    }
}

#[test]
fn a_picture_of_another_time_is_not_guessed_at() {
    for from in [
        Parameters { noise: "brownian".into(), ..recorded_parameters() },
        Parameters { dtype: "f8".into(), ..recorded_parameters() },
        Parameters { steps: 0, ..recorded_parameters() },
        Parameters { width: 100, ..recorded_parameters() },
    ] {
        let from = picture(from);
        let failure = resolve(&args(), Outside { from: Some(&from), prompts: vec![], ..outside() }).unwrap_err();
        assert_eq!(failure.code, code::USAGE, "{failure:?}");
    }
}

#[test]
fn the_last_seed_is_the_largest_number() {
    let with = |count| GenerateArgs { seed: Some(Seed::Number(u64::MAX - 1)), count: Some(count), ..args() };
    assert!(resolve(&with(2), outside()).is_ok());
    assert_eq!(refused(&with(3)).hint.unwrap(), format!("use -S {} or less", u64::MAX - 2));
}

#[test]
fn what_no_model_does_is_refused_before_one_is_opened() {
    for args in [
        GenerateArgs { width: Some(500), ..args() },
        GenerateArgs { size: Some((64, 32)), ..args() },
        GenerateArgs { steps: Some(0), ..args() },
        GenerateArgs { guidance: Some(f32::NAN), ..args() },
        GenerateArgs { variant: Some("klien-4b".into()), ..args() },
        GenerateArgs { noise: Some("pink".into()), ..args() },
        GenerateArgs { input: vec!["a.png".into(); 17], ..args() },
        GenerateArgs { output: Some("fox.gif".into()), ..args() },
        GenerateArgs { output: Some("-".into()), json: true, ..args() },
    ] {
        assert_eq!(refused(&args).code, code::USAGE, "{args:?}");
    }
}

//! The models that a server offers: by the engine, or by the fake.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flux2::weights::{Location, ModelFiles, PreviewDecoderFile};
use flux2::{Device, EngineOptions, ModelPaths, Precision, PreviewOptions, Residency, TextCache, Variant};
use flux2_jobs::engine::{EngineHost, EngineHostOptions, OfferedModel};
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{FailureClass, ModelHost};

use crate::args::BackendKind;
#[cfg(feature = "mcp")]
use crate::args::McpArgs;
#[cfg(feature = "serve")]
use crate::args::ServeArgs;
#[cfg(feature = "fleet")]
use crate::args::WorkerArgs;
use crate::cache_folder;
use crate::failure::{Failure, Result, code};
use crate::gpu_options::gpu_options;
use crate::prepare::find_model;
use crate::settings::formats::{precision, threads};
use crate::upscalers;

/// What draws, and the names of its models, the default first.
pub struct Host {
    pub host: Arc<dyn ModelHost>,
    pub names: Vec<String>,
}

/// What is offered, and what draws it.
pub struct Offer<'a> {
    /// Models as they were typed, the default first.
    models: &'a [String],
    /// LoRAs: names and files.
    loras: &'a [(String, String)],
    upscalers: &'a [PathBuf],
    /// What decodes previews.
    preview_decoder: Option<&'a Path>,
    /// Draw with random weights of this model's sizes instead of `models`.
    synthetic: Option<&'a str>,
    precision: Result<Precision>,
    device: Device,
    threads: Option<u16>,
    max_memory: Option<usize>,
    no_text_cache: bool,
    /// Whether pictures are only drawn together where that is faster.
    useful_batches: bool,
    backend: BackendKind,
    fake: FakeSettings<'a>,
}

/// How the fake behaves.
#[derive(Default)]
struct FakeSettings<'a> {
    load_ms: u64,
    step_ms: u64,
    failures: &'a [(String, String)],
}

#[cfg(feature = "serve")]
impl<'a> From<&'a ServeArgs> for Offer<'a> {
    fn from(args: &'a ServeArgs) -> Self {
        Offer {
            models: &args.model,
            loras: &args.lora,
            upscalers: &args.upscaler,
            preview_decoder: args.preview_decoder.as_deref(),
            synthetic: args.synthetic.as_deref(),
            precision: precision(args.running.dtype, args.running.quantize),
            device: args.running.device.unwrap_or_default(),
            threads: args.running.threads,
            max_memory: args.running.max_memory,
            no_text_cache: args.running.no_text_cache,
            useful_batches: args.max_batch.is_none(),
            backend: args.backend,
            fake: FakeSettings { load_ms: args.fake_load_ms, step_ms: args.fake_step_ms, failures: &args.fake_fail },
        }
    }
}

#[cfg(feature = "fleet")]
impl<'a> From<&'a WorkerArgs> for Offer<'a> {
    fn from(args: &'a WorkerArgs) -> Self {
        Offer {
            models: &args.model,
            loras: &args.lora,
            // Jobs name upscalers that are built in: a front end knows no others.
            upscalers: &[],
            preview_decoder: args.preview_decoder.as_deref(),
            synthetic: None,
            precision: precision(args.running.dtype, args.running.quantize),
            device: args.running.device.unwrap_or_default(),
            threads: args.running.threads,
            max_memory: args.running.max_memory,
            no_text_cache: args.running.no_text_cache,
            useful_batches: true,
            backend: args.backend,
            fake: FakeSettings { load_ms: args.fake_load_ms, step_ms: args.fake_step_ms, failures: &args.fake_fail },
        }
    }
}

#[cfg(feature = "mcp")]
impl<'a> From<&'a McpArgs> for Offer<'a> {
    fn from(args: &'a McpArgs) -> Self {
        Offer {
            models: &args.model,
            loras: &args.lora,
            upscalers: &args.upscaler,
            preview_decoder: None,
            synthetic: None,
            precision: precision(args.running.dtype, args.running.quantize),
            device: args.running.device.unwrap_or_default(),
            threads: args.running.threads,
            max_memory: args.running.max_memory,
            no_text_cache: args.running.no_text_cache,
            useful_batches: true,
            backend: args.backend,
            fake: FakeSettings { step_ms: args.fake_step_ms, ..FakeSettings::default() },
        }
    }
}

/// Finds the models and opens nothing yet.
pub fn open(args: &Offer) -> Result<Host> {
    let offered = match args.synthetic {
        Some(name) => vec![(name.to_owned(), Location::from(name))],
        None => offered(args)?,
    };
    let names: Vec<String> = offered.iter().map(|(name, _)| name.clone()).collect();
    let host: Arc<dyn ModelHost> = match args.backend {
        BackendKind::Fake => Arc::new(FakeHost::new(fake_options(args, names.clone())?)),
        BackendKind::Engine => Arc::new(EngineHost::new(engine_options(args, offered)?)),
    };
    Ok(Host { host, names })
}

/// The models that are named, where an engine draws.
pub fn models(args: &Offer) -> Result<Vec<Location>> {
    match args.backend {
        BackendKind::Fake => Ok(Vec::new()),
        BackendKind::Engine => Ok(offered(args)?.into_iter().map(|(_, location)| location).collect()),
    }
}

/// Names and places of the models, the default first.
fn offered(args: &Offer) -> Result<Vec<(String, Location)>> {
    let environment = std::env::var("DJ_FLUX2_MODEL").ok().filter(|model| !model.is_empty());
    let typed: Vec<String> = match (args.models.is_empty(), environment) {
        (false, _) => args.models.to_vec(),
        (true, Some(model)) => vec![model],
        (true, None) if cfg!(feature = "mini") || args.backend == BackendKind::Fake => vec!["klein-mini".into()],
        (true, None) => {
            let hint = "pass -m PATH with the folder of a FLUX.2 [klein] model, or set DJ_FLUX2_MODEL to it";
            return Err(Failure::new(code::MODEL_MISSING, "no model is named", hint));
        }
    };
    let mut models: Vec<(String, Location)> = Vec::new();
    for text in &typed {
        let (name, place) = name_and_place(text, Path::exists);
        if models.iter().any(|(known, _)| *known == name) {
            let message = format!("two models are called {name}");
            return Err(Failure::usage(message, format!("give one another name, as in -m other={place}")));
        }
        models.push((name, Location::from(place.as_str())));
    }
    Ok(models)
}

/// `NAME=MODEL` taken apart, unless a file is called so. Without a name, the last part of the path is the name.
fn name_and_place(text: &str, exists: impl Fn(&Path) -> bool) -> (String, String) {
    if let Some((name, place)) = text.split_once('=').filter(|(name, _)| !name.is_empty() && !exists(Path::new(text))) {
        return (name.to_owned(), place.to_owned());
    }
    let last = Path::new(text).file_name().map_or(text.into(), |last| last.to_string_lossy());
    (last.into_owned(), text.to_owned())
}

fn engine_options(args: &Offer, offered: Vec<(String, Location)>) -> Result<EngineHostOptions> {
    let variant = args.synthetic.map(Variant::by_name).transpose()?;
    let model = |(name, place): (String, Location)| {
        if let Some(variant) = variant {
            let synthetic = ModelFiles::synthetic(variant).map(|_| variant);
            let message = format!("{name} has no sizes of its own");
            synthetic.ok_or_else(|| Failure::usage(message, "name a model that `bench generate --synthetic` takes"))?;
            return Ok(OfferedModel { name, aliases: vec![], paths: ModelPaths::default(), synthetic });
        }
        let repository = Variant::by_name(&name).ok().and_then(|variant| variant.repo);
        Ok(OfferedModel {
            paths: ModelPaths { model: find_model(&place)?, ..Default::default() },
            aliases: repository.map(str::to_owned).into_iter().collect(),
            name,
            synthetic: None,
        })
    };
    let decoder = args.preview_decoder.map(|file| PreviewDecoderFile::open(&Location::from(file)));
    let text_cache = cache_folder::text_cache(|name| std::env::var_os(name)).filter(|_| !args.no_text_cache);
    Ok(EngineHostOptions {
        models: offered.into_iter().map(model).collect::<Result<_>>()?,
        loras: args.loras.iter().map(|(name, file)| (name.clone(), Location::from(file.as_str()))).collect(),
        upscalers: upscalers::offered(args.upscalers)?,
        engine: EngineOptions {
            device: args.device,
            precision: args.precision.clone()?,
            threads: threads(args.threads),
            gpu: gpu_options(),
            residency: Residency::KeepAll,
            max_memory: None,
            text_cache: text_cache.map(TextCache::new),
            previews: PreviewOptions {
                decoder: decoder.transpose()?.map(Arc::new),
                cache: cache_folder::previews(|name| std::env::var_os(name)),
            },
        },
        max_devices: None,
        memory: args.max_memory,
        useful_batches: args.useful_batches,
    })
}

fn fake_options(args: &Offer, models: Vec<String>) -> Result<FakeOptions> {
    let failure = |(text, name): &(String, String)| {
        let class = FailureClass::ALL.into_iter().find(|class| class.name() == name);
        let names = || FailureClass::ALL.map(FailureClass::name).join(", ");
        let class = class.ok_or_else(|| Failure::usage(format!("no failure is called {name}"), names()))?;
        Ok((text.clone(), class))
    };
    Ok(FakeOptions {
        models,
        loras: args.loras.iter().map(|(name, _)| name.clone()).collect(),
        load: Duration::from_millis(args.fake.load_ms),
        step: Duration::from_millis(args.fake.step_ms),
        failures: args.fake.failures.iter().map(failure).collect::<Result<_>>()?,
        ..FakeOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_have_a_name_of_its_own() {
        let parts = |text, exists: bool| name_and_place(text, move |_| exists);
        assert_eq!(parts("klein-4b", false), ("klein-4b".into(), "klein-4b".into()));
        assert_eq!(parts("small=/m/klein", false), ("small".into(), "/m/klein".into()));
        assert_eq!(parts("/m/a=b", true), ("a=b".into(), "/m/a=b".into()));
        assert_eq!(parts("/m/klein/", false), ("klein".into(), "/m/klein/".into()));
        assert_eq!(parts("=x", false), ("=x".into(), "=x".into()));
    }
}

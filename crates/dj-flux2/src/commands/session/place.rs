//! Where the pictures of a session are drawn: by the engine in this process, or by a server.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flux2::canvas::{Rule, SourceOptions};
use flux2::image::{Parameters, Preparation, Quality, Transparency, codec, metadata};
use flux2::weights::ModelFiles;
use flux2::{CancelToken, EngineOptions, ModelPaths, Reference, Residency, Source, Variant};
use flux2_jobs::engine::{EngineHost, EngineHostOptions, OfferedModel};
use flux2_jobs::{LoraKey, ModelChoice, Options, Painting, Signer, SourceSpec};
use flux2_session::{LocalStudio, Studio};

use super::remote::RemoteStudio;
use crate::args::GenerateArgs;
use crate::commands::find_or_offer;
use crate::credentials;
use crate::failure::{Failure, Result};
use crate::prepare;
use crate::report::Report;
use crate::settings::Settings;
use crate::settings::canvas::SourceSettings;
use crate::typed_paths::{name_of, read_picture};
use crate::upscalers;

/// Where pictures are drawn.
pub enum Place {
    /// In this process; the engine is started by the first settings.
    Here(Option<Running>),
    /// On a server.
    There(RemoteStudio),
}

/// An engine with its model.
pub struct Running {
    /// What of the settings it was started with.
    key: String,
    studio: LocalStudio,
    variant: &'static Variant,
    name: String,
}

/// What a picture is drawn from, as its draft names it.
#[derive(Default)]
pub struct Inputs {
    pub references: Vec<String>,
    pub source: Option<SourceSpec>,
    pub model: ModelChoice,
}

/// Settings that a server decides by itself.
const OF_THE_SERVER: [&str; 10] = [
    "transformer",
    "text-encoder",
    "vae",
    "variant",
    "device",
    "threads",
    "max-memory",
    "no-text-cache",
    "c2pa-key",
    "c2pa-cert",
];

/// Settings that the API of a server has no field for.
const NOT_IN_THE_API: [&str; 6] =
    ["compat", "background", "negative-prompt", "jpeg-quality", "jpeg-chroma", "webp-quality"];

impl Place {
    /// Refuses a setting that has no effect here.
    pub fn check(&self, setting: &str) -> Result<()> {
        match self {
            Place::There(_) if OF_THE_SERVER.contains(&setting) => {
                let hint = "the server decides it: leave it out, or start the session without --connect";
                Err(Failure::usage(format!("{setting} cannot be chosen on a server"), hint))
            }
            Place::There(_) if NOT_IN_THE_API.contains(&setting) => {
                let hint = "its API has no field for it: leave it out, or start the session without --connect";
                Err(Failure::usage(format!("{setting} cannot be chosen on a server"), hint))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a setting that names a file or a model which is not there, or not what it should be. Nothing is loaded.
    pub fn check_files(
        &self,
        setting: &str,
        settings: &Settings,
        typed: &GenerateArgs,
        report: &mut Report,
    ) -> Result<()> {
        match (self, setting) {
            (Place::Here(_), "model" | "transformer" | "text-encoder" | "vae" | "variant" | "lora") => {
                files_of(settings, report).map(drop)
            }
            (Place::There(remote), "model") => remote.check_model(typed.model.as_deref()),
            (Place::Here(_), "upscaler") => upscalers::find(typed.upscale.upscaler.as_deref()).map(drop),
            (Place::Here(_), "c2pa-key" | "c2pa-cert") => signer_of(settings).map(drop),
            _ => Ok(()),
        }
    }

    /// Prepares for pictures of these settings. In this process the model begins to load, unless it is there.
    /// `upscaler` is what enlarges them, if that was chosen.
    pub fn prepare(&mut self, settings: &Settings, upscaler: Option<&Path>, report: &mut Report) -> Result<()> {
        match self {
            Place::There(_) => check_remote(settings),
            Place::Here(running) => {
                let key = key(settings, upscaler);
                if running.as_ref().is_none_or(|running| running.key != key) {
                    // The memory of the model before is free first.
                    *running = None;
                    *running = Some(start(settings, upscaler, key, report)?);
                }
                Ok(())
            }
        }
    }

    /// What draws.
    pub fn studio(&self) -> Result<&dyn Studio> {
        match self {
            Place::Here(Some(running)) => Ok(&running.studio),
            Place::There(remote) => Ok(remote),
            Place::Here(None) => Err(Failure::usage("no model is loaded", "choose one that is there, with !set model")),
        }
    }

    /// What draws, in a few words.
    pub fn describe(&self) -> String {
        match self {
            Place::Here(Some(running)) => running.name.clone(),
            Place::Here(None) => "no model".into(),
            Place::There(remote) => remote.url().to_owned(),
        }
    }

    /// Names of models for completion.
    pub fn models(&self) -> Vec<String> {
        match self {
            Place::There(remote) => remote.models().unwrap_or_default(),
            Place::Here(_) => Vec::new(),
        }
    }

    /// Gives the pictures of the settings a size that follows from a shape, and hands over the files that they are
    /// drawn from. `typed` are the flags that were chosen in the session.
    pub fn hand_over(&self, settings: &mut Settings, typed: &GenerateArgs) -> Result<Inputs> {
        let files = settings.references.iter().map(|path| read_picture(path).map(|bytes| (path, bytes)));
        let files = files.collect::<Result<Vec<_>>>()?;
        let preparation = settings.preparation;
        let decoded = |(path, bytes): &(&PathBuf, Vec<u8>)| {
            Reference::prepared(bytes, &name_of(path), &preparation).map_err(Failure::image)
        };
        // Only a shape depends on the size of the first reference.
        let first = files.first().map(decoded).transpose()?;
        let default_px = match self {
            Place::Here(Some(running)) => Some(running.variant.default_px),
            Place::There(remote) => remote.default_px(typed.model.as_deref().and_then(Path::to_str))?,
            Place::Here(None) => None,
        };
        let usual = match &first {
            Some(first) => Some([first.image().width(), first.image().height()]),
            None => default_px.map(|side| [side; 2]),
        };
        if let Some(usual) = usual {
            (settings.request.width, settings.request.height) = settings.size.fitted(usual);
        }
        let studio = self.studio()?;
        let mut inputs = Inputs::default();
        for file in &files {
            let digest = match self {
                Place::Here(Some(running)) if preparation != Preparation::default() => {
                    let reference = decoded(file)?;
                    let digest = reference.sha256().to_owned();
                    running.studio.pin_reference(reference);
                    digest
                }
                _ => studio.keep(&file.1)?,
            };
            inputs.references.push(digest);
        }
        inputs.source = settings.source.as_ref().map(|of| self.source(of)).transpose()?;
        if let Place::There(_) = self {
            let lora = |lora: &flux2::weights::LoraPath| LoraKey {
                name: lora.location.path().to_string_lossy().into_owned(),
                scale: lora.scale,
            };
            let has_format = typed.dtype.is_some() || typed.quantize.is_some();
            inputs.model = ModelChoice {
                name: typed.model.as_ref().map(|name| name.to_string_lossy().into_owned()),
                loras: settings.paths.loras.iter().filter(|_| !typed.lora.is_empty()).map(lora).collect(),
                precision: has_format.then_some(settings.options.precision),
            };
        }
        Ok(inputs)
    }

    /// The picture to paint into, handed over.
    fn source(&self, of: &SourceSettings) -> Result<SourceSpec> {
        let bytes = read_picture(&of.source)?;
        let mask = of.mask.as_deref().map(read_picture).transpose()?;
        let painting = painting(&of.options);
        if let (Place::Here(Some(running)), true) = (self, is_special(&of.options)) {
            let mask = mask.as_deref().zip(of.mask.as_deref()).map(|(mask, path)| (mask, name_of(path)));
            let mask = mask.as_ref().map(|(mask, name)| (*mask, name.as_str()));
            let source = Source::from_bytes(&bytes, &name_of(&of.source), mask, of.options.clone());
            let source = source.map_err(Failure::image)?;
            let (digest, mask) = (source.sha256().to_owned(), source.mask_sha256().map(str::to_owned));
            running.studio.pin_source(source);
            return Ok(SourceSpec { source: digest, mask, painting });
        }
        let studio = self.studio()?;
        let mask = mask.map(|mask| studio.keep(&mask)).transpose()?;
        Ok(SourceSpec { source: studio.keep(&bytes)?, mask, painting })
    }

    /// The name of what enlarges pictures, as it is offered here; that of a server's default is left to it.
    pub fn upscaler_name(&self, upscaler: Option<&Path>) -> Result<Option<String>> {
        match self {
            Place::Here(_) => Ok(Some(upscalers::find(upscaler)?.name().to_owned())),
            Place::There(_) => Ok(upscaler.map(|upscaler| upscaler.to_string_lossy().into_owned())),
        }
    }

    /// The file of an enlarged picture, a PNG that says how it was made.
    pub fn enlarge(
        &self,
        file: &[u8],
        by: Option<f32>,
        upscaler: Option<&Path>,
        cancel: &CancelToken,
    ) -> Result<Vec<u8>> {
        let name = self.upscaler_name(upscaler)?;
        Ok(self.studio()?.enlarge(file, by, name.as_deref(), cancel)?)
    }
}

/// What a source's options say in a draft.
fn painting(options: &SourceOptions) -> Painting {
    Painting {
        mask_from_alpha: options.mask_from_alpha,
        mask_invert: options.mask_invert,
        mask_grow: options.mask_grow,
        feather: options.feather,
        outpaint: options.outpaint.as_ref().map(|outpaint| outpaint.sides),
        outpaint_fill: options.outpaint.as_ref().map(|outpaint| outpaint.fill).unwrap_or_default(),
        strength: options.strength,
        source_reference: options.as_reference,
    }
}

/// Whether a draft cannot say all that the options do.
fn is_special(options: &SourceOptions) -> bool {
    options.rule != Rule::Own || options.transparency != Transparency::default()
}

/// Refuses what files of settings choose and a server does not take.
fn check_remote(settings: &Settings) -> Result<()> {
    let wants = [
        ("compat", settings.request.compat.is_some()),
        ("background", settings.preparation != Preparation::default()),
        ("negative-prompt", settings.request.negative_prompt.is_some()),
        ("a quality of the files", settings.quality != Quality::default()),
        ("c2pa-key", settings.credentials.is_some()),
    ];
    match wants.iter().find(|(_, is_wanted)| *is_wanted) {
        Some((what, _)) => {
            let hint = "start the session with --config off, or without --connect";
            Err(Failure::usage(format!("{what} cannot be chosen on a server"), hint))
        }
        None => Ok(()),
    }
}

/// What of the settings an engine is started with.
fn key(settings: &Settings, upscaler: Option<&Path>) -> String {
    let EngineOptions { device, precision, threads, text_cache, .. } = &settings.options;
    // Those that have a name are always offered.
    let upscaler = upscaler.filter(|upscaler| upscaler.exists());
    let Settings { paths, max_memory, credentials, .. } = settings;
    format!("{paths:?} {device:?} {precision:?} {threads:?} {text_cache:?} {max_memory:?} {credentials:?} {upscaler:?}")
}

/// Starts an engine, which begins to load its model.
fn start(settings: &Settings, upscaler: Option<&Path>, key: String, report: &mut Report) -> Result<Running> {
    let (paths, files) = files_of(settings, report)?;
    let (name, variant) = (files.name.clone(), files.variant);
    let upscaler: Vec<PathBuf> = upscaler.map(Path::to_owned).into_iter().collect();
    let engine = EngineOptions { residency: Residency::KeepAll, max_memory: None, ..settings.options.clone() };
    let model = OfferedModel { name: name.clone(), aliases: vec![], paths, synthetic: None };
    let host = EngineHost::new(EngineHostOptions {
        models: vec![model],
        upscalers: upscalers::offered(&upscaler)?,
        engine,
        memory: settings.max_memory,
        ..EngineHostOptions::default()
    });
    let options = Options { signer: signer_of(settings)?, ..Options::default() };
    let studio = LocalStudio::start(Arc::new(host), options)?;
    studio.preload()?;
    Ok(Running { key, studio, variant, name })
}

/// Where the model is, and its files, opened. One that can be downloaded is offered to a person.
fn files_of(settings: &Settings, report: &mut Report) -> Result<(ModelPaths, ModelFiles)> {
    let mut paths = settings.paths.clone();
    let cancel: LazyCell<CancelToken> = LazyCell::new(CancelToken::new);
    prepare::locate(&mut paths, |model| find_or_offer(model, report, &cancel))?;
    let files = ModelFiles::open(&paths)?;
    Ok((paths, files))
}

/// What signs pictures, if that was chosen.
fn signer_of(settings: &Settings) -> Result<Option<Arc<dyn Signer>>> {
    let credentials = settings.credentials.as_ref().map(|[key, certificates]| (key.as_path(), certificates.as_path()));
    credentials::signer(credentials, HashMap::new())
}

/// The parameters that a picture stores; none if it stores none that can be read.
pub fn stored(file: &[u8]) -> Option<Parameters> {
    metadata::read(file).ok().flatten()
}

/// Width and height of a picture.
pub fn size_of(file: &[u8]) -> Result<[u32; 2]> {
    let image = codec::decode(file, "the picture").map_err(Failure::image)?;
    Ok([image.width(), image.height()])
}

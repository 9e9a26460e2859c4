//! What a run needs before it starts: names become locations, locations become files, reference images are read.

use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flux2::canvas::Rule;
use flux2::digest::sha256;
use flux2::find::ModelFinder;
use flux2::image::codec::WHITE;
use flux2::image::{ImageFormat, Preparation, Transparency, hexadecimal};
use flux2::weights::{
    Component, Location, ModelFiles, Part, PreviewDecoderFile, TextConfig, TransformerConfig, VaeConfig,
};
use flux2::{Error, ModelPaths, Reference, Source, Variant, environment, plan};

use crate::args::GenerateArgs;
use crate::cache_folder;
use crate::choices::Choices;
use crate::config::{self, Config};
use crate::failure::{Failure, Result};
use crate::gpu_options::gpu_options;
use crate::prompts::read_prompts;
use crate::report::Report;
use crate::settings::canvas::SourceSettings;
use crate::settings::expansion::Sources;
use crate::settings::{Outside, Settings, Show};
use crate::source_picture::SourcePicture;
use crate::{templates, typed_paths};

/// A model whose files are checked, decoded reference images, and the picture to paint into.
pub struct Prepared {
    pub files: ModelFiles,
    pub references: Vec<Reference>,
    pub source: Option<Source>,
}

/// Everything outside the arguments that settings depend on, read from this process and its environment.
pub fn outside<'a>(args: &GenerateArgs, from: Option<&'a SourcePicture>) -> Result<Outside<'a>> {
    let config = config::load(args.config.as_deref())?;
    let files = config.choices(&args.preset, Path::is_file)?;
    outside_with(args, from, &config, files)
}

/// The same with files of settings that were read before.
pub fn outside_with<'a>(
    args: &GenerateArgs,
    from: Option<&'a SourcePicture>,
    config: &Config,
    files: Choices,
) -> Result<Outside<'a>> {
    Ok(Outside {
        model: environment::path_of(&|name: &str| std::env::var_os(name), "DJ_FLUX2_MODEL").map(OsString::from),
        gpu: gpu_options(),
        text_cache: cache_folder::text_cache(|name| std::env::var_os(name)),
        preview_cache: cache_folder::previews(|name| std::env::var_os(name)),
        from,
        is_file: Path::is_file,
        is_folder: Path::is_dir,
        prompts: read_prompts(args)?,
        files,
        sources: sources(config),
        fresh_seed: fresh_seed(),
        cells: None,
    })
}

/// Templates and wildcards: those of the program, and those of the files.
pub fn sources(config: &Config) -> Sources {
    let mut templates = templates::built_in();
    templates.extend(config.templates.clone());
    Sources { templates, wildcards: config.wildcards(), read_wildcard: templates::read_wildcard }
}

/// A random seed, from the random state of the standard library's hash maps. It has 53 bits: programs that read JSON
/// numbers as floating point, such as jq, would change a longer one.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(()) >> 11
}

/// The model called `named`, on this disk.
pub fn find_model(named: &Location) -> Result<Location> {
    Ok(ModelFinder::usual().model(&typed_paths::model(named)?)?)
}

/// Replaces the names in `paths` by locations. The model itself is found by `find`.
pub fn locate(paths: &mut ModelPaths, find: impl FnOnce(&Location) -> Result<Location>) -> Result<()> {
    paths.model = find(&paths.model)?;
    paths.loras.iter().try_for_each(|lora| typed_paths::check_lora(&lora.location))?;
    let finder = ModelFinder::usual();
    let networks = [
        (&mut paths.transformer, Part::Transformer),
        (&mut paths.text_encoder, Part::TextEncoder),
        (&mut paths.vae, Part::Vae),
    ];
    for (location, part) in networks {
        if let Some(named) = location {
            *location = Some(typed_paths::network(finder.part(named)?, part)?);
        }
    }
    Ok(())
}

/// Opens the files of the located model, and reads the references.
pub fn open(settings: &Settings, report: &Report) -> Result<Prepared> {
    let mut files = ModelFiles::open(&settings.paths)?;
    // Files may not say which variant they are, and --variant may have overruled them; the picture knows.
    if let Some(variant) = settings.made_as.as_deref().filter(|variant| *variant != files.variant.kind_name()) {
        report.warning(format_args!("the picture was made as {variant}, so this one is too"));
        let variant = Some(Variant::by_name(variant)?);
        files = ModelFiles::open(&ModelPaths { variant, ..settings.paths.clone() })?;
    }
    with_references(files, settings, report)
}

/// A published model that is not on this disk, for a plan, with the networks and LoRAs that are given as files; and the
/// references.
pub fn open_published(variant: &'static Variant, settings: &Settings, report: &Report) -> Result<Prepared> {
    let ModelPaths { text_encoder, vae, loras, .. } = &settings.paths;
    let mut files = ModelFiles::published(variant).expect("every published variant has a size");
    if let Some(location) = text_encoder {
        files.text_encoder = Component::<TextConfig>::open(location.clone())?;
    }
    if let Some(location) = vae {
        files.vae = Component::<VaeConfig>::open(location.clone())?;
    }
    if let Some(location) = &settings.paths.transformer {
        files.transformer = Component::<TransformerConfig>::open(location.clone())?;
    }
    with_references(files.with_loras(loras)?, settings, report)
}

/// The decoder for previews, if one is named and previews are shown: it must be one for the latents of the model.
pub fn preview_decoder(settings: &Settings, files: &ModelFiles) -> Result<Option<Arc<PreviewDecoderFile>>> {
    let are_shown = settings.preview.is_some() || settings.show == Show::Steps;
    let Some(path) = settings.preview_decoder.as_ref().filter(|_| are_shown) else { return Ok(None) };
    let decoder = PreviewDecoderFile::open(&Location::from(path.as_path()))?;
    let (reads, makes) = (decoder.config.latent_channels, files.vae.config.latent_channels);
    if reads != makes {
        let (file, model) = (path.display(), &files.name);
        let message = format!("{file} decodes latents of {reads} channels, and those of {model} have {makes}");
        return Err(Failure::usage(message, "leave --preview-decoder out, or use the one for this model"));
    }
    Ok(Some(Arc::new(decoder)))
}

/// The model, and the references.
fn with_references(files: ModelFiles, settings: &Settings, report: &Report) -> Result<Prepared> {
    let check = |read: &[Reference], bytes| match settings.max_memory {
        Some(limit) => plan::check_reading(limit, &files, &settings.options, read, bytes),
        None => Ok(()),
    };
    let references = read_references(&settings.references, &settings.preparation, check)?;
    let transparent =
        settings.references.iter().zip(&references).filter(|(_, reference)| reference.transparency().is_some());
    for (path, _) in transparent {
        let path = path.display();
        report.warning(match settings.preparation.transparency {
            Transparency::Over(WHITE) => {
                format!("{path} is transparent: the model sees it over white, without its hidden colors")
            }
            Transparency::Over(color) => {
                let color = hexadecimal(color);
                format!("{path} is transparent: the model sees it over {color}, without its hidden colors")
            }
            Transparency::Dropped => {
                format!("{path} is transparent: the model sees it without its alpha channel, with its hidden colors")
            }
        });
    }
    let source = settings.source.as_ref().map(|of| read_source(of, |bytes| check(&references, bytes))).transpose()?;
    if let Some((of, source)) = settings.source.as_ref().zip(source.as_ref()) {
        note_source(of, source, settings, report);
    }
    Ok(Prepared { files, references, source })
}

/// Reads the picture to paint into and its mask. `check` is asked before it is decoded: with the bytes that it takes.
pub fn read_source(of: &SourceSettings, check: impl Fn(usize) -> flux2::Result<()>) -> Result<Source> {
    let SourceSettings { source, mask, options } = of;
    let name = typed_paths::name_of(source);
    let read = |path: &PathBuf| -> Result<(Vec<u8>, String)> {
        let name = typed_paths::name_of(path);
        let length = path.metadata().map_or(0, |file| file.len() as usize);
        check(length).map_err(|error| unread(error, &name))?;
        Ok((typed_paths::read_picture(path)?, name))
    };
    let (bytes, _) = read(source)?;
    let mask = mask.as_ref().map(read).transpose()?;
    let mask = mask.as_ref().map(|(bytes, name)| (&bytes[..], &name[..]));
    let reading = Source::reading_bytes_of(&bytes, &name, mask, options).and_then(check);
    let source = reading.and_then(|()| Source::from_bytes(&bytes, &name, mask, options.clone()));
    source.map_err(|error| match error {
        Error::SourceTooSmall { .. } | Error::SourceProfile | Error::NoTransparency => {
            Failure::from(error).of_file(Path::new(&name))
        }
        error => unread(error, &name),
    })
}

/// Says what of a source the result does not keep.
fn note_source(of: &SourceSettings, source: &Source, settings: &Settings, report: &Report) {
    let format = settings.output.format();
    if of.options.rule == Rule::Own && source.has_mask() {
        match (format, settings.quality.webp) {
            (ImageFormat::Jpeg, _) => {
                report.warning("a JPEG changes pixels that the mask keeps: write a .png or .webp to keep them exactly")
            }
            (ImageFormat::WebP, Some(_)) => {
                report.warning("--webp-quality changes pixels that the mask keeps: leave it out to keep them exactly");
            }
            _ => {}
        }
        if settings.watermark {
            report.warning("the watermark changes pixels that the mask keeps: leave it out to keep them exactly");
        }
    }
    if source.is_transparent() && format == ImageFormat::Jpeg {
        report.warning("a JPEG has no transparency: the picture is put over white");
    }
}

/// Reads reference images. `check` is asked before each: with those before it, and the bytes that reading it takes.
pub fn read_references(
    paths: &[PathBuf],
    preparation: &Preparation,
    check: impl Fn(&[Reference], usize) -> flux2::Result<()>,
) -> Result<Vec<Reference>> {
    let mut references: Vec<Reference> = Vec::new();
    for path in paths {
        let name = typed_paths::name_of(path);
        // A file is not even read if it alone takes too much.
        let length = path.metadata().map_or(0, |file| file.len() as usize);
        check(&references, length).map_err(|error| unread(error, &name))?;
        let bytes = typed_paths::read_picture(path)?;
        let digest = sha256(&bytes);
        if let Some(same) = references.iter().find(|reference| reference.sha256() == digest) {
            references.push(same.clone());
            continue;
        }
        let reading =
            Reference::reading_bytes_to(preparation, &bytes, &name).and_then(|bytes| check(&references, bytes));
        let reference = reading.and_then(|()| Reference::prepared(&bytes, &name, preparation));
        references.push(reference.map_err(|error| unread(error, &name))?);
    }
    Ok(references)
}

/// The failure to read a reference image called `name`, which not every error says.
fn unread(error: Error, name: &str) -> Failure {
    match error {
        Error::MemoryLimit { .. } => Failure::from(error).of_file(Path::new(name)),
        Error::ImageTooSmall { .. } | Error::ImageAspect { .. } => Failure::image(error).of_file(Path::new(name)),
        error => Failure::image(error),
    }
}

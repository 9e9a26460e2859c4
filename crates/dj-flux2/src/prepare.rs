//! What a run needs before it starts: names become locations, locations become files, reference images are read.

use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use flux2::find::ModelFinder;
use flux2::image::codec::WHITE;
use flux2::image::{Transparency, hexadecimal, resize};
use flux2::weights::{Location, ModelFiles, Part};
use flux2::{ModelPaths, Reference, Variant, environment};

use crate::args::GenerateArgs;
use crate::cache_folder;
use crate::failure::{Failure, Result};
use crate::gpu_options::gpu_options;
use crate::prompts::read_prompts;
use crate::report::Report;
use crate::settings::{Outside, Settings};
use crate::source_picture::SourcePicture;
use crate::typed_paths;

/// A model whose files are checked, and decoded reference images.
pub struct Prepared {
    pub files: ModelFiles,
    pub references: Vec<Reference>,
}

/// Everything outside the arguments that settings depend on, read from this process and its environment.
pub fn outside<'a>(args: &GenerateArgs, from: Option<&'a SourcePicture>) -> Result<Outside<'a>> {
    Ok(Outside {
        model: environment::path_of(&|name: &str| std::env::var_os(name), "DJ_FLUX2_MODEL").map(OsString::from),
        gpu: gpu_options(),
        text_cache: cache_folder::text_cache(|name| std::env::var_os(name)),
        from,
        is_file: Path::is_file,
        is_folder: Path::is_dir,
        prompts: read_prompts(args)?,
        fresh_seed: fresh_seed(),
    })
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
    let references = read_references(&settings.references, settings.transparency)?;
    for (path, _) in
        settings.references.iter().zip(&references).filter(|(_, reference)| reference.transparency().is_some())
    {
        let path = path.display();
        report.warning(match settings.transparency {
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
    Ok(Prepared { files, references })
}

/// Reads and checks reference images.
pub fn read_references(paths: &[PathBuf], transparency: Transparency) -> Result<Vec<Reference>> {
    paths.iter().map(|path| read_reference(path, transparency)).collect()
}

fn read_reference(path: &Path, transparency: Transparency) -> Result<Reference> {
    let bytes = typed_paths::read_picture(path)?;
    let name = typed_paths::name_of(path);
    let reference = Reference::from_transparent(&bytes, &name, transparency).map_err(Failure::image)?;
    // The engine checks this too, but later, and its error cannot name the file.
    resize::check_reference(reference.image()).map_err(|e| Failure::image(e).of_file(path))?;
    Ok(reference)
}

//! A whole model: variant, transformer, text encoder, VAE and tokenizer, opened and checked together.
//!
//! In:  [`ModelPaths`], a diffusers folder or single files. Out: [`ModelFiles`], whose parts fit each other.

use flux2_base::Part;

use crate::MAX_INDEX_BYTES;
use crate::component::{Checkpoint, Component, Shapes, Wants};
use crate::config::{Taps, TextConfig, TransformerConfig, VaeConfig};
use crate::json::{ConfigProblem, Json};
use crate::layout::Dialect;
use crate::location::Location;
use crate::lora::{Lora, LoraPath};
use crate::variant::{Kind, Variant};
use crate::{Error, Result};

/// Where a model's files are, as the user named them.
#[derive(Clone, Debug, Default)]
pub struct ModelPaths {
    /// A diffusers folder (with `model_index.json`), the transformer as one file, or one file of all networks.
    pub model: Location,
    /// Transformer, file or folder, in place of the one in the model's folder.
    pub transformer: Option<Location>,
    /// Text encoder, file or folder, in place of the one in the model's folder; required if `model` is a file without it.
    pub text_encoder: Option<Location>,
    /// VAE, file or folder, in place of the one in the model's folder; required if `model` is a file without it.
    pub vae: Option<Location>,
    /// LoRAs to add to the transformer, in this order.
    pub loras: Vec<LoraPath>,
    /// The member of the family, where files do not tell. Without it a single file counts as distilled.
    pub variant: Option<&'static Variant>,
}

/// A model whose files exist, are complete and fit each other. No weights are in memory yet.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The member of the family.
    pub variant: &'static Variant,
    /// Name for the parameters of pictures: the variant's, or the folder's if its sizes are not published. Never a
    /// path.
    pub name: String,
    /// The flow transformer.
    pub transformer: Component<TransformerConfig>,
    /// The text encoder.
    pub text_encoder: Component<TextConfig>,
    /// The autoencoder.
    pub vae: Component<VaeConfig>,
    /// LoRAs that are added to the transformer when it is loaded, in this order.
    pub loras: Vec<Lora>,
    /// The model's `tokenizer.json`; `None` for the built-in one.
    pub tokenizer: Option<Location>,
    /// The `vocabulary.json` of a model that knows few words; the published ones have none.
    pub vocabulary: Option<Location>,
}

impl ModelFiles {
    /// Opens and checks a model.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] and its siblings if files are missing; [`Error::Checkpoint`], [`Error::Config`] and
    /// [`Error::Tensors`] if one is not what it should be; [`Error::PartsDisagree`] if they do not belong together. For
    /// LoRAs as [`with_loras`](Self::with_loras).
    pub fn open(paths: &ModelPaths) -> Result<Self> {
        if !paths.model.exists()? {
            return Err(Error::ModelMissing { path: paths.model.path().to_owned() });
        }
        let is_folder = paths.model.is_dir();
        let (kind, taps) = if is_folder { read_model_index(&paths.model)? } else { (Kind::Distilled, Taps::default()) };
        let transformer = match &paths.transformer {
            None if !is_folder => paths.model.clone(),
            None => present(paths.model.join("transformer"), "transformer")?,
            Some(given) if is_folder => present(given.clone(), "transformer")?,
            Some(given) => {
                let (model, given) = (paths.model.path().to_owned(), given.path().to_owned());
                return Err(Error::TwoTransformers { model, given });
            }
        };
        // Open it first: a wrong file is reported before the other two parts are asked for.
        let checkpoint = Checkpoint::open(&transformer)?;
        let in_file = if is_folder { vec![] } else { checkpoint.parts() };
        let transformer = Component::<TransformerConfig>::of(checkpoint)?;
        let beside = |given: &Option<Location>, folder: &str, part: Part| match given {
            Some(location) => Ok(location.clone()),
            None if is_folder => Ok(paths.model.join(folder)),
            None if in_file.contains(&part) => Ok(paths.model.clone()),
            None => Err(Error::PartNotGiven { path: paths.model.path().to_owned(), part }),
        };
        let text_location = beside(&paths.text_encoder, "text_encoder", Part::TextEncoder)?;
        let vae_location = beside(&paths.vae, "vae", Part::Vae)?;
        let text_location = present(text_location, "text encoder")?;
        let text_encoder = Component::<TextConfig>::of(Checkpoint::open(&text_location)?, &taps)?;
        let vae = Component::<VaeConfig>::open(present(vae_location, "VAE")?)?;
        check_fit(&transformer.config, &text_encoder.config, &vae.config)?;

        let variant = match paths.variant {
            None => Variant::detect(&transformer.config, kind),
            Some(variant) => variant.confirm(&transformer.config)?,
        };
        let stem = || paths.model.stem().unwrap_or_else(|| "model".into());
        let name = if variant.is_custom() { stem() } else { variant.name.to_owned() };
        let tokenizer = find_tokenizer(&text_location, &paths.model);
        let vocabulary = is_folder.then(|| paths.model.join("vocabulary.json")).filter(Location::is_file);
        let files =
            ModelFiles { variant, name, transformer, text_encoder, vae, loras: Vec::new(), tokenizer, vocabulary };
        files.with_loras(&paths.loras)
    }

    /// Copies of a network that are not read, each with the file that is read in its place.
    pub fn passed_over(&self) -> Vec<(&Location, &Location)> {
        fn of<C>(component: &Component<C>) -> impl Iterator<Item = (&Location, &Location)> {
            let first = component.files().next();
            component.passed_over().iter().filter_map(move |file| Some((file, first?)))
        }
        of(&self.transformer).chain(of(&self.text_encoder)).chain(of(&self.vae)).collect()
    }

    /// The same model for a dry run: tensors that need memory besides the mapped files are zeros.
    pub fn outline(&self) -> Self {
        let ModelFiles { transformer, text_encoder, vae, .. } = self;
        let transformer = transformer.outline(|name| self.loras.iter().any(|lora| lora.touches(name)));
        let (text_encoder, vae) = (text_encoder.outline(|_| false), vae.outline(|_| false));
        ModelFiles { transformer, text_encoder, vae, loras: vec![], ..self.clone() }
    }
}

impl Component<TransformerConfig> {
    /// Opens and checks a transformer alone, file or folder.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open(location: impl Into<Location>) -> Result<Self> {
        Self::of(Checkpoint::open(&location.into())?)
    }

    pub(super) fn of(checkpoint: Checkpoint) -> Result<Self> {
        let checkpoint = checkpoint.only(Part::Transformer);
        let dialect = checkpoint.dialect(Part::Transformer)?;
        let config = match checkpoint.config(Part::Transformer)? {
            Some(json) => TransformerConfig::from_json(&json)?,
            None => TransformerConfig::infer(&Shapes { checkpoint: &checkpoint, dialect: &dialect })?,
        };
        let wants = wants(dialect, config.expected_tensors());
        checkpoint.plan(config, wants)
    }
}

impl Component<TextConfig> {
    /// Opens and checks a text encoder alone, file or folder, with the family's taps and prompt length.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open(location: impl Into<Location>) -> Result<Self> {
        Self::of(Checkpoint::open(&location.into())?, &Taps::default())
    }

    pub(super) fn of(checkpoint: Checkpoint, taps: &Taps) -> Result<Self> {
        let checkpoint = checkpoint.only(Part::TextEncoder);
        let dialect = checkpoint.dialect(Part::TextEncoder)?;
        let config = match checkpoint.config(Part::TextEncoder)? {
            Some(json) => TextConfig::from_json(&json, taps)?,
            None => TextConfig::infer(&Shapes { checkpoint: &checkpoint, dialect: &dialect }, taps)?,
        };
        let (fp8_block, layers_unused_from) = (config.fp8_block, config.used_layers());
        let wants = Wants { fp8_block, layers_unused_from, ..wants(dialect, config.expected_tensors()) };
        checkpoint.plan(config, wants)
    }
}

impl Component<VaeConfig> {
    /// Opens and checks a VAE alone, file or folder.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open(location: impl Into<Location>) -> Result<Self> {
        Self::of(Checkpoint::open(&location.into())?)
    }

    pub(super) fn of(checkpoint: Checkpoint) -> Result<Self> {
        let checkpoint = checkpoint.only(Part::Vae);
        let dialect = checkpoint.dialect(Part::Vae)?;
        let config = match checkpoint.config(Part::Vae)? {
            Some(json) => VaeConfig::from_json(&json)?,
            None => VaeConfig::infer(&Shapes { checkpoint: &checkpoint, dialect: &dialect })?,
        };
        let wants = wants(dialect, config.expected_tensors());
        checkpoint.plan(config, wants)
    }
}

fn present(location: Location, what: &'static str) -> Result<Location> {
    match location.exists()? {
        true => Ok(location),
        false => Err(Error::PartMissing { what, path: location.path().to_owned() }),
    }
}

fn wants(dialect: Dialect, tensors: Vec<(String, Vec<usize>)>) -> Wants {
    Wants { dialect, tensors, layers_unused_from: usize::MAX, fp8_block: [128; 2] }
}

/// Reads from `model_index.json` whether the model is distilled, base or KV.
pub(super) fn kind_of_folder(folder: &Location) -> Result<Kind> {
    Ok(read_model_index(folder)?.0)
}

/// Reads the kind of model and its taps from `model_index.json`; no other file has them.
fn read_model_index(folder: &Location) -> Result<(Kind, Taps)> {
    let file = folder.join("model_index.json");
    if !file.is_file() {
        return Err(Error::NoModelIndex { path: folder.path().to_owned() });
    }
    let json = Json::read(&file, MAX_INDEX_BYTES)?;
    let class = json.text("_class_name").ok_or_else(|| json.error("_class_name", "Flux2KleinPipeline"))?;
    if !class.starts_with("Flux2Klein") {
        let (key, supported) = ("_class_name".into(), "Flux2KleinPipeline".into());
        return Err(Error::Config {
            path: file.path().to_owned(),
            problem: ConfigProblem::Unsupported { key, found: class.into(), supported },
        });
    }
    let distilled = match json.get("is_distilled") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| json.error("is_distilled", "true or false"))?,
    };
    let kind = match (class, distilled) {
        ("Flux2KleinKVPipeline", _) => Kind::Kv,
        (_, true) => Kind::Distilled,
        (_, false) => Kind::Base,
    };
    Ok((kind, Taps::from_json(&json)?))
}

fn check_fit(transformer: &TransformerConfig, text: &TextConfig, vae: &VaeConfig) -> Result<()> {
    let pairs = [
        (Part::TextEncoder, transformer.context_dim, text.embedding_dim()),
        (Part::Vae, transformer.in_channels, 4 * vae.latent_channels),
    ];
    match pairs.into_iter().find(|(_, reads, makes)| reads != makes) {
        Some((part, reads, makes)) => Err(Error::PartsDisagree { part, reads, makes }),
        None => Ok(()),
    }
}

/// The tokenizer beside the text encoder, else the one beside the model.
pub(super) fn find_tokenizer(text_encoder: &Location, model: &Location) -> Option<Location> {
    let folder = |location: &Location| if location.is_dir() { location.clone() } else { location.parent() };
    let (text, model) = (folder(text_encoder), folder(model));
    let beside = text.parent();
    [text.join("tokenizer.json"), text.join("tokenizer/tokenizer.json"), beside.join("tokenizer/tokenizer.json")]
        .into_iter()
        .chain([model.join("tokenizer/tokenizer.json")])
        .find(Location::is_file)
}

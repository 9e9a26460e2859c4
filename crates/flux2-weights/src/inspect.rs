//! What a file or folder of weights is, judged by its headers.
//!
//! In:  a location. Out: [`Inspection`]. A problem that keeps a part from being loaded is part of the result, not an
//!      error.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;

use flux2_base::Part;

use crate::component::{Checkpoint, Component};
use crate::config::{Taps, TextConfig, TransformerConfig, VaeConfig};
use crate::layout::{Detected, Layout};
use crate::location::Location;
use crate::lora::{CONFIG_FILE, Lora, LoraPath, LoraProblem, Strength, file_of};
use crate::model_files::{find_tokenizer, kind_of_folder};
use crate::preview_decoder::PreviewDecoderFile;
use crate::pth::is_pth;
use crate::sizes::transformer_sizes;
use crate::tensor_file::{FileMetadata, Printable, TensorFile};
use crate::upscaler::UpscalerFile;
use crate::variant::{Kind, Variant};
use crate::{Error, Result};

/// What a file or folder is.
#[derive(Debug)]
pub struct Inspection {
    /// The three parts of a whole model, those of a file of several, else one part.
    pub parts: Vec<InspectedPart>,
    /// Present for a whole model: a folder, or one file of all three networks.
    pub model: Option<InspectedModel>,
}

/// What a whole model is, besides its parts.
#[derive(Debug)]
pub struct InspectedModel {
    /// The member of the family it is; none if its sizes are not published.
    pub variants: Vec<&'static str>,
    /// Whether it has a tokenizer; otherwise the built-in one is used.
    pub has_tokenizer: bool,
}

/// A network, or another file of tensors.
#[derive(Debug)]
pub struct InspectedPart {
    /// File or folder.
    pub location: Location,
    /// What its tensors are.
    pub kind: PartKind,
    /// `safetensors`, `gguf` or `pth`; empty if there is no such file.
    pub container: &'static str,
    /// Number of files.
    pub files: usize,
    /// Files beside them that are not used, as the network is whole without them.
    pub passed_over: Vec<Location>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Element types, each with the number of its tensors and their bytes; the most bytes first.
    pub dtypes: Vec<(String, usize, u64)>,
    /// Sizes of the network, in words.
    pub sizes: Option<String>,
    /// Number of parameters; `None` if the network cannot be loaded.
    pub parameters: Option<u64>,
    /// `alpha / rank` of a LoRA.
    pub strength: Option<Strength>,
    /// Members of the family that a transformer can be. Base and distilled members differ only in values.
    pub variants: Vec<&'static str>,
    /// Metadata of the file, without long texts.
    pub metadata: BTreeMap<String, String>,
    /// Why it cannot be loaded, if it cannot.
    pub problem: Option<Error>,
}

/// What a set of tensors is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// A network of the family, and its naming scheme.
    Network(Part, Layout),
    /// A LoRA, and the number of transformer matrices it changes; 0 if it fits no known transformer.
    Lora(usize),
    /// A network that enlarges pictures, and how many times it enlarges them.
    Upscaler(usize),
    /// A network that decodes latents for previews.
    PreviewDecoder,
    /// Something else that is recognized.
    Other(&'static str),
    /// Not recognized.
    Unknown,
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartKind::Network(part, layout) => write!(f, "{part}, {layout} names"),
            PartKind::Lora(0) => f.write_str("LoRA"),
            PartKind::Lora(matrices) => write!(f, "LoRA for {matrices} matrices of the transformer"),
            PartKind::Upscaler(scale) => write!(f, "upscaler, {scale}x"),
            PartKind::PreviewDecoder => f.write_str("decoder for previews"),
            PartKind::Other(what) => f.write_str(what),
            PartKind::Unknown => f.write_str("nothing this program knows"),
        }
    }
}

/// Longest text of metadata that is shown, in bytes.
const MAX_TEXT: usize = 200;

/// Reads the headers of a model's folder, a network's folder, or a file.
///
/// # Errors
/// [`Error::ModelMissing`] if nothing is there; [`Error::Checkpoint`] or [`Error::Io`] if it is no file of tensors.
pub fn inspect(location: &Location) -> Result<Inspection> {
    if !location.exists()? {
        return Err(Error::ModelMissing { path: location.path().to_owned() });
    }
    if location.join(CONFIG_FILE).is_file() {
        let part = InspectedPart { location: location.clone(), ..InspectedPart::of(&file_of(location)?, Kind::ALL)? };
        return Ok(Inspection { parts: vec![part], model: None });
    }
    if let Some(part) = small_network_at(location)? {
        return Ok(Inspection { parts: vec![part], model: None });
    }
    if !location.is_dir() {
        let networks = Checkpoint::open(location)?.parts();
        if networks.len() > 1 {
            return file_of_networks(location, &networks);
        }
    }
    if !location.join("model_index.json").is_file() {
        let part = InspectedPart::of(location, Kind::ALL)?;
        return Ok(Inspection { parts: vec![part], model: None });
    }
    let (kinds, problem) = match kind_of_folder(location) {
        Ok(kind) => (vec![kind], None),
        Err(problem) => (vec![], Some(problem)),
    };
    let mut parts = Vec::new();
    for (folder, what) in [("transformer", "transformer"), ("text_encoder", "text encoder"), ("vae", "VAE")] {
        let location = location.join(folder);
        let missing = |problem| InspectedPart::missing(&location, problem);
        parts.push(match location.exists()? {
            false => missing(Error::PartMissing { what, path: location.path().to_owned() }),
            true => InspectedPart::of(&location, &kinds).unwrap_or_else(missing),
        });
    }
    if let Some(problem) = problem {
        parts[0].problem.get_or_insert(problem);
    }
    let has_tokenizer = find_tokenizer(&location.join("text_encoder"), location).is_some();
    let variants = parts[0].variants.clone();
    Ok(Inspection { parts, model: Some(InspectedModel { variants, has_tokenizer }) })
}

/// The upscaler or the decoder for previews in a file, if it is one. A PyTorch file can be nothing else.
fn small_network_at(location: &Location) -> Result<Option<InspectedPart>> {
    if !location.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    location.reader()?.take(512).read_to_end(&mut start).map_err(|e| location.io(e))?;
    let upscaler = UpscalerFile::open(location);
    if let Ok(upscaler) = &upscaler {
        return Ok(Some(InspectedPart::of_upscaler(upscaler)));
    }
    match (PreviewDecoderFile::recognize(location), is_pth(&start)) {
        (Ok(Some(decoder)), _) => Ok(Some(InspectedPart::of_preview_decoder(&decoder))),
        (Err(error), true) => Err(error),
        (Ok(None), true) => upscaler.map(|_| None),
        // A GGUF file or a LoRA has its own reader, whose error counts.
        (_, false) => Ok(None),
    }
}

/// Describes a file of several networks: a whole model, if it holds all three.
fn file_of_networks(location: &Location, networks: &[Part]) -> Result<Inspection> {
    let mut parts = Vec::new();
    for part in [Part::Transformer, Part::TextEncoder, Part::Vae].into_iter().filter(|part| networks.contains(part)) {
        parts.push(InspectedPart::described(location, Checkpoint::open(location)?.only(part), Kind::ALL)?);
    }
    let has_tokenizer = find_tokenizer(location, location).is_some();
    let variants = parts[0].variants.clone();
    let model = (parts.len() == 3).then_some(InspectedModel { variants, has_tokenizer });
    Ok(Inspection { parts, model })
}

impl InspectedPart {
    fn missing(location: &Location, problem: Error) -> Self {
        InspectedPart { problem: Some(problem), ..InspectedPart::empty(location) }
    }

    /// A part of which nothing is known.
    fn empty(location: &Location) -> Self {
        InspectedPart {
            location: location.clone(),
            kind: PartKind::Unknown,
            container: "",
            files: 0,
            passed_over: vec![],
            bytes: 0,
            dtypes: vec![],
            sizes: None,
            parameters: None,
            strength: None,
            variants: vec![],
            metadata: BTreeMap::new(),
            problem: None,
        }
    }

    fn of_upscaler(file: &UpscalerFile) -> Self {
        InspectedPart {
            kind: PartKind::Upscaler(file.config.scale()),
            container: file.container(),
            files: 1,
            bytes: file.bytes,
            dtypes: counted(file.dtypes()),
            sizes: Some(file.config.to_string()),
            parameters: Some(file.parameters()),
            problem: None,
            ..InspectedPart::empty(&file.location)
        }
    }

    fn of_preview_decoder(file: &PreviewDecoderFile) -> Self {
        let dtypes = counted(file.dtypes());
        InspectedPart {
            kind: PartKind::PreviewDecoder,
            container: file.container(),
            files: 1,
            bytes: dtypes.iter().map(|(_, _, bytes)| bytes).sum(),
            dtypes,
            sizes: Some(file.config.to_string()),
            parameters: Some(file.parameters()),
            ..InspectedPart::empty(&file.location)
        }
    }

    /// `kinds` limits the variants that a transformer can be.
    fn of(location: &Location, kinds: &[Kind]) -> Result<Self> {
        Self::described(location, Checkpoint::open(location)?, kinds)
    }

    fn described(location: &Location, checkpoint: Checkpoint, kinds: &[Kind]) -> Result<Self> {
        let dtypes = counted(checkpoint.tensors().map(|tensor| (tensor.dtype.to_string(), tensor.range.len() as u64)));
        let (container, metadata) = match checkpoint.files.first().map(|file| &file.metadata) {
            Some(FileMetadata::Safetensors(texts)) => ("safetensors", shown(texts)),
            Some(FileMetadata::Gguf(values)) => ("gguf", shown(&values.texts())),
            None => ("", BTreeMap::new()),
        };
        let part = InspectedPart {
            container,
            files: checkpoint.files.len(),
            passed_over: checkpoint.passed_over().to_vec(),
            bytes: dtypes.iter().map(|(_, _, bytes)| bytes).sum(),
            dtypes,
            metadata,
            ..InspectedPart::empty(location)
        };
        Ok(match checkpoint.detect() {
            Some(Detected::Part(Part::Transformer, dialect)) => {
                let part = part.network(Part::Transformer, dialect.layout);
                part.opened(Component::<TransformerConfig>::of(checkpoint), |part, config| {
                    part.variants = kinds
                        .iter()
                        .map(|kind| Variant::detect(config, *kind))
                        .filter(|v| !v.is_custom())
                        .map(|v| v.name)
                        .collect();
                    sizes_of_transformer(config)
                })
            }
            Some(Detected::Part(Part::TextEncoder, dialect)) => {
                let part = part.network(Part::TextEncoder, dialect.layout);
                part.opened(Component::<TextConfig>::of(checkpoint, &Taps::default()), |_, config| {
                    sizes_of_text_encoder(config)
                })
            }
            Some(Detected::Part(Part::Vae, dialect)) => {
                let part = part.network(Part::Vae, dialect.layout);
                part.opened(Component::<VaeConfig>::of(checkpoint), |_, config| sizes_of_vae(config))
            }
            Some(Detected::Lora) => part.lora(&checkpoint.files[0])?,
            Some(Detected::Other(what)) => InspectedPart { kind: PartKind::Other(what), ..part },
            None => part,
        })
    }

    fn network(self, part: Part, layout: Layout) -> Self {
        InspectedPart { kind: PartKind::Network(part, layout), ..self }
    }

    fn opened<C>(mut self, opened: Result<Component<C>>, sizes: impl FnOnce(&mut Self, &C) -> String) -> Self {
        match opened {
            Ok(component) => {
                self.sizes = Some(sizes(&mut self, &component.config));
                self.parameters = Some(component.parameters());
            }
            Err(problem) => self.problem = Some(problem),
        }
        self
    }

    /// Tries the LoRA on the transformer of every known size.
    fn lora(mut self, file: &TensorFile) -> Result<Self> {
        let bytes = file.bytes()?;
        self.kind = PartKind::Lora(0);
        self.strength = Lora::strength(file, &bytes).ok();
        let path = LoraPath { location: self.location.clone(), scale: 1.0 };
        let mut first_problem = None;
        let mut has_targets = false;
        for (name, config) in transformer_sizes() {
            match Lora::of(file, &bytes, &path, &config) {
                Ok(lora) => {
                    self.kind = PartKind::Lora(lora.matrices());
                    self.variants.push(name);
                }
                Err(problem) => {
                    has_targets |=
                        matches!(&problem, Error::Lora { problem: LoraProblem::Tensors(m), .. } if m.is_of_size());
                    first_problem.get_or_insert(problem);
                }
            }
        }
        if self.variants.is_empty() {
            match has_targets {
                true => self.sizes = Some("those of no published model".into()),
                false => self.problem = first_problem,
            }
        }
        Ok(self)
    }
}

/// Element types, each with the number of its tensors and their bytes; the most bytes first.
fn counted(tensors: impl Iterator<Item = (String, u64)>) -> Vec<(String, usize, u64)> {
    let mut dtypes: Vec<(String, usize, u64)> = Vec::new();
    for (name, bytes) in tensors {
        match dtypes.iter_mut().find(|known| known.0 == name) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + bytes),
            None => dtypes.push((name, 1, bytes)),
        }
    }
    dtypes.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    dtypes
}

/// Short texts, safe to print.
fn shown(texts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    // `format` names the library the tensors come from; every file has it.
    let short = texts.iter().filter(|(key, text)| *key != "format" && text.len() <= MAX_TEXT);
    short.map(|(key, text)| (Printable(key).to_string(), Printable(text).to_string())).collect()
}

fn sizes_of_transformer(c: &TransformerConfig) -> String {
    let TransformerConfig { double_blocks, single_blocks, heads, head_dim, context_dim, .. } = c;
    let width = c.hidden();
    format!(
        "{double_blocks} double and {single_blocks} single blocks, width {width}, {heads} heads of {head_dim}, \
         reads {context_dim} text features"
    )
}

fn sizes_of_text_encoder(c: &TextConfig) -> String {
    let TextConfig { layers, hidden, heads, kv_heads, vocab, .. } = c;
    let used = c.used_layers();
    format!(
        "{layers} layers of which {used} are used, width {hidden}, {heads} heads over {kv_heads}, {vocab} tokens, \
         makes {} features",
        c.embedding_dim()
    )
}

fn sizes_of_vae(c: &VaeConfig) -> String {
    let widths = |channels: &[usize]| channels.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
    format!(
        "{} latent channels, encoder {}, decoder {}",
        c.latent_channels,
        widths(&c.encoder_channels),
        widths(&c.decoder_channels)
    )
}

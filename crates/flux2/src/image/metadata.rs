//! The parameters of a picture, stored in its file and read back.
//!
//! | file       | where                                | what                                             |
//! |------------|--------------------------------------|--------------------------------------------------|
//! | PNG        | iTXt `dj-flux2`                      | the parameters as JSON; this is read             |
//! | PNG        | tEXt (iTXt if not Latin-1) `parameters` | the line that other tools show                |
//! | JPEG, WebP | EXIF ImageDescription                | the JSON, in ASCII with `\u` escapes; this is read |
//! | JPEG, WebP | EXIF UserComment                     | the line that other tools show, in UTF-16        |
//! | JPEG, WebP | EXIF Software                        | `dj-flux2 VERSION`                               |
//! | sheet, PNG | iTXt `dj-flux2-sheet`                | the parameters of all cells as JSON              |
//! | sheet, JPEG, WebP | EXIF ImageDescription         | the same                                         |
//! | all        | XMP                                  | that a model drew the picture; see [`xmp`]       |
//!
//! Nothing local is stored: no path, no user, no time. Reference images are identified by the SHA-256 of their files.
//! The line has the format that AUTOMATIC1111's web UI writes and other tools parse.
//!
//! The JSON is also read where other programs put it when they save a picture again: in tEXt and zTXt, and in the EXIF
//! of a PNG. `other` reads what other programs store of their own, `texts` finds the texts of a file.

mod a1111;
mod comfyui;
mod other;
mod sheet;
mod source;
mod texts;
pub mod xmp;

use std::fmt::Write as _;
use std::io::Cursor;

use exif::{Field, In, Tag, Value};

pub use other::OtherParameters;
pub use sheet::{SheetCell, SheetParameters, read_sheet};
pub use source::SourceParameters;
use texts::Texts;

use super::ImageFormat;
use crate::{Error, Result};
use xmp::SourceType;

/// Identifies pictures of this program: keyword of the PNG chunk, first word of EXIF Software.
pub const SOFTWARE: &str = "dj-flux2";

/// Most bytes of EXIF in a JPEG: the 65535 of a segment less its length field and the leading `Exif\0\0`.
const MAX_JPEG_EXIF: usize = 65_535 - 2 - 6;

/// Everything that determines a picture: with the same model files, it can be made again from these.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Parameters {
    /// The prompt, verbatim.
    pub prompt: String,
    /// What guidance led away from, verbatim; `None` is the empty prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The template that the prompt was made from; with the seed it gives the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Seed of the noise.
    pub seed: u64,
    /// Kind of noise; see [`NoiseKind`](crate::NoiseKind).
    pub noise: String,
    /// Name of the model.
    pub model: String,
    /// Kind of variant: `klein`, `klein-base` or `klein-kv`. `None` in pictures of other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Number format of the run.
    pub dtype: String,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; none for a distilled model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// SHA-256, in hexadecimal, of each reference image's file, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The picture that was painted into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceParameters>,
    /// Color, as `#rrggbb`, that transparent reference images were put over; `None` if none is transparent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// Name of the [program](crate::Compat) whose rules were followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<String>,
    /// LoRAs that were added to the model, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraParameters>,
    /// How the picture was enlarged once it was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscale: Option<UpscaleParameters>,
    /// Name of the program: [`SOFTWARE`].
    pub software: String,
    /// Version of the program.
    pub version: String,
}

/// A LoRA that was added to the model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LoraParameters {
    /// Name of its file, without folder and extension.
    pub name: String,
    /// Factor by which it was added.
    pub scale: f32,
    /// SHA-256 of its file.
    pub sha256: String,
}

/// How a picture was enlarged.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct UpscaleParameters {
    /// Name of the upscaler's file, without folder and extension; `lanczos` if it is no network.
    pub upscaler: String,
    /// SHA-256 of its file; none if it is no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How many times as wide and high; none if a width or height was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<f32>,
    /// Width that was asked for, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height that was asked for, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
}

impl Parameters {
    /// The text that other tools parse: the prompt, then a line of settings by name, the program last.
    pub fn line(&self) -> String {
        let Self { prompt, seed, steps, width, height, model, software, version, .. } = self;
        let (guidance, model) = (self.guidance.unwrap_or(1.0), a1111::quoted(model));
        let negative =
            self.negative_prompt.as_ref().map(|text| format!("\nNegative prompt: {text}")).unwrap_or_default();
        format!(
            "{prompt}{negative}\nSteps: {steps}, Sampler: Euler, CFG scale: {guidance}, Seed: {seed}, Size: {width}x{height}, \
             Model: {model}, Version: {software} {version}"
        )
    }

    /// How the picture came about, for its XMP packet.
    pub fn source_type(&self) -> SourceType {
        if self.source.is_some() { SourceType::Composite } else { SourceType::Drawn }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialize")
    }
}

/// Check before long work whether parameters with this prompt fit into a file of this format, so that [`read`] takes
/// them.
///
/// # Errors
/// [`Error::ImageParametersTooLong`] for a prompt that does not leave 4 kB for everything else.
pub fn check_prompt(prompt: &str, format: ImageFormat) -> Result<()> {
    // An escape takes six bytes for each UTF-16 unit. In EXIF the JSON is ASCII; in a PNG only control characters and
    // two others are escaped.
    let plain = |c: char| c.is_ascii() && !c.is_ascii_control() && c != '"' && c != '\\';
    let escaped = |c: char| match format {
        ImageFormat::Png if !c.is_ascii() => c.len_utf8(),
        _ => 6 * c.len_utf16(),
    };
    let bytes = prompt.chars().map(|c| if plain(c) { 1 } else { escaped(c) }).sum::<usize>() + 4096;
    check_length(bytes, format)
}

fn check_length(bytes: usize, format: ImageFormat) -> Result<()> {
    let max = if format == ImageFormat::Jpeg { MAX_JPEG_EXIF } else { texts::MAX_TEXT };
    if bytes <= max { Ok(()) } else { Err(Error::ImageParametersTooLong { bytes, format: format.name(), max }) }
}

/// Parameters that are stored in a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// Those of this program.
    Ours(Box<Parameters>),
    /// Those of another program, as far as they are understood.
    Other(Box<OtherParameters>),
}

/// Read the parameters of a PNG, JPEG or WebP of this program, also if another one saved it again; `None` for any other
/// file.
///
/// # Errors
/// [`Error::ImageParameters`] if the file is marked as one of this program and its parameters cannot be parsed.
pub fn read(bytes: &[u8]) -> Result<Option<Parameters>> {
    ours(&Texts::of(bytes))
}

/// Read what this program or [another one](OtherParameters) stored in a picture; `None` if there is nothing that is
/// understood.
///
/// # Errors
/// As [`read`].
pub fn read_any(bytes: &[u8]) -> Result<Option<Stored>> {
    let texts = Texts::of(bytes);
    Ok(match ours(&texts)? {
        Some(parameters) => Some(Stored::Ours(parameters.into())),
        None => other::read(&texts).map(|parameters| Stored::Other(parameters.into())),
    })
}

fn ours(texts: &Texts) -> Result<Option<Parameters>> {
    let parse = |json: &str| serde_json::from_str(json).map_err(|e| unreadable(&e.to_string()));
    if let Some(json) = texts.png(SOFTWARE) {
        return parse(&json.map_err(|reason| unreadable(&reason))?).map(Some);
    }
    let software = texts.exif(Tag::Software).unwrap_or_default();
    let is_marked = software.strip_prefix(SOFTWARE).is_some_and(|version| version.starts_with(' '));
    // Programs that save a picture again put their own name there and keep the description.
    match texts.exif(Tag::ImageDescription).filter(|json| !sheet::is_sheet(json)).map(|json| parse(&json)) {
        Some(Err(error)) if is_marked => Err(error),
        Some(Ok(parameters)) => Ok(Some(parameters).filter(|parameters: &Parameters| parameters.software == SOFTWARE)),
        Some(Err(_)) | None => Ok(None),
    }
}

fn unreadable(reason: &str) -> Error {
    Error::ImageParameters { reason: reason.into() }
}

// ---- PNG ----

/// A text chunk to write.
pub(super) struct PngText {
    pub(super) keyword: &'static str,
    pub(super) text: String,
    pub(super) kind: PngTextKind,
}

/// The kind of chunk for a text.
pub(super) enum PngTextKind {
    /// tEXt: Latin-1.
    Latin1,
    /// iTXt: UTF-8.
    Utf8,
}

/// The texts of a PNG.
///
/// # Errors
/// [`Error::ImageParametersTooLong`] if they are longer than what is read.
pub(super) fn png_texts(parameters: &Parameters) -> Result<[PngText; 2]> {
    let json = parameters.json();
    check_length(json.len(), ImageFormat::Png)?;
    // A text chunk cannot hold NUL. JSON escapes it; in the line it becomes a space.
    let line = parameters.line().replace('\0', " ");
    let kind = if line.chars().all(|c| c <= '\u{ff}') { PngTextKind::Latin1 } else { PngTextKind::Utf8 };
    Ok([
        PngText { keyword: SOFTWARE, text: json, kind: PngTextKind::Utf8 },
        PngText { keyword: "parameters", text: line, kind },
    ])
}

// ---- EXIF ----

/// The parameters as EXIF, in a JPEG without the line for other tools if it would not fit.
///
/// # Errors
/// [`Error::ImageParametersTooLong`] if the JSON alone does not fit.
pub(super) fn exif(parameters: &Parameters, format: ImageFormat) -> Result<Vec<u8>> {
    let json = ascii_json(&parameters.json());
    check_length(json.len(), format)?;
    let block = exif_block(&parameters.version, &json, Some(&parameters.line()));
    if check_length(block.len(), format).is_ok() || format != ImageFormat::Jpeg {
        return Ok(block);
    }
    let block = exif_block(&parameters.version, &json, None);
    check_length(block.len(), format).map(|()| block)
}

fn exif_block(version: &str, json: &str, line: Option<&str>) -> Vec<u8> {
    let field = |tag, value| Field { tag, ifd_num: In::PRIMARY, value };
    let ascii = |text: String| Value::Ascii(vec![text.into_bytes()]);
    let mut fields = vec![
        field(Tag::ImageDescription, ascii(json.to_owned())),
        field(Tag::Software, ascii(format!("{SOFTWARE} {}", ascii_json(version)))),
    ];
    if let Some(line) = line {
        // Readers disagree on whether this text follows the byte order of the block. Big-endian for both suits all.
        let comment = b"UNICODE\0".iter().copied().chain(line.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        fields.push(field(Tag::UserComment, Value::Undefined(comment, 0)));
    }
    let mut writer = exif::experimental::Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).expect("three fields of their own types, written to memory");
    block.into_inner()
}

/// JSON as pure ASCII. Other characters occur only in strings, where an escape means the same.
fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii
}

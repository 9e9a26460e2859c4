//! The parameters of a picture, stored in its file and read back.
//!
//! | file       | where                                | what                                             |
//! |------------|--------------------------------------|--------------------------------------------------|
//! | PNG        | iTXt `dj-flux2`                      | the parameters as JSON; this is read             |
//! | PNG        | tEXt (iTXt if not Latin-1) `parameters` | the line that other tools show                |
//! | JPEG, WebP | EXIF ImageDescription                | the JSON, in ASCII with `\u` escapes; this is read |
//! | JPEG, WebP | EXIF UserComment                     | the line that other tools show, in UTF-16        |
//! | JPEG, WebP | EXIF Software                        | `dj-flux2 VERSION`                               |
//!
//! Nothing local is stored: no path, no user, no time. Reference images are identified by the SHA-256 of their files.
//! The line has the format that AUTOMATIC1111's web UI writes and other tools parse.

use std::fmt::Write as _;
use std::io::{Cursor, Read};

use exif::{Field, In, Tag, Value};
use flate2::read::ZlibDecoder;

use super::ImageFormat;
use crate::{Error, Result};

/// Identifies pictures of this program: keyword of the PNG chunk, first word of EXIF Software.
pub const SOFTWARE: &str = "dj-flux2";

/// Longest JSON that is read, in bytes.
const MAX_JSON: usize = 16 << 20;

/// Most bytes of EXIF in a JPEG: the 65535 of a segment less its length field and the leading `Exif\0\0`.
const MAX_JPEG_EXIF: usize = 65_535 - 2 - 6;

/// Everything that determines a picture: with the same model files, it can be made again from these.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Parameters {
    /// The prompt, verbatim.
    pub prompt: String,
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
    /// LoRAs that were added to the model, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraParameters>,
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

impl Parameters {
    /// The text that other tools parse: the prompt, then a line of settings by name, the program last.
    pub fn line(&self) -> String {
        let Self { prompt, seed, steps, width, height, model, software, version, .. } = self;
        let guidance = self.guidance.unwrap_or(1.0);
        format!(
            "{prompt}\nSteps: {steps}, Sampler: Euler, CFG scale: {guidance}, Seed: {seed}, Size: {width}x{height}, \
             Model: {model}, Version: {software} {version}"
        )
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialize")
    }
}

/// Check before long work whether parameters with this prompt fit into a file of this format.
///
/// # Errors
/// [`Error::ImageParametersTooLong`] for a JPEG and a prompt that does not leave 4 kB for everything else.
pub fn check_prompt(prompt: &str, format: ImageFormat) -> Result<()> {
    // In EXIF the JSON is ASCII: anything else takes six bytes for each UTF-16 unit.
    let plain = |c: char| c.is_ascii() && !c.is_ascii_control() && c != '"' && c != '\\';
    let bytes = prompt.chars().map(|c| if plain(c) { 1 } else { 6 * c.len_utf16() }).sum::<usize>() + 4096;
    match format {
        ImageFormat::Jpeg if bytes > MAX_JPEG_EXIF => Err(Error::ImageParametersTooLong { bytes, max: MAX_JPEG_EXIF }),
        _ => Ok(()),
    }
}

/// Read the parameters of a PNG, JPEG or WebP of this program; `None` for any other file.
///
/// # Errors
/// [`Error::ImageParameters`] if the file is marked as one of this program and its parameters cannot be parsed.
pub fn read(bytes: &[u8]) -> Result<Option<Parameters>> {
    let json = match ImageFormat::of(bytes) {
        Some(ImageFormat::Png) => png_json(bytes)?,
        Some(ImageFormat::Jpeg | ImageFormat::WebP) => exif_json(bytes),
        None => None,
    };
    let parse = |json: Vec<u8>| serde_json::from_slice(&json).map_err(|e| unreadable(&e.to_string()));
    json.map(parse).transpose()
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

pub(super) fn png_texts(parameters: &Parameters) -> [PngText; 2] {
    // A text chunk cannot hold NUL. JSON escapes it; in the line it becomes a space.
    let line = parameters.line().replace('\0', " ");
    let kind = if line.chars().all(|c| c <= '\u{ff}') { PngTextKind::Latin1 } else { PngTextKind::Utf8 };
    [
        PngText { keyword: SOFTWARE, text: parameters.json(), kind: PngTextKind::Utf8 },
        PngText { keyword: "parameters", text: line, kind },
    ]
}

/// The text of the first iTXt chunk with the keyword of this program, before or after the pixels.
fn png_json(png: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut rest = &png[8..];
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(data) = tail.get(..length) else { break };
        if let (b"iTXt", Some(text)) = (&head[4..], data.strip_prefix(b"dj-flux2\0")) {
            return itxt(text).map(Some);
        }
        rest = tail.get(length + 4..).unwrap_or_default(); // 4 for the checksum
    }
    Ok(None)
}

/// Parse iTXt after its keyword: compression flag and method, language, translated keyword, text.
fn itxt(data: &[u8]) -> Result<Vec<u8>> {
    let cut_short = || unreadable("the text chunk is cut short");
    let (head, rest) = data.split_at_checked(2).ok_or_else(cut_short)?;
    let mut parts = rest.splitn(3, |&byte| byte == 0);
    let text = parts.nth(2).ok_or_else(cut_short)?;
    let mut json = Vec::new();
    // One byte over the limit, to detect that it is exceeded.
    let limit = MAX_JSON as u64 + 1;
    match head {
        [0, _] => text.take(limit).read_to_end(&mut json),
        [1, 0] => ZlibDecoder::new(text).take(limit).read_to_end(&mut json),
        _ => return Err(unreadable("the text chunk is compressed in an unknown way")),
    }
    .map_err(|e| unreadable(&e.to_string()))?;
    if json.len() > MAX_JSON { Err(unreadable("they are over 16 MB long")) } else { Ok(json) }
}

// ---- EXIF ----

/// The parameters as EXIF.
pub(super) fn exif(parameters: &Parameters) -> Vec<u8> {
    exif_block(parameters, Some(&parameters.line()))
}

/// The parameters as EXIF that fits into a JPEG, without the line for other tools if it would not.
///
/// # Errors
/// [`Error::ImageParametersTooLong`] if the JSON alone does not fit.
pub(super) fn jpeg_exif(parameters: &Parameters) -> Result<Vec<u8>> {
    let mut block = exif(parameters);
    if block.len() > MAX_JPEG_EXIF {
        block = exif_block(parameters, None);
    }
    if block.len() > MAX_JPEG_EXIF {
        return Err(Error::ImageParametersTooLong { bytes: block.len(), max: MAX_JPEG_EXIF });
    }
    Ok(block)
}

fn exif_block(parameters: &Parameters, line: Option<&str>) -> Vec<u8> {
    let field = |tag, value| Field { tag, ifd_num: In::PRIMARY, value };
    let ascii = |text: String| Value::Ascii(vec![text.into_bytes()]);
    let mut fields = vec![
        field(Tag::ImageDescription, ascii(ascii_json(&parameters.json()))),
        field(Tag::Software, ascii(format!("{SOFTWARE} {}", ascii_json(&parameters.version)))),
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

/// The JSON of a JPEG or WebP whose EXIF names this program.
fn exif_json(file: &[u8]) -> Option<Vec<u8>> {
    let exif = super::caught(|| exif::Reader::new().read_from_container(&mut Cursor::new(file))).ok()?.ok()?;
    let text = |tag| match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(lines) => lines.first().cloned(),
        _ => None,
    };
    let ours = text(Tag::Software)?.strip_prefix(SOFTWARE.as_bytes())?.starts_with(b" ");
    if ours { text(Tag::ImageDescription) } else { None }
}

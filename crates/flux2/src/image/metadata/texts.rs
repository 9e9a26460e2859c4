//! Texts in a picture's file: text chunks of a PNG, EXIF fields of all formats, the comment of a JPEG.
//!
//! A text is decoded when it is asked for, so a file with many compressed texts takes no more memory than one of them.

use std::borrow::Cow;
use std::io::Read;

use exif::{Context, Exif, In, Tag, Value};
use flate2::read::ZlibDecoder;

use super::super::{ImageFormat, caught, container};

/// Longest text that is read, in bytes.
pub(super) const MAX_TEXT: usize = 16 << 20;

/// UserComment in the primary directory, where some programs put it; its place is the EXIF directory.
const MISPLACED_USER_COMMENT: Tag = Tag(Context::Tiff, 0x9286);

/// The texts of a file.
pub(super) struct Texts<'a> {
    chunks: Vec<TextChunk<'a>>,
    exif: Vec<Exif>,
    /// Of a JPEG.
    comment: Option<&'a [u8]>,
}

/// A text chunk of a PNG.
struct TextChunk<'a> {
    kind: [u8; 4],
    keyword: &'a [u8],
    /// What follows the keyword.
    data: &'a [u8],
}

impl<'a> Texts<'a> {
    /// Finds the texts of a PNG, JPEG or WebP; other files have none.
    pub(super) fn of(file: &'a [u8]) -> Self {
        let (mut chunks, mut blocks, mut comment) = (vec![], vec![], None);
        match ImageFormat::of(file) {
            Some(ImageFormat::Png) => {
                let texts =
                    container::png_chunks(file).filter(|(_, kind, _)| matches!(kind, b"tEXt" | b"zTXt" | b"iTXt"));
                chunks.extend(texts.filter_map(|(_, kind, data)| TextChunk::new(kind, data)));
                blocks.extend(container::png_exif(file).into_iter().map(Cow::into_owned));
            }
            Some(ImageFormat::Jpeg) => {
                for (marker, data) in container::jpeg_segments(file) {
                    match marker {
                        0xe1 => blocks.extend(data.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec)),
                        0xfe => comment = comment.or(Some(data)),
                        _ => {}
                    }
                }
            }
            Some(ImageFormat::WebP) => {
                let found = container::webp_chunks(file).unwrap_or_default();
                blocks.extend(found.iter().filter(|(kind, _)| kind == b"EXIF").map(|(_, data)| data.to_vec()));
            }
            None => {}
        }
        // Further blocks of one file are rare; their number bounds the memory.
        blocks.truncate(4);
        Texts { chunks, exif: blocks.into_iter().filter_map(parsed).collect(), comment }
    }

    /// The first PNG text with this keyword, or why it cannot be read.
    pub(super) fn png(&self, keyword: &str) -> Option<Result<String, String>> {
        self.chunks.iter().find(|chunk| chunk.keyword == keyword.as_bytes()).map(TextChunk::text)
    }

    /// The same without those that cannot be read.
    pub(super) fn readable(&self, keyword: &str) -> Option<String> {
        self.png(keyword)?.ok()
    }

    /// The text of an EXIF field, of the first block that has one.
    pub(super) fn exif(&self, tag: Tag) -> Option<String> {
        let text = |exif: &Exif| {
            let text = match &exif.get_field(tag, In::PRIMARY)?.value {
                Value::Ascii(lines) => utf8_or_latin1(lines.first()?),
                _ => return None,
            };
            Some(text).filter(|text| !text.is_empty())
        };
        self.exif.iter().find_map(text)
    }

    /// The comment of a user: EXIF UserComment, or the comment segment of a JPEG.
    pub(super) fn user_comment(&self) -> Option<String> {
        let stored = |exif: &Exif, tag| {
            let field = exif.get_field(tag, In::PRIMARY)?;
            match &field.value {
                Value::Undefined(bytes, _) | Value::Byte(bytes) => Some(comment_text(bytes)),
                Value::Ascii(lines) => lines.first().map(|line| comment_text(line)),
                _ => None,
            }
        };
        let of_exif = |exif| stored(exif, Tag::UserComment).or_else(|| stored(exif, MISPLACED_USER_COMMENT));
        let of_jpeg = || self.comment.map(utf8_or_latin1);
        self.exif.iter().find_map(of_exif).or_else(of_jpeg).filter(|text| !text.is_empty())
    }
}

/// An EXIF block, as far as it can be read. Some programs begin it with the `Exif\0\0` of a JPEG segment.
fn parsed(block: Vec<u8>) -> Option<Exif> {
    let tiff = match block.strip_prefix(b"Exif\0\0") {
        Some(tiff) => tiff.to_vec(),
        None => block,
    };
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    caught(|| reader.read_raw(tiff).or_else(|error| error.distill_partial_result(|_| {}))).ok()?.ok()
}

impl<'a> TextChunk<'a> {
    fn new(kind: [u8; 4], data: &'a [u8]) -> Option<Self> {
        let end = data.iter().position(|&byte| byte == 0)?;
        Some(TextChunk { kind, keyword: &data[..end], data: &data[end + 1..] })
    }

    fn text(&self) -> Result<String, String> {
        let cut_short = "the text chunk is cut short";
        let (compression, text) = match &self.kind {
            b"tEXt" => (None, self.data),
            b"zTXt" => self.data.split_first().map(|(method, text)| (Some(*method), text)).ok_or(cut_short)?,
            _ => {
                // Compression flag and method, language, translated keyword, text.
                let ([flag, method], rest) = self.data.split_first_chunk().ok_or(cut_short)?;
                let text = rest.splitn(3, |&byte| byte == 0).nth(2).ok_or(cut_short)?;
                match flag {
                    0 => (None, text),
                    1 => (Some(*method), text),
                    _ => return Err("the text chunk is compressed in an unknown way".into()),
                }
            }
        };
        let bytes = match compression {
            None if text.len() > MAX_TEXT => return Err(too_long()),
            None => text.to_vec(),
            Some(0) => inflated(text)?,
            Some(_) => return Err("the text chunk is compressed in an unknown way".into()),
        };
        match &self.kind {
            b"iTXt" => String::from_utf8(bytes).map_err(|e| e.to_string()),
            _ => Ok(utf8_or_latin1(&bytes)),
        }
    }
}

fn too_long() -> String {
    format!("they are over {} MB long", MAX_TEXT >> 20)
}

fn inflated(deflated: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    // One byte over the limit, to detect that it is exceeded.
    ZlibDecoder::new(deflated).take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > MAX_TEXT { Err(too_long()) } else { Ok(bytes) }
}

/// Text of a field that should be Latin-1 or ASCII, where several programs write UTF-8.
fn utf8_or_latin1(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    let bytes = &bytes[..bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)];
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Text of UserComment, whose first eight bytes name its encoding; some programs leave them out.
fn comment_text(bytes: &[u8]) -> String {
    let Some(text) = bytes.strip_prefix(b"UNICODE\0") else {
        let prefixes = [b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0\0\0\0\0\0\0\0"];
        return utf8_or_latin1(prefixes.iter().find_map(|prefix| bytes.strip_prefix(*prefix)).unwrap_or(bytes));
    };
    // UTF-8 is wrong here, and written by some.
    if !text.contains(&0) && str::from_utf8(text).is_ok() {
        return utf8_or_latin1(text);
    }
    // Writers disagree on the byte order. Parameters are mostly ASCII.
    let decoded = |unit: fn([u8; 2]) -> u16| {
        String::from_utf16_lossy(&text.as_chunks::<2>().0.iter().map(|&pair| unit(pair)).collect::<Vec<_>>())
    };
    let [big, little] = [decoded(u16::from_be_bytes), decoded(u16::from_le_bytes)];
    let ascii = |text: &str| text.chars().filter(char::is_ascii).count();
    let text = if ascii(&big) >= ascii(&little) { big } else { little };
    text.trim_start_matches('\u{feff}').trim_end_matches('\0').to_owned()
}

//! Pictures that a call names: of the history, as a file, or as content.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::album::Album;
use crate::desk::{Result, ToolError};

/// A text longer than this is content, and no path.
const MAX_PATH: usize = 1024;
/// How the base64 of PNG, JPEG and WebP files begins.
const BEGINNINGS: [&str; 3] = ["iVBORw0KGgo", "/9j/", "UklGR"];

/// Standard base64 with or without its padding.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A picture that a call names.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its file.
    pub bytes: Arc<[u8]>,
    /// Its number, if it is one of the history.
    pub number: Option<u64>,
    /// What it shows, if it is one of the history.
    pub prompt: Option<String>,
}

/// The picture that `text` in argument `field` names, of at most `most` bytes (blocks on the disk).
///
/// # Errors
/// If there is none, or the text leads out of the folder or to an address.
pub fn find(text: &str, field: &str, album: &Album, most: usize) -> Result<Named> {
    let text = text.trim();
    if text.starts_with('$') {
        let (bytes, entry) = album.picture(text, most)?;
        return Ok(Named { bytes, number: Some(entry.number), prompt: Some(entry.made.prompt) });
    }
    let of_file = |bytes: Vec<u8>| Named { bytes: bytes.into(), number: None, prompt: None };
    if let Some(base64) = content(text) {
        return decode(base64, field, most).map(of_file);
    }
    if text.contains("://") || has_prefix(text, "file:") {
        let message = format!("{field} is an address, and addresses are not fetched");
        return Err(ToolError::new(message, "send the picture as base64"));
    }
    match album.root() {
        Some(root) => root.read(text, most).map(of_file),
        None => {
            let message = format!("{field} is a path, and this server reads no files");
            Err(ToolError::new(message, "send the picture as base64, or name one of the history, as in $1"))
        }
    }
}

/// The base64 of a text that is content; `None` if it is a path.
fn content(text: &str) -> Option<&str> {
    if has_prefix(text, "data:") {
        return Some(text.split_once(";base64,").map_or("", |(_, base64)| base64));
    }
    let is_content =
        text.len() > MAX_PATH || (text.len() > 40 && BEGINNINGS.iter().any(|begin| text.starts_with(begin)));
    is_content.then_some(text)
}

fn decode(base64: &str, field: &str, most: usize) -> Result<Vec<u8>> {
    if base64.len() / 4 * 3 > most {
        return Err(ToolError(format!("{field} is larger than {most} bytes, the most that is read")));
    }
    let digits: Vec<u8> = base64.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    match LENIENT_BASE64.decode(&digits) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => {
            let hint = "send the base64 of a PNG, JPEG or WebP file, a path, or a picture of the history, as in $1";
            Err(ToolError::new(format!("{field} is not valid base64"), hint))
        }
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use flux2::image::ImageFormat;
    use flux2_session::{History, HistoryOptions, Made};

    use super::*;
    use crate::album::Wanted;
    use crate::root::Root;

    #[test]
    fn a_picture_is_of_the_history_a_file_or_content() {
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(folder.path()).unwrap());
        let album = Album::new(Some(root), History::in_memory(HistoryOptions::default()));
        album.add(b"history", ImageFormat::Png, &Wanted::default(), Made::default()).unwrap();
        std::fs::write(folder.path().join("a.png"), b"file").unwrap();
        let found = |text: &str| find(text, "image", &album, 5000).map(|named| named.bytes.to_vec());
        assert_eq!(found("$1").unwrap(), b"history");
        assert_eq!(found(" a.png ").unwrap(), b"file");
        let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 60]].concat();
        let long = [1; 2000];
        assert_eq!(found(&BASE64_STANDARD.encode(&png)).unwrap(), png);
        assert_eq!(found(&BASE64_STANDARD.encode(long)).unwrap(), long);
        assert_eq!(found("data:image/png;base64,aGk=").unwrap(), b"hi");
        let error = |text: &str| found(text).unwrap_err().0;
        assert!(error("https://169.254.169.254/x").contains("addresses are not fetched"));
        assert!(error("file:///etc/passwd").contains("addresses are not fetched"));
        assert!(error("/etc/passwd").contains("leads out of the folder"));
        assert!(error("b.png").contains("there is no file"));
        assert!(error(&"!".repeat(3000)).contains("not valid base64"));
        assert!(error(&"A".repeat(9000)).contains("larger than 5000 bytes"));
        assert!(error("data:image/png,hi").contains("not valid base64"));
        for text in ["$0", "$2", "$cat", "$", "$1st", "$-1x", &format!("${}", "9".repeat(5000))] {
            assert!(!error(text).is_empty(), "{text}");
        }
        let bare = Album::in_memory();
        assert!(find("a.png", "image", &bare, 9).unwrap_err().0.contains("reads no files"));
    }
}

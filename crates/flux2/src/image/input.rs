//! Which format a file has, by its first bytes; and what the files of other formats are, for the error.

use super::ImageFormat;

/// A format that is read: more than [are written](ImageFormat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// PNG, one frame.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP, one frame.
    WebP,
    /// GIF; the first frame.
    Gif,
    /// BMP.
    Bmp,
    /// TIFF; the first page.
    Tiff,
    /// QOI.
    Qoi,
}

impl InputFormat {
    /// The format of a file's first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match (ImageFormat::of(bytes), bytes) {
            (Some(ImageFormat::Png), _) => Some(Self::Png),
            (Some(ImageFormat::Jpeg), _) => Some(Self::Jpeg),
            (Some(ImageFormat::WebP), _) => Some(Self::WebP),
            (None, [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..]) => Some(Self::Gif),
            // A text may begin with these letters; the length of the second header cannot.
            (None, [b'B', b'M', rest @ ..]) if rest.get(13..16) == Some(&[0; 3]) => Some(Self::Bmp),
            (None, [b'I', b'I', b'*', 0, rest @ ..] | [b'M', b'M', 0, b'*', rest @ ..]) => {
                let is_raw = rest.get(4..6) == Some(b"CR");
                (!is_raw).then_some(Self::Tiff)
            }
            (None, [b'q', b'o', b'i', b'f', ..]) => Some(Self::Qoi),
            _ => None,
        }
    }

    /// Its usual spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Qoi => "QOI",
        }
    }
}

/// What a file that is not read seems to be, with its article, and how to convert it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) found: &'static str,
    pub(super) how: &'static str,
}

const CONVERT: &str = "convert it to PNG or JPEG";
const RAW: Foreign = Foreign {
    found: "a raw photograph",
    how: "develop it to a JPEG or TIFF first, with darktable or the program of the camera",
};

/// What kind of file `bytes` are that [`InputFormat::of`] does not know.
pub(super) fn foreign(bytes: &[u8]) -> Foreign {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix.as_bytes()));
    let (found, how) = match bytes {
        [] => ("empty", CONVERT),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => return of_brand(brand.get(..4).unwrap_or_default()),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => return RAW,
        [b'I', b'I', b'+', 0, ..] | [b'M', b'M', 0, b'+', ..] => ("a BigTIFF", CONVERT),
        [b'F', b'U', b'J', b'I', b'F', b'I', b'L', b'M', ..] | [b'I', b'I', b'R' | b'U', ..] => return RAW,
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => {
            ("a JPEG XL", "convert it with `djxl`, which comes with libjxl, to a PNG")
        }
        [0, 0, 0, 0x0c, b'j', b'P', ..] => ("a JPEG 2000", "convert it to PNG with GIMP or ImageMagick"),
        [b'8', b'B', b'P', b'S', ..] => ("a Photoshop file", "export it as PNG, from Photoshop, GIMP or Krita"),
        [b'g', b'i', b'm', b'p', b' ', ..] => ("a GIMP file", "export it as PNG from GIMP"),
        [b'#', b'?', b'R', b'A', ..] | [0x76, 0x2f, 0x31, 0x01, ..] => {
            ("a picture of high dynamic range", "map its tones and save it as PNG, with GIMP or darktable")
        }
        [b'P', b'K', 3, 4, ..] => ("a ZIP archive", "unpack it and pass the picture"),
        [b'%', b'P', b'D', b'F', ..] => ("a PDF", "draw a page of it as PNG, with `pdftoppm`"),
        _ if starts("<!doctype html") || starts("<html") => ("a web page", "download the picture that it shows"),
        _ if starts("<svg") || starts("<?xml") => {
            ("an SVG or other XML", "draw it as PNG at the size you want, with `rsvg-convert` or Inkscape")
        }
        _ => ("of an unknown format", CONVERT),
    };
    Foreign { found, how }
}

/// A file of the ISO container that HEIC, AVIF and videos share, by its brand.
fn of_brand(brand: &[u8]) -> Foreign {
    let (found, how) = match brand {
        b"avif" | b"avis" => ("an AVIF", "convert it with `avifdec`, which comes with libavif, to a PNG"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => (
            "a HEIC",
            "convert it with `heif-convert`, which comes with libheif, to a JPEG; or let the phone export JPEG",
        ),
        b"jxl " => ("a JPEG XL", "convert it with `djxl`, which comes with libjxl, to a PNG"),
        b"crx " => return RAW,
        _ => ("a video file", "save one frame of it as PNG, with `ffmpeg` or a player"),
    };
    Foreign { found, how }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        let bmp = [b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".as_slice(), &[0; 8]].concat();
        for (bytes, format) in [
            (b"GIF87a\x01\0".as_slice(), Some(InputFormat::Gif)),
            (b"GIF89a\x01\0", Some(InputFormat::Gif)),
            (b"GIF88a\x01\0", None),
            (&bmp, Some(InputFormat::Bmp)),
            (b"BMW is a maker of cars and motorcycles", None),
            (b"II*\0\x08\0\0\0", Some(InputFormat::Tiff)),
            (b"MM\0*\0\0\0\x08", Some(InputFormat::Tiff)),
            (b"II*\0\x10\0\0\0CR\x02\0", None),
            (b"qoif\0\0\0\x01", Some(InputFormat::Qoi)),
            (b"\x89PNG\r\n\x1a\n", Some(InputFormat::Png)),
            (b"", None),
        ] {
            assert_eq!(InputFormat::of(bytes), format, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn other_files_are_named_with_a_way_to_convert_them() {
        for (bytes, found, how) in [
            (b"".as_slice(), "empty", "convert"),
            (b"\0\0\0\x1cftypavif", "an AVIF", "avifdec"),
            (b"\0\0\0\x1cftypheic", "a HEIC", "heif-convert"),
            (b"\0\0\0\x1cftypmif1", "a HEIC", "heif-convert"),
            (b"\0\0\0\x1cftypisom", "a video file", "ffmpeg"),
            (b"\0\0\0\x1cftyp", "a video file", "ffmpeg"),
            (b"\0\0\0\x1cftypcrx ", "a raw photograph", "develop"),
            (b"II*\0\x10\0\0\0CR\x02\0", "a raw photograph", "develop"),
            (b"\xff\x0a", "a JPEG XL", "djxl"),
            (b"8BPS", "a Photoshop file", "export"),
            (b"\xef\xbb\xbf <SVG>", "an SVG or other XML", "rsvg-convert"),
            (b"\n<!DOCTYPE html><title>", "a web page", "download"),
            (b"fox", "of an unknown format", "convert"),
        ] {
            let foreign = foreign(bytes);
            assert_eq!(foreign.found, found, "{}", bytes.escape_ascii());
            assert!(foreign.how.contains(how), "{found}: {}", foreign.how);
        }
    }
}

//! Parts of PNG, JPEG and WebP files: what the decoders' crates refuse though every pixel is there, and EXIF where they
//! do not look for it.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::Crc;
use flate2::read::ZlibDecoder;

/// Longest raw profile that is read, in bytes of text.
const MAX_RAW_PROFILE: u64 = 1 << 20;

/// A whole chunk: where it starts, its kind, its data.
pub(crate) type Chunk<'a> = (usize, [u8; 4], &'a [u8]);

/// The chunks of a PNG whose data is whole.
pub(crate) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut at = 8;
    std::iter::from_fn(move || {
        let (head, rest) = bytes.get(at..)?.split_first_chunk::<8>()?;
        let [l3, l2, l1, l0, kind @ ..] = *head;
        let data = rest.get(..u32::from_be_bytes([l3, l2, l1, l0]) as usize)?;
        let chunk = (at, kind, data);
        at += 8 + data.len() + 4;
        Some(chunk)
    })
}

/// The PNG with an IEND chunk, which the decoder asks for. A chunk that is cut is left out: if it held pixels, the
/// decoder misses them.
pub(super) fn png_with_end(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some((start, kind, data)) = png_chunks(bytes).last() else { return Cow::Borrowed(bytes) };
    if &kind == b"IEND" {
        return Cow::Borrowed(bytes);
    }
    let end = start + 8 + data.len();
    let mut repaired = bytes[..end].to_vec();
    // The checksum may be cut too; that it is wrong where it is whole remains an error.
    match bytes.get(end..end + 4) {
        Some(checksum) => repaired.extend_from_slice(checksum),
        None => {
            let mut crc = Crc::new();
            crc.update(&bytes[start + 4..end]);
            repaired.extend_from_slice(&crc.sum().to_be_bytes());
        }
    }
    repaired.extend_from_slice(b"\0\0\0\0IEND\xae\x42\x60\x82");
    Cow::Owned(repaired)
}

/// Whether [`png_with_end`] copies the file.
pub(super) fn png_lacks_end(bytes: &[u8]) -> bool {
    png_chunks(bytes).last().is_some_and(|(_, kind, _)| &kind != b"IEND")
}

/// Length of a PNG's compressed color profile; 0 if it has none.
pub(super) fn png_profile_length(bytes: &[u8]) -> usize {
    png_chunks(bytes).find(|(_, kind, _)| kind == b"iCCP").map_or(0, |(.., data)| data.len())
}

/// EXIF of a PNG, wherever it is in the file: in a chunk of its own, then in texts.
pub(super) fn png_exif(bytes: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let chunk = png_chunks(bytes).find(|(_, kind, _)| kind == b"eXIf").map(|(.., data)| Cow::Borrowed(data));
    chunk.into_iter().chain(png_raw_exif(bytes).into_iter().map(Cow::Owned)).collect()
}

/// EXIF that ImageMagick and exiftool write into text chunks of a PNG: `Raw profile type exif`, in hexadecimal.
fn png_raw_exif(bytes: &[u8]) -> Vec<Vec<u8>> {
    let raw = |(_, kind, data): Chunk<'_>| {
        let text = data.strip_prefix(b"Raw profile type ")?;
        let text = [b"exif\0".as_slice(), b"APP1\0"].iter().find_map(|name| text.strip_prefix(*name))?;
        match &kind {
            b"tEXt" => raw_profile(text),
            b"zTXt" => {
                let mut inflated = vec![];
                ZlibDecoder::new(text.strip_prefix(&[0])?).take(MAX_RAW_PROFILE).read_to_end(&mut inflated).ok()?;
                raw_profile(&inflated)
            }
            _ => None,
        }
    };
    // One of each name; more would let a small file take a lot of memory.
    png_chunks(bytes).filter_map(raw).take(2).collect()
}

/// The bytes of `\nNAME\n  LENGTH\nHEXADECIMAL`, where the last may have line breaks.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let hex = text.splitn(4, |&byte| byte == b'\n').nth(3)?;
    let digits: Vec<u32> = hex.iter().filter_map(|&byte| char::from(byte).to_digit(16)).collect();
    Some(digits.as_chunks::<2>().0.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

/// Markers and data of the segments of a JPEG before its pixels.
pub(crate) fn jpeg_segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    const PIXELS: u8 = 0xda;
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let start = rest.iter().position(|&byte| byte != 0xff)?;
        let (&marker, tail) = rest[start..].split_first().filter(|(marker, _)| start > 0 && **marker != PIXELS)?;
        let (length, _) = tail.split_first_chunk::<2>()?;
        let (segment, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = tail;
        Some((marker, segment.get(2..)?))
    })
}

/// Kind and data of the chunks of a WebP, or `None` unless every one lies inside the file.
pub(crate) fn webp_chunks(bytes: &[u8]) -> Option<Vec<([u8; 4], &[u8])>> {
    let size = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let end = 8 + size(4)?;
    let mut at = 12;
    let mut chunks = vec![];
    while at < end {
        let size = size(at + 4)?;
        chunks.push((*bytes[at..].first_chunk()?, bytes.get(at + 8..at + 8 + size)?));
        at += 8 + size.next_multiple_of(2);
    }
    Some(chunks)
}

/// Most bytes that the decoder takes for each pixel of a WebP with these chunks: its result, planes of luma and chroma,
/// the alpha or the colors that it decodes apart, the images of lossless transforms, the canvas of an animation.
pub(super) fn webp_memory_of_pixel(chunks: &[([u8; 4], &[u8])]) -> usize {
    let has = |wanted: &[u8; 4]| chunks.iter().any(|(kind, _)| kind == wanted);
    match () {
        () if has(b"ANMF") => 14,
        () if has(b"ALPH") => 12,
        () if has(b"VP8L") => 9,
        () => 6,
    }
}

/// The WebP without what the decoder refuses or changes: flags of metadata that it does not hold, and an animation
/// whose only frame is the whole picture, which the decoder would blend with a loss.
pub(super) fn webp_repaired<'a>(bytes: &'a [u8], chunks: &[([u8; 4], &[u8])]) -> Cow<'a, [u8]> {
    const ANIMATION: u8 = 0x02;
    let data = |wanted: &[u8; 4]| chunks.iter().find(|(kind, _)| kind == wanted).map(|&(_, data)| data);
    let Some(&(_, [flags, _, _, _, canvas @ ..])) = chunks.first().filter(|(kind, _)| kind == b"VP8X") else {
        return Cow::Borrowed(bytes);
    };
    let mut wrong = 0;
    for (flag, kind) in [(0x08, b"EXIF"), (0x04, b"XMP ")] {
        if data(kind).is_none() {
            wrong |= flag;
        }
    }
    // Place, size, duration and flags of a frame come before its chunks.
    let is_whole = |frame: &&[u8]| frame.get(..12).is_some_and(|f| f[..6] == [0; 6] && &f[6..] == canvas);
    let frame = data(b"ANMF").filter(is_whole).and_then(|frame| frame.get(16..));
    if frame.is_some() {
        wrong |= ANIMATION;
    }
    if flags & wrong == 0 {
        return Cow::Borrowed(bytes);
    }
    let mut repaired = bytes[..12].to_vec();
    for (kind, data) in chunks {
        match (kind, frame) {
            (b"ANIM", Some(_)) => continue,
            (b"ANMF", Some(frame)) => repaired.extend_from_slice(frame),
            _ => {
                repaired.extend_from_slice(kind);
                repaired.extend_from_slice(&(data.len() as u32).to_le_bytes());
                repaired.extend_from_slice(data);
            }
        }
        repaired.resize(repaired.len().next_multiple_of(2), 0);
    }
    repaired[20] &= !wrong;
    let size = (repaired.len() - 8) as u32;
    repaired[4..8].copy_from_slice(&size.to_le_bytes());
    Cow::Owned(repaired)
}

/// What a WebP holds beside its pixels.
pub(super) struct WebpExtras<'a> {
    pub(super) has_alpha: bool,
    pub(super) profile: Option<&'a [u8]>,
    pub(super) exif: Option<&'a [u8]>,
}

/// A still WebP with a color profile before its pixels and a block of EXIF behind them.
pub(super) fn webp_with(bytes: &[u8], size: [u32; 2], extras: &WebpExtras) -> Vec<u8> {
    let WebpExtras { has_alpha, profile, exif } = *extras;
    let flags = [(has_alpha, 0x10), (profile.is_some(), 0x20), (exif.is_some(), 0x08)];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
    let [width, height] = size.map(|px| (px - 1).to_le_bytes());
    let head = [&[flags, 0, 0, 0], &width[..3], &height[..3]].concat();
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        file.extend_from_slice(kind);
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(data);
        file.resize(file.len().next_multiple_of(2), 0);
    };
    chunk(b"VP8X", &head);
    profile.iter().for_each(|profile| chunk(b"ICCP", profile));
    let pixels = webp_chunks(bytes).unwrap_or_default();
    pixels.iter().filter(|(kind, _)| kind != b"VP8X").for_each(|(kind, data)| chunk(kind, data));
    exif.iter().for_each(|exif| chunk(b"EXIF", exif));
    let length = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    file
}

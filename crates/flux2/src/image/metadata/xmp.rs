//! The XMP packet of a picture, which says how it came about in a word of the IPTC that sites and editors read.
//!
//! | file | where | among |
//! |---|---|---|
//! | PNG | iTXt chunk `XML:com.adobe.xmp`, after the header | chunks |
//! | JPEG | APP1 segment, behind JFIF and EXIF | segments |
//! | WebP | chunk `XMP `, the last, and a flag of `VP8X` | chunks |
//!
//! The packet is put into the bytes of a finished file, whatever encoded it. It is read from the files of any program.

use flate2::Crc;

use super::super::{ImageFormat, container};
use super::SOFTWARE;

/// Vocabulary of the IPTC for the kinds of sources.
const VOCABULARY: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/";
/// Keyword of the chunk in a PNG.
const PNG_KEYWORD: &[u8] = b"XML:com.adobe.xmp";
/// First bytes of the segment in a JPEG.
const JPEG_NAME: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Most bytes of a packet that are searched for the kind.
const MAX_PACKET: usize = 1 << 20;

/// How a picture came about, in words of the IPTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// A model drew it all, from a prompt or from reference images too.
    #[default]
    Drawn,
    /// A model drew a part of it; the rest is another picture's.
    Composite,
    /// Another picture, enlarged or cleaned by a model.
    Enhanced,
}

impl SourceType {
    /// That of a word of the vocabulary; `None` for the many words that this program does not write.
    pub fn of(word: &str) -> Option<Self> {
        [SourceType::Drawn, SourceType::Composite, SourceType::Enhanced].into_iter().find(|kind| kind.word() == word)
    }

    /// The word of the vocabulary.
    pub const fn word(self) -> &'static str {
        match self {
            SourceType::Drawn => "trainedAlgorithmicMedia",
            SourceType::Composite => "compositeWithTrainedAlgorithmicMedia",
            SourceType::Enhanced => "algorithmicallyEnhanced",
        }
    }

    /// Address of the word, which is what files hold.
    pub fn address(self) -> String {
        format!("{VOCABULARY}{}", self.word())
    }
}

/// The packet of a picture by this version of this program.
pub fn packet(source_type: SourceType) -> String {
    let (version, address) = (env!("CARGO_PKG_VERSION"), source_type.address());
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n \
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n  <rdf:Description rdf:about=\"\"\n    \
         xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\"\n    \
         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\"\n    \
         xmp:CreatorTool=\"{SOFTWARE} {version}\"\n    Iptc4xmpExt:DigitalSourceType=\"{address}\"/>\n \
         </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>"
    )
}

/// The file with the packet in it. A file without the parts that every encoder writes stays as it is.
pub fn embed(file: Vec<u8>, format: ImageFormat, packet: &str) -> Vec<u8> {
    let embedded = match format {
        ImageFormat::Png => png(&file, packet.as_bytes()),
        ImageFormat::Jpeg => jpeg(&file, packet.as_bytes()),
        ImageFormat::WebP => webp(&file, packet.as_bytes()),
    };
    embedded.unwrap_or(file)
}

/// Signature and header of a PNG.
const PNG_HEADER: usize = 8 + 25;

fn png(file: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = file.split_at_checked(PNG_HEADER)?;
    // Not compressed, no language, no translated keyword.
    let chunk = [b"iTXt", PNG_KEYWORD, b"\0\0\0\0\0", packet].concat();
    let mut crc = Crc::new();
    crc.update(&chunk);
    let length = u32::try_from(chunk.len() - 4).ok()?.to_be_bytes();
    Some([head, &length, &chunk, &crc.sum().to_be_bytes(), rest].concat())
}

fn jpeg(file: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
    let is_before = |(marker, data): &(u8, &[u8])| *marker == 0xe0 || (*marker == 0xe1 && data.starts_with(b"Exif\0"));
    let before: usize = container::jpeg_segments(file).take_while(is_before).map(|(_, data)| data.len() + 4).sum();
    let (head, rest) = file.split_at_checked(2 + before)?;
    let length = u16::try_from(2 + JPEG_NAME.len() + packet.len()).ok()?.to_be_bytes();
    Some([head, &[0xff, 0xe1], &length, JPEG_NAME, packet, rest].concat())
}

fn webp(file: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
    const HAS_XMP: u8 = 0x04;
    let chunks = container::webp_chunks(file)?;
    let mut out = file.get(..12)?.to_vec();
    let mut add = |kind: &[u8; 4], data: &[u8]| {
        out.extend_from_slice(kind);
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(2), 0);
    };
    let (first, data) = chunks.first()?;
    let mut header = match first {
        b"VP8X" => <[u8; 10]>::try_from(*data).ok()?,
        _ => webp_header(first, data)?,
    };
    header[0] |= HAS_XMP;
    add(b"VP8X", &header);
    let others = chunks.iter().filter(|(kind, _)| !matches!(kind, b"VP8X" | b"XMP "));
    others.for_each(|(kind, data)| add(kind, data));
    add(b"XMP ", packet);
    let size = u32::try_from(out.len() - 8).ok()?;
    out[4..8].copy_from_slice(&size.to_le_bytes());
    Some(out)
}

/// The extended header of a WebP that has none: flags, and width and height less 1 in 24 bits each.
fn webp_header(kind: &[u8; 4], data: &[u8]) -> Option<[u8; 10]> {
    const HAS_ALPHA: u8 = 0x10;
    let (width, height, has_alpha) = match kind {
        // Width and height less 1 in 14 bits each, then whether there is alpha.
        b"VP8L" => {
            let bits = u32::from_le_bytes(*data.get(1..)?.first_chunk()?);
            (bits & 0x3fff, (bits >> 14) & 0x3fff, bits >> 28 & 1 == 1)
        }
        // A key frame: three bytes, a start code of three, then width and height in 14 bits each.
        b"VP8 " => {
            let [w0, w1, h0, h1] = *data.get(6..)?.first_chunk()?;
            let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff).wrapping_sub(1);
            (side([w0, w1]), side([h0, h1]), false)
        }
        _ => return None,
    };
    let ([w0, w1, w2, _], [h0, h1, h2, _]) = (width.to_le_bytes(), height.to_le_bytes());
    Some([if has_alpha { HAS_ALPHA } else { 0 }, 0, 0, 0, w0, w1, w2, h0, h1, h2])
}

/// The word that says how the picture in a file came about, of any program's vocabulary of the IPTC; `None` if no
/// packet says it. It has letters only.
pub fn read(file: &[u8]) -> Option<String> {
    packets(file).into_iter().find_map(source_word)
}

/// The packets of a PNG, JPEG or WebP. Those that are compressed are not read.
fn packets(file: &[u8]) -> Vec<&[u8]> {
    match ImageFormat::of(file) {
        Some(ImageFormat::Png) => container::png_chunks(file)
            .filter(|(_, kind, _)| kind == b"iTXt")
            .filter_map(|(.., data)| data.strip_prefix(PNG_KEYWORD)?.strip_prefix(b"\0\0"))
            .collect(),
        Some(ImageFormat::Jpeg) => container::jpeg_segments(file)
            .filter(|(marker, _)| *marker == 0xe1)
            .filter_map(|(_, data)| data.strip_prefix(JPEG_NAME))
            .collect(),
        Some(ImageFormat::WebP) => {
            let chunks = container::webp_chunks(file).unwrap_or_default();
            chunks.into_iter().filter(|(kind, _)| kind == b"XMP ").map(|(_, data)| data).collect()
        }
        None => vec![],
    }
}

/// The word behind the vocabulary's address: as an attribute, an element or a resource, whatever wrote it.
fn source_word(packet: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&packet[..packet.len().min(MAX_PACKET)]);
    let (_, behind) = text.split_once(":DigitalSourceType")?;
    let (_, word) = behind.split_once("cv.iptc.org/newscodes/digitalsourcetype/")?;
    let word: String = word.chars().take(64).take_while(char::is_ascii_alphabetic).collect();
    Some(word).filter(|word| !word.is_empty())
}

//! Image files: bytes to sRGB pixels and back, and atomic writing. PNG, JPEG and WebP are read and written; GIF, BMP,
//! TIFF and QOI are read.
//!
//! In:  untrusted bytes. The format is detected by content, never by name; the size is checked before decoding.
//! Out: upright sRGB, 8 bits a channel. The ICC profile is applied first, then transparency, then the EXIF orientation.
//!      As in Pillow's `convert("RGB")`, 16-bit channels keep their high byte.
//!
//! Three differences from Pillow: transparency shows a background, as in a viewer, where Pillow's `convert` lets hidden
//! colors through; 16-bit gray also keeps its high byte, where Pillow clips at 255 and so turns a photograph white; a PNG
//! or WebP of several frames is refused, where Pillow takes its first frame, as it is done here for a GIF.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use image::ImageDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;

use super::input::{self, Foreign, InputFormat};
use super::jpeg::{self, Fault};
use super::metadata::{PngText, PngTextKind, SheetParameters};
use super::plain::{self, Plain};
use super::quality::{Embedded, Quality};
use super::resize::{MAX_AREA, Shrinking};
use super::rows::{Flattening, Head, Preparation, Rows, Whole};
use super::{Parameters, RgbImage, color, container};
use crate::{Error, Result};

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest number of pixels that are decoded: 128 million, 384 MB of RGB.
pub const MAX_PIXELS: u64 = 128_000_000;
/// Largest image file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// An image format that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lossless; parameters as text chunks.
    Png,
    /// Lossy, quality 95; parameters as EXIF.
    Jpeg,
    /// Written without loss; parameters as EXIF.
    WebP,
}

impl ImageFormat {
    /// The format of a file name's extension, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`] unless it is `png`, `jpg`, `jpeg` or `webp`.
    pub fn from_path(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            _ => Err(Error::UnknownExtension { path: path.into() }),
        }
    }

    /// The format of a file's first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// Its usual spelling: `PNG`, `JPEG`, `WebP`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

// ---- reading ----

/// Read and decode an image file.
///
/// # Errors
/// Those of [`read_file`] and [`decode`].
pub fn open(path: &Path) -> Result<RgbImage> {
    decode(&read_file(path)?, &path.display().to_string())
}

/// Read the bytes of an image file, for [`decode`] and [`sha256`](flux2_base::digest::sha256).
///
/// # Errors
/// [`Error::Io`]; [`Error::ImageFileTooLarge`] over [`MAX_FILE_BYTES`].
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.into(), source };
    // Opening a pipe without a writer would block.
    if !path.metadata().map_err(io)?.is_file() {
        return Err(not_a_file(path));
    }
    let file = File::open(path).map_err(io)?;
    let too_large = |bytes| Error::ImageFileTooLarge { path: path.into(), bytes, max: MAX_FILE_BYTES };
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(too_large(bytes));
    }
    // The file may grow while it is read, so the read is bounded too.
    let mut contents = Vec::with_capacity(bytes as usize + 1);
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents).map_err(io)? as u64;
    if read > MAX_FILE_BYTES { Err(too_large(read)) } else { Ok(contents) }
}

/// The background of transparent pictures where none is chosen.
pub const WHITE: [u8; 3] = [255; 3];

/// What happens to the alpha channel of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transparency {
    /// The picture is put over this color, as viewers show it.
    Over([u8; 3]),
    /// The channel is dropped, so that colors hidden under transparency become visible, as diffusers does.
    Dropped,
}

impl Default for Transparency {
    fn default() -> Self {
        Transparency::Over(WHITE)
    }
}

/// Decode `bytes` to an upright picture in sRGB, over white where it is transparent. `what` names it in errors.
///
/// # Errors
/// Those of [`decode_transparent`].
pub fn decode(bytes: &[u8], what: &str) -> Result<RgbImage> {
    decode_transparent(bytes, what, Transparency::default()).map(|flattened| flattened.image)
}

/// A picture without transparency.
#[derive(Clone, Debug)]
pub struct Flattened {
    /// The picture.
    pub image: RgbImage,
    /// Whether the file is transparent anywhere.
    pub was_transparent: bool,
}

/// Decode `bytes` to an upright picture in sRGB without an alpha channel. `what` names it in errors.
///
/// # Errors
/// [`Error::ImageFormat`], [`Error::ImageDecode`], [`Error::ImageAnimated`], [`Error::ImageTooLarge`].
pub fn decode_transparent(bytes: &[u8], what: &str, transparency: Transparency) -> Result<Flattened> {
    Input::new(bytes, what)?.decode(
        &Preparation { transparency, ..Preparation::default() },
        |rows: Whole, was_transparent| Flattened { image: rows.finish(), was_transparent },
    )
}

/// A reference image as the model takes it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The picture, shrunk and cropped.
    pub image: RgbImage,
    /// Width and height of the upright picture before.
    pub source_px: [u32; 2],
    /// Whether the file is transparent anywhere.
    pub was_transparent: bool,
    /// Whether the file holds frames or pages behind this one, the first.
    pub has_more_frames: bool,
}

/// As [`decode_transparent`], followed by [`prepare_reference`](super::prepare_reference), to the byte. A picture of
/// any size is shrunk while it is decoded, row by row as far as its format allows.
///
/// # Errors
/// Those of the two.
pub fn decode_reference(bytes: &[u8], what: &str, transparency: Transparency) -> Result<Prepared> {
    prepare(bytes, what, &Preparation { transparency, ..Preparation::default() })
}

/// As [`decode_reference`], prepared in another way.
///
/// # Errors
/// Those of [`decode_reference`].
pub fn prepare(bytes: &[u8], what: &str, preparation: &Preparation) -> Result<Prepared> {
    let input = Input::new(bytes, what)?;
    let has_more_frames = plain::has_more_frames(input.format, bytes);
    input.decode(preparation, |rows: Shrinking, was_transparent| {
        let source_px = rows.source_px();
        Prepared { image: rows.finish(), source_px, was_transparent, has_more_frames }
    })
}

/// Memory that [`prepare`] takes at most beside `bytes`, from the header alone. `what` names it in errors.
///
/// # Errors
/// Those of [`prepare`] about the header.
pub fn reference_memory(bytes: &[u8], what: &str, preparation: &Preparation) -> Result<usize> {
    let input = Input::new(bytes, what)?;
    // A larger result is there once more while it is turned or cropped.
    let more = 2 * 3 * preparation.max_area.saturating_sub(MAX_AREA) as usize;
    let of_file = super::caught(|| input.reference_memory()).unwrap_or_else(|panic| Err(input.broken(panic)));
    of_file.map(|bytes| bytes + more)
}

/// The bytes to decode, and their name for errors.
struct Input<'a> {
    bytes: &'a [u8],
    what: &'a str,
    format: InputFormat,
}

/// Most bytes that chunks of a PNG may inflate to, such as its color profile.
const MAX_PNG_CHUNKS: usize = 64 << 20;
/// Most bytes that a byte of deflate inflates to.
const MAX_INFLATION: usize = 1032;
/// Bytes of memory that the conversion of a color profile takes for each of its own.
const PROFILE_MEMORY: usize = 8;
/// Memory to shrink a reference: sums of a few rows, weights of both axes, the result before and after it is turned and
/// cropped; and rows and tables of the decoders.
const SHRINKING_MEMORY: usize = 16 << 20;

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8], what: &'a str) -> Result<Self> {
        match InputFormat::of(bytes) {
            Some(format) => Ok(Input { bytes, what, format }),
            None => {
                let Foreign { found, how } = input::foreign(bytes);
                Err(Error::ImageFormat { what: what.into(), found, how })
            }
        }
    }

    /// Decode to an `R`. Returns what `finish` makes of it and of whether the file is transparent anywhere.
    fn decode<R: Rows, T>(&self, preparation: &Preparation, finish: impl FnOnce(R, bool) -> T) -> Result<T> {
        let decode = || {
            let start = |head: &Head| Flattening::<R>::start(head, preparation);
            let rows = match self.format {
                InputFormat::Png => self.png(start)?,
                InputFormat::Jpeg => self.jpeg(start)?,
                InputFormat::WebP => self.webp(start)?,
                InputFormat::Gif | InputFormat::Bmp | InputFormat::Tiff | InputFormat::Qoi => self.plain(start)?,
            };
            let (rows, was_transparent) = rows.finish();
            Ok(finish(rows, was_transparent))
        };
        super::caught(decode).unwrap_or_else(|panic| Err(self.broken(panic)))
    }

    /// See [`reference_memory`].
    fn reference_memory(&self) -> Result<usize> {
        let file = self.bytes.len();
        let format = match self.format {
            InputFormat::Png => {
                let mut decoder = png::Decoder::new(Cursor::new(self.bytes));
                let header = decoder.read_header_info().map_err(|e| self.broken(e))?;
                let ((width, height), interlaced) = (header.size(), header.interlaced);
                self.check_size(width, height)?;
                // Passes of an interlaced picture cover all of it. A palette or a transparent color adds channels.
                let pixels = if interlaced { 4 * width as usize * height as usize } else { 0 };
                let inflated = MAX_PNG_CHUNKS.min(MAX_INFLATION * container::png_profile_length(self.bytes));
                pixels + PROFILE_MEMORY * inflated + if container::png_lacks_end(self.bytes) { file } else { 0 }
            }
            InputFormat::Jpeg => {
                let size = jpeg::size(self.bytes).map_err(|fault| self.fault(fault))?;
                self.check_size(size.width, size.height)?;
                size.memory + PROFILE_MEMORY * jpeg::most_profile_bytes(self.bytes)
            }
            InputFormat::WebP => {
                let chunks = container::webp_chunks(self.bytes).ok_or_else(|| self.broken(CUT_SHORT))?;
                let decoder = WebPDecoder::new(Cursor::new(self.bytes)).map_err(|e| self.broken(e))?;
                let (width, height) = decoder.dimensions();
                self.check_size(width, height)?;
                let profile = chunks.iter().find(|(kind, _)| kind == b"ICCP").map_or(0, |(_, data)| data.len());
                let pixel = container::webp_memory_of_pixel(&chunks);
                width as usize * height as usize * pixel + PROFILE_MEMORY * profile + 2 * file
            }
            InputFormat::Gif | InputFormat::Bmp | InputFormat::Tiff | InputFormat::Qoi => {
                let mut plain = self.open_plain()?;
                let profile = plain.profile().map_or(0, |profile| profile.len());
                plain.memory(self.format) + PROFILE_MEMORY * profile
            }
        };
        Ok(format + SHRINKING_MEMORY)
    }

    fn broken(&self, reason: impl ToString) -> Error {
        Error::ImageDecode { what: self.what.into(), format: self.format.name(), reason: reason.to_string() }
    }

    fn animated(&self) -> Error {
        Error::ImageAnimated { what: self.what.into(), format: self.format.name() }
    }

    /// Check the size in the header before anything of that size is allocated.
    fn check_size(&self, width: u32, height: u32) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(self.broken(format_args!("it is {width}x{height} pixels")));
        }
        if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
            let (max_side, max_pixels) = (MAX_SIDE, MAX_PIXELS);
            return Err(Error::ImageTooLarge { what: self.what.into(), width, height, max_side, max_pixels });
        }
        Ok(())
    }

    fn png<R: Rows>(&self, start: impl FnOnce(&Head) -> Result<Flattening<R>>) -> Result<Flattening<R>> {
        // The limit is for decompressed chunks; pixels are bounded by the size of the picture.
        let limits = png::Limits { bytes: MAX_PNG_CHUNKS };
        let bytes = container::png_with_end(self.bytes);
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(&*bytes), limits);
        decoder.set_ignore_text_chunk(true);
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let (width, height) = decoder.read_header_info().map_err(|e| self.broken(e))?.size();
        self.check_size(width, height)?;
        let mut reader = decoder.read_info().map_err(|e| self.broken(e))?;
        let info = reader.info();
        if info.animation_control().is_some_and(|animation| animation.num_frames > 1) {
            return Err(self.animated());
        }
        let of_code_points = info.coding_independent_code_points.and_then(|c| {
            let is_full_range = c.is_video_full_range_image;
            color::profile_of_code_points(c.color_primaries, c.transfer_function, c.matrix_coefficients, is_full_range)
        });
        let profile = of_code_points.or_else(|| info.icc_profile.as_deref().map(Into::into));
        let is_interlaced = info.interlaced;
        let channels = reader.output_color_type().0.samples();
        // The chunk may come after the pixels, so it is looked for before.
        let orientation = orientation(&container::png_exif(self.bytes));
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        if is_interlaced {
            let mut pixels = super::zeroed(width as usize * height as usize * channels)?;
            reader.next_frame(&mut pixels).map_err(|e| self.broken(e))?;
            pixels.chunks_exact(width as usize * channels).for_each(|row| rows.row(row));
        } else {
            while let Some(row) = reader.next_row().map_err(|e| self.broken(e))? {
                rows.row(row.data());
            }
        }
        Ok(rows)
    }

    fn fault(&self, fault: Fault) -> Error {
        match fault {
            Fault::OutOfMemory { bytes } => flux2_backend::Error::OutOfMemory { bytes }.into(),
            fault => self.broken(fault),
        }
    }

    fn jpeg<R: Rows>(&self, start: impl FnOnce(&Head) -> Result<Flattening<R>>) -> Result<Flattening<R>> {
        let fault = |fault| self.fault(fault);
        let jpeg::Size { width, height, .. } = jpeg::size(self.bytes).map_err(fault)?;
        self.check_size(width, height)?;
        let mut jpeg = jpeg::decode(self.bytes).map_err(fault)?;
        let (channels, profile, orientation) = (jpeg.channels(), jpeg.profile.take(), orientation(&jpeg.exif));
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        jpeg.rows(|row| rows.row(row));
        Ok(rows)
    }

    fn webp<R: Rows>(&self, start: impl FnOnce(&Head) -> Result<Flattening<R>>) -> Result<Flattening<R>> {
        // The decoder allocates the declared size of a chunk before it reads it.
        let chunks = |bytes| container::webp_chunks(bytes).ok_or_else(|| self.broken(CUT_SHORT));
        let found = chunks(self.bytes)?;
        if found.iter().filter(|(kind, _)| kind == b"ANMF").count() > 1 {
            return Err(self.animated());
        }
        let bytes = container::webp_repaired(self.bytes, &found);
        chunks(&bytes)?;
        let mut decoder = WebPDecoder::new(Cursor::new(&*bytes)).map_err(|e| self.broken(e))?;
        let (width, height) = decoder.dimensions();
        self.check_size(width, height)?;
        // Broken metadata is ignored.
        let profile = decoder.icc_profile().ok().flatten();
        let orientation = orientation(decoder.exif_metadata().ok().flatten().as_slice());
        let channels = usize::from(decoder.color_type().channel_count());
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        let mut pixels = super::zeroed(width as usize * height as usize * channels)?;
        decoder.read_image(&mut pixels).map_err(|e| self.broken(e))?;
        pixels.chunks_exact(width as usize * channels).for_each(|row| rows.row(row));
        Ok(rows)
    }

    /// A GIF, BMP, TIFF or QOI whose size is allowed.
    fn open_plain(&self) -> Result<Plain<'a>> {
        let plain = Plain::new(self.format, self.bytes).map_err(|e| self.broken(e))?;
        self.check_size(plain.width, plain.height).map(|()| plain)
    }

    fn plain<R: Rows>(&self, start: impl FnOnce(&Head) -> Result<Flattening<R>>) -> Result<Flattening<R>> {
        let mut plain = self.open_plain()?;
        let (width, height, channels) = (plain.width, plain.height, plain.channels);
        let (profile, orientation) = (plain.profile(), plain.orientation());
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        plain.rows(|row| rows.row(row))?.map_err(|e| self.broken(e))?;
        Ok(rows)
    }
}

const CUT_SHORT: &str = "it is cut short";

/// The orientation of the first EXIF block that has one; upright if there is none.
///
/// Some programs begin a block with the `Exif\0\0` that belongs to a JPEG segment.
fn orientation(exif: &[impl AsRef<[u8]>]) -> Orientation {
    let tiff = |block: &[u8]| Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block));
    exif.iter().find_map(|block| tiff(block.as_ref())).unwrap_or(Orientation::NoTransforms)
}

// ---- writing ----

/// Encode a picture as the bytes of a file, with its parameters, at the usual quality.
///
/// # Errors
/// Those of [`encode_with`].
pub fn encode(image: &RgbImage, format: ImageFormat, parameters: Option<&Parameters>) -> Result<Vec<u8>> {
    encode_with(image, format, &Quality::default(), parameters.map(Embedded::Picture))
}

/// Encode a picture as the bytes of a file, with parameters in it.
///
/// # Errors
/// [`Error::ImageEncode`]; [`Error::ImageParametersTooLong`] for parameters over 64 kB in a JPEG, over 16 MB in others.
pub fn encode_with(
    image: &RgbImage,
    format: ImageFormat,
    quality: &Quality,
    embedded: Option<Embedded>,
) -> Result<Vec<u8>> {
    let failed = |reason: String| Error::ImageEncode { format: format.name(), reason };
    let mut out = Vec::new();
    match format {
        ImageFormat::Png => {
            let texts = embedded.map(Embedded::png_texts).transpose()?.unwrap_or_default();
            encode_png(image, texts.into_iter(), &mut out).map_err(|e| failed(e.to_string()))?;
        }
        ImageFormat::Jpeg => {
            let exif = embedded.map(|it| it.exif(format)).transpose()?;
            out = quality.jpeg(image, exif).map_err(failed)?;
        }
        ImageFormat::WebP => {
            let exif = embedded.map(|it| it.exif(format)).transpose()?;
            out = quality.webp(image, exif).map_err(failed)?;
        }
    }
    Ok(out)
}

/// Encode a sheet as the bytes of a file, with the parameters of its pictures.
///
/// # Errors
/// Those of [`encode_with`].
pub fn encode_sheet(image: &RgbImage, format: ImageFormat, parameters: Option<&SheetParameters>) -> Result<Vec<u8>> {
    encode_with(image, format, &Quality::default(), parameters.map(Embedded::Sheet))
}

fn encode_png(
    image: &RgbImage,
    texts: impl Iterator<Item = PngText>,
    out: &mut Vec<u8>,
) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(out, image.width, image.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    for text in texts {
        match text.kind {
            PngTextKind::Latin1 => encoder.add_text_chunk(text.keyword.into(), text.text)?,
            PngTextKind::Utf8 => encoder.add_itxt_chunk(text.keyword.into(), text.text)?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.pixels)?;
    writer.finish()
}

/// What to do if the file to write exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// Keep it and fail.
    Fail,
    /// Replace it.
    Replace,
}

/// Write a file atomically: to a temporary file in the same folder, synced, then renamed.
///
/// Symbolic links are followed. A file that is replaced keeps its permissions; a new one has those of the umask, as
/// for an ordinary write.
///
/// # Errors
/// [`Error::OutputExists`] if it exists and may not be replaced; [`Error::Io`]. Neither leaves a file behind.
pub fn save(path: &Path, bytes: &[u8], if_exists: IfExists) -> Result<()> {
    let target = target(path, if_exists)?;
    write_and_rename(&target, bytes, if_exists).map_err(|error| unwritable(path, error))
}

/// Check before long work whether [`save`] could write there, as far as possible without writing.
///
/// # Errors
/// Those of [`save`].
pub fn check_save(path: &Path, if_exists: IfExists) -> Result<()> {
    let target = target(path, if_exists)?;
    tempfile::tempfile_in(folder_of(&target)).map(drop).map_err(|error| unwritable(path, error))
}

/// The file that a write to `path` would create or replace, after its symbolic links.
fn target(path: &Path, if_exists: IfExists) -> Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&target) {
            Ok(_) if if_exists == IfExists::Fail => return Err(Error::OutputExists { path: path.into() }),
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&target).map_err(|error| unwritable(path, error))?;
                target = folder_of(&target).join(link);
            }
            // A rename would replace a device such as /dev/null by a file.
            Ok(found) if !found.is_file() => return Err(not_a_file(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(path, error)),
            Ok(_) | Err(_) => return Ok(target),
        }
    }
    Err(not_a_file(path))
}

/// Longest chain of symbolic links that is followed.
const MAX_LINKS: usize = 16;

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn not_a_file(path: &Path) -> Error {
    Error::Io { path: path.into(), source: io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file") }
}

/// The error of writing to `path`, without the name of the temporary file that `tempfile` adds.
fn unwritable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::OutputExists { path: path.into() },
        kind => {
            let source = error.raw_os_error().map_or(kind.into(), io::Error::from_raw_os_error);
            Error::Io { path: path.into(), source }
        }
    }
}

fn write_and_rename(target: &Path, bytes: &[u8], if_exists: IfExists) -> io::Result<()> {
    let folder = folder_of(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dj-flux2-").suffix(".tmp");
    // Temporary files are private by default. This one becomes an ordinary file, whose mode follows the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    #[cfg(unix)]
    if let (IfExists::Replace, Ok(replaced)) = (if_exists, target.metadata()) {
        file.as_file().set_permissions(replaced.permissions())?;
    }
    file.as_file().sync_all()?;
    match if_exists {
        IfExists::Replace => file.persist(target)?,
        IfExists::Fail => file.persist_noclobber(target)?,
    };
    // Some file systems cannot sync a folder; the file itself is safe.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

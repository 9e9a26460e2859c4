//! How lossy formats are written, and what is stored in a file beside its pixels.

use std::str::FromStr;

use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use serde::{Deserialize, Serialize};

use super::codec::ToWrite;
use super::container::{self, WebpExtras};
use super::metadata::xmp::SourceType;
use super::metadata::{self, PngText, SheetParameters};
use super::{ImageFormat, Parameters};
use crate::Result;

/// The colors of a JPEG: all of them, or one for each 2x2 pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chroma {
    /// 4:4:4: colors at full resolution.
    #[default]
    Full,
    /// 4:2:0: smaller files, with softer edges between colors.
    Quarter,
}

/// Reads `444` and `420`, with or without colons.
impl FromStr for Chroma {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "444" | "4:4:4" => Ok(Chroma::Full),
            "420" | "4:2:0" => Ok(Chroma::Quarter),
            _ => Err("chroma is 444, colors of all pixels, or 420, a quarter of them"),
        }
    }
}

/// The quality of a lossy file, from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// `None` unless it is 1 to 100.
    pub fn new(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Percent(percent))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = &'static str;

    fn try_from(percent: u8) -> Result<Self, Self::Error> {
        Percent::new(percent).ok_or("a quality is 1 to 100")
    }
}

/// How pictures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quality {
    /// Of a JPEG.
    pub jpeg: Percent,
    /// Of a JPEG.
    pub chroma: Chroma,
    /// Of a WebP; without one it is written without loss.
    pub webp: Option<Percent>,
}

impl Default for Quality {
    fn default() -> Self {
        Quality { jpeg: Percent(95), chroma: Chroma::Full, webp: None }
    }
}

impl Quality {
    /// The bytes of a JPEG, or the encoder's message.
    pub(super) fn jpeg(&self, file: &ToWrite, exif: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        let side = |px: u32| u16::try_from(px).map_err(|_| format!("{px} pixels a side, a JPEG has 65535"));
        let (width, height) = (side(file.image.width())?, side(file.image.height())?);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.jpeg.get());
        encoder.set_sampling_factor(match self.chroma {
            Chroma::Full => SamplingFactor::R_4_4_4,
            Chroma::Quarter => SamplingFactor::R_4_2_0,
        });
        if let Some(exif) = exif {
            encoder.add_exif_metadata(&exif).map_err(|e| e.to_string())?;
        }
        if let Some(profile) = file.profile {
            encoder.add_icc_profile(profile).map_err(|e| e.to_string())?;
        }
        encoder.encode(file.pixels, width, height, ColorType::Rgb).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    /// The bytes of a WebP, or the encoder's message.
    pub(super) fn webp(&self, file: &ToWrite, exif: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        let (width, height) = (file.image.width(), file.image.height());
        if let Some(percent) = self.webp {
            let encoder = match file.has_alpha {
                true => webp::Encoder::from_rgba(file.pixels, width, height),
                false => webp::Encoder::from_rgb(file.pixels, width, height),
            };
            let lossy = encoder.encode_simple(false, f32::from(percent.get())).map_err(|e| format!("{e:?}"))?;
            let beside = WebpExtras { has_alpha: file.has_alpha, profile: file.profile, exif: exif.as_deref() };
            return Ok(match beside {
                WebpExtras { profile: None, exif: None, .. } => lossy.to_vec(),
                beside => container::webp_with(&lossy, [width, height], &beside),
            });
        }
        let mut bytes = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut bytes);
        if let Some(exif) = exif {
            encoder.set_exif_metadata(exif).map_err(|e| e.to_string())?;
        }
        if let Some(profile) = file.profile {
            encoder.set_icc_profile(profile.to_vec()).map_err(|e| e.to_string())?;
        }
        let color = if file.has_alpha { ExtendedColorType::Rgba8 } else { ExtendedColorType::Rgb8 };
        encoder.write_image(file.pixels, width, height, color).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

/// What is stored in a file beside its pixels.
#[derive(Clone, Copy, Debug)]
pub enum Embedded<'a> {
    /// What made a picture.
    Picture(&'a Parameters),
    /// What made the pictures of a sheet.
    Sheet(&'a SheetParameters),
}

impl Embedded<'_> {
    /// How the picture came about, for its XMP packet.
    pub(super) fn source_type(self) -> SourceType {
        match self {
            Embedded::Picture(parameters) => parameters.source_type(),
            Embedded::Sheet(_) => SourceType::Composite,
        }
    }

    pub(super) fn png_texts(self) -> Result<Vec<PngText>> {
        match self {
            Embedded::Picture(parameters) => metadata::png_texts(parameters).map(Vec::from),
            Embedded::Sheet(parameters) => parameters.png_text().map(|text| vec![text]),
        }
    }

    pub(super) fn exif(self, format: ImageFormat) -> Result<Vec<u8>> {
        match self {
            Embedded::Picture(parameters) => metadata::exif(parameters, format),
            Embedded::Sheet(parameters) => parameters.exif(format),
        }
    }
}

//! What a job is: everything that determines its pictures, every default filled in.

use std::fmt;
use std::hash::{Hash, Hasher};

use flux2::image::{ImageFormat, Quality};
use flux2::{Compat, NoiseKind, Precision};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::canvas::SourceSpec;

/// The pictures of a job. A repetition of it draws the same bytes on the same kind of processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The model that draws.
    pub model: ModelKey,
    /// Description of the pictures.
    pub prompt: String,
    /// What guidance leads away from; none for a distilled model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The template that the prompt was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// SHA-256 of each reference image's bytes, in lower-case hexadecimal, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The picture that is painted into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSpec>,
    /// Width of the pictures in pixels.
    pub width: u32,
    /// Height of the pictures in pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; none for a distilled model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Kind of noise.
    #[serde(with = "as_text")]
    pub noise: NoiseKind,
    /// The program whose noise levels and rounding are followed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub compat: Option<Compat>,
    /// Seed of the first picture; each further one has the next seed.
    pub seed: u64,
    /// Number of pictures, at least 1.
    pub count: u32,
    /// Format of the files.
    #[serde(with = "image_format")]
    pub format: ImageFormat,
    /// Quality of lossy formats.
    #[serde(default)]
    pub quality: Quality,
    /// Whether the parameters are stored in the files.
    pub metadata: bool,
    /// Whether the pictures get an invisible watermark.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watermark: bool,
    /// How the pictures are enlarged once they are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscale: Option<UpscaleSpec>,
}

/// How pictures are enlarged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpscaleSpec {
    /// Name of the upscaler as the [`ModelHost`](crate::ModelHost) knows it.
    pub upscaler: String,
    /// How many times as wide and high.
    pub by: f32,
}

impl JobSpec {
    /// Digests of all uploads that its pictures need.
    pub fn uploads(&self) -> impl Iterator<Item = &String> {
        self.references.iter().chain(self.source.iter().flat_map(SourceSpec::digests))
    }
}

/// Identifies a loaded model: pictures of two jobs with equal keys are drawn by the same weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelKey {
    /// Name of the model as the [`ModelHost`](crate::ModelHost) knows it.
    pub name: String,
    /// LoRAs that are added to it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraKey>,
    /// Number format.
    #[serde(with = "as_text")]
    pub precision: Precision,
}

/// Name, number format, LoRAs: `klein-4b bf16 style:0.8`.
impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.precision)?;
        self.loras.iter().try_for_each(|lora| write!(f, " {}:{}", lora.name, lora.scale))
    }
}

/// A LoRA by the name that the [`ModelHost`](crate::ModelHost) knows it by, and its scale.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoraKey {
    /// Name of the LoRA.
    pub name: String,
    /// Factor by which it is added.
    pub scale: f32,
}

/// Scales are compared bit by bit.
impl PartialEq for LoraKey {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.scale.to_bits() == other.scale.to_bits()
    }
}

impl Eq for LoraKey {}

impl Hash for LoraKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.scale.to_bits().hash(state);
    }
}

/// Types that are stored as the text they print and read.
mod as_text {
    use super::*;

    pub fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is not known")))
    }
}

/// As [`as_text`], of a value that may be missing.
mod optional_text {
    use super::*;

    pub fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        super::as_text::deserialize(deserializer).map(Some)
    }
}

/// Image formats are stored as file name extensions.
pub(crate) mod image_format {
    use super::*;

    /// Extension of a file name.
    pub fn extension(format: ImageFormat) -> &'static str {
        match format {
            ImageFormat::Png => "png",
            ImageFormat::Jpeg => "jpeg",
            ImageFormat::WebP => "webp",
        }
    }

    pub fn serialize<S: Serializer>(format: &ImageFormat, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(extension(*format))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageFormat, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
        let found = known.into_iter().find(|format| extension(*format) == text);
        found.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an image format")))
    }
}

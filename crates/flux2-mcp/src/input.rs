//! What tools take, as types: their documentation is what an agent reads. Names are those of the native HTTP API.

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

/// What a drawing may say besides its prompt.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Drawing {
    /// Name of a model from `list_models`. The default is the first model of that list.
    pub model: Option<String>,
    /// Width in pixels, a multiple of 16. Left out, it is what the model was made for, or that of the first reference.
    #[schemars(range(min = 64, max = 4096))]
    pub width: Option<u32>,
    /// Height in pixels, a multiple of 16.
    #[schemars(range(min = 64, max = 4096))]
    pub height: Option<u32>,
    /// Denoising steps. Leave it out: distilled models are made for 4.
    #[schemars(range(min = 1, max = 1000))]
    pub steps: Option<u32>,
    /// Guidance scale. Only base models have one.
    pub guidance: Option<f32>,
    /// What the picture should not show. Only base models take it.
    pub negative_prompt: Option<String>,
    /// Seed of the first picture, each further one has the next. The same seed and fields give the same picture. Left
    /// out, it is random, and the answer tells it.
    pub seed: Option<u64>,
    /// Number of pictures, 1 by default.
    #[schemars(range(min = 1, max = 1000))]
    pub count: Option<u32>,
    /// Names of LoRAs to add, as `list_models` gives them.
    pub loras: Vec<String>,
    /// Format of the file: png (the default, lossless), jpeg or webp.
    pub format: Option<Format>,
    /// How many times as wide and high the finished picture becomes, 1 to 16, as 2 or 4. Left out, it stays as it is.
    #[schemars(range(min = 1, max = 16))]
    pub upscale: Option<f32>,
    /// Name of the upscaler, as `list_models` gives it.
    pub upscaler: Option<String>,
    /// Whether to put an invisible watermark into the pixels.
    pub watermark: Option<bool>,
}

/// Input of `generate`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GenerateInput {
    /// What the picture shows: subject, surroundings, light and style, in plain sentences and without negations.
    pub prompt: Option<String>,
    #[serde(flatten)]
    pub drawing: Drawing,
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// Input of `edit`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EditInput {
    /// The change, or what the new picture shows, as in "replace the dog with a tiger" or "the fox of image 1 in the
    /// room of image 2".
    pub prompt: Option<String>,
    #[serde(flatten)]
    pub references: References,
    #[serde(flatten)]
    pub drawing: Drawing,
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// The pictures that `edit` starts from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct References {
    /// Pictures to edit or combine; the prompt calls them image 1, image 2 and so on. Each is one of: `$3` for picture 3
    /// of the history, `$-1` for the latest, `$fox` for the one named fox; the path of a file below the folder of this
    /// server; or the base64 of a PNG, JPEG or WebP file, also as a data URL. Either this or `source` is needed.
    pub references: Vec<String>,
    /// A picture to paint into, given like a reference. What the mask keeps stays as it is to the byte. It gives the
    /// size of the result.
    pub source: Option<String>,
    /// What of the source is repainted, as a picture of its size: white parts are, black ones are kept.
    pub mask: Option<String>,
    /// Repaint what the mask keeps, and keep the rest.
    pub mask_invert: Option<bool>,
    /// Pixels by which the repainted part grows.
    #[schemars(range(max = 128))]
    pub mask_grow: Option<u32>,
    /// Width in pixels of the transition inside the mask, 8 by default.
    #[schemars(range(max = 256))]
    pub feather: Option<u32>,
    /// Pixels, or percent, that are added to the source at its left, top, right and bottom, as in `64,0,25%,0`.
    pub outpaint: Option<String>,
    /// How far the source is replaced: 1, the default, keeps nothing of what the mask lets go; 0.5 keeps its shapes.
    #[schemars(range(max = 1))]
    pub strength: Option<f64>,
}

/// How the result of a drawing comes back.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Delivery {
    /// A name for the picture, by which later calls can use it: `fox` makes it `$fox`.
    pub name: Option<String>,
    /// File to write, below the folder of this server, as in `cats/red.png`. No file is replaced: a number is added to a
    /// name that is taken. Left out, the name is made of the prompt and the seed.
    pub output: Option<String>,
    /// Whether the picture itself is part of the answer; it is by default. false saves tokens: the file is written all
    /// the same.
    pub show: Option<bool>,
    /// Seconds to wait for the picture, 45 by default. A job that takes longer goes on, and the answer has its id for
    /// `job_status`.
    #[schemars(range(max = 600))]
    pub wait_seconds: Option<u32>,
}

/// Input of `upscale`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpscaleInput {
    /// The picture to enlarge: `$3`, `$-1` or `$fox` of the history, a file below the folder of this server, or base64.
    pub image: Option<String>,
    /// How many times as wide and high it becomes, 1 to 16; 2 by default.
    #[schemars(range(min = 1, max = 16))]
    pub upscale: Option<f32>,
    /// Name of the upscaler, as `list_models` gives it; the first by default.
    pub upscaler: Option<String>,
    /// Format of the file: png (the default), jpeg or webp.
    pub format: Option<Format>,
    /// A name for the result, by which later calls can use it: `fox` makes it `$fox`.
    pub name: Option<String>,
    /// File to write, below the folder of this server.
    pub output: Option<String>,
    /// Whether the picture itself is part of the answer; it is by default.
    pub show: Option<bool>,
}

/// Input of `plan`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlanInput {
    /// The prompt, if it is known.
    pub prompt: Option<String>,
    #[serde(flatten)]
    pub references: References,
    #[serde(flatten)]
    pub drawing: Drawing,
}

/// Input of `job_status`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StatusInput {
    /// Id of the job, as `generate` or `edit` gave it. Left out, the latest jobs and pictures are listed.
    pub id: Option<String>,
    /// Seconds to wait for the end of the job, 0 by default.
    #[schemars(range(max = 600))]
    pub wait_seconds: Option<u32>,
    /// Whether finished pictures are part of the answer; they are by default.
    pub show: Option<bool>,
}

/// Input of `cancel`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CancelInput {
    /// Id of the job.
    pub id: Option<String>,
}

/// Input of a tool that takes nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct NoInput {}

/// Format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Format {
    Png,
    #[serde(alias = "jpg")]
    Jpeg,
    Webp,
}

impl From<Format> for flux2::image::ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Png => Self::Png,
            Format::Jpeg => Self::Jpeg,
            Format::Webp => Self::WebP,
        }
    }
}

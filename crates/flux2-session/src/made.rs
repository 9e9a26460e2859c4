//! How a picture of a session was made.

use flux2::image::Parameters;
use flux2_jobs::{ImageInfo, JobSpec};
use serde::{Deserialize, Serialize};

/// How a picture was made, every default filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// Description of the picture; empty for one that was not drawn.
    pub prompt: String,
    /// What guidance led away from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Name of the model; empty for a picture that was not drawn.
    pub model: String,
    /// Seed of its noise.
    pub seed: u64,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale; none for a distilled model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Width of the file in pixels.
    pub width: u32,
    /// Height of the file in pixels.
    pub height: u32,
}

impl Made {
    /// How a picture of a job was made.
    pub fn of_job(spec: &JobSpec, image: &ImageInfo) -> Self {
        Made {
            prompt: spec.prompt.clone(),
            negative_prompt: spec.negative_prompt.clone(),
            model: spec.model.name.clone(),
            seed: image.seed,
            steps: spec.steps,
            guidance: spec.guidance,
            width: image.width,
            height: image.height,
        }
    }
}

impl From<&Parameters> for Made {
    fn from(parameters: &Parameters) -> Self {
        Made {
            prompt: parameters.prompt.clone(),
            negative_prompt: parameters.negative_prompt.clone(),
            model: parameters.model.clone(),
            seed: parameters.seed,
            steps: parameters.steps,
            guidance: parameters.guidance,
            width: parameters.width,
            height: parameters.height,
        }
    }
}

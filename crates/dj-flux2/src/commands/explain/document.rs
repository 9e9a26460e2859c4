//! What is explained, as `--json` prints it.

use flux2::bench::{self, Cost, Flops};
use flux2::explain::png_url;
use flux2::image::RgbImage;
use flux2::plan;
use flux2::weights::ModelFiles;
use flux2::{EngineOptions, Explanation, GenerateRequest, GeneratedImage, Phase, ResolvedRequest};
use serde::Serialize;

use crate::failure::Result;

/// Everything about a picture.
#[derive(Serialize)]
pub struct Document {
    /// Description of the device.
    pub device: String,
    #[serde(flatten)]
    pub explanation: Explanation,
    pub planned: Planned,
    /// Width and height of the finished picture.
    pub picture_px: [u32; 2],
    /// The finished picture, with its parameters, as a `data:` URL.
    pub picture: String,
    /// The same as pixels.
    #[serde(skip)]
    pub image: RgbImage,
}

impl Document {
    /// The document of a picture, `png`, that was `made`.
    pub fn new(explanation: Explanation, png: &[u8], made: &GeneratedImage, planned: Planned, device: &str) -> Self {
        let (device, image) = (device.to_owned(), made.image.clone());
        let picture_px = [image.width(), image.height()];
        Document { device, explanation, planned, picture_px, picture: png_url(png), image }
    }
}

/// What the run was expected to take, known before it began.
#[derive(Serialize)]
pub struct Planned {
    pub stages: Vec<PlannedStage>,
    /// Memory of the program itself, or of its libraries on a GPU.
    pub program_bytes: usize,
    /// Memory of the largest stage, with the program.
    pub peak_bytes: usize,
    /// Time of all stages, without the loading of networks.
    pub seconds: f64,
}

/// What a stage was expected to take.
#[derive(Serialize)]
pub struct PlannedStage {
    pub stage: &'static str,
    /// Without the loading of networks, from a measurement of this machine; none where nothing is estimated.
    pub seconds: Option<f64>,
    pub allocated_bytes: usize,
    pub mapped_bytes: usize,
}

impl Planned {
    /// The plan of a request. A dry run gives the memory; operations, and the speed that this machine is measured at,
    /// give the time.
    pub fn of(files: &ModelFiles, options: &EngineOptions, request: &GenerateRequest) -> Result<Self> {
        let memory = plan::of(files, options, std::slice::from_ref(request))?;
        let cost = Cost::of(files, &ResolvedRequest::new(request, files.variant)?)?;
        let rates = bench::rates(&options.for_model(files))?;
        let flops = |stage: Phase| -> Option<Flops> {
            match stage {
                Phase::Text => Some(cost.text),
                Phase::References => Some(cost.references),
                Phase::Denoise => Some(cost.prepare + cost.step * cost.steps),
                Phase::Decode => Some(cost.decode),
                Phase::Upscale | Phase::Load(_) => None,
            }
        };
        let stages = memory.stages.iter().map(|at| PlannedStage {
            stage: at.stage.name(),
            seconds: flops(at.stage).map(|flops| rates.seconds(flops)),
            allocated_bytes: at.memory.allocated,
            mapped_bytes: at.memory.mapped,
        });
        Ok(Planned {
            stages: stages.collect(),
            program_bytes: memory.program,
            peak_bytes: memory.peak_bytes(),
            seconds: rates.seconds(cost.total()),
        })
    }
}

//! klein-mini with everything open: the steps of the recipe one by one, and copies with other weights.

use std::error::Error;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::backend::{Compute, CpuBackend, CpuOptions, Runtime};
use flux2::image::RgbImage;
use flux2::pipeline::{DenoiseInputs, Start, TextEmbedding};
use flux2::sheet::Difference;
use flux2::weights::{ModelFiles, ModelPaths};
use flux2::{CancelToken, Event, GenerateRequest, Pipeline, Precision, Residency, ResolvedRequest};
use tempfile::TempDir;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A model whose steps are called one by one, in f32: so that pictures hardly depend on the processor.
pub struct Lab {
    pipeline: Pipeline<CpuBackend>,
    /// Channels of a token.
    channels: usize,
}

/// What the denoising loop gets.
pub struct Inputs {
    /// The text embedding, `[n_txt, d_text]`.
    pub text: Vec<f32>,
    /// Latents, noise levels, references.
    pub start: Start,
}

/// A picture and how it came about.
pub struct Drawn {
    pub image: RgbImage,
    /// Latents before the first step and after each.
    pub latents: Vec<Vec<f32>>,
    /// The velocity of each step.
    pub velocities: Vec<Vec<f32>>,
    pub sigmas: Vec<f32>,
}

impl Drawn {
    /// What the model expects the finished latents to be, at each step: `x - sigma * velocity`.
    pub fn estimates(&self) -> Vec<Vec<f32>> {
        let steps = self.latents.iter().zip(&self.velocities).zip(&self.sigmas);
        steps.map(|((x, v), sigma)| x.iter().zip(v).map(|(x, v)| x - sigma * v).collect()).collect()
    }
}

impl Lab {
    /// klein-mini as it is.
    pub fn open() -> Result<Self> {
        Self::of_folder(&repository("assets/mini"))
    }

    pub fn of_folder(folder: &Path) -> Result<Self> {
        let files = ModelFiles::open(&ModelPaths { model: folder.to_owned().into(), ..ModelPaths::default() })?;
        let channels = files.transformer.config.in_channels;
        let be = CpuBackend::new(CpuOptions { compute: Compute::F32, ..CpuOptions::default() })?;
        let pipeline = Pipeline::of_files(be, files, Residency::KeepAll)?.with_precision(Precision::F32);
        Ok(Lab { pipeline, channels })
    }

    pub fn resolve(&self, request: &GenerateRequest) -> Result<ResolvedRequest> {
        Ok(ResolvedRequest::new(request, self.pipeline.variant())?)
    }

    /// Steps 1 to 7.
    pub fn draw(&mut self, request: &GenerateRequest) -> Result<Drawn> {
        self.draw_with(request, |_| ())
    }

    /// The same, with a change of what the denoising loop gets.
    pub fn draw_with(&mut self, request: &GenerateRequest, change: impl FnOnce(&mut Inputs)) -> Result<Drawn> {
        let (observer, cancel) = (&mut |_: &Event| (), &CancelToken::new());
        let request = self.resolve(request)?;
        let be = self.pipeline.backend().clone();
        let embedding = self.pipeline.encode_prompt(&request.prompt, observer, cancel)?;
        let noise = request.initial_latents(self.channels, NonZeroUsize::MIN);
        let start = self.pipeline.start(&request, noise, observer, cancel)?;
        let mut inputs = Inputs { text: be.download(&embedding.rows)?, start };
        change(&mut inputs);
        let Inputs { text, start } = inputs;
        let [_, width] = embedding.rows.shape() else { return Err("a text embedding has two axes".into()) };
        let rows = be.upload(&[text.len() / width, *width], &text)?;
        let text = TextEmbedding { rows, warning: None };
        let (mut latents, mut velocities) = (vec![start.latents.clone()], Vec::new());
        let inputs = DenoiseInputs {
            request: &request,
            latents: &start.latents,
            sigmas: &start.sigmas,
            held: None,
            text: &text,
            guided: None,
            references: &start.references,
        };
        let mut inspect = |state: &flux2::pipeline::StepState<CpuBackend>| {
            latents.push(be.download(state.latents).expect("the CPU has its own tensors"));
            velocities.push(be.download(state.velocity).expect("the CPU has its own tensors"));
        };
        let denoised = self.pipeline.denoise(&inputs, &mut inspect, observer, cancel)?;
        let image = self.pipeline.decode(&denoised.latents, &request, observer, cancel)?;
        Ok(Drawn { image, latents, velocities, sigmas: start.sigmas })
    }

    /// The decoder alone: latents `[n_img, c]` of a picture of this size.
    pub fn decode(&mut self, latents: &[f32], [width, height]: [u32; 2]) -> Result<RgbImage> {
        let request = self.resolve(&GenerateRequest { width: Some(width), height: Some(height), ..request("") })?;
        let tensor = self.pipeline.backend().upload(&[latents.len() / self.channels, self.channels], latents)?;
        Ok(self.pipeline.decode(&tensor, &request, &mut |_: &Event| (), &CancelToken::new())?)
    }

    pub fn channels(&self) -> usize {
        self.channels
    }
}

/// A request with the seed that the chapters use.
pub fn request(prompt: &str) -> GenerateRequest {
    GenerateRequest { seed: 11, ..GenerateRequest::new(prompt) }
}

/// How near a picture is to the right one, for a label.
pub fn near(picture: &RgbImage, right: &RgbImage) -> Result<String> {
    Ok(Difference::between(picture, right)?.psnr.map_or("equal".into(), |psnr| format!("{psnr:.0} dB")))
}

/// Relative distance of two vectors: 0 if they are equal.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(a.iter().zip(b).map(|(a, b)| a - b)) / norm(b.iter().copied())
}

pub fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// A copy of klein-mini to be changed.
pub struct Altered {
    folder: TempDir,
}

/// The file of the flow transformer, and of the autoencoder.
pub const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
pub const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

impl Altered {
    pub fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        copy(&repository("assets/mini"), folder.path())?;
        Ok(Altered { folder })
    }

    /// Change the text of a file.
    pub fn text(self, file: &str, change: impl FnOnce(String) -> String) -> Result<Self> {
        let path = self.folder.path().join(file);
        fs::write(&path, change(fs::read_to_string(&path)?))?;
        Ok(self)
    }

    /// Change the bytes of every tensor whose name contains `name`.
    pub fn tensors(self, file: &str, name: &str, change: impl Fn(&mut [u8])) -> Result<Self> {
        let path = self.folder.path().join(file);
        let mut bytes = fs::read(&path)?;
        let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length])?;
        let mut found = 0;
        for (_, tensor) in header.as_object().into_iter().flatten().filter(|(key, _)| key.contains(name)) {
            let ends = serde_json::from_value::<[usize; 2]>(tensor["data_offsets"].clone())?;
            change(&mut bytes[8 + length + ends[0]..8 + length + ends[1]]);
            found += 1;
        }
        if found == 0 {
            return Err(format!("{file} has no tensor {name}").into());
        }
        fs::write(&path, bytes)?;
        Ok(self)
    }

    pub fn open(&self) -> Result<Lab> {
        Lab::of_folder(self.folder.path())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &target)?,
            false => drop(fs::copy(&path, &target)?),
        }
    }
    Ok(())
}

/// Exchange parts `a` and `b` of `parts` equal ones.
pub fn exchange(bytes: &mut [u8], parts: usize, a: usize, b: usize) {
    let size = bytes.len() / parts;
    let (left, right) = bytes.split_at_mut(a.max(b) * size);
    left[a.min(b) * size..][..size].swap_with_slice(&mut right[..size]);
}

//! A host that draws no model: deterministic pictures from the request, for tests of front ends, of a page, and of
//! load.
//!
//! Nothing leads here but [`FakeHost::new`]: no file, no model name, no environment variable.

use std::thread;
use std::time::{Duration, Instant};

use flux2::canvas::Placed;
use flux2::digest::sha256;
use flux2::event::Preview;
use flux2::image::resize::resize_lanczos;
use flux2::image::{Attached, LoraParameters, Parameters, RgbImage, SourceParameters};
use flux2::pipeline::GeneratedImage;
use flux2::{
    CancelToken, Error, Event, GenerateRequest, Phase, Precision, Remedy, ResolvedRequest, Result, Timings, Upscaling,
    Variant,
};

use crate::failure::{FailureClass, JobFailure};
use crate::host::{Device, Drawing, Drawn, LoadedModel, ModelHost, ModelInfo, ResolvedModel, nearest};
use crate::spec::{LoraKey, ModelKey};
use crate::submission::{ModelChoice, Refused};

/// How a [`FakeHost`] behaves.
#[derive(Clone, Debug)]
pub struct FakeOptions {
    /// Names of the models, the default first; those of published variants have their defaults and limits, others
    /// those of klein-4b.
    pub models: Vec<String>,
    /// Names of the LoRAs.
    pub loras: Vec<String>,
    /// Number of devices.
    pub devices: usize,
    /// Time to load a model.
    pub load: Duration,
    /// Time of a denoising step; a batch takes as long as a picture.
    pub step: Duration,
    /// Failures on demand: a job whose prompt contains the text fails in this way. None by default, so that no user's
    /// prompt can.
    pub failures: Vec<(String, FailureClass)>,
    /// Bytes that models may take on a device together; each takes 1.
    pub memory: Option<usize>,
}

impl Default for FakeOptions {
    fn default() -> Self {
        FakeOptions {
            models: vec!["klein-4b".into()],
            loras: Vec::new(),
            devices: 1,
            load: Duration::ZERO,
            step: Duration::ZERO,
            failures: Vec::new(),
            memory: None,
        }
    }
}

/// A host of fake models.
#[derive(Clone, Debug)]
pub struct FakeHost {
    options: FakeOptions,
}

impl FakeHost {
    /// A host that behaves so.
    ///
    /// # Panics
    /// If there is no model.
    pub fn new(options: FakeOptions) -> Self {
        assert!(!options.models.is_empty(), "a host offers a model");
        FakeHost { options }
    }
}

/// The variant of this name; that of klein-4b if there is none.
fn variant_of(name: &str) -> &'static Variant {
    Variant::by_name(name).or_else(|_| Variant::by_name("klein-4b")).expect("klein-4b is a variant")
}

impl ModelHost for FakeHost {
    /// Takes as long as a step, and resamples.
    fn enlarge(&self, image: &RgbImage, upscaling: &Upscaling, cancel: &CancelToken) -> Result<RgbImage> {
        let start = Instant::now();
        while start.elapsed() < self.options.step {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            thread::sleep(BLOCK.min(self.options.step.saturating_sub(start.elapsed())));
        }
        let [width, height] = upscaling.size.of([image.width(), image.height()])?;
        resize_lanczos(image, width, height)
    }

    fn models(&self) -> Vec<ModelInfo> {
        let info = |name: &String| ModelInfo { name: name.clone(), aliases: vec![], variant: Some(variant_of(name)) };
        self.options.models.iter().map(info).collect()
    }

    fn loras(&self) -> Vec<String> {
        self.options.loras.clone()
    }

    fn resolve(&self, choice: &ModelChoice) -> Result<ResolvedModel, Refused> {
        let FakeOptions { models, loras, .. } = &self.options;
        let name = choice.name.as_ref().unwrap_or(&models[0]);
        if !models.contains(name) {
            return Err(Refused::UnknownModel { name: name.clone(), nearest: nearest(name, models) });
        }
        if let Some(LoraKey { name, .. }) = choice.loras.iter().find(|lora| !loras.contains(&lora.name)) {
            return Err(Refused::UnknownLora { name: name.clone(), nearest: nearest(name, loras) });
        }
        let precision = choice.precision.unwrap_or_default();
        let key = ModelKey { name: name.clone(), loras: choice.loras.clone(), precision };
        Ok(ResolvedModel { variant: variant_of(name), key })
    }

    /// At the speed that is assumed at first, a step of a picture takes as long as it does.
    fn work(&self, _: &ModelKey, request: &ResolvedRequest) -> f64 {
        self.options.step.as_secs_f64() * f64::from(request.steps) * 1e11
    }

    /// A GiB, and what a real decoder would take for a picture.
    fn memory(&self, _: &ModelKey, request: &GenerateRequest) -> Option<usize> {
        let [width, height] = match &request.source {
            Some(source) => source.canvas_px(),
            None => [request.width?, request.height?],
        };
        let pixels = u64::from(width) * u64::from(height);
        usize::try_from((1 << 30) + 1024 * pixels).ok()
    }

    fn devices(&self) -> Result<Vec<Box<dyn Device>>, JobFailure> {
        let device = |number| Box::new(FakeDevice { options: self.options.clone(), number }) as Box<dyn Device>;
        Ok((0..self.options.devices.max(1)).map(device).collect())
    }
}

/// A device that draws nothing.
struct FakeDevice {
    options: FakeOptions,
    number: usize,
}

impl Device for FakeDevice {
    fn name(&self) -> String {
        format!("fake:{}", self.number)
    }

    fn memory(&self) -> Option<usize> {
        self.options.memory
    }

    fn needs(&mut self, _: &ModelKey) -> Result<usize> {
        Ok(1)
    }

    fn load(&mut self, model: &ModelKey) -> Result<Box<dyn LoadedModel>> {
        thread::sleep(self.options.load);
        Ok(Box::new(FakeModel { options: self.options.clone(), key: model.clone() }))
    }
}

/// A model that draws gradients.
struct FakeModel {
    options: FakeOptions,
    key: ModelKey,
}

/// Longest sleep before a cancellation is noticed.
const BLOCK: Duration = Duration::from_millis(5);

impl LoadedModel for FakeModel {
    fn memory(&self) -> usize {
        1
    }

    fn largest_batch(&mut self, _: &GenerateRequest, most: usize) -> usize {
        most
    }

    fn encodes_ahead(&self) -> bool {
        false
    }

    fn prepare_prompts(&mut self, _: &[&str], _: &mut dyn FnMut(&Event), _: &CancelToken) -> Result<()> {
        Ok(())
    }

    fn draw(&mut self, batch: &[Drawing], observer: &mut dyn FnMut(usize, &Event)) -> Vec<Result<Drawn>> {
        let variant = variant_of(&self.key.name);
        let resolved: Vec<_> = batch.iter().map(|one| ResolvedRequest::new(one.request, variant)).collect();
        let most = resolved.iter().flatten().map(|request| request.steps).max().unwrap_or_default();
        let each = |event: &dyn Fn(u32) -> Event, observer: &mut dyn FnMut(usize, &Event)| {
            for (index, request) in resolved.iter().enumerate() {
                if let Ok(request) = request {
                    observer(index, &event(request.steps));
                }
            }
        };
        each(&|_| Event::PhaseStarted { phase: Phase::Text, units: 1 }, observer);
        each(&|steps| Event::PhaseStarted { phase: Phase::Denoise, units: steps as usize }, observer);
        let mut times = Vec::new();
        for step in 1..=most {
            let start = Instant::now();
            let is_wanted = || batch.iter().any(|one| !one.cancel.is_cancelled());
            while is_wanted() && start.elapsed() < self.options.step {
                thread::sleep(BLOCK.min(self.options.step.saturating_sub(start.elapsed())));
            }
            let elapsed = start.elapsed();
            times.push(elapsed);
            each(&|steps| Event::Step { step, steps, elapsed }, observer);
            self.preview(step, batch, &resolved, observer);
        }
        let finish = |(one, request): (&Drawing, Result<ResolvedRequest>)| {
            let request = request?;
            one.cancel.check()?;
            self.fail_on_demand(&request)?;
            let timings = Timings { steps: times.clone(), ..Timings::default() };
            let key = self.key.clone();
            let convert = move || {
                let image = gradient(&request, &key, [request.width, request.height])?;
                let (image, attached) = match &request.source {
                    Some(source) => source.paste(image)?,
                    None => (image, Attached::default()),
                };
                let (image, attached) = match &request.upscale {
                    Some(Upscaling { size, .. }) => {
                        let from = [image.width(), image.height()];
                        let to = size.of(from)?;
                        let attached = flux2::upscale::attached(&attached, from, to)?;
                        (flux2::image::resize::resize_lanczos(&image, to[0], to[1])?, attached)
                    }
                    None => (image, attached),
                };
                let parameters = parameters(&request, &key, variant);
                Ok(GeneratedImage { image, attached, parameters, timings, kernels: vec![], rescues: vec![] })
            };
            Ok(Box::new(convert) as Drawn)
        };
        batch.iter().zip(resolved).map(finish).collect()
    }
}

impl FakeModel {
    /// Previews of a step where they are wanted: the colors of the picture, grayer the earlier the step is.
    fn preview(
        &self,
        step: u32,
        batch: &[Drawing],
        resolved: &[Result<ResolvedRequest>],
        observer: &mut dyn FnMut(usize, &Event),
    ) {
        for (index, (one, request)) in batch.iter().zip(resolved).enumerate() {
            let Ok(request) = request else { continue };
            if !(one.wants_previews)() {
                continue;
            }
            let small =
                gradient(request, &self.key, [request.width / 8, request.height / 8]).map(RgbImage::into_pixels);
            let faded = |byte: u8| (128 * (request.steps - step) + u32::from(byte) * step) / request.steps;
            let pixels = small.map(|pixels| pixels.into_iter().map(|byte| faded(byte) as u8).collect());
            let image = pixels.and_then(|pixels| RgbImage::new(request.width / 8, request.height / 8, pixels));
            if let Ok(image) = image {
                observer(index, &Event::Preview(Preview { step, steps: request.steps, image: image.into() }));
            }
        }
    }

    fn fail_on_demand(&self, request: &ResolvedRequest) -> Result<()> {
        let failure = self.options.failures.iter().find(|(text, _)| request.prompt.contains(text.as_str()));
        let Some((_, class)) = failure else { return Ok(()) };
        Err(match class {
            FailureClass::Invalid => Error::Steps { steps: request.steps, max: 0 },
            FailureClass::BadImage => Error::ImageTooSmall { width: 1, height: 1, min: 64 },
            FailureClass::OutOfMemory => Error::NoMemory { stage: Phase::Denoise, bytes: 1 << 40 },
            FailureClass::NotFinite => Error::NotFinite,
            FailureClass::ModelUnavailable => {
                flux2::weights::Error::ModelMissing { path: "a model that was removed".into() }.into()
            }
            FailureClass::Crashed => panic!("a panic on demand"),
            FailureClass::DeadlineExceeded | FailureClass::Storage | FailureClass::Internal => Error::Device {
                device: flux2::Device::Auto,
                reason: "a failure on demand".into(),
                remedy: Some(Remedy::ChooseDevice),
            },
        })
    }
}

/// A picture of any size that differs for every request: two colors from its digest, one at each end.
fn gradient(request: &ResolvedRequest, model: &ModelKey, [wide, high]: [u32; 2]) -> Result<RgbImage> {
    let ResolvedRequest { prompt, width, height, steps, guidance, seed, noise, references, .. } = request;
    let references: Vec<_> = references.iter().map(|reference| reference.sha256().to_owned()).collect();
    let source = request.source.as_ref().map(Placed::source);
    let text =
        format!("{prompt}\n{width} {height} {steps} {guidance:?} {seed} {noise} {references:?} {model} {source:?}");
    let digest = sha256(text.as_bytes());
    let color = |at: usize| u32::from(u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap_or_default());
    let span = wide + high - 2;
    let pixel = |x: u32, y: u32, channel: usize| {
        let (from, to, at) = (color(channel), color(channel + 3), x + y);
        ((from * (span - at) + to * at) / span) as u8
    };
    let mut pixels = Vec::with_capacity(wide as usize * high as usize * 3);
    for y in 0..high {
        for x in 0..wide {
            pixels.extend((0..3).map(|channel| pixel(x, y, channel)));
        }
    }
    RgbImage::new(wide, high, pixels)
}

/// A LoRA of no file.
fn lora(LoraKey { name, scale }: &LoraKey) -> LoraParameters {
    LoraParameters { name: name.clone(), scale: *scale, sha256: sha256(name.as_bytes()) }
}

fn parameters(request: &ResolvedRequest, model: &ModelKey, variant: &'static Variant) -> Parameters {
    let [width, height] = request.picture_px();
    Parameters {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        template: request.template.clone(),
        seed: request.seed,
        noise: request.noise.to_string(),
        model: model.name.clone(),
        variant: Some(variant.kind_name().into()),
        dtype: Precision::to_string(&model.precision),
        steps: request.steps,
        guidance: request.guidance,
        width,
        height,
        source: request.source.as_ref().map(SourceParameters::from),
        references: request.references.iter().map(|reference| reference.sha256().to_owned()).collect(),
        loras: model.loras.iter().map(lora).collect(),
        background: None,
        compat: None,
        upscale: request.upscale.as_ref().map(Upscaling::parameters),
        software: flux2::image::metadata::SOFTWARE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

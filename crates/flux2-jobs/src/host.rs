//! What draws: the models that are offered, the devices, and a model loaded on a device, as traits.
//!
//! [`engine`](crate::engine) implements them with [`flux2::Engine`], [`fake`](crate::fake) for tests of front ends.

use std::sync::LazyLock;

use flux2::image::RgbImage;
use flux2::pipeline::GeneratedImage;
use flux2::{
    CancelToken, EngineOptions, Event, GenerateRequest, ResolvedRequest, Result, UpscaleEngine, Upscaler, Upscaling,
    Variant,
};

use crate::estimate::FIRST_SPEED;
use crate::failure::JobFailure;
use crate::spec::ModelKey;
use crate::submission::{ModelChoice, Refused};

/// The models that are offered and the devices that draw.
pub trait ModelHost: Send + Sync + 'static {
    /// The models that are offered, the default first.
    fn models(&self) -> Vec<ModelInfo>;

    /// Names of the LoRAs that are offered.
    fn loras(&self) -> Vec<String> {
        Vec::new()
    }

    /// The upscalers that are offered, the default first.
    fn upscalers(&self) -> Vec<Upscaler> {
        usual_upscalers()
    }

    /// Enlarge a picture that is there, outside of the queue: on this thread, one at a time. `cancel` is checked after
    /// every block of the network.
    ///
    /// # Errors
    /// If the size is not possible, there is no device or no memory; [`Error::Cancelled`](flux2::Error::Cancelled).
    fn enlarge(&self, image: &RgbImage, upscaling: &Upscaling, cancel: &CancelToken) -> Result<RgbImage> {
        let options = EngineOptions { device: flux2::Device::Cpu, ..EngineOptions::default() };
        let engine = UpscaleEngine::open(upscaling.upscaler.clone(), &options)?;
        Ok(engine.upscale(image, upscaling.size, &mut |_: &Event| {}, cancel)?.image)
    }

    /// The model that is asked for, every default filled in.
    ///
    /// # Errors
    /// [`Refused::UnknownModel`], [`Refused::UnknownLora`], or [`Refused::Invalid`] if its files cannot be opened.
    fn resolve(&self, choice: &ModelChoice) -> Result<ResolvedModel, Refused>;

    /// Floating-point operations of one picture: what its time is estimated from until one like it was drawn.
    fn work(&self, model: &ModelKey, request: &ResolvedRequest) -> f64;

    /// Bytes that one picture takes at most, with its model; `None` if that is not known (may touch the disk).
    fn memory(&self, _model: &ModelKey, _request: &GenerateRequest) -> Option<usize> {
        None
    }

    /// Open the devices, one for each worker. Called once, on a thread of its own.
    ///
    /// # Errors
    /// If there is none.
    fn devices(&self) -> Result<Vec<Box<dyn Device>>, JobFailure>;
}

/// The upscalers of the library: the built-in network, if there is one, and Lanczos.
pub fn usual_upscalers() -> Vec<Upscaler> {
    static USUAL: LazyLock<Vec<Upscaler>> = LazyLock::new(|| match Upscaler::builtin() {
        Upscaler::Lanczos => vec![Upscaler::Lanczos],
        network => vec![network, Upscaler::Lanczos],
    });
    USUAL.clone()
}

/// The upscaler of a name, in upper or lower case; the first without a name.
///
/// # Errors
/// [`Refused::UnknownUpscaler`].
pub(crate) fn upscaler(host: &dyn ModelHost, name: Option<&str>) -> Result<Upscaler, Refused> {
    let offered = host.upscalers();
    let Some(name) = name else { return Ok(offered.into_iter().next().unwrap_or(Upscaler::Lanczos)) };
    let names: Vec<String> = offered.iter().map(|upscaler| upscaler.name().to_owned()).collect();
    let found = offered.into_iter().find(|upscaler| upscaler.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| Refused::UnknownUpscaler { name: name.to_owned(), nearest: nearest(name, &names) })
}

/// A model that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// Other names that lead to it.
    pub aliases: Vec<String>,
    /// The member of the family, if its files were opened or its name says so: gives defaults and limits.
    pub variant: Option<&'static Variant>,
}

/// A model with every default filled in.
#[derive(Clone, Debug)]
pub struct ResolvedModel {
    /// Identifies the weights.
    pub key: ModelKey,
    /// The member of the family: gives the defaults of a request.
    pub variant: &'static Variant,
}

/// What one worker draws on: the processor or a GPU.
pub trait Device: Send {
    /// Its name, as in `cuda:1`.
    fn name(&self) -> String;

    /// Bytes that models may take on it together; `None` if that is not limited.
    fn memory(&self) -> Option<usize> {
        None
    }

    /// Floating-point operations per second that are assumed until a picture was drawn; too few refuse jobs for which
    /// there is time.
    fn assumed_speed(&self) -> f64 {
        FIRST_SPEED
    }

    /// Bytes that a model would take at most.
    ///
    /// # Errors
    /// If its files cannot be opened.
    fn needs(&mut self, model: &ModelKey) -> Result<usize>;

    /// Load a model, or prepare to load its networks when they are used.
    ///
    /// # Errors
    /// If its files cannot be opened, or no memory.
    fn load(&mut self, model: &ModelKey) -> Result<Box<dyn LoadedModel>>;
}

/// One picture of a batch.
pub struct Drawing<'a> {
    /// What to draw: complete, so that no default depends on the model.
    pub request: &'a GenerateRequest,
    /// Stops this picture and no other of the batch.
    pub cancel: &'a CancelToken,
    /// Tells whether previews of it are wanted, which may change while it is drawn.
    pub wants_previews: &'a dyn Fn() -> bool,
}

/// A picture that a device has drawn. Calling it converts its colors, which needs no device: the thread that saves the
/// picture does it.
pub type Drawn = Box<dyn FnOnce() -> Result<GeneratedImage> + Send>;

/// A model on a device.
pub trait LoadedModel: Send {
    /// Bytes of the device's memory that it takes at most.
    fn memory(&self) -> usize;

    /// How many such pictures, at most `most`, the device has memory to draw together; at least 1.
    fn largest_batch(&mut self, request: &GenerateRequest, most: usize) -> usize;

    /// Whether [`prepare_prompts`](Self::prepare_prompts) saves time, because the text encoder does not stay loaded.
    fn encodes_ahead(&self) -> bool;

    /// Encode prompts before the pictures they are for, so that the text encoder is loaded once for all.
    ///
    /// # Errors
    /// As [`flux2::Engine::prepare_prompts`].
    fn prepare_prompts(
        &mut self,
        prompts: &[&str],
        observer: &mut dyn FnMut(&Event),
        cancel: &CancelToken,
    ) -> Result<()>;

    /// Draw pictures of one size, number of steps and guidance. `observer` gets the events, each with the index of its
    /// picture. Returns one result for each picture, in order.
    fn draw(&mut self, batch: &[Drawing], observer: &mut dyn FnMut(usize, &Event)) -> Vec<Result<Drawn>>;
}

/// The most similar of `names`, if one is similar.
pub fn nearest(name: &str, names: &[String]) -> Option<String> {
    let lower = name.to_lowercase();
    let similar = names.iter().map(|known| (strsim::jaro_winkler(&lower, &known.to_lowercase()), known));
    let best = similar.filter(|(similarity, _)| *similarity > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| known.clone())
}

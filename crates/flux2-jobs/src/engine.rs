//! The host of real models: [`flux2::Engine`]s on the processor or on GPUs.

mod model;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::available_parallelism;
use std::time::Duration;

use flux2::bench::Cost;
use flux2::engine::Engines;
use flux2::image::RgbImage;
use flux2::vocabulary::Vocabulary;
use flux2::weights::{Format, Location, LoraPath, ModelFiles};
use flux2::{
    CancelToken, Device as Place, Engine, EngineOptions, Error, Event, GenerateRequest, ModelPaths, Precision,
    ResolvedRequest, Result, UpscaleEngine, Upscaler, Upscaling, Variant, engine, plan,
};

use crate::estimate::FIRST_SPEED;
use crate::failure::JobFailure;
use crate::host::{Device, LoadedModel, ModelHost, ModelInfo, ResolvedModel, nearest, usual_upscalers};
use crate::spec::{LoraKey, ModelKey};
use crate::submission::{ModelChoice, Refused};
use model::EngineModel;

/// Combinations of a model and LoRAs whose files stay open.
const MAX_OPEN: usize = 16;
/// Sizes whose cost and memory are remembered. Requests choose sizes, so their number must be bounded.
const MAX_SIZES: usize = 1000;
/// Side of the picture that a model's memory is planned for, in pixels.
const PLANNED_PX: u32 = 1024;
/// Pause between two looks whether the upscaler is free.
const PAUSE: Duration = Duration::from_millis(10);

/// The models that an [`EngineHost`] offers, and how they are run.
#[derive(Clone, Debug, Default)]
pub struct EngineHostOptions {
    /// Models by name, the default first.
    pub models: Vec<OfferedModel>,
    /// LoRAs by name.
    pub loras: BTreeMap<String, Location>,
    /// Upscalers that are offered before [the usual ones](crate::host::usual_upscalers).
    pub upscalers: Vec<Upscaler>,
    /// How models are run: device, threads, GPU libraries, residency, text cache. The precision is the default of a
    /// job.
    pub engine: EngineOptions,
    /// Most devices to use; `None` is all GPUs that there are.
    pub max_devices: Option<NonZeroUsize>,
    /// Bytes that models may take on a device together: each is run in the fastest way that takes no more, and the
    /// least recently used ones are released for it. `None` is the memory of a GPU, and no limit on the processor.
    pub memory: Option<usize>,
    /// Whether pictures are drawn together only where that is faster, as [`engine::useful_batch`] says.
    pub useful_batches: bool,
}

/// A model that is offered under a name.
#[derive(Clone, Debug)]
pub struct OfferedModel {
    /// Its name.
    pub name: String,
    /// Other names that lead to it.
    pub aliases: Vec<String>,
    /// Its files. LoRAs of a job are added to those that are named here.
    pub paths: ModelPaths,
    /// Random weights of the sizes of this variant, in place of files: to time a server without a download.
    pub synthetic: Option<&'static Variant>,
}

/// A host of real models. Clones share what is opened.
#[derive(Clone)]
pub struct EngineHost {
    inner: Arc<Inner>,
}

struct Inner {
    options: EngineHostOptions,
    /// Opened files, the least recently used first.
    files: Mutex<Vec<(OpenKey, ModelFiles)>>,
    /// Costs by model, size, steps, guidance and sizes of the references.
    costs: Mutex<HashMap<String, f64>>,
    /// Memory by model, size, guidance and sizes of the references.
    peaks: Mutex<HashMap<String, Option<usize>>>,
    /// Engines that were opened before, for the only model.
    ready: Mutex<Option<Vec<Box<dyn Engine>>>>,
    /// Whether models share the memory of a device.
    shares_memory: bool,
    /// The upscaler of the last picture outside of the queue.
    upscaler: Mutex<Option<(String, UpscaleEngine)>>,
}

/// Name of a model, and the LoRAs of a job.
type OpenKey = (String, Vec<LoraKey>);

impl EngineHost {
    /// A host of these models. Nothing is opened yet.
    ///
    /// # Panics
    /// If there is no model.
    pub fn new(options: EngineHostOptions) -> Self {
        assert!(!options.models.is_empty(), "a host offers a model");
        Self::with(options, vec![], None)
    }

    /// A host of one model that was opened before, on the devices of `engines`. `options` are those it was opened with.
    ///
    /// # Panics
    /// If there is no engine.
    pub fn of_engines(files: ModelFiles, engines: Vec<Box<dyn Engine>>, options: EngineOptions) -> Self {
        assert!(!engines.is_empty(), "a host has a device");
        let name = files.name.clone();
        let model = OfferedModel { name: name.clone(), aliases: vec![], paths: ModelPaths::default(), synthetic: None };
        let options = EngineHostOptions { models: vec![model], engine: options, ..EngineHostOptions::default() };
        Self::with(options, vec![((name, vec![]), files)], Some(engines))
    }

    /// The same with an upscaler that is offered before all others.
    ///
    /// # Panics
    /// If the host was cloned before.
    pub fn with_upscaler(mut self, upscaler: Upscaler) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("the only handle of the host");
        inner.options.upscalers.insert(0, upscaler);
        self
    }

    fn with(
        options: EngineHostOptions,
        files: Vec<(OpenKey, ModelFiles)>,
        ready: Option<Vec<Box<dyn Engine>>>,
    ) -> Self {
        let shares_memory = ready.is_none();
        let (files, ready) = (Mutex::new(files), Mutex::new(ready));
        let (costs, peaks, upscaler) = (Mutex::default(), Mutex::default(), Mutex::default());
        EngineHost { inner: Arc::new(Inner { options, files, costs, peaks, ready, shares_memory, upscaler }) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The model of a name or alias, in upper or lower case.
    fn model(&self, name: &str) -> Option<&OfferedModel> {
        let is = |known: &String| known.eq_ignore_ascii_case(name);
        self.options.models.iter().find(|model| is(&model.name) || model.aliases.iter().any(is))
    }

    /// The checked files of a model with LoRAs.
    fn files(&self, key: &ModelKey) -> Result<ModelFiles> {
        let open_key = (key.name.clone(), key.loras.clone());
        {
            let mut files = lock(&self.files);
            if let Some(at) = files.iter().position(|(known, _)| *known == open_key) {
                files[at..].rotate_left(1);
                return Ok(files.last().expect("one was found").1.clone());
            }
        }
        let missing = |name: &str| flux2::weights::Error::ModelMissing { path: name.into() };
        let model = self.model(&key.name).ok_or_else(|| missing(&key.name))?;
        let mut paths = model.paths.clone();
        for LoraKey { name, scale } in &key.loras {
            let location = self.options.loras.get(name).ok_or_else(|| missing(name))?.clone();
            paths.loras.push(LoraPath { location, scale: *scale });
        }
        let opened = match model.synthetic.and_then(ModelFiles::synthetic) {
            Some(synthetic) => synthetic.with_loras(&paths.loras)?,
            None => ModelFiles::open(&paths)?,
        };
        let mut files = lock(&self.files);
        files.push((open_key, opened.clone()));
        if files.len() > MAX_OPEN {
            files.remove(0);
        }
        Ok(opened)
    }

    /// How a model is run.
    fn engine_options(&self, precision: Precision) -> EngineOptions {
        EngineOptions { precision, ..self.options.engine.clone() }
    }
}

impl ModelHost for EngineHost {
    fn models(&self) -> Vec<ModelInfo> {
        let open = lock(&self.inner.files);
        let info = |model: &OfferedModel| {
            let opened = open.iter().find(|((name, loras), _)| *name == model.name && loras.is_empty());
            let variant = opened.map(|(_, files)| files.variant).or_else(|| Variant::by_name(&model.name).ok());
            ModelInfo { name: model.name.clone(), aliases: model.aliases.clone(), variant }
        };
        self.inner.options.models.iter().map(info).collect()
    }

    fn loras(&self) -> Vec<String> {
        self.inner.options.loras.keys().cloned().collect()
    }

    fn upscalers(&self) -> Vec<Upscaler> {
        let mut all = self.inner.options.upscalers.clone();
        for usual in usual_upscalers() {
            if !all.iter().any(|known| known.name() == usual.name()) {
                all.push(usual);
            }
        }
        all
    }

    fn enlarge(&self, image: &RgbImage, upscaling: &Upscaling, cancel: &CancelToken) -> Result<RgbImage> {
        let name = upscaling.upscaler.name();
        // Another picture may be enlarged for minutes.
        let mut ready = loop {
            match self.inner.upscaler.try_lock() {
                Ok(ready) => break ready,
                Err(TryLockError::Poisoned(error)) => break error.into_inner(),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(Error::Cancelled),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            }
        };
        if ready.as_ref().is_none_or(|(known, _)| known != name) {
            *ready = None;
            let precision = Precision::new(self.inner.options.engine.precision.compute(), Format::AsStored);
            let options = self.inner.engine_options(precision.unwrap_or_default());
            *ready = Some((name.to_owned(), UpscaleEngine::open(upscaling.upscaler.clone(), &options)?));
        }
        let (_, engine) = ready.as_ref().expect("opened above");
        Ok(engine.upscale(image, upscaling.size, &mut |_: &Event| {}, cancel)?.image)
    }

    fn resolve(&self, choice: &ModelChoice) -> Result<ResolvedModel, Refused> {
        let options = &self.inner.options;
        let name = choice.name.as_ref().unwrap_or(&options.models[0].name);
        let Some(model) = self.inner.model(name) else {
            let names: Vec<_> = options.models.iter().map(|model| model.name.clone()).collect();
            return Err(Refused::UnknownModel { name: name.clone(), nearest: nearest(name, &names) });
        };
        if let Some(LoraKey { name, .. }) = choice.loras.iter().find(|lora| !options.loras.contains_key(&lora.name)) {
            let names: Vec<_> = options.loras.keys().cloned().collect();
            return Err(Refused::UnknownLora { name: name.clone(), nearest: nearest(name, &names) });
        }
        let precision = choice.precision.unwrap_or(options.engine.precision);
        let key = ModelKey { name: model.name.clone(), loras: choice.loras.clone(), precision };
        let variant = self.inner.files(&key)?.variant;
        Ok(ResolvedModel { key, variant })
    }

    fn work(&self, model: &ModelKey, request: &ResolvedRequest) -> f64 {
        let ResolvedRequest { width, height, steps, guidance, .. } = request;
        let sizes: Vec<_> = request.reference_px().collect();
        let key = format!("{} {width} {height} {steps} {guidance:?} {sizes:?}", model.name);
        if let Some(known) = lock(&self.inner.costs).get(&key) {
            return *known;
        }
        // A model that cannot be opened fails later, with its reason.
        let work = self.inner.files(model).map_or(0.0, |files| Cost::at_most(&files, request).total().total());
        let mut costs = lock(&self.inner.costs);
        if costs.len() >= MAX_SIZES {
            costs.clear();
        }
        costs.insert(key, work);
        work
    }

    fn memory(&self, model: &ModelKey, request: &GenerateRequest) -> Option<usize> {
        let inner = &self.inner;
        let GenerateRequest { width, height, guidance, references, .. } = request;
        let sizes: Vec<_> = references.iter().map(|r| (r.image().width(), r.image().height())).collect();
        let key = format!("{model} {width:?} {height:?} {guidance:?} {sizes:?}");
        if let Some(known) = lock(&inner.peaks).get(&key) {
            return *known;
        }
        let files = inner.files(model).ok()?;
        let (options, requests) = (inner.engine_options(model.precision), std::slice::from_ref(request));
        let plan = match inner.options.memory {
            Some(limit) => plan::within(limit, &files, &options, requests, false).map(|(_, plan)| plan),
            None => plan::of(&files, &options, requests),
        };
        let peak = plan.ok().map(|plan| plan.peak_bytes());
        let mut peaks = lock(&inner.peaks);
        if peaks.len() >= MAX_SIZES {
            peaks.clear();
        }
        peaks.insert(key, peak);
        peak
    }

    fn devices(&self) -> Result<Vec<Box<dyn Device>>, JobFailure> {
        let inner = &self.inner;
        let key = |model: &OfferedModel| {
            let precision = inner.options.engine.precision;
            ModelKey { name: model.name.clone(), loras: vec![], precision }
        };
        let prepared = lock(&inner.ready).take();
        let (first, engines) = match prepared {
            Some(engines) => (key(&inner.options.models[0]), engines),
            None => {
                // A small model runs on the processor where there is a choice; if there is a large one, all run on
                // GPUs.
                let opened = inner.options.models.iter().map(|model| Ok((key(model), inner.files(&key(model))?)));
                let opened = opened.collect::<Result<Vec<_>>>()?;
                let options = inner.engine_options(inner.options.engine.precision);
                let is_large = |files: &ModelFiles| options.for_model(files).device != Place::Cpu;
                let (key, files) = opened.iter().find(|(_, files)| is_large(files)).unwrap_or(&opened[0]);
                let most = inner.options.max_devices.unwrap_or(NonZeroUsize::MAX);
                let Engines { engines, .. } = engine::open_all(files, &options, most)?;
                (key.clone(), engines)
            }
        };
        let count = NonZeroUsize::new(engines.len()).expect("there is a device");
        let device = |engine: Box<dyn Engine>| {
            let (place, inner) = (engine.place(), Arc::clone(inner));
            let limit = inner.options.memory.or_else(|| engine.device_memory());
            let memory = limit.filter(|_| inner.shares_memory);
            let ready = Some((first.clone(), engine));
            Box::new(EngineDevice { inner, place, count, memory, ready, plans: HashMap::new() }) as Box<dyn Device>
        };
        Ok(engines.into_iter().map(device).collect())
    }
}

/// The processor or a GPU.
struct EngineDevice {
    inner: Arc<Inner>,
    place: Place,
    /// Devices that share the host's threads.
    count: NonZeroUsize,
    memory: Option<usize>,
    /// An engine that was opened with the device.
    ready: Option<(ModelKey, Box<dyn Engine>)>,
    /// How each model is run within the memory of the device, and the bytes it takes.
    plans: HashMap<ModelKey, (EngineOptions, usize)>,
}

impl EngineDevice {
    fn options(&self, key: &ModelKey) -> EngineOptions {
        let options = self.inner.engine_options(key.precision);
        let all = options.threads.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let threads = match self.count.get() {
            1 => options.threads,
            count => NonZeroUsize::new((all / count).max(1)),
        };
        EngineOptions { device: self.place, threads, ..options }
    }

    /// How a model is run: in the fastest way that the device has memory for.
    fn planned(&mut self, key: &ModelKey) -> Result<(EngineOptions, usize)> {
        if let Some(known) = self.plans.get(key) {
            return Ok(known.clone());
        }
        let options = self.options(key);
        let planned = match self.memory {
            None => (options, 0),
            Some(limit) => {
                let files = self.inner.files(key)?;
                let known = files.vocabulary.as_ref().and_then(Vocabulary::read);
                let largest = known.map_or(PLANNED_PX, |known| PLANNED_PX.min(known.pictures.largest));
                let request = GenerateRequest { width: Some(largest), height: Some(largest), ..Default::default() };
                let (options, plan) = plan::within(limit, &files, &options, &[request], false)?;
                (EngineOptions { max_memory: self.inner.options.engine.max_memory, ..options }, plan.peak_bytes())
            }
        };
        self.plans.insert(key.clone(), planned.clone());
        Ok(planned)
    }
}

/// Floating-point operations per second that are assumed of a GPU: a small one's.
const FIRST_SPEED_OF_GPUS: f64 = 2e13;

impl Device for EngineDevice {
    fn name(&self) -> String {
        self.place.to_string()
    }

    fn memory(&self) -> Option<usize> {
        self.memory
    }

    fn assumed_speed(&self) -> f64 {
        if self.place == Place::Cpu { FIRST_SPEED } else { FIRST_SPEED_OF_GPUS }
    }

    fn needs(&mut self, model: &ModelKey) -> Result<usize> {
        match &self.ready {
            // It is the first, so nothing has to make room for it.
            Some((ready, _)) if ready == model => Ok(0),
            _ => Ok(self.planned(model)?.1),
        }
    }

    fn load(&mut self, model: &ModelKey) -> Result<Box<dyn LoadedModel>> {
        let ready = self.ready.take();
        let (engine, options, bytes) = match ready.filter(|(key, _)| key == model) {
            Some((_, engine)) => (engine, self.options(model), self.planned(model).map_or(0, |plan| plan.1)),
            None => {
                let (options, bytes) = self.planned(model)?;
                (engine::open(self.inner.files(model)?, &options)?, options, bytes)
            }
        };
        let files = self.inner.files(model)?;
        let limit = self.memory.or(options.max_memory).or_else(|| engine.device_memory());
        let useful_batches = self.inner.options.useful_batches;
        Ok(Box::new(EngineModel { engine, files, options, bytes, limit, useful_batches, batches: HashMap::new() }))
    }
}

//! The host of real models: [`flux2::Engine`]s on the processor or on GPUs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use flux2::bench::Cost;
use flux2::engine::Engines;
use flux2::pipeline::GeneratedImage;
use flux2::vocabulary::Vocabulary;
use flux2::weights::{Location, LoraPath, ModelFiles};
use flux2::{
    BatchMember, Batching, CancelToken, Device as Place, Engine, EngineOptions, Event, GenerateRequest, ModelPaths,
    Precision, Residency, ResolvedRequest, Result, Variant, engine, plan,
};

use crate::failure::JobFailure;
use crate::host::{Device, Drawing, LoadedModel, ModelHost, ModelInfo, ResolvedModel, nearest};
use crate::spec::{LoraKey, ModelKey};
use crate::submission::{ModelChoice, Refused};

/// Combinations of a model and LoRAs whose files stay open.
const MAX_OPEN: usize = 16;
/// Side of the picture that a model's memory is planned for, in pixels.
const PLANNED_PX: u32 = 1024;

/// The models that an [`EngineHost`] offers, and how they are run.
#[derive(Clone, Debug, Default)]
pub struct EngineHostOptions {
    /// Models by name, the default first.
    pub models: Vec<OfferedModel>,
    /// LoRAs by name.
    pub loras: BTreeMap<String, Location>,
    /// How models are run: device, threads, GPU libraries, residency, text cache. The precision is the default of a
    /// job.
    pub engine: EngineOptions,
    /// Most devices to use; `None` is all GPUs that there are.
    pub max_devices: Option<NonZeroUsize>,
    /// Bytes that models may take on a device together: each is run in the fastest way that takes no more, and the
    /// least recently used ones are released for it. `None` is the memory of a GPU, and no limit on the processor.
    pub memory: Option<usize>,
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
    /// Engines that were opened before, for the only model.
    ready: Mutex<Option<Vec<Box<dyn Engine>>>>,
    /// Whether models share the memory of a device.
    shares_memory: bool,
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
        let model = OfferedModel { name: name.clone(), aliases: vec![], paths: ModelPaths::default() };
        let options = EngineHostOptions { models: vec![model], engine: options, ..EngineHostOptions::default() };
        Self::with(options, vec![((name, vec![]), files)], Some(engines))
    }

    fn with(
        options: EngineHostOptions,
        files: Vec<(OpenKey, ModelFiles)>,
        ready: Option<Vec<Box<dyn Engine>>>,
    ) -> Self {
        let shares_memory = ready.is_none();
        let (files, ready) = (Mutex::new(files), Mutex::new(ready));
        EngineHost { inner: Arc::new(Inner { options, files, costs: Mutex::default(), ready, shares_memory }) }
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
        let opened = ModelFiles::open(&paths)?;
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
        // Sizes come from requests, so their number is bounded.
        if costs.len() >= 1000 {
            costs.clear();
        }
        costs.insert(key, work);
        work
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
                // A small model runs on the processor where there is a choice; if there is a large one, all run on GPUs.
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

impl Device for EngineDevice {
    fn name(&self) -> String {
        self.place.to_string()
    }

    fn memory(&self) -> Option<usize> {
        self.memory
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
        Ok(Box::new(EngineModel { engine, files, options, bytes, limit: self.memory, batches: HashMap::new() }))
    }
}

/// A loaded model.
struct EngineModel {
    engine: Box<dyn Engine>,
    files: ModelFiles,
    options: EngineOptions,
    bytes: usize,
    /// Bytes that the device has for models.
    limit: Option<usize>,
    /// The largest batch by size, and whether there is guidance.
    batches: HashMap<(Option<u32>, Option<u32>, bool), usize>,
}

/// Sizes whose largest batch is remembered. Requests choose sizes, so their number must be bounded.
const MAX_BATCH_SIZES: usize = 256;

impl LoadedModel for EngineModel {
    fn memory(&self) -> usize {
        self.bytes
    }

    /// As many as the plan says; without a limit the engine draws fewer at a time when memory is short.
    fn largest_batch(&mut self, request: &GenerateRequest, most: usize) -> usize {
        let Some(limit) = self.limit else { return most };
        let size = (request.width, request.height, request.guidance.is_some_and(|guidance| guidance > 1.0));
        if let Some(known) = self.batches.get(&size) {
            return most.min(*known);
        }
        let planned = plan::largest_batch(limit, &self.files, &self.options, request, most);
        if self.batches.len() >= MAX_BATCH_SIZES {
            self.batches.clear();
        }
        // A request that cannot be planned is drawn alone, and says why it fails.
        let largest = planned.unwrap_or(1).max(1);
        self.batches.insert(size, largest);
        largest
    }

    fn encodes_ahead(&self) -> bool {
        self.options.residency != Residency::KeepAll
    }

    fn prepare_prompts(
        &mut self,
        prompts: &[&str],
        observer: &mut dyn FnMut(&Event),
        cancel: &CancelToken,
    ) -> Result<()> {
        self.engine.prepare_prompts(prompts, &mut |event: &Event| observer(event), cancel)
    }

    fn draw(&mut self, batch: &[Drawing], observer: &mut dyn FnMut(usize, &Event)) -> Vec<Result<GeneratedImage>> {
        // All members share one observer, which is called for one of them at a time.
        let observer = RefCell::new(observer);
        let observe = |index| {
            let observer = &observer;
            move |event: &Event| (observer.borrow_mut())(index, event)
        };
        let mut observers: Vec<_> = (0..batch.len()).map(observe).collect();
        let members = batch.iter().zip(&mut observers);
        let mut members: Vec<_> =
            members.map(|(one, observer)| BatchMember { request: one.request, observer, cancel: one.cancel }).collect();
        self.engine.generate_batch(&mut members, Batching::SameBytes)
    }
}

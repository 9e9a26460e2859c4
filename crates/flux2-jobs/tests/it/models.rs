//! The host of real models: the pictures of an engine, on one worker or several, with caches and LoRAs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flux2::image::{self, ImageFormat, RgbImage};
use flux2::pipeline::GeneratedImage;
use flux2::weights::{Location, LoraPath, ModelFiles, Part};
use flux2::{
    CancelToken, Device, Engine, EngineOptions, Error, Event, GenerateRequest, ModelPaths, Phase, Precision, Reference,
    Residency, engine,
};
use flux2_backend::testing::{repository, skip_without_gpu};
use flux2_jobs::engine::{EngineHost, EngineHostOptions, OfferedModel};
use flux2_jobs::{
    Draft, FailureClass, JobFailure, JobId, JobSpec, JobState, Jobs, LoraKey, ModelChoice, Options, PictureOf, Sink,
    Submission,
};

use crate::common::{ended, wait_until};

fn fixture(name: &str) -> PathBuf {
    repository("fixtures").join(name)
}

fn paths() -> ModelPaths {
    ModelPaths { model: fixture("tiny/klein").into(), ..ModelPaths::default() }
}

fn engine_options(device: Device) -> EngineOptions {
    EngineOptions { device, threads: NonZeroUsize::new(1), residency: Residency::KeepForNext, ..Default::default() }
}

fn host_options() -> EngineHostOptions {
    let models = ["tiny", "other"].map(|name| OfferedModel {
        name: name.into(),
        aliases: vec![],
        paths: paths(),
        synthetic: None,
    });
    EngineHostOptions {
        models: models.to_vec(),
        loras: BTreeMap::from([("style".to_owned(), Location::from(fixture("tiny/lora.safetensors")))]),
        engine: engine_options(Device::Cpu),
        ..EngineHostOptions::default()
    }
}

fn start(options: Options) -> Jobs {
    Jobs::start(options, Arc::new(EngineHost::new(host_options()))).unwrap()
}

fn draft(number: u64) -> Draft {
    let prompt = if number.is_multiple_of(3) { "a cat" } else { "a red fox" };
    Draft {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        seed: Some(number),
        ..Draft::default()
    }
}

fn submit(jobs: &Jobs, draft: Draft) -> JobId {
    jobs.submit(Submission { draft, ..Submission::default() }).unwrap().id
}

/// The file of a picture as an engine makes it without jobs.
fn expected(files: &ModelFiles, precision: Precision, number: u64, references: Vec<Reference>) -> Vec<u8> {
    let options = EngineOptions { precision, ..engine_options(Device::Cpu) };
    let mut engine = engine::open(files.clone(), &options).unwrap();
    let Draft { prompt, width, height, steps, .. } = draft(number);
    let request = GenerateRequest { prompt, width, height, steps, seed: number, references, ..Default::default() };
    let made = engine.generate_with(&request, &mut |_: &Event| {}, &CancelToken::new()).unwrap();
    image::encode(&made.image, ImageFormat::Png, Some(&made.parameters)).unwrap()
}

fn file(jobs: &Jobs, id: JobId) -> Vec<u8> {
    let job = ended(jobs, id);
    assert_eq!(job.state, JobState::Done, "{:?}", job.failure);
    jobs.image(id, 0).unwrap().unwrap().bytes.to_vec()
}

#[test]
fn a_picture_has_the_bytes_of_an_engine_alone_under_load_and_after_a_restart() {
    let files = ModelFiles::open(&paths()).unwrap();
    let expected: Vec<_> = (0..6).map(|number| expected(&files, Precision::BF16, number, vec![])).collect();
    let folder = tempfile::tempdir().unwrap();
    let options = || Options { folder: Some(folder.path().into()), max_batch: 4, ..Options::default() };
    let jobs = start(options());
    assert!(file(&jobs, submit(&jobs, draft(0))) == expected[0]);
    // The others are submitted while this one is drawn.
    submit(&jobs, Draft { steps: Some(60), ..draft(0) });
    let ids: Vec<_> = (0..6).map(|number| submit(&jobs, draft(number))).collect();
    for (id, expected) in ids.iter().zip(&expected) {
        assert!(file(&jobs, *id) == *expected);
    }
    assert!(ids.iter().any(|id| jobs.get(*id).unwrap().drawn[0].batch > 1), "some were drawn together");
    let long = submit(&jobs, Draft { steps: Some(1000), ..draft(0) });
    let last = submit(&jobs, draft(5));
    wait_until("it runs", || jobs.get(long).unwrap().state == JobState::Running);
    drop(jobs);
    let jobs = start(options());
    assert!(file(&jobs, last) == expected[5], "the picture that waited for the restart");
    assert!(file(&jobs, ids[4]) == expected[4], "the picture that was kept");
}

#[test]
fn a_cancelled_job_stops_within_a_block_and_the_next_one_is_drawn() {
    let jobs = start(Options::default());
    let id = submit(&jobs, Draft { steps: Some(1000), ..draft(0) });
    wait_until("it denoises", || jobs.get(id).unwrap().progress.is_some_and(|progress| progress.step >= 1));
    jobs.cancel(id).unwrap();
    assert_eq!(ended(&jobs, id).state, JobState::Cancelled);
    assert_eq!(ended(&jobs, submit(&jobs, draft(1))).state, JobState::Done);
}

#[test]
fn what_was_encoded_before_is_in_the_record() {
    let jobs = start(Options::default());
    let image = RgbImage::new(64, 64, (0..64 * 64 * 3).map(|i| i as u8).collect()).unwrap();
    let bytes = image::encode(&image, ImageFormat::Png, None).unwrap();
    let with = |references: &[String]| Draft { references: references.to_vec(), ..draft(1) };
    let upload = [jobs.put_blob(&bytes).unwrap()];
    let first = submit(&jobs, with(&upload));
    let reference = Reference::from_bytes(&bytes, "reference").unwrap();
    let files = ModelFiles::open(&paths()).unwrap();
    assert!(file(&jobs, first) == expected(&files, Precision::BF16, 1, vec![reference]));
    let second = submit(&jobs, with(&upload));
    assert!(file(&jobs, first) == file(&jobs, second));
    let hits = |id| {
        let cache = ended(&jobs, id).drawn[0].cache;
        (cache.text, cache.references)
    };
    assert_eq!((hits(first), hits(second)), ((false, false), (true, true)));
    let third = submit(&jobs, draft(2));
    assert_eq!(hits(third), (true, false), "without references there is no hit");
    let mut counted = jobs.stats().cache_hits;
    counted.sort_unstable();
    assert_eq!(counted, [("references", 1), ("text", 2)]);
}

#[test]
fn models_loras_and_precisions_are_different_models() {
    let jobs = start(Options::default());
    let style = LoraKey { name: "style".into(), scale: 0.5 };
    let lora = ModelChoice { loras: vec![style], ..ModelChoice::default() };
    let f32 = ModelChoice { precision: Some(Precision::F32), ..ModelChoice::default() };
    let plain = file(&jobs, submit(&jobs, draft(1)));
    let with_lora = file(&jobs, submit(&jobs, Draft { model: lora, ..draft(1) }));
    let in_f32 = file(&jobs, submit(&jobs, Draft { model: f32, ..draft(1) }));
    let files = ModelFiles::open(&paths()).unwrap();
    let location = Location::from(fixture("tiny/lora.safetensors"));
    let files_with_lora = files.clone().with_loras(&[LoraPath { location, scale: 0.5 }]).unwrap();
    assert!(plain == expected(&files, Precision::BF16, 1, vec![]));
    assert!(with_lora == expected(&files_with_lora, Precision::BF16, 1, vec![]));
    assert!(in_f32 == expected(&files, Precision::F32, 1, vec![]));
    wait_until("the device is idle", || !jobs.stats().devices[0].is_busy);
    assert_eq!(jobs.stats().devices[0].models.len(), 3);
}

#[test]
fn models_share_the_memory_that_they_may_take() {
    let other = || ModelChoice { name: Some("other".into()), ..ModelChoice::default() };
    let of_one = {
        let plan = flux2::plan::of(
            &ModelFiles::open(&paths()).unwrap(),
            &engine_options(Device::Cpu),
            &[GenerateRequest { width: Some(1024), height: Some(1024), ..Default::default() }],
        );
        plan.unwrap().peak_bytes()
    };
    let host = EngineHost::new(EngineHostOptions { memory: Some(of_one + of_one / 2), ..host_options() });
    let jobs = Jobs::start(Options::default(), Arc::new(host)).unwrap();
    for model in [ModelChoice::default(), other(), ModelChoice::default()] {
        file(&jobs, submit(&jobs, Draft { model, ..draft(1) }));
    }
    wait_until("the device is idle", || !jobs.stats().devices[0].is_busy);
    let stats = jobs.stats();
    assert_eq!(stats.devices[0].models.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), ["tiny bf16"]);
}

#[test]
fn a_host_without_its_device_says_so() {
    let engine = EngineOptions { device: Device::Cuda(Some(4096)), ..EngineOptions::default() };
    let host = EngineHost::new(EngineHostOptions { engine, ..host_options() });
    let jobs = Jobs::start(Options::default(), Arc::new(host)).unwrap();
    wait_until("it fails", || matches!(jobs.readiness(), flux2_jobs::Readiness::Failed(_)));
    let refused = jobs.submit(Submission { draft: draft(0), ..Submission::default() }).unwrap_err();
    assert!(matches!(refused, flux2_jobs::Refused::Unavailable(_)), "{refused:?}");
}

/// Keeps files by their seed, and counts how often each worker loads its text encoder.
#[derive(Default)]
struct Collector {
    files: Mutex<BTreeMap<u64, Vec<u8>>>,
    loads: Mutex<BTreeMap<usize, usize>>,
    ended: Mutex<Vec<Option<FailureClass>>>,
}

impl Sink for Collector {
    fn started(&self, _: PictureOf) {}

    fn event(&self, of: PictureOf, event: &Event) {
        if let Event::PhaseStarted { phase: Phase::Load(Part::TextEncoder), .. } = event {
            *self.loads.lock().unwrap().entry(of.worker).or_default() += 1;
        }
    }

    fn save(&self, of: PictureOf, _: &GeneratedImage, bytes: Vec<u8>, _: Duration) -> Result<(), JobFailure> {
        if of.spec.seed == 13 {
            return Err(JobFailure::new(FailureClass::Storage, "no room"));
        }
        self.files.lock().unwrap().insert(of.spec.seed, bytes);
        Ok(())
    }

    fn ended(&self, _: JobId, _: &JobSpec, failure: Option<&JobFailure>) {
        self.ended.lock().unwrap().push(failure.map(|failure| failure.class));
    }
}

/// The pictures of a series on these engines, and how often each worker loaded its text encoder.
fn series(files: &ModelFiles, engines: Vec<Box<dyn Engine>>, count: u64) -> (Vec<Vec<u8>>, Vec<usize>) {
    let options = engine_options(engines[0].place());
    let host = EngineHost::of_engines(files.clone(), engines, options);
    let collector = Arc::new(Collector::default());
    let sink = Arc::clone(&collector);
    let options = Options { starts_paused: true, ..Options::default() };
    let jobs = Jobs::start_with_sink(options, Arc::new(host), sink).unwrap();
    for number in 0..count {
        submit(&jobs, draft(number));
    }
    assert_eq!(jobs.stats().running, 0, "it is paused");
    jobs.resume();
    wait_until("all end", || collector.ended.lock().unwrap().len() == count as usize);
    assert!(collector.ended.lock().unwrap().iter().all(Option::is_none));
    let files = std::mem::take(&mut *collector.files.lock().unwrap());
    let loads = collector.loads.lock().unwrap().values().copied().collect();
    (files.into_values().collect(), loads)
}

/// `count` engines on the processor, each with one thread.
fn on_cpu(files: &ModelFiles, count: usize) -> Vec<Box<dyn Engine>> {
    (0..count).map(|_| engine::open(files.clone(), &engine_options(Device::Cpu)).unwrap()).collect()
}

#[test]
fn several_workers_make_the_files_of_one_and_load_each_text_encoder_once() {
    let files = ModelFiles::open(&paths()).unwrap();
    let expected: Vec<_> = (0..6).map(|number| expected(&files, Precision::BF16, number, vec![])).collect();
    for workers in [1, 2, 4] {
        let (made, loads) = series(&files, on_cpu(&files, workers), 6);
        assert!(made == expected, "{workers} workers");
        assert!(loads.iter().all(|times| *times <= 2), "{workers} workers: {loads:?}");
        assert!(workers > 1 || loads == [1], "{loads:?}");
    }
}

#[test]
fn a_front_end_that_cannot_write_a_picture_fails_its_job_only() {
    let files = ModelFiles::open(&paths()).unwrap();
    let host = EngineHost::of_engines(files.clone(), on_cpu(&files, 1), engine_options(Device::Cpu));
    let collector = Arc::new(Collector::default());
    let sink = Arc::clone(&collector);
    let jobs = Jobs::start_with_sink(Options::default(), Arc::new(host), sink).unwrap();
    let ids: Vec<_> = (12..15).map(|number| submit(&jobs, draft(number))).collect();
    let states: Vec<_> = ids.iter().map(|id| ended(&jobs, *id).state).collect();
    assert_eq!(states, [JobState::Done, JobState::Failed, JobState::Done]);
    assert_eq!(collector.files.lock().unwrap().len(), 2);
}

/// Engines on GPUs; `None` with a message if there is no GPU.
fn on_gpus(open: impl Fn() -> flux2::Result<Vec<Box<dyn Engine>>>) -> Option<Vec<Box<dyn Engine>>> {
    match open() {
        Ok(engines) => Some(engines),
        Err(Error::Device { reason, .. }) => {
            skip_without_gpu(reason);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn cuda_two_engines_on_one_gpu_make_the_files_of_one() {
    let files = ModelFiles::open(&paths()).unwrap();
    let options = engine_options(Device::Cuda(Some(0)));
    let open = |count: usize| on_gpus(|| (0..count).map(|_| engine::open(files.clone(), &options)).collect());
    let Some(one) = open(1) else { return };
    let (alone, _) = series(&files, one, 6);
    let (together, _) = series(&files, open(2).unwrap(), 6);
    assert!(alone == together);
}

#[test]
fn cuda_all_gpus_make_the_files_of_the_first() {
    let files = ModelFiles::open(&paths()).unwrap();
    let open = |most| {
        let most = NonZeroUsize::new(most).unwrap();
        on_gpus(|| Ok(engine::open_all(&files, &engine_options(Device::Cuda(None)), most)?.engines))
    };
    let Some(first) = open(1) else { return };
    let mut all = open(usize::MAX).unwrap();
    // Only GPUs of one kind give the same bytes.
    let kind = |engine: &dyn Engine| engine.device().split_once(' ').map(|(_, kind)| kind.to_owned());
    let of_first = kind(&*first[0]);
    all.retain(|engine| kind(&**engine) == of_first);
    let places: Vec<_> = all.iter().map(|engine| engine.place()).collect();
    assert!(places.iter().enumerate().all(|(i, place)| !places[..i].contains(place)), "{places:?}");
    assert!(series(&files, first, 12).0 == series(&files, all, 12).0);
}

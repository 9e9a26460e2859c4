//! Several engines on one queue: the same pictures as from one; a failure or a cancellation stops all.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use flux2::fleet::{self, Worker};
use flux2::image::{self, ImageFormat, Parameters, RgbImage};
use flux2::weights::{Location, Lora, ModelFiles, Part};
use flux2::{
    BatchMember, Batching, CancelToken, Device, Engine, EngineOptions, Error, Event, GenerateRequest, GeneratedImage,
    ModelPaths, NoGpu, Observer, Phase, Residency, Result, Timings, Variant, engine,
};

use flux2_backend::testing::skip_without_gpu;

use crate::golden::fixture;

/// The messages of the workers in these tests.
#[derive(Debug)]
enum Message {
    Event(Event),
    /// Number and file of a picture.
    Made(usize, Vec<u8>),
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        Message::Event(event)
    }
}

/// klein-mini; the tiny model in a build without it.
fn files() -> ModelFiles {
    let model = Location::builtin().unwrap_or_else(|| fixture("tiny/klein").into());
    ModelFiles::open(&ModelPaths { model, ..Default::default() }).unwrap()
}

fn request(i: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: if i.is_multiple_of(3) { "a cat".into() } else { "a red fox".into() },
        seed: i as u64,
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        ..Default::default()
    }
}

/// Make picture `i`, and send it as the bytes of its file.
fn make(worker: &mut Worker<Message>, i: usize) -> Result<()> {
    let made = worker.generate(&request(i))?;
    let file = image::encode(&made.image, ImageFormat::Png, Some(&made.parameters))?;
    worker.send(Message::Made(i, file));
    Ok(())
}

/// The files of pictures `0..count`, and how often each engine loaded its text encoder.
fn pictures(engines: &mut [Box<dyn Engine>], count: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
    let (mut made, mut loaded) = (vec![Vec::new(); count], vec![0; engines.len()]);
    let prepared = |worker: &mut Worker<Message>, i| {
        worker.prepare_prompts(&["a cat", "a red fox"])?;
        make(worker, i)
    };
    let receive = |worker: usize, message| {
        match message {
            Message::Made(i, file) => made[i] = file,
            Message::Event(Event::PhaseStarted { phase: Phase::Load(Part::TextEncoder), .. }) => loaded[worker] += 1,
            Message::Event(_) => {}
        }
        Ok::<_, Error>(())
    };
    fleet::run(engines, 0..count, &CancelToken::new(), prepared, receive).unwrap();
    (made, loaded)
}

fn options(device: Device) -> EngineOptions {
    let threads = NonZeroUsize::new(1);
    EngineOptions { device, threads, residency: Residency::KeepForNext, ..Default::default() }
}

/// `count` engines on the CPU, each with one thread.
fn on_cpu(count: usize) -> Vec<Box<dyn Engine>> {
    (0..count).map(|_| engine::open(files(), &options(Device::Cpu)).unwrap()).collect()
}

#[test]
fn two_engines_make_the_files_of_one() {
    let (alone, _) = pictures(&mut on_cpu(1), 6);
    let (together, loaded) = pictures(&mut on_cpu(2), 6);
    assert!(alone.iter().all(|file| !file.is_empty()));
    assert!(alone == together);
    assert!(loaded.iter().all(|times| *times <= 1) && loaded.contains(&1), "text encoders loaded: {loaded:?}");
}

#[test]
fn the_processor_is_one_device() {
    let most = NonZeroUsize::new(8).unwrap();
    let all = engine::open_all(&files(), &options(Device::Cpu), most).unwrap();
    assert_eq!(all.engines.iter().map(|engine| engine.place()).collect::<Vec<_>>(), [Device::Cpu]);
    assert!(all.left_out.is_empty());
}

#[test]
fn cancelling_stops_all_and_what_was_made_stays() {
    let cancel = CancelToken::new();
    let mut made = Vec::new();
    let mut busy = [false; 2];
    let result = fleet::run(&mut on_cpu(2), 0..10_000, &cancel, make, |worker, message| {
        match message {
            Message::Made(i, file) => made.push((i, file)),
            Message::Event(_) => busy[worker] = true,
        }
        // Once both are working and some pictures are finished.
        if busy == [true; 2] && made.len() >= 3 {
            cancel.cancel();
        }
        Ok::<_, Error>(())
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(made.len() >= 3 && made.len() < 10_000);
    let (i, file) = &made[0];
    assert!(*file == pictures(&mut on_cpu(1), i + 1).0[*i]);
}

/// An engine that calls a function of the test instead of drawing.
struct Fake<F>(F);

impl<F: FnMut(u64, &CancelToken) -> Result<()> + Send> Engine for Fake<F> {
    fn variant(&self) -> &'static Variant {
        Variant::by_name("klein-mini").unwrap()
    }

    fn name(&self) -> &str {
        "fake"
    }

    fn loras(&self) -> &[Lora] {
        &[]
    }

    fn device(&self) -> &str {
        "fake"
    }

    fn place(&self) -> Device {
        Device::Cpu
    }

    fn why_no_gpu(&self) -> Option<&NoGpu> {
        None
    }

    fn generate_with(
        &mut self,
        request: &GenerateRequest,
        _observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<GeneratedImage> {
        (self.0)(request.seed, cancel)?;
        let parameters = Parameters {
            prompt: request.prompt.clone(),
            seed: request.seed,
            noise: "philox".into(),
            model: "fake".into(),
            variant: None,
            dtype: "f32".into(),
            steps: 1,
            guidance: None,
            width: 1,
            height: 1,
            references: vec![],
            background: None,
            compat: None,
            loras: vec![],
            software: "test".into(),
            version: "0".into(),
        };
        let image = RgbImage::new(1, 1, vec![0; 3]).unwrap();
        Ok(GeneratedImage { image, parameters, timings: Timings::default(), kernels: vec![], rescues: vec![] })
    }

    fn generate_batch(&mut self, members: &mut [BatchMember], _: Batching) -> Vec<Result<GeneratedImage>> {
        members.iter_mut().map(|member| self.generate(member.request, member.observer, member.cancel)).collect()
    }

    fn prepare_prompts(&mut self, _: &[&str], _: &mut dyn Observer, _: &CancelToken) -> Result<()> {
        Ok(())
    }
}

fn fake(act: impl FnMut(u64, &CancelToken) -> Result<()> + Send + 'static) -> Box<dyn Engine> {
    Box::new(Fake(act))
}

/// Wait until `done`, for at most a minute.
fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never happened");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_engine_that_fails_ends_the_run_for_all() {
    for workers in [1, 2, 3] {
        let begun = Arc::new(AtomicUsize::new(0));
        let engine = || {
            let begun = Arc::clone(&begun);
            fake(move |seed, cancel| {
                begun.fetch_add(1, Ordering::SeqCst);
                match seed {
                    0 | 1 => Ok(()),
                    2 => Err(flux2_backend::Error::OutOfMemory { bytes: 7 }.into()),
                    // Later ones are in progress when the third fails, and are cancelled.
                    _ => {
                        wait_until(|| cancel.is_cancelled());
                        Ok(cancel.check()?)
                    }
                }
            })
        };
        let mut engines: Vec<_> = (0..workers).map(|_| engine()).collect();
        let mut made = Vec::new();
        let cancel = CancelToken::new();
        let result = fleet::run(&mut engines, 0..100, &cancel, make, |_, message| {
            if let Message::Made(i, _) = message {
                made.push(i);
            }
            Ok::<_, Error>(())
        });
        let out_of_memory = flux2_backend::Error::OutOfMemory { bytes: 7 };
        assert!(matches!(result, Err(Error::Backend(ref e)) if *e == out_of_memory), "{workers} workers: {result:?}");
        made.sort_unstable();
        assert_eq!(made, [0, 1], "{workers} workers");
        assert!(begun.load(Ordering::SeqCst) <= 2 + workers, "{workers} workers");
        assert!(!cancel.is_cancelled(), "the caller's token is the caller's");
    }
}

#[test]
fn a_slow_engine_takes_fewer() {
    const JOBS: usize = 10;
    // Jobs begun by the slow engine and by the fast one.
    let begun: Arc<[AtomicUsize; 2]> = Arc::default();
    let (of_slow, of_fast) = (Arc::clone(&begun), Arc::clone(&begun));
    let mut engines = vec![
        fake(move |_, _| {
            of_slow[0].fetch_add(1, Ordering::SeqCst);
            wait_until(|| of_slow[1].load(Ordering::SeqCst) == JOBS - 1);
            Ok(())
        }),
        fake(move |_, _| {
            of_fast[1].fetch_add(1, Ordering::SeqCst);
            wait_until(|| of_fast[0].load(Ordering::SeqCst) == 1);
            Ok(())
        }),
    ];
    let mut made = [0; 2];
    fleet::run(&mut engines, 0..JOBS, &CancelToken::new(), make, |worker, message| {
        made[worker] += usize::from(matches!(message, Message::Made(..)));
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(made, [1, JOBS - 1]);
}

#[test]
fn messages_are_received_on_the_calling_thread_and_may_end_the_run() {
    for workers in [1, 2] {
        let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let engine = || {
            let threads = Arc::clone(&threads);
            fake(move |_, cancel| {
                threads.lock().unwrap().push(thread::current().id());
                Ok(cancel.check()?)
            })
        };
        let mut engines: Vec<_> = (0..workers).map(|_| engine()).collect();
        let mut received = Vec::new();
        let result = fleet::run(&mut engines, 0..1_000_000, &CancelToken::new(), make, |_, _| {
            received.push(thread::current().id());
            if received.len() == 3 { Err(Error::Steps { steps: 0, max: 3 }) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Error::Steps { .. })), "{workers} workers: {result:?}");
        assert!(received.len() < 1_000_000);
        let here = thread::current().id();
        assert!(received.iter().all(|id| *id == here));
        // A single engine runs on the calling thread; several have a thread each.
        assert!(threads.lock().unwrap().iter().all(|id| (*id == here) == (workers == 1)));
    }
}

#[test]
fn a_run_that_is_cancelled_before_it_begins_makes_nothing() {
    let cancel = CancelToken::new();
    cancel.cancel();
    for workers in [1, 2] {
        let untouched = || fake(|_, _| panic!("nobody asked for a picture"));
        let mut engines: Vec<_> = (0..workers).map(|_| untouched()).collect();
        let receive = |_, message: Message| -> Result<()> { panic!("{message:?}") };
        let result = fleet::run(&mut engines, 0..3, &cancel, make, receive);
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(fleet::run(&mut engines, 0..0, &cancel, make, |_, _| Ok::<_, Error>(())).is_ok(), "nothing to do");
    }
}

/// Engines on GPUs; `None` with a message if there is no GPU.
fn on_gpus(open: impl Fn() -> Result<Vec<Box<dyn Engine>>>) -> Option<Vec<Box<dyn Engine>>> {
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
    let open =
        |count: usize| on_gpus(|| (0..count).map(|_| engine::open(files(), &options(Device::Cuda(Some(0))))).collect());
    let Some(mut one) = open(1) else { return };
    let (alone, _) = pictures(&mut one, 6);
    let (together, loaded) = pictures(&mut open(2).unwrap(), 6);
    assert!(alone == together);
    assert!(loaded.iter().all(|times| *times <= 1), "text encoders loaded: {loaded:?}");
}

#[test]
fn cuda_all_gpus_make_the_files_of_the_first() {
    let open = |device, most| {
        let most = NonZeroUsize::new(most).unwrap();
        on_gpus(|| Ok(engine::open_all(&files(), &options(device), most)?.engines))
    };
    let Some(mut first) = open(Device::Cuda(None), 1) else { return };
    let mut all = open(Device::Cuda(None), usize::MAX).unwrap();
    assert_eq!(first.len(), 1);
    // Only GPUs of one kind give the same bytes.
    let kind = |engine: &dyn Engine| engine.device().split_once(' ').map(|(_, kind)| kind.to_owned());
    let of_first = kind(&*first[0]);
    all.retain(|engine| kind(&**engine) == of_first);
    let places: Vec<_> = all.iter().map(|engine| engine.place()).collect();
    assert_eq!(places[0], first[0].place());
    assert!(places.iter().enumerate().all(|(i, place)| !places[..i].contains(place)), "{places:?}");
    assert!(pictures(&mut first, 12).0 == pictures(&mut all, 12).0);
}

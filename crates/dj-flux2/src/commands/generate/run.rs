//! Makes the pictures of a run: hands them to the job engine, and reports what comes of them.
//!
//! Workers draw, other threads encode and write, and this one prints.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flux2::event::Preview;
use flux2::image::{self, ImageFormat, Parameters, RgbImage};
use flux2::pipeline::ladder::Rescue;
use flux2::pipeline::{GeneratedImage, KernelRun};
use flux2::weights::ModelFiles;
use flux2::{CancelToken, Engine, Error, Event, GenerateRequest, Reference, Source, Timings, engine};
use flux2_jobs::engine::EngineHost;
use flux2_jobs::{
    Affinity, FailureClass, JobFailure, JobId, JobSpec, Jobs, Options, Painting, PictureOf, Retention, Signer, Sink,
    SourceSpec, Submission,
};

use super::expected::Costs;
use super::outcomes::{Made, Outcomes};
use crate::credentials;
use crate::drafts::draft;
use crate::failure::{Failure, Result};
use crate::output::{Output, write_preview};
use crate::report::Report;
use crate::report::record::{Kernel, Record, RescueRecord, Seconds, StrengthRecord};
use crate::settings::jobs::Job;
use crate::settings::{Settings, Show};

/// Longest time until Ctrl-C is noticed here; workers notice what follows within one block.
const POLL: Duration = Duration::from_millis(50);

/// How many times as wide and high as its preview a picture is, unless a decoder makes the preview.
const PREVIEW_SCALE: u32 = 8;

/// The pictures to make.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub files: ModelFiles,
    pub references: Vec<Reference>,
}

/// The pictures that jobs were handed in for: their numbers in the run, from 0, and where they are written.
type Pictures = Mutex<HashMap<JobId, (u64, Option<PathBuf>)>>;

fn lock(pictures: &Pictures) -> MutexGuard<'_, HashMap<JobId, (u64, Option<PathBuf>)>> {
    pictures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the engine's threads send to the main thread. Pictures are named by their number, from 0.
enum Message {
    Event {
        worker: usize,
        picture: u64,
        event: Event,
    },
    Started {
        worker: usize,
        picture: u64,
        steps: u32,
    },
    Saved(Box<Saved>),
    /// A picture that is drawn and could not be written.
    Unwritten {
        picture: u64,
        failure: Failure,
    },
    Ended {
        picture: u64,
        failure: Option<JobFailure>,
    },
}

/// A picture that has been written, and how it was made.
struct Saved {
    worker: usize,
    picture: u64,
    /// Pictures that were drawn together.
    batch: usize,
    path: Option<PathBuf>,
    parameters: Parameters,
    timings: Timings,
    kernels: Vec<KernelRun>,
    rescues: Vec<Rescue>,
    /// The picture, if it is shown.
    image: Option<RgbImage>,
    total: Duration,
}

/// Writes pictures where the settings say.
struct Writer {
    output: Output,
    pictures: Arc<Pictures>,
    /// Whether previews are wanted.
    previews: bool,
    /// Whether finished pictures are shown.
    shows: bool,
    messages: Sender<Message>,
}

impl Writer {
    /// Number of the picture of a job, and where it is written. A job that is being handed in is waited for.
    fn picture(&self, id: JobId) -> (u64, Option<PathBuf>) {
        lock(&self.pictures).get(&id).cloned().expect("every job was handed in for a picture")
    }

    fn send(&self, message: Message) {
        // The main thread may have stopped listening after an error.
        let _ = self.messages.send(message);
    }
}

impl Sink for Writer {
    fn started(&self, of: PictureOf) {
        let (picture, _) = self.picture(of.id);
        self.send(Message::Started { worker: of.worker, picture, steps: of.spec.steps });
    }

    fn event(&self, of: PictureOf, event: &Event) {
        self.send(Message::Event { worker: of.worker, picture: self.picture(of.id).0, event: event.clone() });
    }

    fn wants_previews(&self) -> bool {
        self.previews
    }

    fn save(&self, of: PictureOf, drawn: &GeneratedImage, bytes: Vec<u8>, elapsed: Duration) -> Result<(), JobFailure> {
        let (picture, path) = self.picture(of.id);
        match self.output.write(path.as_deref(), &bytes) {
            Ok(path) => {
                self.send(Message::Saved(Box::new(Saved {
                    worker: of.worker,
                    picture,
                    batch: of.batch,
                    path,
                    parameters: drawn.parameters.clone(),
                    timings: drawn.timings.clone(),
                    kernels: drawn.kernels.clone(),
                    rescues: drawn.rescues.clone(),
                    image: self.shows.then(|| drawn.image.clone()),
                    total: elapsed,
                })));
                Ok(())
            }
            Err(failure) => {
                let message = failure.message.clone();
                self.send(Message::Unwritten { picture, failure });
                Err(JobFailure::new(FailureClass::Storage, message))
            }
        }
    }

    fn ended(&self, id: JobId, _: &JobSpec, failure: Option<&JobFailure>) {
        let (picture, _) = self.picture(id);
        self.send(Message::Ended { picture, failure: failure.cloned() });
    }
}

impl Run<'_> {
    /// Makes all pictures, and adds what came of them to `outcomes`. The error is why the run ended early.
    pub fn all(
        self,
        engines: Vec<Box<dyn Engine>>,
        report: &mut Report,
        cancel: &CancelToken,
        outcomes: &mut Outcomes,
    ) -> Result<()> {
        let Run { settings, files, references } = self;
        let devices: Vec<String> = engines.iter().map(|engine| engine.device().to_owned()).collect();
        let places: Vec<String> = engines.iter().map(|engine| engine.place().to_string()).collect();
        let strengths: Vec<_> = engines[0].loras().iter().map(|lora| StrengthRecord::new(&lora.strength)).collect();
        if places.len() > 1 {
            report.workers(places.iter().cloned());
        }
        let (sender, messages) = channel();
        let signer = signer(settings, &references)?;
        let options = options(settings, &*engines[0], engines.len(), &files, &references);
        let options = Options { signer, ..options };
        let batch = options.max_batch;
        let pictures = Arc::new(Pictures::default());
        let writer = Writer {
            output: settings.output.clone(),
            pictures: Arc::clone(&pictures),
            previews: settings.preview.is_some() || report.shows_pictures() && settings.show == Show::Steps,
            shows: report.shows_pictures(),
            messages: sender,
        };
        let outlook = Costs::expect(settings, &*engines[0], engines.len(), &files, &references, report);
        let host = EngineHost::of_engines(files, engines, settings.options.clone());
        let host = match &settings.request.upscale {
            Some(upscaling) => host.with_upscaler(upscaling.upscaler.clone()),
            None => host,
        };
        let jobs = Jobs::start_with_sink(options, Arc::new(host), Arc::new(writer))?;
        let digests = references.iter().map(|reference| reference.sha256().to_owned()).collect();
        references.into_iter().for_each(|reference| jobs.put_reference(reference));
        sources(settings).for_each(|source| jobs.put_source(source));
        let mut series = Series {
            settings,
            jobs,
            pictures,
            outcomes,
            digests,
            messages,
            report,
            devices,
            places,
            strengths,
            batch,
            submitted: 0,
            over: 0,
            workers: HashMap::new(),
            last_events: HashMap::new(),
            unwritten: HashMap::new(),
            preview_failed: false,
            outlook,
        };
        let result = series.run(cancel);
        series.outlook.keep();
        if result.is_err() {
            series.stop();
        }
        result
    }
}

/// The source of a run, once for each strength.
fn sources(settings: &Settings) -> impl Iterator<Item = Source> {
    let mut known = Vec::new();
    let all = (0..settings.pictures()).filter_map(|i| settings.request(i).source);
    all.filter(move |source| {
        let strength = source.options().strength;
        let is_new = !known.contains(&strength);
        known.extend(is_new.then_some(strength));
        is_new
    })
}

/// What signs the pictures, if that is asked for. It reads the files of the references and of the source again.
fn signer(settings: &Settings, references: &[Reference]) -> Result<Option<Arc<dyn Signer>>> {
    let digests = references.iter().map(|reference| reference.sha256().to_owned());
    let source = settings.source.as_ref().zip(settings.request.source.as_ref());
    let source = source.map(|(of, source)| (source.sha256().to_owned(), of.source.clone()));
    let files = digests.zip(settings.references.iter().cloned()).chain(source).collect();
    let files = settings.credentials.as_ref().map(|[key, certificates]| (key.as_path(), certificates.as_path(), files));
    match files {
        Some((key, certificates, files)) => credentials::signer(Some((key, certificates)), files),
        None => Ok(None),
    }
}

/// How the engine is run for pictures that end with this process: in order, and nothing is kept of them.
fn options(
    settings: &Settings,
    first: &dyn Engine,
    workers: usize,
    files: &ModelFiles,
    references: &[Reference],
) -> Options {
    let pictures = settings.pictures() as usize;
    // Pictures that wait to be saved take memory.
    let savers = if settings.max_memory.is_some() { 1 } else { workers + 1 };
    // No worker takes pictures that another one could begin at once.
    let share = pictures.div_ceil(workers);
    let like = GenerateRequest { references: settings.of_picture(0, references), ..settings.request(0) };
    Options {
        max_queued: usize::MAX,
        max_wait: Duration::MAX,
        max_batch: engine::useful_batch(first.place(), files, &like).min(share),
        affinity: Affinity { jobs: usize::MAX, time: Duration::MAX },
        savers: savers.min(pictures),
        retention: Retention { jobs: 1, ..Retention::default() },
        starts_paused: true,
        ..Options::default()
    }
}

/// A run in progress.
struct Series<'a> {
    settings: &'a Settings,
    jobs: Jobs,
    pictures: Arc<Pictures>,
    outcomes: &'a mut Outcomes,
    /// Digests of the references.
    digests: Vec<String>,
    messages: Receiver<Message>,
    report: &'a mut Report,
    /// Descriptions of the devices, by worker.
    devices: Vec<String>,
    /// Names of the devices, by worker.
    places: Vec<String>,
    strengths: Vec<StrengthRecord>,
    /// Most pictures that are drawn together.
    batch: usize,
    submitted: u64,
    over: u64,
    /// The worker that draws a picture.
    workers: HashMap<u64, usize>,
    /// The latest event of each worker, and the picture that it came from first.
    last_events: HashMap<usize, (u64, Event)>,
    /// Why pictures that are drawn could not be written.
    unwritten: HashMap<u64, Failure>,
    /// Whether a preview could not be written.
    preview_failed: bool,
    /// How long its pictures take.
    outlook: Costs,
}

impl Series<'_> {
    fn run(&mut self, cancel: &CancelToken) -> Result<()> {
        let pictures = self.settings.pictures();
        cancel.check().map_err(Error::from)?;
        self.submit()?;
        self.jobs.resume();
        while self.over < pictures {
            match self.messages.recv_timeout(POLL) {
                Ok(message) => self.hear(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the engine lives as long as its handle"),
            }
            if self.over < pictures {
                cancel.check().map_err(Error::from)?;
            }
            self.submit()?;
        }
        Ok(())
    }

    /// Hands pictures to the engine, as long as not too many wait.
    fn submit(&mut self) -> Result<()> {
        let window = self.settings.window(self.places.len(), self.batch);
        while self.submitted < self.settings.pictures() && self.submitted - self.over < window {
            let source = self.settings.request(self.submitted).source.map(|source| SourceSpec {
                source: source.sha256().to_owned(),
                mask: source.mask_sha256().map(str::to_owned),
                painting: Painting { strength: source.options().strength, ..Painting::default() },
            });
            let references = self.settings.of_picture(self.submitted, &self.digests);
            let draft = draft(self.settings, self.submitted, references, source);
            // Workers that begin the job at once wait for its number.
            let mut pictures = lock(&self.pictures);
            let accepted = self.jobs.submit(Submission { draft, ..Submission::default() })?;
            pictures.insert(accepted.id, (self.submitted, self.settings.job(self.submitted).path));
            drop(pictures);
            accepted.warnings.into_iter().for_each(|warning| self.report.event(0, &Event::Warning(warning)));
            self.submitted += 1;
        }
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Event { picture, event: Event::Preview(preview), .. } => self.show(picture, &preview),
            Message::Event { worker, picture, event } => self.hear_event(worker, picture, event),
            Message::Started { worker, picture, steps } => {
                self.workers.insert(picture, worker);
                self.report.begin(worker, &self.settings.job(picture), self.settings.whole, steps);
            }
            Message::Saved(saved) => return self.made(*saved),
            Message::Unwritten { picture, failure } => drop(self.unwritten.insert(picture, failure)),
            Message::Ended { picture, failure } => {
                self.over += 1;
                self.report.stop_showing(picture);
                let worker = self.workers.remove(&picture);
                if let Some(failure) = failure {
                    let failure = self.unwritten.remove(&picture).unwrap_or_else(|| failure.into());
                    return self.not_made(picture, self.naming_device(failure, worker));
                }
            }
        }
        Ok(())
    }

    /// Reports an event. Pictures that are drawn together have stages in common, whose events come from each of them,
    /// one after the other: they are reported once.
    fn hear_event(&mut self, worker: usize, picture: u64, event: Event) {
        let is_repeat = self.last_events.get(&worker).is_some_and(|(first, last)| *first != picture && *last == event);
        if !is_repeat {
            self.report.event(worker, &event);
            self.last_events.insert(worker, (picture, event));
        }
    }

    /// Shows and writes a preview. That it cannot be written is no failure of the picture.
    fn show(&mut self, picture: u64, preview: &Preview) {
        if self.settings.show == Show::Steps {
            let scale = if self.settings.options.previews.decoder.is_some() { 1 } else { PREVIEW_SCALE };
            let sides = [preview.image.width(), preview.image.height()].map(|side| side * scale);
            self.report.show_step(picture, &preview.image, sides);
        }
        let Some(path) = self.settings.preview.as_deref().filter(|_| !self.preview_failed) else { return };
        let write = || {
            let bytes = image::encode(&preview.image, ImageFormat::from_path(path)?, None)?;
            write_preview(path, &bytes)
        };
        if let Err(error) = write() {
            self.preview_failed = true;
            self.report.warning(format_args!("there are no more previews: {error}"));
        }
    }

    /// A failure names the device where there are several.
    fn naming_device(&self, failure: Failure, worker: Option<usize>) -> Failure {
        match worker.filter(|_| self.places.len() > 1) {
            Some(worker) => Failure { message: format!("{}: {}", self.places[worker], failure.message), ..failure },
            None => failure,
        }
    }

    /// Counts a picture that failed. Of several it is reported now, and ends the run if that is asked for.
    fn not_made(&mut self, picture: u64, failure: Failure) -> Result<()> {
        let Settings { whole, fail_fast, .. } = self.settings;
        if *fail_fast || *whole == 1 {
            return Err(failure);
        }
        let job = self.settings.job(picture);
        self.report.not_made(&job, *whole, &failure)?;
        self.outcomes.failed.push((job.index - 1, failure));
        Ok(())
    }

    /// Reports a picture that has been written.
    fn made(&mut self, saved: Saved) -> Result<()> {
        let Saved { worker, picture, batch, path, parameters, timings, kernels, rescues, image, total } = saved;
        if let Some(image) = image {
            self.report.show_finished(picture, &image);
        }
        if worker == 0 {
            self.outlook.learn(picture, batch, &timings);
        }
        let Job { index, line, .. } = self.settings.job(picture);
        let record = Record {
            path: &path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
            index,
            line,
            parameters: &parameters,
            device: &self.devices[worker],
            lora_strengths: &self.strengths,
            batch,
            timings: Seconds::new(&timings, total),
            kernels: kernels.iter().map(Kernel::new).collect(),
            rescues: rescues.iter().map(RescueRecord::new).collect(),
        };
        let reported = self.report.saved(worker, path.as_deref(), &record, total);
        self.outcomes.made.push((index - 1, Made { path, parameters }));
        reported
    }

    /// Stops what is drawn, and reports what was written by then. Later errors are those of stopping.
    fn stop(&mut self) {
        self.jobs.drain(Duration::ZERO);
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Saved(saved) = message {
                let _ = self.made(*saved);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use flux2::weights::ModelFiles;
    use flux2::{Device, GpuOptions, engine};

    use super::*;
    use crate::args::{GenerateArgs, Seed};
    use crate::choices::Choices;
    use crate::failure::code;
    use crate::settings::expansion::Sources;
    use crate::settings::{self, Outside};

    /// Makes two pictures for each of three prompts in `folder`, with `workers` engines on the CPU.
    fn make(workers: usize, folder: &Path, no_clobber: bool) -> Result<()> {
        make_with(workers, folder, GenerateArgs { no_clobber, ..Default::default() })
    }

    fn make_with(workers: usize, folder: &Path, args: GenerateArgs) -> Result<()> {
        make_until(workers, folder, args, &CancelToken::new())
    }

    fn make_until(workers: usize, folder: &Path, args: GenerateArgs, cancel: &CancelToken) -> Result<()> {
        let args = GenerateArgs {
            model: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/klein")),
            count: args.count.or(Some(2)),
            size: Some((64, 64)),
            steps: Some(1),
            seed: Some(Seed::Number(7)),
            output: Some(folder.join("fox.png")),
            quiet: true,
            device: Some(Device::Cpu),
            threads: Some(1),
            ..args
        };
        let outside = Outside {
            model: None,
            gpu: GpuOptions::default(),
            text_cache: None,
            preview_cache: None,
            from: None,
            is_file: Path::is_file,
            is_folder: Path::is_dir,
            prompts: ["a red fox", "a blue hare", "a cat"].map(String::from).to_vec(),
            files: Choices::default(),
            sources: Sources { templates: Default::default(), wildcards: None, read_wildcard: |_, _| Ok(None) },
            fresh_seed: 0,
            cells: None,
        };
        let settings = settings::resolve(&args, outside)?;
        let files = ModelFiles::open(&settings.paths)?;
        let engines = (0..workers).map(|_| engine::open(files.clone(), &settings.options));
        let engines = engines.collect::<flux2::Result<Vec<_>>>()?;
        let mut report = Report::new(settings.detail, settings.json);
        let mut outcomes = Outcomes::default();
        Run { settings: &settings, files, references: vec![] }.all(engines, &mut report, cancel, &mut outcomes)?;
        outcomes.verdict(settings.whole)
    }

    fn made(workers: usize) -> Vec<(String, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        make(workers, folder.path(), true).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> =
            entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn several_engines_write_the_files_of_one() {
        let alone = made(1);
        let names: Vec<_> = alone.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fox-1.png", "fox-2.png", "fox-3.png", "fox-4.png", "fox-5.png", "fox-6.png"]);
        for workers in [2, 4] {
            assert!(made(workers) == alone, "{workers} engines");
        }
    }

    #[test]
    fn an_error_names_the_device_where_there_are_several() {
        let folder = tempfile::tempdir().unwrap();
        make(1, folder.path(), true).unwrap();
        let alone = make(1, folder.path(), true).unwrap_err();
        let one_of_two = make(2, folder.path(), true).unwrap_err();
        assert_eq!(one_of_two.code, alone.code);
        assert!(!alone.message.starts_with("cpu: ") && one_of_two.message.starts_with("cpu: "), "{one_of_two:?}");
    }

    /// Names of the files in a folder.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_picture_that_fails_does_not_end_the_others() {
        for workers in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("fox-2.png"), "precious").unwrap();
            fs::write(folder.path().join("fox-5.png"), "precious").unwrap();
            let failure = make(workers, folder.path(), true).unwrap_err();
            assert_eq!((failure.code, failure.message.as_str()), (code::SOME_FAILED, "2 of 6 pictures failed"));
            assert_eq!(names(folder.path()).len(), 6);
            assert_eq!(fs::read(folder.path().join("fox-5.png")).unwrap(), b"precious");
        }
    }

    #[test]
    fn the_first_failure_ends_the_run_if_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fox-2.png"), "precious").unwrap();
        let args = GenerateArgs { count: Some(1000), no_clobber: true, fail_fast: true, ..Default::default() };
        let failure = make_with(1, folder.path(), args).unwrap_err();
        assert_eq!(failure.code, code::USAGE);
        assert!(failure.message.ends_with("fox-2.png exists"), "{failure:?}");
        let names = names(folder.path());
        assert!(names.contains(&"fox-1.png".to_owned()) && names.len() < 3000, "{}", names.len());
    }

    #[test]
    fn a_cancelled_run_makes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = CancelToken::new();
        cancel.cancel();
        let failure = make_until(1, folder.path(), GenerateArgs::default(), &cancel).unwrap_err();
        assert_eq!((failure.code, names(folder.path()).len()), (code::CANCELLED, 0));
    }
}

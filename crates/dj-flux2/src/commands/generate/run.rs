//! Makes the pictures of a run: hands them to the job engine, and reports what comes of them.
//!
//! Workers draw, other threads encode and write, and this one prints.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use flux2::image::Parameters;
use flux2::pipeline::ladder::Rescue;
use flux2::pipeline::{GeneratedImage, KernelRun};
use flux2::weights::ModelFiles;
use flux2::{CancelToken, Engine, Error, Event, Reference, Timings};
use flux2_jobs::engine::EngineHost;
use flux2_jobs::{
    Affinity, Draft, FailureClass, JobFailure, JobId, JobSpec, Jobs, Options, Painting, PictureOf, Retention, Sink,
    SourceSpec, Submission,
};

use crate::failure::{Failure, Result, code};
use crate::output::Output;
use crate::report::Report;
use crate::report::record::{Kernel, Record, RescueRecord, Seconds, StrengthRecord};
use crate::settings::Settings;
use crate::settings::jobs::Job;

/// Longest time until Ctrl-C is noticed here; workers notice what follows within one block.
const POLL: Duration = Duration::from_millis(50);

/// The pictures to make.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub files: ModelFiles,
    pub references: Vec<Reference>,
}

/// What the engine's threads send to the main thread. Pictures are named by their number, from 0.
enum Message {
    Event {
        worker: usize,
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
    path: Option<PathBuf>,
    parameters: Parameters,
    timings: Timings,
    kernels: Vec<KernelRun>,
    rescues: Vec<Rescue>,
    total: Duration,
}

/// Writes pictures where the settings say.
struct Writer {
    output: Output,
    /// Seed of the first picture.
    first_seed: u64,
    messages: Sender<Message>,
}

impl Writer {
    /// Number of a picture, from 0: each has the next seed.
    fn number(&self, spec: &JobSpec) -> u64 {
        spec.seed - self.first_seed
    }

    fn send(&self, message: Message) {
        // The main thread may have stopped listening after an error.
        let _ = self.messages.send(message);
    }
}

impl Sink for Writer {
    fn started(&self, of: PictureOf) {
        let picture = self.number(of.spec);
        self.send(Message::Started { worker: of.worker, picture, steps: of.spec.steps });
    }

    fn event(&self, of: PictureOf, event: &Event) {
        self.send(Message::Event { worker: of.worker, event: event.clone() });
    }

    fn save(&self, of: PictureOf, drawn: &GeneratedImage, bytes: Vec<u8>, elapsed: Duration) -> Result<(), JobFailure> {
        let picture = self.number(of.spec);
        let path = self.output.path(picture + 1, of.spec.seed);
        match self.output.write(path.as_deref(), &bytes) {
            Ok(path) => {
                self.send(Message::Saved(Box::new(Saved {
                    worker: of.worker,
                    picture,
                    path,
                    parameters: drawn.parameters.clone(),
                    timings: drawn.timings.clone(),
                    kernels: drawn.kernels.clone(),
                    rescues: drawn.rescues.clone(),
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

    fn ended(&self, _: JobId, spec: &JobSpec, failure: Option<&JobFailure>) {
        self.send(Message::Ended { picture: self.number(spec), failure: failure.cloned() });
    }
}

impl Run<'_> {
    /// Makes all pictures.
    pub fn all(self, engines: Vec<Box<dyn Engine>>, report: &mut Report, cancel: &CancelToken) -> Result<()> {
        let Run { settings, files, references } = self;
        let devices: Vec<String> = engines.iter().map(|engine| engine.device().to_owned()).collect();
        let places: Vec<String> = engines.iter().map(|engine| engine.place().to_string()).collect();
        let strengths: Vec<_> = engines[0].loras().iter().map(|lora| StrengthRecord::new(&lora.strength)).collect();
        if places.len() > 1 {
            report.workers(places.iter().cloned());
        }
        let (sender, messages) = channel();
        let writer = Writer { output: settings.output.clone(), first_seed: settings.request.seed, messages: sender };
        let host = EngineHost::of_engines(files, engines, settings.options.clone());
        let jobs = Jobs::start_with_sink(options(settings, places.len()), Arc::new(host), Arc::new(writer))?;
        let digests = references.iter().map(|reference| reference.sha256().to_owned()).collect();
        references.into_iter().for_each(|reference| jobs.put_reference(reference));
        settings.request.source.iter().for_each(|source| jobs.put_source(source.clone()));
        let mut series = Series {
            settings,
            jobs,
            digests,
            messages,
            report,
            devices,
            places,
            strengths,
            submitted: 0,
            over: 0,
            saved: 0,
            failed: 0,
            first_failure: None,
            workers: HashMap::new(),
            unwritten: HashMap::new(),
        };
        let result = series.run(cancel);
        if result.is_err() {
            series.stop();
        }
        result
    }
}

/// How the engine is run for pictures that end with this process: in order, and nothing is kept of them.
fn options(settings: &Settings, workers: usize) -> Options {
    // Pictures that wait to be saved take memory.
    let savers = if settings.max_memory.is_some() { 1 } else { workers + 1 };
    Options {
        max_queued: usize::MAX,
        max_wait: Duration::MAX,
        affinity: Affinity { jobs: usize::MAX, time: Duration::MAX },
        savers: savers.min(settings.pictures() as usize),
        retention: Retention { jobs: 1, ..Retention::default() },
        starts_paused: true,
        ..Options::default()
    }
}

/// A run in progress.
struct Series<'a> {
    settings: &'a Settings,
    jobs: Jobs,
    /// Digests of the references.
    digests: Vec<String>,
    messages: Receiver<Message>,
    report: &'a mut Report,
    /// Descriptions of the devices, by worker.
    devices: Vec<String>,
    /// Names of the devices, by worker.
    places: Vec<String>,
    strengths: Vec<StrengthRecord>,
    submitted: u64,
    over: u64,
    saved: u64,
    failed: u64,
    first_failure: Option<Failure>,
    /// The worker that draws a picture.
    workers: HashMap<u64, usize>,
    /// Why pictures that are drawn could not be written.
    unwritten: HashMap<u64, Failure>,
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
        match (self.first_failure.take(), self.saved) {
            (None, _) => Ok(()),
            // Nothing was made, so the reason is the run's.
            (Some(first), 0) => Err(first),
            (Some(_), _) => {
                let message = format!("{} of {pictures} pictures failed", self.failed);
                Err(Failure { code: code::SOME_FAILED, message, hint: None })
            }
        }
    }

    /// Hands pictures to the engine, as long as not too many wait.
    fn submit(&mut self) -> Result<()> {
        let window = self.settings.window(self.places.len());
        while self.submitted < self.settings.pictures() && self.submitted - self.over < window {
            let Job { prompt, seed, .. } = self.settings.job(self.submitted);
            let request = &self.settings.request;
            let draft = Draft {
                prompt: prompt.to_owned(),
                references: self.digests.clone(),
                source: request.source.as_ref().map(|source| SourceSpec {
                    source: source.sha256().to_owned(),
                    mask: source.mask_sha256().map(str::to_owned),
                    painting: Painting::default(),
                }),
                width: request.width,
                height: request.height,
                steps: request.steps,
                guidance: request.guidance,
                noise: Some(request.noise),
                seed: Some(seed),
                format: Some(self.settings.output.format()),
                metadata: Some(self.settings.metadata),
                ..Draft::default()
            };
            let accepted = self.jobs.submit(Submission { draft, ..Submission::default() })?;
            accepted.warnings.into_iter().for_each(|warning| self.report.event(0, &Event::Warning(warning)));
            self.submitted += 1;
        }
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Event { worker, event } => self.report.event(worker, &event),
            Message::Started { worker, picture, steps } => {
                self.workers.insert(picture, worker);
                self.report.begin(worker, &self.settings.job(picture), self.settings.pictures(), steps);
            }
            Message::Saved(saved) => {
                self.saved += 1;
                return self.report_saved(&saved);
            }
            Message::Unwritten { picture, failure } => drop(self.unwritten.insert(picture, failure)),
            Message::Ended { picture, failure } => {
                self.over += 1;
                let worker = self.workers.remove(&picture);
                if let Some(failure) = failure {
                    let failure = self.unwritten.remove(&picture).unwrap_or_else(|| failure.into());
                    return self.not_made(picture, self.naming_device(failure, worker));
                }
            }
        }
        Ok(())
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
        self.failed += 1;
        let pictures = self.settings.pictures();
        if self.settings.fail_fast || pictures == 1 {
            return Err(failure);
        }
        self.report.not_made(&self.settings.job(picture), pictures, &failure)?;
        self.first_failure.get_or_insert(failure);
        Ok(())
    }

    fn report_saved(&mut self, saved: &Saved) -> Result<()> {
        let Saved { worker, picture, path, parameters, timings, kernels, rescues, total } = saved;
        let record = Record {
            path: &path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
            index: picture + 1,
            parameters,
            device: &self.devices[*worker],
            lora_strengths: &self.strengths,
            timings: Seconds::new(timings, *total),
            kernels: kernels.iter().map(Kernel::new).collect(),
            rescues: rescues.iter().map(RescueRecord::new).collect(),
        };
        self.report.saved(*worker, path.as_deref(), &record, *total)
    }

    /// Stops what is drawn, and reports what was written by then. Later errors are those of stopping.
    fn stop(&mut self) {
        self.jobs.drain(Duration::ZERO);
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Saved(saved) = message {
                let _ = self.report_saved(&saved);
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
            from: None,
            is_file: Path::is_file,
            is_folder: Path::is_dir,
            prompts: ["a red fox", "a blue hare", "a cat"].map(String::from).to_vec(),
            fresh_seed: 0,
        };
        let settings = settings::resolve(&args, outside)?;
        let files = ModelFiles::open(&settings.paths)?;
        let engines = (0..workers).map(|_| engine::open(files.clone(), &settings.options));
        let engines = engines.collect::<flux2::Result<Vec<_>>>()?;
        let mut report = Report::new(settings.detail, settings.json);
        Run { settings: &settings, files, references: vec![] }.all(engines, &mut report, cancel)
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

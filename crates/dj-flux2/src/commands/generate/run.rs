//! Makes the pictures of a run, on one engine or several.

use std::time::{Duration, Instant};

use flux2::fleet::{self, Worker};
use flux2::image::{self, Parameters};
use flux2::pipeline::ladder::Rescue;
use flux2::pipeline::{GeneratedImage, KernelRun};
use flux2::{CancelToken, Engine, Event, Reference, Timings};

use crate::failure::{Failure, Result, code};
use crate::report::Report;
use crate::report::record::{Kernel, Record, RescueRecord, Seconds, StrengthRecord};
use crate::settings::Settings;
use crate::settings::jobs::{Batch, Job};

/// The pictures to make.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub references: Vec<Reference>,
}

/// What a worker sends to the main thread.
enum Message<'a> {
    Event(Event),
    Started { job: Job<'a>, steps: u32 },
    Saved(Box<Saved<'a>>),
}

/// A picture that has been written, and how it was made.
struct Saved<'a> {
    job: Job<'a>,
    parameters: Parameters,
    timings: Timings,
    kernels: Vec<KernelRun>,
    rescues: Vec<Rescue>,
    total: Duration,
}

impl From<Event> for Message<'_> {
    fn from(event: Event) -> Self {
        Message::Event(event)
    }
}

impl<'a> Run<'a> {
    /// Makes all pictures.
    pub fn all(&self, mut engines: Vec<Box<dyn Engine>>, report: &mut Report, cancel: &CancelToken) -> Result<()> {
        let devices: Vec<String> = engines.iter().map(|engine| engine.device().to_owned()).collect();
        let strengths: Vec<_> = engines[0].loras().iter().map(|lora| StrengthRecord::new(&lora.strength)).collect();
        let several = engines.len() > 1;
        if several {
            report.workers(engines.iter().map(|engine| engine.place().to_string()));
        }
        let pictures = self.settings.pictures();
        let work = |worker: &mut Worker<Message<'a>>, batch| {
            self.batch(worker, batch).map_err(|failure| match several && failure.code != code::CANCELLED {
                true => Failure { message: format!("{}: {}", worker.engine().place(), failure.message), ..failure },
                false => failure,
            })
        };
        let hear = |worker: usize, message| match message {
            Message::Event(event) => {
                report.event(worker, &event);
                Ok(())
            }
            Message::Started { job, steps } => {
                report.begin(worker, &job, pictures, steps);
                Ok(())
            }
            Message::Saved(saved) => saved.report(worker, &devices[worker], &strengths, report),
        };
        fleet::run(&mut engines, self.settings.batches(devices.len()).into_iter(), cancel, work, hear)
    }

    /// Makes consecutive pictures on one worker.
    fn batch(&self, worker: &mut Worker<Message<'a>>, batch: Batch) -> Result<()> {
        let Batch { ahead, pictures } = batch;
        // A single prompt is encoded with its picture, so that its time counts there.
        if ahead.len() > 1 {
            let prompts: Vec<&str> = self.settings.prompts[ahead].iter().map(String::as_str).collect();
            worker.prepare_prompts(&prompts)?;
        }
        pictures.map(|i| self.settings.job(i)).try_for_each(|job| self.one(worker, job))
    }

    /// Makes and writes one picture.
    fn one(&self, worker: &mut Worker<Message<'a>>, job: Job<'a>) -> Result<()> {
        let output = &self.settings.output;
        let start = Instant::now();
        let request = self.settings.request_for(&job, &self.references);
        let steps = request.steps.unwrap_or(worker.engine().variant().default_steps);
        worker.send(Message::Started { job: job.clone(), steps });
        let GeneratedImage { image, parameters, timings, kernels, rescues } = worker.generate(&request)?;
        let stored = self.settings.metadata.then_some(&parameters);
        let bytes = image::encode(&image, output.format(), stored)?;
        let path = output.write(job.path.as_deref(), &bytes)?;
        let job = Job { path, ..job };
        let total = start.elapsed();
        worker.send(Message::Saved(Box::new(Saved { job, parameters, timings, kernels, rescues, total })));
        Ok(())
    }
}

impl Saved<'_> {
    fn report(&self, worker: usize, device: &str, strengths: &[StrengthRecord], report: &mut Report) -> Result<()> {
        let Saved { job: Job { path, index, .. }, parameters, timings, kernels, rescues, total } = self;
        let record = Record {
            path: &path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
            index: *index,
            parameters,
            device,
            lora_strengths: strengths,
            timings: Seconds::new(timings, *total),
            kernels: kernels.iter().map(Kernel::new).collect(),
            rescues: rescues.iter().map(RescueRecord::new).collect(),
        };
        report.saved(worker, path.as_deref(), &record, *total)
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
        let args = GenerateArgs {
            model: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/klein")),
            count: Some(2),
            size: Some((64, 64)),
            steps: Some(1),
            seed: Some(Seed::Number(7)),
            output: Some(folder.join("fox.png")),
            no_clobber,
            quiet: true,
            device: Some(Device::Cpu),
            threads: Some(1),
            ..Default::default()
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
        Run { settings: &settings, references: vec![] }.all(engines, &mut report, &CancelToken::new())
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
}

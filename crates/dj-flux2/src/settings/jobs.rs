//! The pictures of a run, and how they are dealt out to the workers.

use std::ops::Range;
use std::path::PathBuf;

use flux2::pipeline::MAX_PREPARED_PROMPTS;
use flux2::{GenerateRequest, Reference};

use super::Settings;

/// Consecutive pictures that one worker makes.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// Indices into [`Settings::prompts`]: what the worker encodes before the first picture, unless it has already.
    pub ahead: Range<usize>,
    /// Pictures, counted from 0.
    pub pictures: Range<u64>,
}

/// One picture of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job<'a> {
    /// Number of the picture, counted from 1.
    pub index: u64,
    pub prompt: &'a str,
    pub seed: u64,
    /// Where it is written; `None` is standard output.
    pub path: Option<PathBuf>,
}

impl Settings {
    /// Number of pictures in the run.
    pub fn pictures(&self) -> u64 {
        self.prompts.len() as u64 * u64::from(self.count)
    }

    /// All pictures, those of the first prompt first; each one has the next seed.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        (0..self.pictures()).map(|i| self.job(i))
    }

    /// Picture `i`, counted from 0.
    pub fn job(&self, i: u64) -> Job<'_> {
        let (index, seed) = (i + 1, self.request.seed + i);
        Job { index, prompt: &self.prompts[self.prompt_of(i)], seed, path: self.output.path(index, seed) }
    }

    fn prompt_of(&self, picture: u64) -> usize {
        (picture / u64::from(self.count)) as usize
    }

    /// Divides the pictures among `workers` so that each worker loads its text encoder as rarely as possible: once for
    /// every [`MAX_PREPARED_PROMPTS`] prompts.
    ///
    /// With many pictures per prompt, each goes to whichever worker is free, and every worker encodes all prompts,
    /// which takes about a tenth of the time of as many pictures. With few, each worker gets consecutive pictures and
    /// encodes only their prompts.
    pub fn batches(&self, workers: usize) -> Vec<Batch> {
        let (pictures, count, workers) = (self.pictures(), u64::from(self.count), workers as u64);
        if self.prompts.len() == 1 || count >= 2 * (workers - 1) {
            let batch = |i| {
                let first = self.prompt_of(i) / MAX_PREPARED_PROMPTS * MAX_PREPARED_PROMPTS;
                let ahead = first..self.prompts.len().min(first + MAX_PREPARED_PROMPTS);
                Batch { ahead, pictures: i..i + 1 }
            };
            return (0..pictures).map(batch).collect();
        }
        // The most prompts that `row` consecutive pictures can have.
        let prompts = |row: u64| (row + count - 2) / count + 1;
        let row = |rounds: u64| pictures.div_ceil(rounds * workers);
        let rounds = (1..).find(|rounds| prompts(row(*rounds)) <= MAX_PREPARED_PROMPTS as u64);
        let batches = rounds.expect("a single picture has one prompt") * workers;
        let batch = |i: u64| {
            let pictures = i * pictures / batches..(i + 1) * pictures / batches;
            let last = pictures.end.checked_sub(1).filter(|last| *last >= pictures.start)?;
            Some(Batch { ahead: self.prompt_of(pictures.start)..self.prompt_of(last) + 1, pictures })
        };
        (0..batches).filter_map(batch).collect()
    }

    /// What the engine is asked for.
    pub fn request_for(&self, job: &Job, references: &[Reference]) -> GenerateRequest {
        GenerateRequest {
            prompt: job.prompt.to_owned(),
            references: references.to_vec(),
            seed: job.seed,
            ..self.request.clone()
        }
    }

    /// The requests that decide how much memory the run needs: beyond [`MAX_PREPARED_PROMPTS`], prompts take the place
    /// of earlier ones.
    pub fn requests(&self, references: &[Reference]) -> Vec<GenerateRequest> {
        self.jobs().take(MAX_PREPARED_PROMPTS + 1).map(|job| self.request_for(&job, references)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{GenerateArgs, Seed};
    use crate::settings::tests::{args, outside};
    use crate::settings::{Outside, resolve};

    #[test]
    fn the_seed_runs_over_all_pictures() {
        let args = GenerateArgs {
            count: Some(2),
            seed: Some(Seed::Number(40)),
            output: Some("{index}-{seed}.png".into()),
            ..args()
        };
        let settings = resolve(&args, Outside { prompts: vec!["a".into(), "b".into()], ..outside() }).unwrap();
        let jobs: Vec<_> = settings.jobs().map(|j| (j.prompt, j.path.unwrap().display().to_string())).collect();
        assert_eq!(
            jobs,
            [("a", "1-40.png"), ("a", "2-41.png"), ("b", "3-42.png"), ("b", "4-43.png")]
                .map(|(prompt, path)| (prompt, path.to_owned()))
        );
    }

    /// A run of `prompts` prompts with `count` pictures each.
    fn run_of(prompts: usize, count: u32) -> Settings {
        let args = GenerateArgs { count: Some(count), ..args() };
        resolve(&args, Outside { prompts: (0..prompts).map(|i| format!("fox {i}")).collect(), ..outside() }).unwrap()
    }

    #[test]
    fn a_worker_alone_encodes_sixteen_prompts_ahead() {
        let batches = run_of(18, 2).batches(1);
        assert_eq!(batches.len(), 36);
        assert_eq!(batches[31], Batch { ahead: 0..16, pictures: 31..32 });
        assert_eq!(batches[32], Batch { ahead: 16..18, pictures: 32..33 });
    }

    #[test]
    fn pictures_of_one_prompt_go_to_whoever_is_free() {
        let expected: Vec<Batch> = (0..8).map(|i| Batch { ahead: 0..1, pictures: i..i + 1 }).collect();
        assert_eq!(run_of(1, 8).batches(2), expected);
        assert_eq!(run_of(1, 8).batches(8), expected);
    }

    #[test]
    fn prompts_with_few_pictures_are_dealt_out_to_the_workers() {
        let of = |ahead, pictures| Batch { ahead, pictures };
        assert_eq!(run_of(5, 1).batches(2), [of(0..2, 0..2), of(2..5, 2..5)]);
        assert_eq!(run_of(2, 3).batches(3), [of(0..1, 0..2), of(0..2, 2..4), of(1..2, 4..6)]);
    }

    #[test]
    fn every_picture_is_in_one_batch_in_order_and_no_batch_has_too_many_prompts() {
        for workers in [1, 2, 3, 8] {
            for (prompts, count) in [(1, 8), (2, 4), (15, 3), (16, 1), (17, 1), (33, 1), (47, 3), (100, 5), (1000, 1)] {
                let settings = run_of(prompts, count);
                let batches = settings.batches(workers);
                let what = format!("{prompts} prompts with {count} pictures, {workers} workers");
                let pictures: Vec<u64> = batches.iter().flat_map(|batch| batch.pictures.clone()).collect();
                assert_eq!(pictures, (0..settings.pictures()).collect::<Vec<_>>(), "{what}");
                for Batch { ahead, pictures } in &batches {
                    assert!(!pictures.is_empty() && ahead.len() <= MAX_PREPARED_PROMPTS, "{what}: {ahead:?}");
                    let needed = pictures.clone().map(|i| settings.prompt_of(i));
                    assert!(needed.clone().all(|prompt| ahead.contains(&prompt)), "{what}: {ahead:?}");
                }
                assert!(batches.len() >= workers.min(pictures.len()), "{what}");
            }
        }
    }
}

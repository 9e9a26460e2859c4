//! The pictures of a run.

use std::path::PathBuf;

use flux2::pipeline::MAX_PREPARED_PROMPTS;
use flux2::{GenerateRequest, Reference};

use super::Settings;

/// Most pictures that wait at a time: they take memory.
const MAX_WAITING: u64 = 4096;

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

    /// Pictures that wait at a time for `workers` workers: enough for each to see the prompts that it encodes ahead, few
    /// where each has references to prepare.
    pub fn window(&self, workers: usize) -> u64 {
        let workers = workers as u64;
        if self.prompts.len() == 1 {
            return 2 * workers + 2;
        }
        let most = if self.references.is_empty() && self.source.is_none() {
            MAX_WAITING
        } else {
            MAX_PREPARED_PROMPTS as u64 * workers
        };
        (MAX_PREPARED_PROMPTS as u64 * u64::from(self.count) * workers).min(most)
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
    fn every_worker_sees_the_prompts_that_it_encodes_ahead() {
        assert_eq!(run_of(18, 2).window(1), 32);
        assert_eq!(run_of(18, 2).window(3), 96);
        assert_eq!(run_of(1, 10_000).window(2), 6);
        assert_eq!(run_of(10, 10_000).window(8), MAX_WAITING);
    }
}

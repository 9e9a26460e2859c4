//! The pictures of a run.

use std::path::PathBuf;

use flux2::image::ImageFormat;
use flux2::pipeline::MAX_PREPARED_PROMPTS;
use flux2::{GenerateRequest, Reference, Source, Variant};

use super::Settings;
use super::expansion::{Prompt, seed_of};
use super::size::Size;

/// Most pictures that wait at a time: they take memory.
const MAX_WAITING: u64 = 4096;

/// One picture of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job<'a> {
    /// Number of the picture, counted from 1.
    pub index: u64,
    /// The line of the batch that asks for it.
    pub line: Option<usize>,
    pub prompt: &'a str,
    /// The template that the prompt was made from.
    pub template: Option<&'a str>,
    pub seed: u64,
    /// Where it is written; `None` is standard output.
    pub path: Option<PathBuf>,
}

/// A picture of a grid or a batch.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its place in reading order, from 0.
    pub place: u64,
    /// Prompt, seed, size, steps, guidance and noise.
    pub request: GenerateRequest,
    /// What is chosen of its size; the rest is in `request` after [`fit`](Settings::fit).
    pub size: Size,
    /// The line of the batch that asks for it.
    pub line: Option<usize>,
    /// Where it is written, if that is not what the output of the run says.
    pub path: Option<PathBuf>,
    /// Its reference images by their places among those of the run; `None` for all.
    pub references: Option<Vec<usize>>,
    /// How far the source of the run is replaced, if it has one.
    pub strength: Option<f64>,
}

impl Settings {
    /// Number of pictures in the run.
    pub fn pictures(&self) -> u64 {
        match self.cells.len() as u64 {
            0 => self.prompts.len() as u64 * self.per_prompt,
            cells => cells,
        }
    }

    /// All pictures, those of the first prompt first; each one has the next seed, of all or of the list.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        (0..self.pictures()).map(|i| self.job(i))
    }

    /// Picture `i`, counted from 0.
    pub fn job(&self, i: u64) -> Job<'_> {
        if let Some(Cell { place, line, request, path, .. }) = self.cells.get(i as usize) {
            let (index, seed) = (place + 1, request.seed);
            let path = path.clone().or_else(|| self.output.path(index, seed));
            return Job {
                index,
                line: *line,
                prompt: &request.prompt,
                template: request.template.as_deref(),
                seed,
                path,
            };
        }
        let (index, seed) = (i + 1, seed_of(&self.seed, self.request.seed, i));
        let Prompt { text, template } = &self.prompts[(i / self.per_prompt) as usize];
        let path = self.output.path(index, seed);
        Job { index, line: None, prompt: text, template: template.as_deref(), seed, path }
    }

    /// Gives pictures the size that they have on a model of this variant, with these references.
    pub fn fit(&mut self, variant: &Variant, references: &[Reference]) {
        let usual = |first: Option<&Reference>| {
            first.map_or([variant.default_px; 2], |first| [first.image().width(), first.image().height()])
        };
        (self.request.width, self.request.height) = self.size.fitted(usual(references.first()));
        for Cell { request, size, references: own, .. } in &mut self.cells {
            let first = match own {
                Some(own) => own.first().map(|place| &references[*place]),
                None => references.first(),
            };
            (request.width, request.height) = size.fitted(usual(first));
        }
    }

    /// Those of `all`, one for each reference of the run, that belong to the references of picture `i`.
    pub fn of_picture<T: Clone>(&self, i: u64, all: &[T]) -> Vec<T> {
        match self.cells.get(i as usize).and_then(|cell| cell.references.as_ref()) {
            Some(own) => own.iter().map(|place| all[*place].clone()).collect(),
            None => all.to_vec(),
        }
    }

    /// Format of the file of picture `i`.
    pub fn format(&self, i: u64) -> ImageFormat {
        let own = self.cells.get(i as usize).and_then(|cell| ImageFormat::from_path(cell.path.as_deref()?).ok());
        own.unwrap_or(self.output.format())
    }

    /// Pictures that wait at a time for `workers` workers, which draw up to `batch` together: enough for each to see
    /// the prompts that it encodes ahead, few where each has references to prepare.
    pub fn window(&self, workers: usize, batch: usize) -> u64 {
        let (workers, batch) = (workers as u64, batch as u64);
        if self.prompts.len() == 1 && self.cells.is_empty() {
            return 2 * workers * batch + 2;
        }
        let has_images = !self.references.is_empty() || self.source.is_some();
        let most = if has_images { MAX_PREPARED_PROMPTS as u64 * workers } else { MAX_WAITING };
        (MAX_PREPARED_PROMPTS as u64 * self.per_prompt * workers).min(most)
    }

    /// What the engine is asked for to make picture `i`, counted from 0; references are added to it.
    pub fn request(&self, i: u64) -> GenerateRequest {
        match self.cells.get(i as usize) {
            Some(cell) => {
                // Strengths were checked with the options of the source.
                let with_strength = |source: &Source| source.with_strength(cell.strength?).ok();
                let source = self.request.source.as_ref().map(|one| with_strength(one).unwrap_or_else(|| one.clone()));
                GenerateRequest { source, ..cell.request.clone() }
            }
            None => {
                let Job { prompt, template, seed, .. } = self.job(i);
                let template = template.map(str::to_owned);
                GenerateRequest { prompt: prompt.to_owned(), template, seed, ..self.request.clone() }
            }
        }
    }

    /// The requests that decide how much memory the run needs: beyond [`MAX_PREPARED_PROMPTS`], prompts take the place
    /// of earlier ones. Cells of a grid may have different sizes, so all of them count.
    pub fn requests(&self, references: &[Reference]) -> Vec<GenerateRequest> {
        let most = if self.cells.is_empty() { MAX_PREPARED_PROMPTS as u64 + 1 } else { u64::MAX };
        let with_references = |i| GenerateRequest { references: self.of_picture(i, references), ..self.request(i) };
        (0..self.pictures().min(most)).map(with_references).collect()
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
        assert_eq!(run_of(18, 2).window(1, 1), 32);
        assert_eq!(run_of(18, 2).window(3, 8), 96);
        assert_eq!(run_of(1, 10_000).window(2, 1), 6);
        assert_eq!(run_of(1, 10_000).window(2, 8), 34);
        assert_eq!(run_of(10, 10_000).window(8, 8), MAX_WAITING);
    }
}

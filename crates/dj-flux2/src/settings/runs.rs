//! The pictures of a grid or a batch as runs that each load one model.

use std::path::{Path, PathBuf};

use flux2::canvas::SourceOptions;

use super::Settings;
use super::jobs::Cell;
use crate::args::GenerateArgs;
use crate::choices::{Choices, Origin};
use crate::config::Presets;
use crate::config::flags::generate_args;
use crate::failure::Result;
use crate::output::{Existing, Output};

/// Most files of reference images in a run: they are in memory together.
const MAX_REFERENCES: usize = 64;

/// What flags of one picture say, and below them the presets that they name.
pub fn own_choices(
    args: &GenerateArgs,
    prompts: Vec<String>,
    presets: &Presets,
    is_file: fn(&Path) -> bool,
) -> Result<Choices> {
    let of_preset = generate_args(&presets.settings(&args.preset)?)?;
    let of_preset = Choices::from_args_of(Origin::Preset(args.preset.join(",")), &of_preset, vec![], is_file);
    Ok(Choices::from_args_of(Origin::Line, args, prompts, is_file).or(of_preset))
}

/// Runs, each with what its pictures have in common.
#[derive(Default)]
pub struct Runs {
    runs: Vec<(String, Settings)>,
}

impl Runs {
    /// Puts pictures with these settings into the run of their model, or begins one.
    pub fn put(&mut self, settings: Settings, cells: Vec<Cell>) {
        let Settings { paths, options, max_memory, may_round, metadata, quality, preparation, .. } = &settings;
        let Settings { source, upscale, watermark, .. } = &settings;
        let existing = match &settings.output {
            Output::Files { existing, .. } => *existing,
            Output::New { .. } | Output::Stdout => Existing::default(),
        };
        // Each cell has a strength of its own.
        let source = source.as_ref().map(|of| {
            let strength = SourceOptions::default().strength;
            (&of.source, &of.mask, SourceOptions { strength, ..of.options.clone() })
        });
        let common = format!(
            "{paths:?} {options:?} {max_memory:?} {may_round} {metadata} {quality:?} {preparation:?} {existing:?} \
             {source:?} {upscale:?} {watermark}"
        );
        let own = settings.references.clone();
        let found = self.runs.iter_mut().find(|(other, run)| {
            let more = own.iter().filter(|file| !run.references.contains(file)).count();
            *other == common && run.references.len() + more <= MAX_REFERENCES
        });
        let run = match found {
            Some((_, run)) => run,
            None => {
                self.runs.push((common, Settings { references: Vec::new(), cells: Vec::new(), ..settings }));
                &mut self.runs.last_mut().expect("it was pushed").1
            }
        };
        let place = |file: &PathBuf| match run.references.iter().position(|known| known == file) {
            Some(place) => place,
            None => {
                run.references.push(file.clone());
                run.references.len() - 1
            }
        };
        let places: Vec<usize> = own.iter().map(place).collect();
        run.cells.extend(cells.into_iter().map(|cell| Cell { references: Some(places.clone()), ..cell }));
    }

    /// The runs in the order of their first pictures.
    pub fn all(self) -> Vec<Settings> {
        self.runs.into_iter().map(|(_, settings)| settings).collect()
    }
}

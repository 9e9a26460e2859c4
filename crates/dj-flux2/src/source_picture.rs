//! The picture of `--from`: the parameters stored in it, and what they mean here. A picture of this program can be made
//! again; of another program's, prompt, seed, size and steps are taken where they mean something.

use std::path::{Path, PathBuf};

use flux2::image::metadata::{self, SheetParameters};
use flux2::image::{OtherParameters, Parameters, Stored};
use flux2::request::{GRID_PX, MAX_PX, MIN_PX};
use flux2::weights::Lora;
use flux2::{Reference, Source, Upscaling};

use crate::failure::{Failure, Result, code};
use crate::report::{Report, shown};
use crate::settings::Settings;
use crate::typed_paths::{name_of, read_picture};

/// A picture and the parameters stored in it.
pub struct SourcePicture {
    pub file: PathBuf,
    pub stored: Stored,
}

/// What is taken from the picture of another program.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    pub prompt: Option<String>,
    pub seed: Option<u64>,
    pub size: Option<(u32, u32)>,
    pub steps: Option<u32>,
    /// What is not, as `guidance 7`.
    pub left_out: Vec<String>,
}

/// The parameters of the picture in a cell of the sheet in `file`.
fn parameters_of(sheet: &SheetParameters, (column, row): (usize, usize), file: &Path) -> Result<Parameters> {
    sheet.at(column, row).map(|cell| cell.parameters.clone()).ok_or_else(|| {
        let cells: Vec<String> = sheet.cells.iter().take(100).map(|at| format!("{},{}", at.column, at.row)).collect();
        let message = format!("{} stores no parameters of a picture in column {column}, row {row}", name_of(file));
        Failure::usage(message, format!("its pictures are {}", cells.join(" ")))
    })
}

/// The parameters that this or another program stored in the picture `file`, which holds `bytes`.
fn parameters_in(bytes: &[u8], file: &Path) -> Result<Stored> {
    stored_in(bytes, file)?.ok_or_else(|| {
        let message = format!("{} holds no parameters that are understood", name_of(file));
        let hint = "pass a picture as its program wrote it: many sites and editors remove the parameters";
        Failure::new(code::BAD_IMAGE, message, hint)
    })
}

/// The parameters that this or another program stored in the bytes of the picture `file`, if there are any.
pub fn stored_in(bytes: &[u8], file: &Path) -> Result<Option<Stored>> {
    metadata::read_any(bytes).map_err(|e| Failure::image(e).of_file(file))
}

impl Taken {
    pub fn of(made: &OtherParameters) -> Self {
        let OtherParameters { prompt, seed, .. } = made;
        let mut taken = Taken { prompt: prompt.clone(), seed: *seed, ..Default::default() };
        let left_out = &mut taken.left_out;
        if let Some((width, height)) = made.width.zip(made.height) {
            let is_possible = |side: u32| side.is_multiple_of(GRID_PX) && (MIN_PX..=MAX_PX).contains(&side);
            match is_possible(width) && is_possible(height) {
                true => taken.size = Some((width, height)),
                false => left_out.push(format!("size {width}x{height}, which no model here draws")),
            }
        }
        // Few steps of one family are many of another.
        let is_klein = made.model.as_ref().is_some_and(|model| model.to_lowercase().contains("klein"));
        match made.steps {
            Some(steps) if is_klein => taken.steps = Some(steps),
            Some(steps) => left_out.push(format!("steps {steps}, of another model")),
            None => {}
        }
        let mut leave = |name: &str, value: Option<&str>| {
            left_out.extend(value.map(|value| shown(&format!("{name} {}", shortened(value)))));
        };
        leave("negative prompt", made.negative_prompt.as_deref());
        leave("guidance", made.guidance.map(|guidance| guidance.to_string()).as_deref());
        leave("sampler", made.sampler.as_deref());
        leave("model", made.model.as_deref());
        made.other.iter().take(MOST_LISTED).for_each(|(name, value)| leave(name, Some(value)));
        if let Some(more) = made.other.len().checked_sub(MOST_LISTED + 1) {
            left_out.push(format!("{} more", more + 1));
        }
        taken
    }

    /// The names of what is taken, in one phrase.
    fn names(&self) -> String {
        let names = [
            ("prompt", self.prompt.is_some()),
            ("seed", self.seed.is_some()),
            ("size", self.size.is_some()),
            ("steps", self.steps.is_some()),
        ];
        let names: Vec<&str> = names.into_iter().filter(|(_, is_taken)| *is_taken).map(|(name, _)| name).collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, first)) => format!("{} and {last}", first.join(", ")),
            None => "nothing".to_owned(),
        }
    }
}

/// Most values that are listed of those that only the other program knows.
const MOST_LISTED: usize = 4;

fn shortened(value: &str) -> String {
    const LONGEST: usize = 40;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

impl SourcePicture {
    /// Reads a picture, or what a sheet says of the picture in its `cell`: column and row, from 1.
    pub fn read(file: &Path, cell: Option<(usize, usize)>) -> Result<Self> {
        let bytes = read_picture(file)?;
        let sheet = metadata::read_sheet(&bytes).map_err(|e| Failure::image(e).of_file(file))?;
        let stored = match (sheet, cell) {
            (None, None) => parameters_in(&bytes, file)?,
            (Some(sheet), Some(cell)) => Stored::Ours(Box::new(parameters_of(&sheet, cell, file)?)),
            (Some(sheet), None) => {
                let message = format!("{} is a sheet of {} pictures", name_of(file), sheet.cells.len());
                return Err(Failure::usage(message, "choose one with --cell COLUMN,ROW, as in --cell 1,1"));
            }
            (None, Some(_)) => {
                let message = format!("{} is no sheet, so it has no cells", name_of(file));
                return Err(Failure::usage(message, "leave --cell out, or pass a sheet that stores its parameters"));
            }
        };
        Ok(SourcePicture { file: file.to_owned(), stored })
    }

    /// What it shows, if it says that.
    pub fn prompt(&self) -> Option<&str> {
        match &self.stored {
            Stored::Ours(made) => Some(&made.prompt),
            Stored::Other(made) => made.prompt.as_deref(),
        }
    }

    /// The name of the model, if the picture says it.
    pub fn model(&self) -> Option<&str> {
        match &self.stored {
            Stored::Ours(made) => Some(&made.model),
            Stored::Other(made) => made.model.as_deref(),
        }
    }

    /// Whether it was painted into another picture.
    pub fn has_source(&self) -> bool {
        matches!(&self.stored, Stored::Ours(made) if made.source.is_some())
    }

    /// Warns if another picture is painted into than the one that it was made with, or by another mask.
    pub fn check_source(&self, source: Option<&Source>, report: &Report) {
        let Stored::Ours(made) = &self.stored else { return };
        let Some((made, given)) = made.source.as_ref().zip(source) else { return };
        let file = name_of(&self.file);
        if made.sha256 != given.sha256() {
            report.warning(format_args!("--source is not the picture that {file} was painted into"));
        }
        if made.mask.as_deref() != given.mask_sha256() {
            report.warning(format_args!("the mask is not the one that {file} was made with"));
        }
    }

    /// The references that the picture was made with must be given again, in the same order.
    pub fn check_references(&self, paths: &[PathBuf], references: &[Reference]) -> Result<()> {
        let Stored::Ours(made) = &self.stored else { return Ok(()) };
        let (file, wanted) = (self.file.display(), &made.references);
        if wanted.is_empty() {
            return Ok(());
        }
        let hint = "pass the files it was made with, in their order, each with -i";
        if wanted.len() != references.len() {
            let (wanted, given) = (wanted.len(), references.len());
            let images = if wanted == 1 { "image" } else { "images" };
            return Err(Failure::usage(
                format!("{file} was made with {wanted} reference {images}, {given} given"),
                hint,
            ));
        }
        match references.iter().zip(wanted).position(|(reference, wanted)| reference.sha256() != wanted.as_str()) {
            None => Ok(()),
            Some(i) => {
                let (n, given) = (i + 1, paths[i].display());
                Err(Failure::usage(format!("{given} is not reference image {n} of {file}"), hint))
            }
        }
    }

    /// A recorded LoRA must be the file that the picture was made with. One that was typed may be another file of the
    /// same name; that is a warning.
    pub fn check_loras(&self, loras: &[Lora], settings: &Settings, report: &Report) -> Result<()> {
        let Stored::Ours(made) = &self.stored else { return Ok(()) };
        let file = self.file.display();
        for lora in loras {
            let mut namesakes = made.loras.iter().filter(|made| made.name == lora.name).peekable();
            if namesakes.peek().is_none() || namesakes.any(|made| made.sha256 == lora.sha256) {
                continue;
            }
            let message = format!("{}.safetensors is not the LoRA of that name that {file} was made with", lora.name);
            if settings.loras_are_recorded {
                let hint = format!("pass the LoRAs it was made with, this one with --lora FILE:{}", lora.scale);
                return Err(Failure::usage(message, hint));
            }
            report.warning(message);
        }
        Ok(())
    }

    /// Warns if another upscaler of the same name enlarges the picture.
    pub fn check_upscaler(&self, upscaling: Option<&Upscaling>, report: &Report) {
        let Stored::Ours(made) = &self.stored else { return };
        let Some((made, given)) = made.upscale.as_ref().zip(upscaling.map(|upscaling| &upscaling.upscaler)) else {
            return;
        };
        if made.upscaler == given.name() && made.sha256.is_some() && made.sha256.as_deref() != given.sha256() {
            let (name, file) = (given.name(), name_of(&self.file));
            report.warning(format_args!("{name} is not the upscaler of that name that {file} was made with"));
        }
    }

    /// Warns if the model or the version of the program is another one. Of another program's picture, prints what is
    /// taken and what is not.
    pub fn warn_of_differences(&self, model: &str, report: &Report) {
        let file = name_of(&self.file);
        match &self.stored {
            Stored::Ours(made) => self.warn_of_other_version(made, model, report),
            Stored::Other(made) => {
                let (program, taken) = (shown(&made.program), Taken::of(made));
                let left_out = match taken.left_out.is_empty() {
                    true => String::new(),
                    false => format!("; left out: {}", taken.left_out.join(", ")),
                };
                report.note(format_args!(
                    "{file} was made by {program}, so it cannot be made again, only its {} taken{left_out}",
                    match taken.names() {
                        names if names.contains(" and ") => format!("{names} are"),
                        name => format!("{name} is"),
                    }
                ));
            }
        }
    }

    fn warn_of_other_version(&self, made: &Parameters, model: &str, report: &Report) {
        let (file, here) = (self.file.display(), env!("CARGO_PKG_VERSION"));
        if made.model != model {
            report.warning(format_args!("{file} was made with the model {:?}, this is {model:?}", made.model));
        }
        if made.version != here {
            report.warning(format_args!(
                "{file} was made by version {:?}, this is {here:?}; the picture may differ",
                made.version
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_here_is_taken() {
        let made = OtherParameters {
            program: "ComfyUI".into(),
            prompt: Some("a boat".into()),
            seed: Some(u64::MAX),
            steps: Some(20),
            guidance: Some(7.5),
            width: Some(512),
            height: Some(500),
            model: Some("sd\u{202e}15".into()),
            other: (0..6).map(|i| (format!("x{i}"), "y".repeat(50))).collect(),
            ..Default::default()
        };
        let taken = Taken::of(&made);
        assert_eq!((taken.seed, taken.size, taken.steps), (Some(u64::MAX), None, None));
        assert_eq!(taken.left_out[..2], ["size 512x500, which no model here draws", "steps 20, of another model"]);
        assert_eq!(taken.left_out[2..4], ["guidance 7.5", "model sd\\u{202e}15"]);
        assert_eq!(taken.left_out[4], format!("x0 {}…", "y".repeat(40)));
        assert_eq!(taken.left_out[8..], ["2 more"]);
        assert_eq!(taken.names(), "prompt and seed");
        let klein = OtherParameters { model: Some("flux-2-Klein".into()), height: Some(768), ..made };
        let taken = Taken::of(&klein);
        assert_eq!((taken.size, taken.steps), (Some((512, 768)), Some(20)));
        assert_eq!(taken.names(), "prompt, seed, size and steps");
    }
}

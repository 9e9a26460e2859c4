//! Batches: the pictures of a file with one JSON object a line, as runs that each load one model.
//!
//! In:  the lines, and the flags of the command line, which count where a line says nothing.
//! Out: runs whose cells are the pictures; those that are there already are left out.

use std::fs;
use std::path::{Path, PathBuf};

use flux2::GenerateRequest;
use flux2::digest::sha256;
use flux2::image::{Parameters, SourceParameters, Stored, metadata};
use serde::Serialize;

use super::canvas::SourceSettings;
use super::expansion::seed_of;
use super::jobs::Cell;
use super::runs::{Runs, own_choices};
use super::{MAX_PICTURES, Outside, Settings, resolve_choices, value};
use crate::args::{GenerateArgs, Seed};
use crate::choices::{Choices, Origin};
use crate::config::Presets;
use crate::config::json_lines::{self, Line};
use crate::failure::{Failure, Result};
use crate::output::{Existing, Output};
use crate::prompts::read_file;
use crate::typed_paths::name_of;

/// Largest file of a picture that is compared with its line.
const MAX_COMPARED: u64 = 256 << 20;

/// The pictures of a batch.
pub struct Batch {
    /// One for each model, in the order of the lines; none if all pictures are there already.
    pub runs: Vec<Settings>,
    pub there: Vec<There>,
}

/// A picture that is there already, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
pub struct There {
    /// Number of the picture in the batch, counted from 1.
    pub index: u64,
    pub line: usize,
    pub path: PathBuf,
    /// Always true: it was not drawn again.
    pub skipped: bool,
}

/// Reads the lines of `file` and decides their runs.
pub fn runs(file: &Path, args: &GenerateArgs, presets: &Presets, outside: &Outside) -> Result<Batch> {
    let stem = match file.to_str() {
        Some("-") => "batch".to_owned(),
        _ => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let lines = json_lines::parse(&read_file(file)?, Path::new(&name_of(file)))?;
    let mut builder = Builder { stem, args, presets, outside, runs: Runs::default(), there: Vec::new(), pictures: 0 };
    for (i, line) in lines.into_iter().enumerate() {
        builder.add(i as u64, line)?;
    }
    let Builder { runs, there, pictures, .. } = builder;
    let left = pictures - there.len() as u64;
    let runs = runs.all().into_iter().map(|settings| Settings { whole: left, ..settings }).collect();
    Ok(Batch { runs, there })
}

struct Builder<'a> {
    stem: String,
    args: &'a GenerateArgs,
    presets: &'a Presets,
    outside: &'a Outside<'a>,
    runs: Runs,
    there: Vec<There>,
    /// Pictures so far, those that are there too.
    pictures: u64,
}

impl Builder<'_> {
    /// Adds the pictures of line `number`, counted from 0.
    fn add(&mut self, number: u64, line: Line) -> Result<()> {
        let Line { place, prompt, args } = line;
        let named = |failure: Failure| Failure { message: format!("{place}: {}", failure.message), ..failure };
        let prompt = prompt.ok_or_else(|| place.refuse("there is no prompt", "add \"prompt\": \"a red fox\""))?;
        let (outside, is_file) = (self.outside, self.outside.is_file);
        let own = own_choices(&args, vec![prompt], self.presets, is_file).map_err(named)?;
        let mut choices = own.or(Choices::from_args(self.args, vec![], is_file));
        let files = outside.files.clone();
        let output = choices.output.take().or(files.output.clone());
        let existing = choices.existing.clone().or(files.existing.clone());
        let has_seed = choices.seed.as_ref().or(files.seed.as_ref()).is_some_and(|seed| seed.value != Seed::Random);
        let fresh_seed = outside.fresh_seed.wrapping_add(number << 20) & ((1 << 53) - 1);
        let of_line = Outside {
            files: Choices { output: None, ..files },
            prompts: vec![],
            fresh_seed,
            cells: Some(2),
            ..outside.clone()
        };
        let mut settings = resolve_choices(choices, of_line).map_err(named)?;
        let count = settings.pictures();
        let is_own = output.as_ref().is_some_and(|output| output.origin == Origin::Line);
        let output = self.output(value(output), is_own, place.line, count, value(existing).unwrap_or_default())?;
        if self.pictures + count > MAX_PICTURES {
            let message = format!("the batch has more than {MAX_PICTURES} pictures");
            return Err(Failure::usage(message, "split it over several runs"));
        }
        let mut cells = Vec::new();
        for i in 0..count {
            let (place_of, seed) = (self.pictures + i, seed_of(&settings.seed, settings.request.seed, i));
            let path = output.path(i + 1, seed).expect("it is not standard output");
            let request = settings.request(i);
            if is_there(&path, &request, settings.source.as_ref(), has_seed, settings.metadata) {
                self.there.push(There { index: place_of + 1, line: place.line, path, skipped: true });
                continue;
            }
            let size = settings.size;
            cells.push(Cell {
                place: place_of,
                request,
                size,
                line: Some(place.line),
                path: Some(path),
                references: None,
                strength: settings.source.as_ref().map(|source| source.options.strength),
            });
        }
        self.pictures += count;
        settings.output = output;
        if !cells.is_empty() {
            self.runs.put(settings, cells);
        }
        Ok(())
    }

    /// Where the pictures of a line are written. Without a name of its own, the line's number tells it from others.
    fn output(
        &self,
        named: Option<PathBuf>,
        is_own: bool,
        line: usize,
        pictures: u64,
        existing: Existing,
    ) -> Result<Output> {
        let in_folder = |folder: &Path| folder.join(format!("{}-{line}.png", self.stem.replace(['{', '}'], "")));
        let name = named.unwrap_or_default();
        if name == Path::new("-") {
            let hint = "write files: a batch prints its results with --json";
            return Err(Failure::usage("standard output takes no batch", hint));
        }
        let text = name.to_string_lossy();
        let name = match text.ends_with(std::path::is_separator) || text.is_empty() || (self.outside.is_folder)(&name) {
            true => in_folder(&name),
            false if is_own => name,
            false if text.contains("{index}") => text.replace("{index}", &line.to_string()).into(),
            false if text.contains("{seed}") => name,
            false => {
                let extension = name.extension().unwrap_or_default().to_string_lossy();
                let stem = name.file_stem().unwrap_or_default().to_string_lossy();
                name.with_file_name(format!("{stem}-{line}.{extension}"))
            }
        };
        Output::new(Some(&name), pictures, existing, |_| false)
    }
}

/// Whether the file at `path` is the picture of `request`: its prompt, and what else the request names. A file without
/// parameters counts if none would be stored.
fn is_there(
    path: &Path,
    request: &GenerateRequest,
    source: Option<&SourceSettings>,
    has_seed: bool,
    metadata: bool,
) -> bool {
    let is_readable = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_COMPARED);
    let Some(bytes) = is_readable.then(|| fs::read(path).ok()).flatten() else { return false };
    match metadata::read_any(&bytes) {
        Ok(Some(Stored::Ours(made))) => {
            is_painted_into(made.source.as_ref(), source) && is_picture_of(&made, request, has_seed)
        }
        _ => !metadata,
    }
}

/// Whether a picture was painted into the files of `asked` in the same way, as far as it does not depend on their sizes;
/// or into none, if none are asked for.
fn is_painted_into(made: Option<&SourceParameters>, asked: Option<&SourceSettings>) -> bool {
    let (made, SourceSettings { source, mask, options }) = match (made, asked) {
        (Some(made), Some(asked)) => (made, asked),
        (made, asked) => return made.is_none() && asked.is_none(),
    };
    let digest = |file: &Path| fs::read(file).ok().map(|bytes| sha256(&bytes));
    made.strength == options.strength
        && made.is_reference == options.as_reference
        && (made.mask_from_alpha, made.mask_invert) == (options.mask_from_alpha, options.mask_invert)
        && (made.mask_grow, made.outpaint.is_some()) == (options.mask_grow, options.outpaint.is_some())
        && Some(&made.sha256) == digest(source).as_ref()
        && made.mask == mask.as_deref().and_then(digest)
}

fn is_picture_of(made: &Parameters, request: &GenerateRequest, has_seed: bool) -> bool {
    fn same<T: PartialEq>(asked: Option<T>, made: T) -> bool {
        asked.is_none_or(|asked| asked == made)
    }
    // Without a seed, a template gives another prompt every time.
    let same_prompt = match (&request.template, has_seed) {
        (Some(template), false) => made.template.as_ref() == Some(template),
        _ => made.prompt == request.prompt,
    };
    same_prompt
        && made.negative_prompt == request.negative_prompt
        && (!has_seed || made.seed == request.seed)
        && same(request.width, made.width)
        && same(request.height, made.height)
        && same(request.steps, made.steps)
        && same(request.guidance, made.guidance.unwrap_or_else(|| request.guidance.unwrap_or_default()))
}

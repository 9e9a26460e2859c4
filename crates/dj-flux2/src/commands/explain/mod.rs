//! `dj-flux2 explain`: a picture, and a page that explains how it came about.
//!
//! | file | holds |
//! |---|---|
//! | `document` | what is explained, as `--json` prints it: the library's account, the plan, the picture |
//! | `page` | the same as a page of HTML without any other file |
//! | `charts`, `plot` | the plots of the page, as SVG |
//! | `heat` | attention as pictures |
//! | `parts` | pictures and plots as files, for `--plots` |

mod charts;
mod document;
mod heat;
mod page;
mod parts;
mod plot;

use std::cell::LazyCell;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use flux2::image::codec::{IfExists, check_save, save};
use flux2::image::{Embedded, ImageFormat, Quality, encode_attached};
use flux2::marks::watermark;
use flux2::{CancelToken, ExplainOptions, GenerateRequest, GeneratedImage, ResolvedRequest};

use super::generate::{foreign, inputs, open, open_run};
use crate::args::{ExplainArgs, GenerateArgs};
use crate::failure::{Failure, Result, code};
use crate::interrupt::cancelled_by_signals;
use crate::output::WRITING;
use crate::prepare::{self, Prepared};
use crate::report::{Report, json, print};
use crate::settings::{self, Detail, Settings, Show};
use crate::source_picture::SourcePicture;
use crate::typed_paths::check_standard_input;
use document::{Document, Planned};
use page::page;

/// Name of the page if nobody says otherwise.
const PAGE: &str = "explain.html";

/// Makes the picture of `args`, and explains it.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let ExplainArgs { generate, plots, attention_blocks } = args;
    foreign::check(&generate.foreign)?;
    refuse(generate)?;
    check_standard_input(generate)?;
    let from = generate.from.as_deref().map(|file| SourcePicture::read(file, generate.sheets.cell)).transpose()?;
    // The name of a page is none of a picture.
    let of_picture = GenerateArgs { output: None, ..generate.clone() };
    let mut settings = settings::resolve(&of_picture, prepare::outside(&of_picture, from.as_ref())?)?;
    check(&settings)?;
    let target = Target::of(generate, &settings)?;
    target.check(&inputs(std::slice::from_ref(&settings), generate))?;

    let cancel: LazyCell<CancelToken> = LazyCell::new(cancelled_by_signals);
    let mut report = Report::new(settings.detail, settings.json);
    if settings.show != Show::Nothing {
        report.show_pictures(generate.show);
    }
    let (mut engines, prepared) = open_run(&mut settings, from.as_ref(), &mut report, &cancel)?;
    let Prepared { files, references, .. } = prepared;
    let request = GenerateRequest { references, ..settings.request(0) };
    let planned = Planned::of(&files, &settings.options, &request)?;
    let engine = &mut engines.engines[0];
    report.begin(0, &settings.job(0), 1, ResolvedRequest::new(&request, files.variant)?.steps);
    let options = ExplainOptions { blocks: attention_blocks.clone().unwrap_or_default() };
    let (made, explanation) = engine.explain(&request, &options, &mut report, &cancel)?;
    report.show_finished(0, &made.image);
    let picture = encoded(&made, &settings)?;
    let document = Document::new(explanation, &picture, &made, planned, engine.device());

    if let Some(folder) = plots {
        parts::write(folder, &document, &picture)?;
        say_written(folder, &settings, &report)?;
    }
    if settings.json {
        print(&json(&document))?;
    }
    let Some(written) = target.write(&page(&document))? else { return Ok(()) };
    say_written(written, &settings, &report)?;
    if settings.open {
        open::open(std::iter::once(written), &report);
    }
    Ok(())
}

/// Says where something is. Beside a JSON object, that is not on standard output.
fn say_written(path: &Path, settings: &Settings, report: &Report) -> Result<()> {
    match settings.json {
        true if settings.detail > Detail::Quiet => report.line(format_args!("saved {}", path.display())),
        true => {}
        false => report.written(path)?,
    }
    Ok(())
}

/// Refuses flags of `generate` that mean nothing for one picture on a page.
fn refuse(args: &GenerateArgs) -> Result<()> {
    let sheets = &args.sheets;
    let one = "explain one picture at a time, and draw the others with `dj-flux2 generate`";
    let watch = "leave it out: the page shows every step";
    let refused = [
        (args.batch.is_some(), "--batch makes several pictures, and a page explains one", one),
        (!sheets.grid.is_empty(), "--grid makes several pictures, and a page explains one", one),
        (sheets.sheet.is_some(), "--sheet is for several pictures, and a page explains one", one),
        (args.dry_run, "--dry-run draws nothing, and a page explains what was drawn", "use `dj-flux2 plan`"),
        (args.previews.preview.is_some(), "--preview has no effect on a page", watch),
        (args.previews.preview_decoder.is_some(), "--preview-decoder has no effect on a page", watch),
        (args.show_steps, "--show-steps has no effect on a page", watch),
    ];
    match refused.into_iter().find(|(is_given, ..)| *is_given) {
        Some((_, message, hint)) => Err(Failure::usage(message, hint)),
        None => Ok(()),
    }
}

/// Refuses what only the settings show.
fn check(settings: &Settings) -> Result<()> {
    let pictures = settings.pictures();
    if pictures > 1 {
        let hint = "give one prompt and one seed, and no -n";
        return Err(Failure::usage(format!("a page explains one picture, and these are {pictures}"), hint));
    }
    if settings.credentials.is_some() {
        let hint = "leave the credentials out, or draw the picture with `dj-flux2 generate`";
        return Err(Failure::usage("the picture in a page is not signed", hint));
    }
    Ok(())
}

/// The picture as a PNG, of the bytes that `generate` writes.
fn encoded(made: &GeneratedImage, settings: &Settings) -> Result<Vec<u8>> {
    let embedded = settings.metadata.then_some(Embedded::Picture(&made.parameters));
    let marked = settings.watermark.then(|| watermark::embed(&made.image)).transpose()?;
    let image = marked.as_ref().unwrap_or(&made.image);
    Ok(encode_attached(image, &made.attached, ImageFormat::Png, &Quality::default(), embedded)?)
}

/// Where the page is written.
enum Target {
    /// Nowhere: everything is printed as JSON.
    Nowhere,
    Stdout,
    File(PathBuf, IfExists),
}

impl Target {
    fn of(args: &GenerateArgs, settings: &Settings) -> Result<Self> {
        let existing = if args.no_clobber { IfExists::Fail } else { IfExists::Replace };
        match &args.output {
            None if settings.json => Ok(Target::Nowhere),
            None => Ok(Target::File(PAGE.into(), existing)),
            Some(path) if path == Path::new("-") && settings.json => {
                let hint = "leave --json out, or write the page to a file, with -o NAME.html";
                Err(Failure::usage("the page and the JSON object both go to standard output", hint))
            }
            Some(path) if path == Path::new("-") => Ok(Target::Stdout),
            Some(path) => match path.extension().and_then(|extension| extension.to_str()) {
                Some("html" | "htm") => Ok(Target::File(path.clone(), existing)),
                _ => {
                    let message = format!("{} is no name of a page", path.display());
                    Err(Failure::usage(message, "end the name in .html; --plots DIR writes the picture as a file"))
                }
            },
        }
    }

    /// Refuses a file that cannot be written or that the run reads, before any work.
    fn check(&self, inputs: &[PathBuf]) -> Result<()> {
        let Target::File(path, existing) = self else { return Ok(()) };
        if path
            .canonicalize()
            .is_ok_and(|found| inputs.iter().any(|input| input.canonicalize().is_ok_and(|i| i == found)))
        {
            let message = format!("{} is an input of this run and would be replaced", path.display());
            return Err(Failure::usage(message, "choose another name with -o"));
        }
        Ok(check_save(path, *existing)?)
    }

    /// Writes the page, and returns the file that it is in.
    fn write(&self, page: &str) -> Result<Option<&Path>> {
        let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
        match self {
            Target::Nowhere => Ok(None),
            Target::File(path, existing) => {
                save(path, page.as_bytes(), *existing)?;
                Ok(Some(path))
            }
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(page.as_bytes()).and_then(|()| stdout.flush());
                written.map(|()| None).map_err(|e| {
                    Failure::new(code::FAILURE, format!("standard output: {e}"), "write a file, with -o NAME.html")
                })
            }
        }
    }
}

//! How often klein-mini follows its prompts: the table of docs/mini.md.
//!
//! ```text
//! cargo run --release --example evaluate_mini
//!     --model DIR      evaluate another model
//!     --count N        at most N requests of each kind; by default all
//!     --seed S         seed of the first request; by default 1
//!     --steps 4,20     one column for each; by default 4
//!     --dtype DTYPE    f32, bf16 (by default) or int8; with weights rounded to a format, bf16+q8_0
//!     --padded         round weights to q4_k, with rows padded to its blocks, which are longer
//!     --pictures DIR   true pictures for the autoencoder, made by `tools/train/fixture.py --pictures DIR`
//!     --strict         the strict judge's table of scenes instead, and what is wrong with pictures
//!     --paint          figures of masked edits and larger canvases instead, of 100 pictures or N; fails beyond limits
//!     --misses         list the wrong answers
//!     --keep DIR       every judged picture as DIR/STEPS-NUMBER.png; the list of misses has the numbers
//!     --sheet DIR      draw the contact sheets of docs/mini.md and nothing else
//! ```
//!
//! Requests and expected answers come from `fixtures/mini`, with pairs of subject and background that were held out of
//! training; `tests/it/evaluation/judge.rs` judges the pictures. References are drawn by the model itself from their
//! captions, as by a user who edits a picture they made, and an edit counts only if its references were right. The
//! wordings are captions that were written by hand, not by a grammar.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its result and its progress

#[path = "../../tests/it/evaluation/mod.rs"]
mod evaluation;
mod painted;
mod reconstruction;
mod sheets;
mod strict_table;

use std::path::{Path, PathBuf};
use std::time::Instant;

use flux2::Precision;
use flux2::image::{self, ImageFormat, codec::IfExists};

use flux2_backend::DType;
use tempfile::TempDir;

use evaluation::judge::Judge;
use evaluation::padded::padded;
use evaluation::world::{Layout, Picture, World};
use evaluation::{Case, Drawing, Kind, Outcome};
use reconstruction::Line;

type Failure = Box<dyn std::error::Error>;

struct Args {
    drawing: Drawing,
    steps: Vec<u32>,
    count: usize,
    pictures: Option<PathBuf>,
    strict: bool,
    paint: bool,
    misses: bool,
    keep: Option<PathBuf>,
    sheet: Option<PathBuf>,
    /// The rounded model that is drawn with.
    padded: Option<TempDir>,
}

impl Args {
    fn parse() -> Result<Self, Failure> {
        let drawing = Drawing { model: evaluation::mini(), precision: Precision::BF16, steps: 4, seed: 1 };
        let mut args = Args {
            drawing,
            steps: vec![4],
            count: usize::MAX,
            pictures: None,
            strict: false,
            paint: false,
            misses: false,
            keep: None,
            sheet: None,
            padded: None,
        };
        let mut given = std::env::args().skip(1);
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--model" => args.drawing.model.model = value()?.into(),
                "--count" => args.count = value()?.parse()?,
                "--seed" => args.drawing.seed = value()?.parse()?,
                "--steps" => args.steps = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--dtype" => args.drawing.precision = value()?.parse().map_err(|()| "no such dtype")?,
                "--pictures" => args.pictures = Some(value()?.into()),
                "--padded" => args.padded = Some(padded(args.drawing.model.model.path(), DType::Q4K)?),
                "--strict" => args.strict = true,
                "--paint" => args.paint = true,
                "--misses" => args.misses = true,
                "--keep" => args.keep = Some(value()?.into()),
                "--sheet" => args.sheet = Some(value()?.into()),
                _ => return Err(format!("unknown argument {flag}; see the first lines of this example").into()),
            }
        }
        if let Some(folder) = &args.padded {
            args.drawing.model.model = folder.path().into();
        }
        Ok(args)
    }
}

fn main() -> Result<(), Failure> {
    let args = Args::parse()?;
    let start = Instant::now();
    let judge = Judge::load();
    if let Some(folder) = &args.sheet {
        return Ok(sheets::write(args.drawing.engine()?.as_mut(), &judge.world, folder)?);
    }
    if args.strict {
        return strict_table::print(&args, &judge.world);
    }
    if args.paint {
        return painted::print(&args, &judge);
    }
    let cases = evaluation::cases(|_| args.count);
    let mut columns = Vec::new();
    for steps in &args.steps {
        let drawing = Drawing { steps: *steps, ..args.drawing.clone() };
        let progress = |done: usize| {
            if done.is_multiple_of(10) || done == cases.len() {
                eprint!("\r{steps} steps: {done} of {} requests", cases.len());
            }
        };
        columns.push(drawing.outcomes(&judge, &cases, &progress)?);
        eprintln!();
    }

    print_table(&args, &judge.world, &cases, &columns)?;
    if args.misses {
        print_misses(&args, &judge.world, &cases, &columns);
    }
    if let Some(folder) = &args.keep {
        keep(folder, &args, &cases, &columns)?;
    }
    eprintln!("{} requests in {:.0} s", cases.len() * columns.len(), start.elapsed().as_secs_f64());
    Ok(())
}

fn print_table(args: &Args, world: &World, cases: &[Case], columns: &[Vec<Outcome>]) -> flux2::Result<()> {
    let headings: Vec<String> = args.steps.iter().map(|steps| format!(" {steps} steps | looks right |")).collect();
    println!("| what | at least |{}", headings.concat());
    println!("|---|---|{}", "---|---|".repeat(args.steps.len()));
    for row in rows() {
        let cell = |outcomes: &Vec<Outcome>| row.cell(cases, outcomes) + &row.strict_cell(world, cases, outcomes);
        let cells: Vec<String> = columns.iter().map(cell).collect();
        println!("| {} | {} |{}", row.what, row.bar.map_or(String::new(), |bar| format!("{bar} %")), cells.concat());
    }
    if let Some(folder) = &args.pictures {
        for Line { what, bar, psnr, n } in reconstruction::lines(&args.drawing.model, folder)? {
            let cell = format!(" {psnr:.1} dB of {n} | |");
            println!("| {what} | {bar} |{}", cell.repeat(args.steps.len()));
        }
    }
    Ok(())
}

fn print_misses(args: &Args, world: &World, cases: &[Case], columns: &[Vec<Outcome>]) {
    for (steps, outcomes) in args.steps.iter().zip(columns) {
        println!("\nWrong at {steps} steps, as judged:\n");
        for (Case { number, kind, caption, target, .. }, outcome) in cases.iter().zip(outcomes) {
            if let Some((_, seen)) = outcome.as_ref().filter(|(_, seen)| seen != target) {
                let [seen, expected] = [seen, target].map(|picture| world.describe(picture));
                println!("- {number}, {kind:?}, \"{caption}\": {seen}; expected {expected}");
            }
        }
    }
}

fn keep(folder: &Path, args: &Args, cases: &[Case], columns: &[Vec<Outcome>]) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    for (steps, outcomes) in args.steps.iter().zip(columns) {
        for (case, outcome) in cases.iter().zip(outcomes) {
            if let Some((image, _)) = outcome {
                let bytes = image::encode(image, ImageFormat::Png, None)?;
                image::save(&folder.join(format!("{steps}-{}.png", case.number)), &bytes, IfExists::Replace)?;
            }
        }
    }
    Ok(())
}

/// One line of the table: the share of right answers among some requests.
struct Row {
    what: &'static str,
    /// The share to reach, in percent.
    bar: Option<u32>,
    about: fn(&Case) -> bool,
    /// Whether the picture seen is a right answer for the picture expected.
    right: fn(&Picture, &Picture) -> bool,
}

impl Row {
    fn cell(&self, cases: &[Case], outcomes: &[Outcome]) -> String {
        let asked: Vec<_> = cases.iter().zip(outcomes).filter(|(case, _)| (self.about)(case)).collect();
        let answers: Vec<bool> =
            asked.iter().filter_map(|(case, outcome)| Some((self.right)(&outcome.as_ref()?.1, &case.target))).collect();
        if answers.is_empty() {
            return " - |".into();
        }
        let share = 100.0 * answers.iter().filter(|right| **right).count() as f64 / answers.len() as f64;
        match asked.len() - answers.len() {
            0 => format!(" {share:.1} % of {} |", answers.len()),
            _ => format!(" {share:.1} % of {} ({} asked) |", answers.len(), asked.len()),
        }
    }

    /// The share of pictures that the strict judge finds right.
    fn strict_cell(&self, world: &World, cases: &[Case], outcomes: &[Outcome]) -> String {
        let asked = cases.iter().zip(outcomes).filter(|(case, _)| (self.about)(case));
        let drawn = asked.filter_map(|(case, outcome)| Some((case, &outcome.as_ref()?.0)));
        let answers: Vec<bool> =
            drawn.map(|(case, image)| evaluation::looks_right(world, image, &case.target)).collect();
        let right = answers.iter().filter(|right| **right).count();
        format!(" {:.1} % |", 100.0 * right as f64 / answers.len().max(1) as f64)
    }
}

fn rows() -> Vec<Row> {
    let same_subject = |seen: &Picture, target: &Picture| seen.subject == target.subject;
    let same_background =
        |seen: &Picture, target: &Picture| (seen.color, seen.pattern) == (target.color, target.pattern);
    let both = |seen: &Picture, target: &Picture| {
        (seen.subject, seen.color, seen.pattern) == (target.subject, target.color, target.pattern)
    };
    let row = |what, bar, about, right| Row { what, bar, about, right };
    vec![
        row("subject, large and medium", Some(95), |c| c.kind == Kind::Text && is_easy(c), same_subject),
        row("subject, small and several", Some(85), |c| c.kind == Kind::Text && !is_easy(c), same_subject),
        row("background color and pattern", Some(99), |c| c.kind == Kind::Text, same_background),
        row("size, count and place", Some(95), |c| c.kind == Kind::Text, |s, t| s.layout == t.layout),
        row(
            "edits: background, replace",
            Some(85),
            |c| matches!(c.kind, Kind::Background | Kind::Replace),
            Picture::eq,
        ),
        row("... background", None, |c| c.kind == Kind::Background, Picture::eq),
        row("... replace", None, |c| c.kind == Kind::Replace, Picture::eq),
        row("edits: size, add one", Some(75), |c| matches!(c.kind, Kind::Size | Kind::Add), Picture::eq),
        row("... size", None, |c| c.kind == Kind::Size, Picture::eq),
        row("... add one", None, |c| c.kind == Kind::Add, Picture::eq),
        row("edits: move", None, |c| c.kind == Kind::Move, Picture::eq),
        row("two references: subject and background", Some(65), |c| c.kind == Kind::TwoReferences, both),
        row("wordings never trained: subject and background", Some(85), |c| c.kind == Kind::Wording, both),
        row("only subject and background said: both", None, |c| c.kind == Kind::Unplaced, both),
    ]
}

/// One thing of more than the smallest size.
fn is_easy(case: &Case) -> bool {
    case.target.layout.is_some_and(|Layout { size, count, .. }| size > 0 && count == 1)
}

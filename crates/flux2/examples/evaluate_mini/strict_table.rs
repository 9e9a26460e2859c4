//! The table of the strict judge: how many pictures of scenes look right, and what is wrong with the others.

use std::collections::BTreeMap;
use std::path::Path;

use flux2::image::{self, ImageFormat, codec::IfExists};

use crate::evaluation::strict::Measures;
use crate::evaluation::world::World;
use crate::evaluation::{self, Drawing, Measured, SceneCase};
use crate::{Args, Failure};

/// Draws all scenes at the first number of steps and prints a line for each row and size.
///
/// # Errors
/// The engine's, or if a picture cannot be kept.
pub fn print(args: &Args, world: &World) -> Result<(), Failure> {
    let cases = evaluation::scene_cases(args.count);
    let drawing = Drawing { steps: args.steps[0], ..args.drawing.clone() };
    let progress = |done: usize| {
        if done.is_multiple_of(10) || done == cases.len() {
            eprint!("\r{done} of {} requests", cases.len());
        }
    };
    let measured = drawing.measured(world, &cases, &progress)?;
    eprintln!();

    println!("| what | size | looks right | lost | hole | blur | residue |");
    println!("|---|---|---|---|---|---|---|");
    let mut rows: Vec<(&str, [u32; 2])> = cases.iter().map(|case| (case.row.as_str(), case.size)).collect();
    rows.dedup();
    for (row, size) in rows {
        let of_row = cases.iter().zip(&measured).filter(|(case, _)| (case.row.as_str(), case.size) == (row, size));
        let (asked, drawn): (Vec<_>, Vec<_>) =
            of_row.map(|(case, measured)| (case, measured.as_ref().map(|(_, measures)| *measures))).unzip();
        println!(
            "| {row} | {}x{} |{}",
            size[0],
            size[1],
            line(asked.len(), &drawn.into_iter().flatten().collect::<Vec<_>>())
        );
    }
    if args.misses {
        print_misses(world, &cases, &measured);
    }
    args.keep.as_deref().map_or(Ok(()), |folder| keep(folder, &cases, &measured))
}

/// Share of right pictures, and how many of the wrong ones have each flaw.
fn line(asked: usize, measures: &[Measures]) -> String {
    let right = measures.iter().filter(|m| m.right()).count();
    let share = match measures.len() {
        0 => "-".into(),
        n => format!("{:.1} % of {n}", 100.0 * right as f64 / n as f64),
    };
    let of = match asked - measures.len() {
        0 => String::new(),
        _ => format!(" ({asked} asked)"),
    };
    let mut flaws: BTreeMap<&str, usize> = BTreeMap::new();
    measures.iter().flat_map(Measures::flaws).for_each(|flaw| *flaws.entry(flaw).or_default() += 1);
    let counts = ["lost", "hole", "blur", "residue"].map(|flaw| format!(" {} |", flaws.get(flaw).unwrap_or(&0)));
    format!(" {share}{of} |{}", counts.concat())
}

fn print_misses(world: &World, cases: &[SceneCase], measured: &[Measured]) {
    println!("\nWrong, as judged:\n");
    for (SceneCase { number, row, caption, target, .. }, outcome) in cases.iter().zip(measured) {
        if let Some((_, measures)) = outcome.as_ref().filter(|(_, measures)| !measures.right()) {
            let expected = world.describe_scene(target);
            println!("- {number}, {row}, \"{caption}\": {}; expected {expected}", measures.flaws().join(", "));
        }
    }
}

/// Writes every picture as `NUMBER.png`.
fn keep(folder: &Path, cases: &[SceneCase], measured: &[Measured]) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    for (case, outcome) in cases.iter().zip(measured) {
        if let Some((image, _)) = outcome {
            let bytes = image::encode(image, ImageFormat::Png, None)?;
            image::save(&folder.join(format!("{}.png", case.number)), &bytes, IfExists::Replace)?;
        }
    }
    Ok(())
}

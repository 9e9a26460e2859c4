//! Figures of masked edits and larger canvases, for docs/guide/editing.md.

use crate::evaluation::judge::Judge;
use crate::evaluation::painting::{Replaced, enlarge, replace};
use crate::{Args, Failure};

/// Prints them.
pub fn print(args: &Args, judge: &Judge) -> Result<(), Failure> {
    let mut engine = args.drawing.engine()?;
    let count = args.count.min(100);
    let (mut replaced, mut levels): (Vec<Replaced>, Vec<f64>) = (Vec::new(), Vec::new());
    for i in 0..count {
        replaced.extend(replace(engine.as_mut(), judge, i)?);
        levels.extend(enlarge(engine.as_mut(), judge, i)?);
    }
    let share = |right: fn(&&Replaced) -> bool| {
        let right = replaced.iter().filter(right).count();
        format!("{:.0} % of {}", 100.0 * right as f64 / replaced.len() as f64, replaced.len())
    };
    let changed: usize = replaced.iter().map(|made| made.changed_outside).sum();
    println!("masked edits: subject right {}", share(|made| made.named));
    println!("masked edits: looks right {}", share(|made| made.looks_right));
    println!("masked edits: {changed} pixels outside of the masks changed");
    levels.sort_by(f64::total_cmp);
    let mean = levels.iter().sum::<f64>() / levels.len() as f64;
    let [middle, most] = [levels.len() / 2, levels.len() - 1].map(|i| levels[i]);
    println!("larger canvases: {mean:.2} levels across the seam in the mean of {}", levels.len());
    println!("larger canvases: {middle:.2} in the middle, {most:.2} at most");
    Ok(())
}

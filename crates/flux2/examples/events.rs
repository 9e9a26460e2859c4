//! Watch a run and stop it from another thread: `cargo run --release --example events -- MODEL SECONDS`.

use std::io::Write;
use std::time::Duration;

use flux2::Error;
use flux2::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>(), &mut std::io::stdout().lock())
}

/// Draws a fox, unless that takes longer than so many seconds.
pub fn run(args: &[String], out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let [model, seconds] = args else { return Err("usage: events MODEL SECONDS".into()) };
    let mut engine = Model::named(model)?.load(&EngineOptions::default())?;

    let cancel = CancelToken::new();
    let (token, patience) = (cancel.clone(), Duration::from_secs_f64(seconds.parse()?));
    std::thread::spawn(move || {
        std::thread::sleep(patience);
        token.cancel();
    });

    let mut observer = |event: &Event| {
        let _ = match event {
            Event::Step { step, steps, elapsed } => writeln!(out, "step {step} of {steps} took {elapsed:.1?}"),
            Event::PhaseFinished { phase, elapsed } => writeln!(out, "{} took {elapsed:.1?}", phase.name()),
            Event::Warning(warning) => writeln!(out, "warning: {warning}"),
            _ => Ok(()),
        };
    };
    match engine.generate_with(&GenerateRequest::new("a red fox"), &mut observer, &cancel) {
        Ok(made) => writeln!(out, "{:?}", made.image)?,
        Err(Error::Cancelled) => writeln!(out, "stopped after {seconds} s")?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

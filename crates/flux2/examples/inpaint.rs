//! Paint into an image: `cargo run --release --example inpaint -- MODEL PROMPT OUTPUT SOURCE [MASK]`.

use std::path::Path;

use flux2::canvas::{Source, SourceOptions};
use flux2::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// Repaints what the mask has white; without a mask, what is transparent in the source.
pub fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [model, prompt, output, source, mask @ ..] = args else {
        return Err("usage: inpaint MODEL PROMPT OUTPUT SOURCE [MASK]".into());
    };
    let mut engine = Model::named(model)?.load(&EngineOptions::default())?;

    let mask = mask.first().map(Path::new);
    // The model sees the source beside what it paints. Without that it replaces more freely.
    let options = SourceOptions { mask_from_alpha: mask.is_none(), as_reference: false, ..SourceOptions::default() };
    let source = Source::open(source, mask, options)?;
    // The source gives the size. Pixels that the mask keeps have the bytes of the source afterwards.
    let request = GenerateRequest { source: Some(source), seed: 42, ..GenerateRequest::new(prompt) };
    engine.generate(&request)?.save(output)?;
    Ok(())
}

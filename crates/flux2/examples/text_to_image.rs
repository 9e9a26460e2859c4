//! A picture from a prompt: `cargo run --release --example text_to_image -- PROMPT OUTPUT [MODEL]`.

use flux2::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// Draws a prompt.
pub fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [prompt, output, model @ ..] = args else {
        return Err("usage: text_to_image PROMPT OUTPUT [MODEL]".into());
    };

    // A path, a name such as klein-4b that is in the hub's cache, or klein-mini, which is part of this library.
    let model = Model::named(model.first().map_or("klein-mini", String::as_str))?;
    let mut engine = model.load(&EngineOptions::default())?;

    let picture = engine.generate(&GenerateRequest { seed: 42, ..GenerateRequest::new(prompt) })?;
    picture.save(output)?;
    Ok(())
}

//! Edit or combine images: `cargo run --release --example edit -- MODEL PROMPT OUTPUT REFERENCE...`.

use flux2::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// Draws what the prompt makes of the references.
pub fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [model, prompt, output, references @ ..] = args else {
        return Err("usage: edit MODEL PROMPT OUTPUT REFERENCE...".into());
    };
    let mut engine = Model::named(model)?.load(&EngineOptions::default())?;

    // In the order in which the prompt counts them: "the cat of image 1 on the sofa of image 2".
    let references = references.iter().map(Reference::open).collect::<flux2::Result<Vec<_>>>()?;
    // Without a width and a height the picture has the size of the first reference.
    let request = GenerateRequest { references, seed: 42, ..GenerateRequest::new(prompt) };
    engine.generate(&request)?.save(output)?;
    Ok(())
}

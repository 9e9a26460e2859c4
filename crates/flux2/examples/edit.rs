//! Edit or combine images: `cargo run --release --example edit -- MODEL PROMPT OUTPUT REFERENCE...`.

use std::path::Path;

use flux2::image::{self, ImageFormat, codec};
use flux2::{CancelToken, EngineOptions, Event, GenerateRequest, ModelPaths, Reference, engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, output, references @ ..] = args.as_slice() else {
        return Err("usage: edit MODEL PROMPT OUTPUT REFERENCE...".into());
    };

    // In the order in which the prompt counts them: "the cat of image 1 on the sofa of image 2".
    let references = references
        .iter()
        .map(|name| Reference::from_bytes(&codec::read_file(Path::new(name))?, name))
        .collect::<flux2::Result<Vec<_>>>()?;

    let paths = ModelPaths { model: model.into(), ..Default::default() };
    let mut engine = engine::load(&paths, &EngineOptions::default())?;

    // Without a width and a height the picture has the size of the first reference.
    let request = GenerateRequest { prompt: prompt.clone(), references, seed: 42, ..Default::default() };
    let made = engine.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?;

    let output = output.as_ref();
    let bytes = image::encode(&made.image, ImageFormat::from_path(output)?, Some(&made.parameters))?;
    image::save(output, &bytes, codec::IfExists::Replace)?;
    Ok(())
}

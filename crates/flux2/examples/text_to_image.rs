//! A picture from a prompt: `cargo run --release --example text_to_image -- PROMPT OUTPUT [MODEL]`.

use flux2::image::{self, ImageFormat, codec::IfExists};
use flux2::weights::Location;
use flux2::{CancelToken, EngineOptions, Event, GenerateRequest, ModelPaths, engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [prompt, output, model @ ..] = args.as_slice() else {
        return Err("usage: text_to_image PROMPT OUTPUT [MODEL]".into());
    };

    // A folder or file by its path, or klein-mini, which is part of this library.
    let model = match model {
        [] => Location::builtin().ok_or("no model is built in: name one")?,
        [path, ..] => path.into(),
    };
    let paths = ModelPaths { model, ..Default::default() };
    let mut engine = engine::load(&paths, &EngineOptions::default())?;

    let request = GenerateRequest { prompt: prompt.clone(), seed: 42, ..Default::default() };
    let made = engine.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?;

    let output = output.as_ref();
    let bytes = image::encode(&made.image, ImageFormat::from_path(output)?, Some(&made.parameters))?;
    image::save(output, &bytes, IfExists::Replace)?;
    Ok(())
}

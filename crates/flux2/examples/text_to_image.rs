//! A picture from a prompt: `cargo run --release --example text_to_image -- MODEL PROMPT OUTPUT`.

use flux2::image::{self, ImageFormat, codec::IfExists};
use flux2::{CancelToken, EngineOptions, Event, GenerateRequest, ModelPaths, engine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, output] = args.as_slice() else {
        return Err("usage: text_to_image MODEL PROMPT OUTPUT".into());
    };

    let paths = ModelPaths { model: model.into(), ..Default::default() };
    let mut engine = engine::load(&paths, &EngineOptions::default())?;

    let request = GenerateRequest { prompt: prompt.clone(), seed: 42, ..Default::default() };
    let made = engine.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?;

    let output = output.as_ref();
    let bytes = image::encode(&made.image, ImageFormat::from_path(output)?, Some(&made.parameters))?;
    image::save(output, &bytes, IfExists::Replace)?;
    Ok(())
}

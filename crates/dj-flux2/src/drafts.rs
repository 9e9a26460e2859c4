//! Pictures of a run as the job engine takes them.

use flux2::GenerateRequest;
use flux2_jobs::{Draft, SourceSpec, UpscaleChoice};

use crate::settings::Settings;

/// The draft of picture `i`, counted from 0: its reference images by their digests, and the picture that it is painted
/// into. It is enlarged by the first upscaler of the host.
pub fn draft(settings: &Settings, i: u64, references: Vec<String>, source: Option<SourceSpec>) -> Draft {
    let GenerateRequest {
        prompt, negative_prompt, template, width, height, steps, guidance, noise, compat, seed, ..
    } = settings.request(i);
    Draft {
        prompt,
        negative_prompt,
        template,
        references,
        source,
        width,
        height,
        steps,
        guidance,
        noise: Some(noise),
        compat,
        seed: Some(seed),
        format: Some(settings.format(i)),
        quality: settings.quality,
        metadata: Some(settings.metadata),
        watermark: Some(settings.watermark),
        upscale: settings.upscale.as_ref().map(|setting| UpscaleChoice { by: setting.by, upscaler: None }),
        ..Draft::default()
    }
}

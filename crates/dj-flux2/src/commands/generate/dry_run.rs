//! `--dry-run`: what would be drawn, picture by picture, without drawing. The model need not be on this disk.

use flux2::GenerateRequest;
use flux2::request::ResolvedRequest;
use serde::Serialize;

use crate::commands::plan::{locate_or_miss, open_or_outline};
use crate::failure::Result;
use crate::prepare::Prepared;
use crate::report::{Report, json, print, shown};
use crate::settings::Settings;
use crate::settings::jobs::Job;

/// A picture that would be drawn, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    index: u64,
    /// The line of the batch that asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Where it would be written; empty for standard output.
    path: String,
    model: &'a str,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a str>,
    seed: u64,
    width: u32,
    height: u32,
    steps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance: Option<f32>,
}

/// Prints the pictures of a run.
pub fn print_pictures(mut settings: Settings, report: &Report) -> Result<()> {
    let missing = locate_or_miss(&mut settings.paths)?;
    let Prepared { files, references, source } = open_or_outline(missing, &settings, report)?;
    settings.request.source = source;
    settings.fit(files.variant, &references);
    for (i, job) in settings.jobs().enumerate() {
        let references = settings.of_picture(i as u64, &references);
        let request = GenerateRequest { prompt: String::new(), references, ..settings.request(i as u64) };
        let resolved = ResolvedRequest::new(&request, files.variant)?;
        let [width, height] = resolved.picture_px();
        let Job { index, line, prompt, template, seed, path } = job;
        let row = Row {
            index,
            line,
            path: path.map(|path| path.display().to_string()).unwrap_or_default(),
            model: &files.name,
            prompt,
            negative_prompt: resolved.negative_prompt.as_deref(),
            template,
            seed,
            width,
            height,
            steps: resolved.steps,
            guidance: resolved.guidance,
        };
        if settings.json {
            print(&json(&row))?;
            continue;
        }
        let Row { path, width, height, steps, .. } = &row;
        let guidance = resolved.guidance.map(|scale| format!(", guidance {scale}")).unwrap_or_default();
        let to = if path.is_empty() { "standard output" } else { path };
        print(&shown(&format!("{to}: {width}x{height}, {steps} steps{guidance}, seed {seed}: {prompt}")))?;
    }
    Ok(())
}

//! `dj-flux2 presets`: the presets, and what a picture with each would take on this machine.

use std::path::Path;
use std::time::Duration;

use flux2::bench::{self, Cost};
use flux2::plan;
use flux2::request::ResolvedRequest;
use flux2::units::{Memory, Time};
use serde::Serialize;

use super::plan::{locate_or_miss, open_or_outline};
use crate::args::{GenerateArgs, PresetsArgs};
use crate::config::{self, Config};
use crate::failure::Result;
use crate::prepare::{self, Prepared};
use crate::report::{Report, json, print};
use crate::settings::{self, Detail};

/// A preset, as `--json` prints it.
#[derive(Serialize)]
struct Row {
    name: String,
    about: String,
    /// Its settings, inherited ones too.
    settings: Vec<(String, String)>,
    #[serde(flatten)]
    prediction: Option<Prediction>,
}

/// What a picture takes.
#[derive(Serialize)]
struct Prediction {
    width: u32,
    height: u32,
    steps: u32,
    /// Once the model is loaded; null if this machine cannot be measured.
    seconds: Option<f64>,
    peak_bytes: usize,
}

/// Prints the presets.
pub fn run(args: &PresetsArgs) -> Result<()> {
    let config = config::load(args.config.as_deref())?;
    let mut rates = None;
    let mut rows = Vec::new();
    for (name, preset) in config.presets.iter() {
        let settings = config.presets.settings(&[name.to_owned()])?;
        let prediction = if args.fast { None } else { Some(predict(args, &config, name, &mut rates)?) };
        let settings = settings.iter().map(|setting| (setting.name.clone(), setting.value.to_string())).collect();
        rows.push(Row { name: name.to_owned(), about: preset.about.clone(), settings, prediction });
    }
    if args.json {
        return rows.iter().try_for_each(|row| print(&json(row)));
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    if !args.fast {
        print(&format!("{:<width$}  {:>9}  {:>10}  {:>8}", "name", "size", "time", "memory"))?;
    }
    for Row { name, about, settings, prediction } in &rows {
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let about = if about.is_empty() { settings.join(", ") } else { about.clone() };
        match prediction {
            None => print(&format!("{name:<width$}  {about}"))?,
            Some(Prediction { width: w, height: h, seconds, peak_bytes, .. }) => {
                let time = seconds.map_or("?".to_owned(), |it| Time(Duration::from_secs_f64(it)).to_string());
                let (size, memory) = (format!("{w}x{h}"), Memory(*peak_bytes).to_string());
                print(&format!("{name:<width$}  {size:>9}  {time:>10}  {memory:>8}  {about}"))?;
            }
        }
    }
    Ok(())
}

/// What a picture with the preset takes. This machine is measured for the first one.
fn predict(
    args: &PresetsArgs,
    config: &Config,
    name: &str,
    rates: &mut Option<Option<bench::Rates>>,
) -> Result<Prediction> {
    let presets = vec![name.to_owned()];
    let generate = GenerateArgs { model: args.model.clone(), preset: presets.clone(), ..GenerateArgs::default() };
    let files = config.choices(&presets, Path::is_file)?;
    let mut outside = prepare::outside_with(&generate, None, config, files)?;
    (outside.text_cache, outside.prompts) = (None, vec![String::new()]);
    let mut settings = settings::resolve(&generate, outside)?;
    settings.detail = Detail::Quiet;
    let missing = locate_or_miss(&mut settings.paths)?;
    let report = Report::new(Detail::Quiet, true);
    let Prepared { files, references, .. } = open_or_outline(missing, &settings, &report)?;
    settings.fit(files.variant, &references);
    let requests = settings.requests(&references);
    let request = ResolvedRequest::new(&requests[0], files.variant)?;
    let plan = plan::of(&files, &settings.options, &requests)?;
    let measured = rates.get_or_insert_with(|| bench::rates(&settings.options.for_model(&files)).ok());
    let seconds = match measured {
        Some(rates) => Some(rates.seconds(Cost::of(&files, &request)?.total())),
        None => None,
    };
    let ResolvedRequest { width, height, steps, .. } = request;
    Ok(Prediction { width, height, steps, seconds, peak_bytes: plan.peak_bytes() })
}

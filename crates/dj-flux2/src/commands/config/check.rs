//! Whether a file of settings is one with which everything can be drawn: it is read as `generate` and the subcommands
//! with tables of their own read it.

use std::ffi::OsString;
use std::path::Path;

use flux2::GenerateRequest;
use flux2::request::ResolvedRequest;

use crate::args::GenerateArgs;
use crate::commands::plan::{locate_or_miss, open_or_outline};
use crate::config::flags::Flags;
use crate::config::{self, Config, tables};
use crate::credentials;
use crate::failure::{Failure, Result, code};
use crate::prepare::{self, Prepared};
use crate::report::Report;
use crate::settings::{self, Detail, Outside, Settings, expansion};
use crate::{args, upscalers, usage};

/// Refuses `text` as the user's file at `path`, if a run would be refused because of it. A model that is published and
/// not on this disk is no reason.
pub fn check(path: &Path, text: &str) -> Result<()> {
    let config = config::with_text(path, text)?;
    let what = |failure: Failure, of: String| Failure { message: format!("{of}: {}", failure.message), ..failure };
    if let Some(settings) = resolve(&config, &[])? {
        open(settings).map_err(|failure| what(failure, "nothing can be drawn with these settings".into()))?;
    }
    for name in config.user().presets.keys() {
        // The model that a preset is for may come from elsewhere.
        resolve(&config, std::slice::from_ref(name)).map_err(|failure| what(failure, format!("preset {name}")))?;
    }
    let sources = prepare::sources(&config);
    config.user().templates.keys().try_for_each(|name| expansion::frame(name, &sources).map(drop))?;
    config.user().tables.keys().try_for_each(|name| check_table(&config, name))
}

/// What a run without flags would be; `None` if it needs a model, which the command line may name.
fn resolve(config: &Config, presets: &[String]) -> Result<Option<Settings>> {
    let files = config.choices(presets, Path::is_file)?;
    let args = GenerateArgs { prompt: vec!["a".into()], ..GenerateArgs::default() };
    let outside = prepare::outside_with(&args, None, config, files)?;
    // The model of the file is checked, although the environment goes before it.
    let model = outside.model.clone().filter(|_| outside.files.model.is_none());
    let with_model = |model| settings::resolve(&args, Outside { model, ..outside.clone() });
    match with_model(model) {
        // All else is checked with any.
        Err(Failure { code: code::MODEL_MISSING, .. }) => with_model(Some("klein-4b".into())).map(|_| None),
        settings => settings.map(Some),
    }
}

/// Opens what a run reads, and asks whether its model can draw it.
fn open(mut settings: Settings) -> Result<()> {
    let report = Report::new(Detail::Quiet, false);
    if let Some([key, certificates]) = &settings.credentials {
        credentials::signer(Some((key, certificates)), std::collections::HashMap::new())?;
    }
    let missing = locate_or_miss(&mut settings.paths)?;
    let Prepared { files, references, .. } = open_or_outline(missing, &settings, &report)?;
    prepare::preview_decoder(&settings, &files)?;
    settings.request.upscale = upscalers::of(settings.upscale.as_ref())?;
    settings.fit(files.variant, &references);
    let request = GenerateRequest { references, ..settings.request(0) };
    ResolvedRequest::new(&request, files.variant)?;
    Ok(())
}

/// Refuses settings with which a subcommand would not start.
fn check_table(config: &Config, name: &str) -> Result<()> {
    let Some(flags) = Flags::of(name) else { return Ok(()) };
    let argv = ["dj-flux2", name].map(OsString::from);
    let argv = tables::with_settings(&argv, &flags, config.table(name), |_| false)?;
    let parsed = args::parse(argv).map_err(|error| usage::failure(&error))?;
    let models = match &parsed.command {
        #[cfg(feature = "serve")]
        args::Command::Serve(args) => crate::host::models(&args.as_ref().into())?,
        #[cfg(feature = "mcp")]
        args::Command::Mcp(args) => crate::host::models(&args.as_ref().into())?,
        #[cfg(feature = "session")]
        args::Command::Session(args) => crate::commands::session::check(args).map(|()| vec![])?,
        _ => vec![],
    };
    let named = |model| flux2::ModelPaths { model, ..Default::default() };
    models.into_iter().try_for_each(|model| locate_or_miss(&mut named(model)).map(drop))
}

//! From a prompt to files: settings, a draft, pictures, the history.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flux2_session::{Drawn, Heard, NewEntry, Picture, Reference};

use super::place::Place;
use super::shell::Shell;
use crate::args::GenerateArgs;
use crate::commands::generate::open::open;
use crate::drafts::draft;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::prepare;
use crate::report::shown;
use crate::settings::{self, Outside, Settings};

/// Most characters of a warning that are printed.
const MAX_WARNING: usize = 500;

/// What is to be drawn.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The prompt, without references.
    pub text: String,
    /// Numbers of the pictures that are its reference images.
    pub references: Vec<u64>,
    /// Number of the picture that is painted into, and the file of the mask.
    pub painted: Option<(u64, PathBuf)>,
}

impl Ask {
    /// Number of the picture that the new one is made from.
    pub fn parent(&self) -> Option<u64> {
        self.painted.as_ref().map(|(source, _)| *source).or(self.references.first().copied())
    }
}

/// Where pictures go.
#[derive(Clone, Debug)]
pub struct Target {
    pub output: Output,
    /// Whether they are opened in a program of the desktop.
    pub open: bool,
}

/// A picture that was drawn, and how long that took.
pub type Timed = (Drawn, Duration);

impl Shell {
    /// Draws what is asked for, and keeps every picture as soon as it is there.
    pub fn draw(&mut self, ask: &Ask) -> Result<()> {
        self.each(ask, None, |shell, target, drawn| shell.keep(drawn, target, ask.parent())).map(drop)
    }

    /// Draws what is asked for, `count` times if that is given, and hands over each picture with where it belongs.
    pub fn each(
        &mut self,
        ask: &Ask,
        count: Option<u32>,
        mut made: impl FnMut(&mut Shell, &Target, Timed) -> Result<()>,
    ) -> Result<Target> {
        let (mut settings, typed) = self.settings(Some(ask), count)?;
        let upscaler = typed.upscale.upscaler.as_deref();
        self.place.prepare(&settings, upscaler, &mut self.say.report)?;
        let target = Target { output: settings.output.clone().numbered(), open: settings.open };
        check(&target.output, self.history.next_number(), &settings)?;
        let inputs = self.place.hand_over(&mut settings, &typed)?;
        let upscaler = self.place.upscaler_name(upscaler)?;
        for i in 0..settings.pictures() {
            let mut draft = draft(&settings, i, inputs.references.clone(), inputs.source.clone());
            draft.model = inputs.model.clone();
            if let Some(upscale) = &mut draft.upscale {
                upscale.upscaler.clone_from(&upscaler);
            }
            let (began, mut warnings) = (Instant::now(), Vec::new());
            let studio = self.place.studio()?;
            let drawn = self.interrupts.during(|cancel| {
                // It says what Ctrl-C does, so it is shown once that is true.
                let progress = self.say.progress();
                let mut hear = |heard: &Heard| warnings.extend(progress.hear(heard, i + 1, settings.pictures()));
                studio.draw(draft, &mut hear, cancel)
            });
            self.warn(&warnings);
            for drawn in drawn? {
                made(self, &target, (drawn, began.elapsed()))?;
            }
        }
        Ok(target)
    }

    /// Prints warnings, each once in a session.
    pub fn warn(&mut self, warnings: &[String]) {
        for warning in warnings {
            if !self.warned.contains(warning) {
                // It may quote a prompt, or come from a server.
                let text: String = warning.chars().take(MAX_WARNING).collect();
                self.say.report.warning(shown(&text));
                self.warned.push(warning.clone());
            }
        }
    }

    /// What is to be drawn, decided, and the flags that the session chose for it. Without anything to be drawn,
    /// templates and their variables count for nothing: whether these fit depends on the prompt.
    pub fn settings(&self, ask: Option<&Ask>, count: Option<u32>) -> Result<(Settings, GenerateArgs)> {
        let painted = ask
            .and_then(|ask| ask.painted.as_ref())
            .map(|(source, mask)| Ok::<_, Failure>((self.file_of(*source)?, mask)));
        let painted = painted.transpose()?;
        let mut typed = self.chosen.args(painted.as_ref().map(|(source, mask)| (source.as_path(), mask.as_path())))?;
        for number in ask.iter().flat_map(|ask| &ask.references) {
            typed.input.push(self.file_of(*number)?);
        }
        typed.count = count.or(typed.count);
        let mut args = typed.clone();
        if let Place::There(_) = self.place {
            // The name of its model is not looked for on this disk.
            args.model = Some(flux2::variant::KLEIN_MINI.into());
        }
        if args.upscale.upscale.is_none() {
            // It is for `!upscale`.
            args.upscale.upscaler = None;
        }
        let mut files = self.config.choices(&args.preset, Path::is_file)?;
        if ask.is_none() {
            (args.expansion.template, args.expansion.var) = (None, Vec::new());
            (files.template, files.variables) = (None, None);
        }
        let prompt = ask.map(|ask| ask.text.clone()).unwrap_or_default();
        let outside = prepare::outside_with(&args, None, &self.config, files)?;
        let settings = settings::resolve(&args, Outside { prompts: vec![prompt], ..outside })?;
        Ok((settings, typed))
    }

    /// The file of a picture, which still is what it was.
    pub fn file_of(&self, number: u64) -> Result<PathBuf> {
        let entry = self.history.find(&Reference::Number(number))?;
        entry.bytes()?;
        let path = entry.path().map(Path::to_owned);
        path.ok_or_else(|| Failure::usage(format!("picture {number} has no file"), "write it to one, with !save"))
    }

    /// Writes a picture and adds it to the history.
    pub fn keep(&mut self, (drawn, elapsed): Timed, target: &Target, parent: Option<u64>) -> Result<()> {
        let output = &target.output;
        let Drawn { bytes, made, .. } = drawn;
        let path = output.path(self.history.next_number(), made.seed);
        let written = output.write(path.as_deref(), &bytes)?;
        let path = written.ok_or_else(no_file)?;
        // The next session may begin in another folder.
        let path = std::path::absolute(&path).unwrap_or(path);
        let entry = NewEntry { picture: Picture::File(path), name: None, made, parent };
        let number = self.history.add(entry)?.number;
        let entry = self.history.find(&Reference::Number(number))?;
        self.display(&bytes);
        if target.open {
            open(entry.path().into_iter(), &self.say.report);
        }
        self.say.picture(entry, elapsed)
    }
}

/// Refuses a name that cannot be written, before any work.
fn check(output: &Output, number: u64, settings: &Settings) -> Result<()> {
    if *output == Output::Stdout {
        return Err(no_file());
    }
    output.check(output.path(number, settings.request.seed).into_iter(), &settings.references)
}

fn no_file() -> Failure {
    Failure::usage("a session writes files, not standard output", "choose a file or folder, with !set output out/")
}

//! What a line of a session does.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flux2::image::{self, ImageFormat};
use flux2::upscale::Before;
use flux2_session::line::{COMMANDS, numbers};
use flux2_session::{Command, Entry, History, Line, Made, NewEntry, Picture, Reference, resolve};

use super::chosen::Chosen;
use super::complete::Words;
use super::draw::Ask;
use super::explore::Explored;
use super::place::{Place, size_of, stored};
use super::say::Say;
use super::shortened;
use crate::commands::generate::open::open;
use crate::completion::models_here;
use crate::config::Config;
use crate::config::file::OF_A_SOURCE;
use crate::config::flags::{Setting, Value};
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupts;
use crate::output::{Existing, Output};
use crate::prepare;
use crate::settings::expansion;
use crate::templates;
use crate::terminal_picture::Display;

/// Pictures that `!history` lists if nobody says how many.
const LISTED: usize = 10;

/// Whether the session goes on.
pub enum Flow {
    Go,
    Quit,
}

/// A session.
pub struct Shell {
    pub(super) config: Config,
    pub(super) chosen: Chosen,
    pub(super) place: Place,
    pub(super) history: History,
    pub(super) say: Say,
    pub(super) interrupts: Interrupts,
    /// Whether a person types.
    pub(super) is_terminal: bool,
    /// The terminal, if it shows pictures.
    display: Option<Display>,
    /// Pictures that wait to be picked.
    pub(super) explored: Option<Explored>,
    /// Warnings that were printed.
    pub(super) warned: Vec<String>,
    /// What was drawn last.
    last: Option<Ask>,
    /// What the values of settings can be completed with.
    values: Vec<(&'static str, Vec<String>)>,
}

impl Shell {
    pub fn new(
        config: Config,
        place: Place,
        history: History,
        say: Say,
        interrupts: Interrupts,
        is_terminal: bool,
        display: Option<Display>,
    ) -> Self {
        let (chosen, warned) = (Chosen::new(), Vec::new());
        let (explored, last, values) = (None, None, Vec::new());
        Shell { config, chosen, place, history, say, interrupts, is_terminal, display, explored, warned, last, values }
    }

    pub fn say(&self) -> &Say {
        &self.say
    }

    /// Begins to load the model, and greets a person.
    pub fn begin(&mut self) -> Result<()> {
        let (settings, typed) = self.settings(None, None)?;
        self.place.prepare(&settings, typed.upscale.upscaler.as_deref(), &mut self.say.report)?;
        if self.is_terminal {
            let models = match self.place {
                Place::There(_) => self.place.models(),
                Place::Here(_) => models_here().map(|variant| variant.name.to_owned()).collect(),
            };
            let presets = self.config.presets.iter().map(|(name, _)| name.to_owned()).collect();
            let templates = templates::built_in().into_keys().chain(self.config.templates.keys().cloned()).collect();
            self.values = vec![("model", models), ("preset", presets), ("template", templates)];
            let count = self.history.entries().len();
            let pictures = match count {
                0 => String::new(),
                _ => format!(", {count} pictures from before: !history"),
            };
            let model = self.place.describe();
            self.say.text(&format!("{model}{pictures}. Type a prompt; !help lists the commands, Ctrl-D leaves."))?;
        }
        Ok(())
    }

    /// A hint in the words of a session: flags are settings. What stands between backticks is a command of its own.
    pub fn hint(&self, hint: &str) -> String {
        let translated = |text: &str| {
            let mut parts = text.split("--");
            let mut all = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let name = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
                all.push_str(match name {
                    "size" | "seed" => "!",
                    _ if self.chosen.names().any(|known| known == name) => "!set ",
                    _ => "--",
                });
                all.push_str(part);
            }
            all
        };
        let parts = hint.split('`').enumerate();
        parts
            .map(|(at, part)| if at % 2 == 0 { translated(part) } else { part.to_owned() })
            .collect::<Vec<_>>()
            .join("`")
    }

    /// What a line can be completed with.
    pub fn words(&self) -> Words {
        let entries = self.history.entries();
        let names = self.history.names().map(|name| format!("${name}"));
        let recent = entries.iter().rev().take(20).map(|entry| format!("${}", entry.number));
        let settings: Vec<String> = self.chosen.names().map(str::to_owned).collect();
        let paths = settings.iter().filter(|name| self.chosen.is_path(name)).cloned().collect();
        let last = (!entries.is_empty()).then(|| "$-1".to_owned());
        Words { pictures: names.chain(last).chain(recent).collect(), paths, settings, values: self.values.clone() }
    }

    /// Does what a line asks for.
    pub fn execute(&mut self, line: &str) -> Result<Flow> {
        match Line::parse(line)? {
            Line::Nothing => {}
            Line::Prompt(text) => match numbers(&text).filter(|_| self.explored.is_some() && text == line.trim()) {
                Some(numbers) => self.pick(&numbers)?,
                None => self.prompt(&text)?,
            },
            Line::Command(Command::Quit) => return Ok(Flow::Quit),
            Line::Command(command) => self.command(command)?,
        }
        Ok(Flow::Go)
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Edit(prompt) => self.edit(&prompt),
            Command::Mask { mask, prompt } => self.mask(&mask, &prompt),
            Command::Explore { count, prompt } => {
                let ask = match prompt {
                    Some(prompt) => self.ask(&prompt)?,
                    None => self.again()?,
                };
                self.last = Some(ask.clone());
                self.explore(&ask, count)
            }
            Command::Pick(numbers) => self.pick(&numbers),
            Command::Upscale { by, of } => self.upscale(by, of.as_ref()),
            Command::Size(size) => self.size(size.as_deref()),
            Command::Seed(seed) => self.seed(seed.as_deref()),
            Command::Set { name: None, .. } => self.list_settings(),
            Command::Set { name: Some(name), value: None } => self.print_setting(&name),
            Command::Set { name: Some(name), value: Some(value) } => self.set(&name, &value),
            Command::Unset(name) => match self.chosen.unset(&name)? {
                true => Ok(()),
                false => self.say.text(&format!("nothing was chosen for {name}")),
            },
            Command::Undo => self.undo(),
            Command::Save { path, of } => self.save(&path, of.as_ref()),
            Command::Name { name, of } => self.name(&name, of.as_ref()),
            Command::History(count) => self.list(count),
            Command::Show(of) => self.show(of.as_ref()),
            Command::Help(command) => self.help(command.as_deref()),
            Command::Quit => Ok(()),
        }
    }

    /// Draws a prompt. One that is only a reference shows that picture.
    fn prompt(&mut self, text: &str) -> Result<()> {
        let ask = self.ask(text)?;
        match (ask.text.is_empty(), ask.references.as_slice()) {
            (true, [first]) => {
                let number = *first;
                self.show(Some(&Reference::Number(number)))
            }
            _ => self.draw_now(ask),
        }
    }

    fn draw_now(&mut self, ask: Ask) -> Result<()> {
        self.explored = None;
        self.last = Some(ask.clone());
        self.draw(&ask)
    }

    /// A prompt without its references.
    fn ask(&self, text: &str) -> Result<Ask> {
        let before = self.chosen.args(None)?.input.len();
        let resolved = resolve(text, &self.history, before)?;
        Ok(Ask { text: resolved.text, references: resolved.numbers, painted: None })
    }

    /// What was drawn last, in this session or the one before.
    fn again(&self) -> Result<Ask> {
        let of_entry = |entry: &Entry| Ask { text: entry.made.prompt.clone(), ..Ask::default() };
        // One that was made from other pictures cannot be drawn again from its prompt alone.
        let from_before = self.history.last().filter(|entry| entry.parent.is_none()).map(of_entry);
        self.last.clone().or(from_before).ok_or_else(|| {
            Failure::usage("nothing was drawn yet", "write the prompt behind it, as in !explore 4 a red fox")
        })
    }

    fn edit(&mut self, prompt: &str) -> Result<()> {
        let mut ask = self.ask(prompt)?;
        if ask.references.is_empty() {
            ask.references.push(self.picture(None)?.number);
        }
        self.draw_now(ask)
    }

    fn mask(&mut self, mask: &str, prompt: &str) -> Result<()> {
        let mask = match mask.starts_with('$') {
            true => self.file_of(self.picture(Some(&Reference::parse(mask)?))?.number)?,
            false => PathBuf::from(mask),
        };
        let (source, prompt) = match prompt.split_once(char::is_whitespace) {
            Some((first, rest)) if first.starts_with('$') => (Some(Reference::parse(first)?), rest),
            _ => (None, prompt),
        };
        let source = self.picture(source.as_ref())?.number;
        // The model sees the source as its first reference image, then those that were set.
        let args = self.chosen.args(None)?;
        let sees_source = self.chosen.get("no-source-reference")?.is_none();
        let resolved = resolve(prompt, &self.history, args.input.len() + usize::from(sees_source))?;
        self.draw_now(Ask { text: resolved.text, references: resolved.numbers, painted: Some((source, mask)) })
    }

    /// The picture that is referred to, the last if none is.
    fn picture(&self, of: Option<&Reference>) -> Result<&Entry> {
        if of.is_none() && self.history.entries().is_empty() {
            return Err(Failure::usage("there is no picture yet", "type a prompt first, as in a red fox"));
        }
        Ok(self.history.find(of.unwrap_or(&Reference::FromEnd(1)))?)
    }

    fn upscale(&mut self, by: Option<f32>, of: Option<&Reference>) -> Result<()> {
        let began = Instant::now();
        let (settings, typed) = self.settings(None, None)?;
        let upscaler = typed.upscale.upscaler.as_deref();
        self.place.prepare(&settings, upscaler, &mut self.say.report)?;
        let entry = self.picture(of)?;
        let (number, made) = (entry.number, entry.made.clone());
        let bytes = entry.bytes()?;
        let lost = Before::read(&bytes, "the picture").map_err(Failure::image)?.marks_not_kept(true);
        let lost: Vec<String> =
            lost.iter().map(|mark| format!("${number} carries {mark}, and the enlarged picture does not")).collect();
        self.warn(&lost);
        let file = self.interrupts.during(|cancel| self.place.enlarge(&bytes, by, upscaler, cancel))?;
        let [width, height] = size_of(&file)?;
        let made = Made { width, height, ..made };
        // An enlarged picture is a PNG, wherever others go.
        let output = match settings.output.clone().numbered() {
            Output::Stdout => Output::new(None, 1, Existing::Keep, Path::is_dir)?,
            output if output.format() != ImageFormat::Png => Output::new(None, 1, Existing::Keep, Path::is_dir)?,
            output => output,
        };
        let next = self.history.next_number();
        let written = output.write(output.path(next, made.seed).as_deref(), &file)?.unwrap_or_default();
        let picture = Picture::File(std::path::absolute(&written).unwrap_or(written));
        let number = self.history.add(NewEntry { picture, name: None, made, parent: Some(number) })?.number;
        self.display(&file);
        if settings.open {
            open(std::iter::once(self.file_of(number)?.as_path()), &self.say.report);
        }
        self.say.picture(self.history.find(&Reference::Number(number))?, began.elapsed())
    }

    fn size(&mut self, size: Option<&str>) -> Result<()> {
        let Some(size) = size else {
            let chosen: Vec<String> = self.chosen.size().into_iter().map(shown_setting).collect();
            return match chosen.is_empty() {
                true => self.say.text("the size is that of the model, or of the first reference image"),
                false => self.say.text(&chosen.join(", ")),
            };
        };
        match size {
            "off" => self.chosen.unset_size(),
            _ if size.contains(':') => self.set("aspect", size)?,
            _ => self.set("size", size)?,
        }
        Ok(())
    }

    fn seed(&mut self, seed: Option<&str>) -> Result<()> {
        match seed {
            None => self.print_setting("seed"),
            Some("random" | "off") => self.chosen.unset("seed").map(drop),
            Some(seed) => self.set("seed", seed),
        }
    }

    /// Chooses a setting, and refuses at once what the next picture could not be drawn with.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let before = self.chosen.all().to_vec();
        let chosen = self.choose(name, value).and_then(|()| self.check(name));
        chosen.inspect_err(|_| self.chosen.restore(before))
    }

    /// Refuses the settings as they are, as far as that takes no model to be loaded; also the files that `name`
    /// chooses.
    fn check(&mut self, name: &str) -> Result<()> {
        let Some(name) = self.chosen.get(name)?.map(|setting| setting.name.clone()) else { return Ok(()) };
        let (settings, typed) = self.settings(None, None)?;
        match name.as_str() {
            "template" => {
                let named = self.chosen.args(None)?.expansion.template.unwrap_or_default();
                expansion::frame(&named, &prepare::sources(&self.config))?;
            }
            "input" => drop(prepare::read_references(&settings.references, &settings.preparation, |_, _| Ok(()))?),
            name if OF_A_SOURCE.contains(&name) => {
                settings.source.iter().try_for_each(|of| prepare::read_source(of, |_| Ok(())).map(drop))?;
            }
            _ => {}
        }
        self.place.check_files(&name, &settings, &typed, &mut self.say.report)
    }

    /// Chooses a setting without looking at the others. A reference stands for the file of its picture where a file is
    /// chosen.
    pub fn choose(&mut self, name: &str, value: &str) -> Result<()> {
        self.place.check(name)?;
        let picture = Some(value).filter(|value| value.starts_with('$') && self.chosen.is_path(name));
        let file = picture.map(|value| self.file_of(self.picture(Some(&Reference::parse(value)?))?.number));
        let file = file.transpose()?.map(|file| file.to_string_lossy().into_owned());
        self.chosen.set(name, file.as_deref().unwrap_or(value))?;
        if name == "preset" {
            // A preset that is not there is refused now.
            let presets = self.chosen.args(None)?.preset;
            self.config.choices(&presets, Path::is_file)?;
        }
        Ok(())
    }

    fn list_settings(&self) -> Result<()> {
        if self.chosen.all().is_empty() {
            let text = "nothing is chosen; try !set steps 8, or any other flag of `dj-flux2 generate --help-all`";
            return self.say.text(text);
        }
        self.say.lines(&self.chosen.all().iter().map(shown_setting).collect::<Vec<_>>())
    }

    /// Prints what is chosen, here or in a file of settings.
    fn print_setting(&self, name: &str) -> Result<()> {
        if let Some(setting) = self.chosen.get(name)? {
            return self.say.text(&shown_setting(setting));
        }
        let presets = self.chosen.args(None)?.preset;
        let layers = self.config.layers(&presets)?;
        let found = layers.iter().flat_map(|layer| &layer.settings).find(|setting| setting.name == name);
        self.say.text(&match found {
            Some(setting) => format!("{}, from {}", shown_setting(setting), setting.place),
            None => format!("nothing is chosen for {name}"),
        })
    }

    fn undo(&mut self) -> Result<()> {
        let number = self.picture(None)?.number;
        let entry = self.history.forget(number)?;
        let file = entry.path().map_or(String::new(), |path| format!("; {} stays", shortened(path)));
        let last = match self.history.last() {
            Some(last) => format!("the last is ${}", last.number),
            None => "there is none before it".into(),
        };
        self.say.text(&format!("${number} is forgotten{file}, {last}"))
    }

    fn save(&self, path: &str, of: Option<&Reference>) -> Result<()> {
        let bytes = self.picture(of)?.bytes()?;
        // A name is taken as it is: braces in it are no placeholders.
        let literal = path.replace('{', "{{").replace('}', "}}");
        let output = Output::new(Some(Path::new(&literal)), 1, Existing::Replace, |_| false)?;
        if output == Output::Stdout || matches!(output, Output::New { .. }) {
            return Err(Failure::usage(
                format!("{path} is no file for a picture"),
                "end the name in .png, .jpg or .webp",
            ));
        }
        output.check(std::iter::once(PathBuf::from(path)), &[])?;
        let format = output.format();
        let file = match ImageFormat::of(&bytes) == Some(format) {
            true => bytes.to_vec(),
            false => {
                let picture = image::decode(&bytes, "the picture").map_err(Failure::image)?;
                image::encode(&picture, format, stored(&bytes).as_ref())?
            }
        };
        output.write(Some(Path::new(path)), &file)?;
        self.say.file("saved", path)
    }

    fn name(&mut self, name: &str, of: Option<&Reference>) -> Result<()> {
        let number = self.picture(of)?.number;
        let before = self.history.set_name(number, name)?;
        let moved = before.map_or(String::new(), |before| format!(", no more ${before}"));
        self.say.text(&format!("${number} is ${name}{moved}"))
    }

    fn list(&self, count: Option<usize>) -> Result<()> {
        let entries = self.history.entries();
        if entries.is_empty() {
            return self.say.text("there is no picture yet");
        }
        let skipped = entries.len().saturating_sub(count.unwrap_or(LISTED));
        entries[skipped..].iter().try_for_each(|entry| self.say.entry(entry))
    }

    fn show(&self, of: Option<&Reference>) -> Result<()> {
        let entry = self.picture(of)?;
        let bytes = entry.bytes()?;
        self.display(&bytes);
        self.say.entry(entry)
    }

    /// Shows a picture in the terminal, where it can.
    pub(super) fn display(&self, file: &[u8]) {
        let Some(display) = &self.display else { return };
        // A picture that cannot be shown is in its file all the same.
        if let Ok(picture) = image::decode(file, "the picture") {
            let _ = display.show(&picture, &mut io::stdout().lock());
        }
    }

    fn help(&self, command: Option<&str>) -> Result<()> {
        if let Some(name) = command {
            let Some(info) = COMMANDS.iter().find(|known| known.name == name) else {
                // The message about an unknown command.
                return Line::parse(&format!("!{name}")).map(drop).map_err(Failure::from);
            };
            return self.say.text(&format!("!{} {}: {}", info.name, info.usage, info.about));
        }
        let left = |info: &flux2_session::line::CommandInfo| format!("!{} {}", info.name, info.usage);
        let width = COMMANDS.iter().map(|info| left(info).len()).max().unwrap_or(0);
        let mut lines =
            vec!["A line is a prompt. In it, $1, $-1 (the last) and $cat are pictures drawn before.".to_owned()];
        lines.extend(COMMANDS.iter().map(|info| format!("  {:width$}  {}", left(info), info.about)));
        self.say.lines(&lines)
    }
}

/// A setting as it is typed.
fn shown_setting(setting: &Setting) -> String {
    let value = match &setting.value {
        Value::Switch(true) => "on".into(),
        Value::Switch(false) => "off".into(),
        Value::Texts(texts) => texts.join("; "),
    };
    format!("{} {value}", setting.name)
}

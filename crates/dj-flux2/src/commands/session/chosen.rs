//! The settings that a session has chosen, by the names of flags of `generate`.

use std::path::Path;

use clap::Arg;
use flux2::foreign;

use crate::args::GenerateArgs;
use crate::config::file::OF_A_SOURCE;
use crate::config::flags::{self, Flags, Place, Setting, Value};
use crate::failure::{Failure, Result};
use crate::usage;

/// Flags that are no settings of a session, and what to do instead.
const NOT_HERE: [(&[&str], &str); 6] = [
    (
        &["prompt", "prompt-file", "from", "cell", "batch", "dry-run", "grid", "sheet", "dark", "fail-fast"],
        "it is for one run of many pictures: use `dj-flux2 generate`; a session draws line by line",
    ),
    (&["config", "json"], "pass it when the session starts, as in `dj-flux2 session --json`"),
    (&["quiet", "verbose", "help", "help-all", "version"], "!help lists the commands of a session"),
    (&["show", "show-steps"], "a session shows finished pictures by itself, where the terminal can"),
    (&["preview", "preview-decoder"], "only `dj-flux2 generate --preview` writes a picture after each step"),
    (&["allow-quantize"], "a session chooses no number format by itself: choose one, as in !set quantize int8"),
];

/// Settings that decide the size together.
const OF_SIZE: [&str; 5] = ["size", "width", "height", "aspect", "area"];

/// The chosen settings.
pub struct Chosen {
    flags: Flags,
    settings: Vec<Setting>,
}

impl Chosen {
    /// None yet.
    pub fn new() -> Self {
        Chosen { flags: Flags::of_generate(), settings: Vec::new() }
    }

    /// Chooses a value. What it contradicts is chosen no more.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let arg = self.find(name)?;
        let name = arg.get_long().expect("it was found by its long name").to_owned();
        let value = value_of(arg, &name, text)?;
        let conflicts: Vec<String> =
            self.flags.conflicts_of(arg).into_iter().filter_map(Arg::get_long).map(str::to_owned).collect();
        let is_in_the_way =
            |other: &Setting| other.name == name || conflicts.contains(&other.name) || self.contradicts(other, &name);
        let mut settings: Vec<Setting> = self.settings.iter().filter(|other| !is_in_the_way(other)).cloned().collect();
        settings.push(setting(&name, value));
        args_of(&settings, Some(Path::new("source")), None)?;
        self.settings = settings;
        Ok(())
    }

    /// Whether `other` may not be there together with a setting called `name`, as its flag says.
    fn contradicts(&self, other: &Setting, name: &str) -> bool {
        let arg = self.flags.find(&other.name);
        arg.is_some_and(|arg| self.flags.conflicts_of(arg).into_iter().any(|arg| arg.get_long() == Some(name)))
    }

    /// Chooses nothing for a setting; whether something was chosen.
    pub fn unset(&mut self, name: &str) -> Result<bool> {
        let name = self.find(name)?.get_long().expect("it was found by its long name").to_owned();
        let before = self.settings.len();
        self.settings.retain(|setting| setting.name != name);
        Ok(self.settings.len() < before)
    }

    /// Chooses what was chosen before, as [`all`](Self::all) returned it.
    pub fn restore(&mut self, settings: Vec<Setting>) {
        self.settings = settings;
    }

    /// Leaves the size to the model.
    pub fn unset_size(&mut self) {
        self.settings.retain(|setting| !OF_SIZE.contains(&setting.name.as_str()));
    }

    /// What is chosen for a setting, by its name or an alias.
    pub fn get(&self, name: &str) -> Result<Option<&Setting>> {
        let name = self.find(name)?.get_long();
        Ok(self.settings.iter().find(|setting| Some(setting.name.as_str()) == name))
    }

    /// Everything that is chosen, in the order in which it was.
    pub fn all(&self) -> &[Setting] {
        &self.settings
    }

    /// What is chosen of the size, as in `--size 128x128`.
    pub fn size(&self) -> Vec<&Setting> {
        self.settings.iter().filter(|setting| OF_SIZE.contains(&setting.name.as_str())).collect()
    }

    /// The names of all settings.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.flags.names().filter(|name| instead_of(name).is_none() && foreign::why(name).is_none())
    }

    /// Whether the value of a setting is a file or folder.
    pub fn is_path(&self, name: &str) -> bool {
        self.flags.find(name).is_some_and(flags::is_path)
    }

    /// The same as flags of `generate`, for a picture that is painted into `source` where `mask` is white, if they are
    /// given.
    pub fn args(&self, painted: Option<(&Path, &Path)>) -> Result<GenerateArgs> {
        args_of(&self.settings, painted.map(|(source, _)| source), painted.map(|(_, mask)| mask))
    }

    fn find(&self, name: &str) -> Result<&Arg> {
        if let Some(why) = foreign::why(name) {
            return Err(Failure::usage(why, foreign::HINT));
        }
        let arg = self.flags.find(name);
        if let Some(instead) = instead_of(arg.and_then(Arg::get_long).unwrap_or(name)) {
            return Err(Failure::usage(format!("{name} is no setting of a session"), instead));
        }
        arg.ok_or_else(|| {
            let hint = match Flags::nearest(name, self.names()) {
                Some(nearest) => format!("the nearest name is {nearest}"),
                None => "settings have the names of flags: `dj-flux2 generate --help-all` lists them".into(),
            };
            Failure::usage(format!("there is no setting {name}"), hint)
        })
    }
}

/// What to do instead of choosing a flag that is no setting.
fn instead_of(name: &str) -> Option<&'static str> {
    NOT_HERE.iter().find(|(names, _)| names.contains(&name)).map(|(_, instead)| *instead)
}

fn setting(name: &str, value: Value) -> Setting {
    Setting { name: name.to_owned(), value, place: Place { file: "session".into(), line: 1 } }
}

/// The value of a flag, as it is typed. A flag that may be repeated takes several values with semicolons between them.
fn value_of(arg: &Arg, name: &str, text: &str) -> Result<Value> {
    if !flags::takes_value(arg) {
        return match text {
            "true" | "on" | "yes" => Ok(Value::Switch(true)),
            "false" | "off" | "no" => Ok(Value::Switch(false)),
            _ => Err(Failure::usage(format!("{name} is on or off, not {text:?}"), format!("type !set {name} on"))),
        };
    }
    match flags::is_list(arg) {
        true => Ok(Value::Texts(text.split(';').map(|text| text.trim().to_owned()).collect())),
        false => Ok(Value::Texts(vec![text.to_owned()])),
    }
}

/// The settings as flags. Those of a source are left out where there is none, those of the size where there is one,
/// which gives it, and one of a pair until the other is there. Without a mask, `source` only stands in for one that is
/// not chosen yet.
fn args_of(settings: &[Setting], source: Option<&Path>, mask: Option<&Path>) -> Result<GenerateArgs> {
    // Without a source they wait.
    let is_of_source = |setting: &Setting| setting.name != "source" && OF_A_SOURCE.contains(&setting.name.as_str());
    let has = |name: &str| settings.iter().any(|setting| setting.name == name);
    let own_source = has("source");
    let has_source = own_source || mask.is_some() || (source.is_some() && settings.iter().any(is_of_source));
    let is_left_out = |setting: &&Setting| match setting.name.as_str() {
        "c2pa-key" => !has("c2pa-cert"),
        "c2pa-cert" => !has("c2pa-key"),
        "source" | "mask" | "mask-from-alpha" if mask.is_some() => true,
        name if OF_SIZE.contains(&name) => has_source,
        _ => is_of_source(setting) && !has_source,
    };
    let mut all: Vec<Setting> = settings.iter().filter(|setting| !is_left_out(setting)).cloned().collect();
    let path = |path: &Path| Value::Texts(vec![path.to_string_lossy().into_owned()]);
    if let Some(source) = source.filter(|_| mask.is_some() || (has_source && !own_source)) {
        all.push(setting("source", path(source)));
    }
    if let Some(mask) = mask {
        all.push(setting("mask", path(mask)));
    }
    flags::parse(&all).map_err(|error| {
        let failure = usage::failure(&error);
        Failure { hint: Some(flags::hint(&failure)), ..failure }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Seed;

    #[test]
    fn a_setting_is_chosen_by_the_name_of_its_flag() {
        let mut chosen = Chosen::new();
        chosen.set("steps", "3").unwrap();
        chosen.set("num-inference-steps", "4").unwrap();
        chosen.set("seed", "7").unwrap();
        chosen.set("no-metadata", "on").unwrap();
        chosen.set("lora", "a.safetensors:0.5; b c.safetensors").unwrap();
        let args = chosen.args(None).unwrap();
        assert_eq!(
            (args.steps, args.seed, args.no_metadata, args.lora.len()),
            (Some(4), Some(Seed::Number(7)), true, 2)
        );
        assert!(chosen.unset("steps").unwrap() && !chosen.unset("steps").unwrap());
        assert_eq!(chosen.args(None).unwrap().steps, None);
    }

    #[test]
    fn a_newer_choice_replaces_what_it_contradicts() {
        let mut chosen = Chosen::new();
        chosen.set("size", "64x128").unwrap();
        chosen.set("width", "96").unwrap();
        assert_eq!((chosen.args(None).unwrap().size, chosen.size().len()), (None, 1));
        chosen.set("size", "64x64").unwrap();
        assert_eq!((chosen.args(None).unwrap().width, chosen.size().len()), (None, 1));
        chosen.unset_size();
        assert!(chosen.all().is_empty());
    }

    #[test]
    fn settings_of_a_source_wait_for_one() {
        let mut chosen = Chosen::new();
        chosen.set("strength", "0.5").unwrap();
        chosen.set("size", "64x64").unwrap();
        assert_eq!(chosen.args(None).unwrap().canvas.strength, None);
        let painted = chosen.args(Some((Path::new("a.png"), Path::new("m.png")))).unwrap();
        assert_eq!((painted.canvas.strength, painted.size), (Some(0.5), None));
        assert_eq!(painted.canvas.mask.as_deref(), Some(Path::new("m.png")));
        chosen.set("source", "b.png").unwrap();
        assert_eq!(chosen.args(None).unwrap().canvas.strength, Some(0.5));
        // A source gives the size.
        assert_eq!(chosen.args(None).unwrap().size, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut chosen = Chosen::new();
        let hint = |result: Result<()>| result.unwrap_err().hint.unwrap();
        assert_eq!(hint(chosen.set("stpes", "4")), "the nearest name is steps");
        assert_eq!(
            chosen.set("steps", "many").unwrap_err().message.split(':').next().unwrap(),
            "invalid value 'many' for '--steps <N>'"
        );
        for name in ["sampler", "sampler_name", "scheduler", "clip-skip", "max-sequence-length"] {
            assert!(chosen.set(name, "x").unwrap_err().message.contains("FLUX.2"), "{name}");
        }
        assert_eq!(chosen.set("batch", "x").unwrap_err().message, "batch is no setting of a session");
        assert!(hint(chosen.set("preview", "p.png")).contains("only `dj-flux2 generate --preview`"));
        assert!(
            NOT_HERE
                .iter()
                .flat_map(|(names, _)| *names)
                .all(|name| chosen.flags.find(name).is_some() || ["help", "help-all", "version"].contains(name))
        );
        assert_eq!(hint(chosen.set("watermark", "maybe")), "type !set watermark on");
        assert!(chosen.all().is_empty());
    }
}

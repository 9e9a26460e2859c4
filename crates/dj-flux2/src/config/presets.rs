//! Presets by their names: those that come with the program, and the user's own.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{self, Preset};
use super::flags::{Flags, Setting};
use crate::failure::{Failure, Result};

/// The presets of the program.
const TEXT: &str = include_str!("presets.toml");

/// Most times that presets inherit in one use: each may inherit twice from the one before it, and so on.
const MOST_INHERITED: usize = 100;

/// What presets come to that are used together.
#[derive(Default)]
struct Chain<'a> {
    /// Names that lead to the preset that is read.
    path: Vec<&'a str>,
    inherited: usize,
    settings: Vec<Setting>,
}

/// All presets by name.
#[derive(Clone, Debug, Default)]
pub struct Presets {
    /// In the order of the list: first those of the program.
    all: Vec<(String, Preset)>,
}

impl Presets {
    /// Those of the program.
    pub fn built_in() -> Self {
        let file = file::parse(TEXT, Path::new(file::BUILT_IN)).expect("the presets of the program are right");
        let names = TEXT.lines().filter_map(|line| line.strip_prefix("[presets.")?.strip_suffix(']'));
        Presets { all: names.map(|name| (name.to_owned(), file.presets[name].clone())).collect() }
    }

    /// Adds presets. One that has the name of another replaces it.
    pub fn add(&mut self, presets: BTreeMap<String, Preset>) {
        for (name, preset) in presets {
            match self.all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = preset,
                None => self.all.push((name, preset)),
            }
        }
    }

    /// Names and presets in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Preset)> {
        self.all.iter().map(|(name, preset)| (name.as_str(), preset))
    }

    /// The settings of the presets called `names`, later ones over earlier ones.
    pub fn settings(&self, names: &[String]) -> Result<Vec<Setting>> {
        let mut chain = Chain::default();
        for name in names {
            let preset = self.find(name).ok_or_else(|| self.unknown(name))?;
            self.collect(name, preset, &mut chain)?;
        }
        Ok(chain.settings)
    }

    fn find(&self, name: &str) -> Option<&Preset> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, preset)| preset)
    }

    /// Puts the settings of a preset over those of the chain, what it inherits first.
    fn collect<'a>(&'a self, name: &'a str, preset: &'a Preset, chain: &mut Chain<'a>) -> Result<()> {
        chain.path.push(name);
        for (inherited, place) in &preset.inherits {
            let path = &chain.path;
            if path.contains(&inherited.as_str()) {
                let circle = path.iter().copied().chain([inherited.as_str()]).collect::<Vec<_>>().join(", ");
                return Err(place.refuse(format_args!("presets inherit in a circle: {circle}"), "remove one of them"));
            }
            chain.inherited += 1;
            if chain.inherited > MOST_INHERITED {
                let message = format!("presets inherit more than {MOST_INHERITED} times from each other");
                return Err(place.refuse(message, "write their settings into one preset"));
            }
            let Some(found) = self.find(inherited) else {
                let Failure { message, hint, .. } = self.unknown(inherited);
                return Err(place.refuse(message, hint.unwrap_or_default()));
            };
            self.collect(inherited, found, chain)?;
        }
        chain.path.pop();
        for setting in &preset.settings {
            chain.settings.retain(|other| !is_replaced(&other.name, &setting.name));
            chain.settings.push(setting.clone());
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> Failure {
        let names = || self.iter().map(|(name, _)| name);
        let hint = match Flags::nearest(name, names()) {
            Some(nearest) => format!("the nearest name is {nearest}; `dj-flux2 presets` lists them"),
            None => format!("use one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        Failure::usage(format!("no preset is called {name}"), hint)
    }
}

/// Whether a later setting takes the place of an earlier one: it has its name, or says the same in another way.
fn is_replaced(earlier: &str, later: &str) -> bool {
    let sides = ["size", "width", "height"];
    earlier == later
        || (later == "size" && [&sides[..], &["aspect", "area"]].concat().contains(&earlier))
        || (later == "aspect" && sides.contains(&earlier))
        || (earlier == "size" && sides.contains(&later))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags::generate_args;

    fn with(text: &str) -> Presets {
        let mut presets = Presets::built_in();
        presets.add(file::parse(text, Path::new("config.toml")).unwrap().presets);
        presets
    }

    fn named(presets: &Presets, name: &str) -> Result<String> {
        let settings = presets.settings(&name.split(',').map(str::to_owned).collect::<Vec<_>>())?;
        Ok(settings.iter().map(|setting| format!("{}={}", setting.name, setting.value)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_preset_of_the_program_is_valid_and_described() {
        let presets = Presets::built_in();
        let mut count = 0;
        for (name, preset) in presets.iter() {
            let settings = presets.settings(&[name.to_owned()]).unwrap();
            assert!(!settings.is_empty() && !preset.about.is_empty(), "{name}");
            generate_args(&settings).unwrap();
            count += 1;
        }
        assert!(count >= 14, "{count}");
    }

    #[test]
    fn a_size_and_a_shape_go_together_and_the_later_one_wins() {
        let presets = with("");
        assert_eq!(named(&presets, "high,wide").unwrap(), "area=4x aspect=16:9");
        assert_eq!(named(&presets, "wide,phone,draft").unwrap(), "aspect=9:20 area=0.25x");
    }

    #[test]
    fn a_preset_inherits_and_overrides() {
        let presets = with(
            "[presets.mine]\ninherits = ['high', 'wide']\nsteps = 8\n[presets.tall]\ninherits = 'mine'\naspect = '1:3'",
        );
        assert_eq!(named(&presets, "mine").unwrap(), "area=4x aspect=16:9 steps=8");
        assert_eq!(named(&presets, "tall").unwrap(), "area=4x steps=8 aspect=1:3");
        let replaced = with("[presets.high]\nsize = '640x640'");
        assert_eq!(named(&replaced, "wide,high").unwrap(), "size=640x640");
    }

    #[test]
    fn a_circle_and_an_unknown_name_are_refused_with_their_line() {
        let presets = with("[presets.a]\ninherits = 'b'\n[presets.b]\ninherits = 'a'\n[presets.c]\ninherits = 'hihg'");
        let circle = named(&presets, "a").unwrap_err();
        assert_eq!(circle.message, "config.toml:4: presets inherit in a circle: a, b, a");
        let unknown = named(&presets, "c").unwrap_err();
        assert_eq!(unknown.message, "config.toml:6: no preset is called hihg");
        assert_eq!(unknown.hint.unwrap(), "the nearest name is high; `dj-flux2 presets` lists them");
        let doubling: String =
            (1..60).map(|i| format!("[presets.p{i}]\ninherits = ['p{0}', 'p{0}']\n", i - 1)).collect();
        let many = named(&with(&format!("[presets.p0]\nsteps = 1\n{doubling}")), "p59").unwrap_err();
        assert!(many.message.contains("more than 100 times"), "{many:?}");
        assert_eq!(named(&presets, "potrait").unwrap_err().message, "no preset is called potrait");
    }
}

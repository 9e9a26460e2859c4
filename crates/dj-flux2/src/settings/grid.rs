//! Grids: one picture for each value of a setting, or for each pair of values of two.
//!
//! In:  the texts of `--grid`.
//! Out: [`Grid`], which replaces flags in a command line, cell by cell. The values of an axis are read as those of the
//!      flag are, so that nothing here knows what they mean.

use std::ffi::OsString;

use clap::ValueEnum as _;

use super::jobs::Cell;
use super::{MAX_PICTURES, Outside, Settings, resolve};
use crate::args::{GenerateArgs, Seed, parse_size, parse_strength};
use crate::failure::{Failure, Result};

/// Most values of an axis.
const MAX_VALUES: usize = 1000;

/// A setting that can differ from cell to cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Setting {
    Steps,
    Seed,
    Guidance,
    Size,
    /// The scale of all LoRAs.
    LoraScale,
    Model,
    Noise,
    /// How far the source is replaced.
    Strength,
    /// Words in place of others in the prompt; the first value is what is replaced.
    PromptSr,
}

impl Setting {
    /// Its name, as it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A setting and its values, as they were typed.
#[derive(Clone, Debug, PartialEq)]
pub struct GridAxis {
    pub setting: Setting,
    pub values: Vec<String>,
}

/// One or two axes: the first runs from the left to the right, the second from the top down.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    pub x: GridAxis,
    pub y: Option<GridAxis>,
}

impl Grid {
    /// Reads the values of `--grid`; none if there are none.
    pub fn parse(texts: &[String]) -> Result<Option<Grid>> {
        let parts: Vec<&str> = texts.iter().flat_map(|text| axes_of(text)).collect();
        let mut axes = parts.into_iter().map(axis).collect::<Result<Vec<_>>>()?;
        if axes.len() > 2 {
            let hint = "draw a grid for each value of the third: a sheet has two sides";
            return Err(Failure::usage(format!("a grid of {} settings", axes.len()), hint));
        }
        let y = (axes.len() == 2).then(|| axes.pop()).flatten();
        let Some(x) = axes.pop() else { return Ok(None) };
        match y {
            Some(y) if y.setting == x.setting => {
                let hint = "give all its values in one list, or choose another setting for the second axis";
                Err(Failure::usage(format!("both axes of the grid are {}", x.setting.name()), hint))
            }
            y => Ok(Some(Grid { x, y })),
        }
    }

    /// The axes, that from the left to the right first.
    fn axes(&self) -> impl Iterator<Item = &GridAxis> {
        std::iter::once(&self.x).chain(&self.y)
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.x.values.len() * self.y.as_ref().map_or(1, |y| y.values.len())
    }

    /// The axes and their values in a cell, counted in reading order from 0.
    fn values(&self, cell: usize) -> impl Iterator<Item = (&GridAxis, &str)> {
        let (column, row) = (cell % self.x.values.len(), cell / self.x.values.len());
        let y = self.y.as_ref().map(|y| (y, y.values[row].as_str()));
        [(&self.x, self.x.values[column].as_str())].into_iter().chain(y)
    }

    /// The runs that make all cells: one for each model and its LoRAs, in the order of their first cells.
    pub fn runs(&self, args: &GenerateArgs, outside: &Outside) -> Result<Vec<Settings>> {
        let cells = self.cells() as u64;
        if cells > MAX_PICTURES {
            return Err(Failure::usage(format!("a grid of {cells} pictures"), format!("draw at most {MAX_PICTURES}")));
        }
        let mut prompts = outside.prompts.clone();
        if prompts.is_empty() {
            prompts.extend(outside.from.and_then(|picture| picture.prompt()).map(str::to_owned));
        }
        let mut runs: Vec<(GenerateArgs, Settings)> = Vec::new();
        for place in 0..cells {
            let (cell_args, prompts) = self.cell(place as usize, args, &prompts)?;
            let settings = resolve(&cell_args, Outside { prompts, cells: Some(cells), ..outside.clone() })?;
            let (size, request) = (settings.size, settings.request(0));
            let strength = settings.source.as_ref().map(|source| source.options.strength);
            if strength.is_none() && self.axes().any(|axis| axis.setting == Setting::Strength) {
                let hint = "add the picture to paint into with --source FILE";
                return Err(Failure::usage("the grid has an axis of strengths, and there is no source", hint));
            }
            let cell = Cell { place, request, size, line: None, path: None, references: None, strength };
            let is_same = |run: &&mut (GenerateArgs, Settings)| {
                (&run.0.model, &run.0.lora) == (&cell_args.model, &cell_args.lora)
            };
            match runs.iter_mut().find(is_same) {
                Some((_, run)) => run.cells.push(cell),
                None => runs.push((cell_args, Settings { cells: vec![cell], ..settings })),
            }
        }
        Ok(runs.into_iter().map(|(_, settings)| settings).collect())
    }

    /// The run to plan: all cells, if one model makes them.
    pub fn largest_run(&self, args: &GenerateArgs, outside: &Outside) -> Result<Settings> {
        let mut runs = self.runs(args, outside)?;
        match runs.len() {
            1 => Ok(runs.remove(0)),
            count => {
                let message = format!("a grid with {count} models, or scales of LoRAs, is run one after the other");
                Err(Failure::usage(message, "plan each of them alone, without that axis"))
            }
        }
    }

    /// The command line of a cell, counted in reading order from 0, and its prompts.
    fn cell(&self, cell: usize, args: &GenerateArgs, prompts: &[String]) -> Result<(GenerateArgs, Vec<String>)> {
        let (mut args, mut prompts) = (args.clone(), prompts.to_vec());
        for (axis, value) in self.values(cell) {
            apply(axis, value, &mut args, &mut prompts)?;
        }
        Ok((args, prompts))
    }
}

/// The axes in a text: what is on both sides of an `x` that has the name of a setting behind it.
fn axes_of(text: &str) -> Vec<&str> {
    let mut axes = Vec::new();
    let mut start = 0;
    for (at, separator) in text.match_indices(" x ") {
        let behind = &text[at + separator.len()..];
        if behind.split_once('=').is_some_and(|(name, _)| setting(name).is_some()) {
            axes.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    axes.push(&text[start..]);
    axes
}

fn setting(name: &str) -> Option<Setting> {
    let name = name.trim().replace('_', "-");
    let known = |setting: &&Setting| setting.name().eq_ignore_ascii_case(&name);
    Setting::value_variants().iter().find(known).copied()
}

fn axis(text: &str) -> Result<GridAxis> {
    let names = || {
        let names: Vec<String> = Setting::value_variants().iter().map(|setting| setting.name()).collect();
        format!("the settings of a grid are {}", names.join(", "))
    };
    let Some((name, values)) = text.split_once('=') else {
        let hint = "give a setting and its values, as in steps=2,4,8";
        return Err(Failure::usage(format!("{text:?} is no axis of a grid"), hint));
    };
    let Some(setting) = setting(name) else {
        return Err(Failure::usage(format!("{:?} is no setting of a grid", name.trim()), names()));
    };
    let is_range = setting == Setting::Seed || setting == Setting::Steps;
    let mut read = Vec::new();
    for value in list(values) {
        match range(&value).filter(|_| is_range) {
            Some((first, last)) if last.checked_sub(first).is_some_and(|more| more < MAX_VALUES as u64) => {
                read.extend((first..=last).map(|number| number.to_string()));
            }
            Some(_) => {
                let hint = format!("a range has at most {MAX_VALUES} numbers, the lowest first, as in 1-4");
                return Err(Failure::usage(format!("{} {value}", setting.name()), hint));
            }
            None => read.push(value),
        }
    }
    if read.iter().any(String::is_empty) && setting != Setting::PromptSr || read.is_empty() {
        let hint = format!("give values with commas between them, as in {}=…,…", setting.name());
        return Err(Failure::usage(format!("{} has an empty value", setting.name()), hint));
    }
    if read.len() > MAX_VALUES {
        let message = format!("{} has {} values", setting.name(), read.len());
        return Err(Failure::usage(message, format!("give at most {MAX_VALUES}")));
    }
    Ok(GridAxis { setting, values: read })
}

/// Values between commas, without the spaces around them; `\,` is a comma in a value.
fn list(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.next_if_eq(&',').is_some() => values.last_mut().expect("there is one").push(','),
            ',' => values.push(String::new()),
            c => values.last_mut().expect("there is one").push(c),
        }
    }
    values.into_iter().map(|value| value.trim().to_owned()).collect()
}

/// First and last number of `1-4` or `1..4`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once("..").or_else(|| text.split_once('-'))?;
    Some((first.trim().parse().ok()?, last.trim_start_matches('=').trim().parse().ok()?))
}

/// Sets a setting of a command line.
fn apply(axis: &GridAxis, value: &str, args: &mut GenerateArgs, prompts: &mut [String]) -> Result<()> {
    let wrong = |must: &str| {
        let name = axis.setting.name();
        Failure::usage(format!("{name} {value:?} on an axis of the grid"), format!("{name} {must}"))
    };
    match axis.setting {
        Setting::Steps => args.steps = Some(value.parse().map_err(|_| wrong("is a whole number"))?),
        Setting::Seed => {
            args.seed = Some(Seed::Number(value.parse().map_err(|_| wrong("is 0 to 18446744073709551615"))?));
        }
        Setting::Guidance => args.guidance = Some(value.parse().map_err(|_| wrong("is a number"))?),
        Setting::Size => {
            args.size = Some(parse_size(value).map_err(|_| wrong("is two numbers, as in 1024x768"))?);
            (args.width, args.height) = (None, None);
        }
        Setting::LoraScale => {
            let scale: f32 = value.parse().map_err(|_| wrong("is a number, as 0.8"))?;
            if args.lora.is_empty() {
                let hint = "add the LoRA with --lora FILE";
                return Err(Failure::usage("the grid has an axis of LoRA scales, and there is no LoRA", hint));
            }
            for lora in &mut args.lora {
                let mut scaled = without_scale(lora);
                scaled.push(format!(":{scale}"));
                *lora = scaled;
            }
        }
        Setting::Model => args.model = Some(value.into()),
        Setting::Noise => args.noise = Some(value.to_owned()),
        Setting::Strength => {
            args.canvas.strength = Some(parse_strength(value).map_err(|_| wrong("is over 0 and at most 1"))?);
        }
        Setting::PromptSr => {
            let searched = axis.values[0].as_str();
            if searched.is_empty() || !prompts.iter().any(|prompt| prompt.contains(searched)) {
                return Err(wrong(&format!("replaces its first value, and the prompt has no {searched:?}")));
            }
            prompts.iter_mut().for_each(|prompt| *prompt = prompt.replace(searched, value));
        }
    }
    Ok(())
}

/// A typed LoRA without the scale that follows its last colon.
fn without_scale(typed: &OsString) -> OsString {
    match typed.to_str().and_then(|text| text.rsplit_once(':')) {
        Some((file, scale)) if scale.parse::<f32>().is_ok() => file.into(),
        _ => typed.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Option<Grid>> {
        Grid::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn grid(texts: &[&str]) -> Grid {
        parse(texts).unwrap().unwrap()
    }

    #[test]
    fn axes_have_lists_and_ranges() {
        let two = grid(&["steps=2,4,8 x seed=1-3"]);
        assert_eq!(
            (two.x.setting, two.x.values.as_slice()),
            (Setting::Steps, ["2", "4", "8"].map(String::from).as_slice())
        );
        let y = two.y.clone().unwrap();
        assert_eq!((y.setting, y.values), (Setting::Seed, ["1", "2", "3"].map(String::from).to_vec()));
        assert_eq!(grid(&["steps=2,4,8", "seed=1..3"]), two);
        assert_eq!(grid(&["seed=7, 9-10"]).x.values, ["7", "9", "10"]);
        // An x is part of a value where no setting follows it.
        let replaced = grid(&["prompt-sr=a x b,c\\,d,"]);
        assert_eq!((replaced.x.values, replaced.y), (["a x b", "c,d", ""].map(String::from).to_vec(), None));
        assert_eq!(grid(&["Lora_Scale=0.5,1"]).x.setting, Setting::LoraScale);
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_no_grid_is_refused_with_its_reason() {
        for (texts, reason) in [
            (&["steps"][..], "is no axis of a grid"),
            (&["stepz=1,2"], "is no setting of a grid"),
            (&["steps="], "empty value"),
            (&["steps=1,,2"], "empty value"),
            (&["seed=4-1"], "seed 4-1"),
            (&["seed=0-99999999"], "seed 0-99999999"),
            (&["steps=1,2 x steps=3,4"], "both axes of the grid are steps"),
            (&["steps=1 x seed=1 x guidance=1"], "a grid of 3 settings"),
        ] {
            let failure = parse(texts).unwrap_err();
            assert!(failure.message.contains(reason), "{texts:?}: {failure:?}");
        }
    }

    #[test]
    fn every_cell_has_its_own_values() {
        let args = GenerateArgs { lora: vec!["a.safetensors:0.5".into(), "b".into()], ..Default::default() };
        let prompts = ["a red fox".to_owned()];
        let cell = |texts: &[&str], number| grid(texts).cell(number, &args, &prompts).unwrap();
        let (last, _) = cell(&["steps=2,4 x seed=1-3"], 5);
        assert_eq!((last.steps, last.seed), (Some(4), Some(Seed::Number(3))));
        let (second, _) = cell(&["size=64x64,128x64"], 1);
        assert_eq!(second.size, Some((128, 64)));
        let (scaled, _) = cell(&["lora-scale=0.25"], 0);
        assert_eq!(scaled.lora, ["a.safetensors:0.25", "b:0.25"]);
        let replaced = |number| cell(&["prompt-sr=red,blue,"], number).1;
        assert_eq!([replaced(0), replaced(1), replaced(2)], [["a red fox"], ["a blue fox"], ["a  fox"]]);
        let (model, _) = cell(&["model=klein-mini,other"], 1);
        assert_eq!(model.model, Some("other".into()));
    }

    #[test]
    fn values_that_the_setting_does_not_take_are_refused() {
        let args = GenerateArgs::default();
        for (text, reason) in [
            ("steps=four", "is a whole number"),
            ("size=64", "is two numbers"),
            ("guidance=x", "is a number"),
            ("strength=0", "is over 0 and at most 1"),
            ("lora-scale=0.5", "add the LoRA"),
            ("prompt-sr=cat,dog", "the prompt has no \"cat\""),
        ] {
            let failure = grid(&[text]).cell(0, &args, &["a red fox".to_owned()]).unwrap_err();
            assert!(failure.hint.as_deref().unwrap().contains(reason), "{text}: {failure:?}");
        }
    }
}

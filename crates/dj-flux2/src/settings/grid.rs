//! Grids: one picture for each value of a setting, or for each pair of values of two.
//!
//! In:  the texts of `--grid`.
//! Out: [`Grid`], whose cells are pictures with choices of their own. The values of an axis are read as those of the
//!      flag are, so that nothing here knows what they mean.

use std::ffi::OsString;

use flux2::foreign;

use super::jobs::Cell;
use super::runs::{Runs, own_choices};
use super::{MAX_PICTURES, Outside, Settings, resolve_choices};
use crate::args::{GenerateArgs, Seed};
use crate::choices::Choices;
use crate::config::Presets;
use crate::config::file::OF_ONE_RUN;
use crate::config::flags::{self, Flags, Place, Setting as Flag, Value};
use crate::failure::{Failure, Result};
use crate::usage;

/// Most values of an axis.
const MAX_VALUES: usize = 1000;

/// Axes that are no flags.
const OWN_AXES: [(&str, Setting); 3] =
    [("prompt", Setting::Prompt), ("prompt-sr", Setting::PromptSr), ("lora-scale", Setting::LoraScale)];

/// Flags with a value that is one for all cells.
const OF_ALL_CELLS: [&str; 9] =
    ["output", "count", "grid", "sheet", "preview", "preview-decoder", "c2pa-key", "c2pa-cert", "var"];

/// Axes whose values may be ranges.
const WITH_RANGES: [&str; 2] = ["seed", "steps"];

/// A setting that can differ from cell to cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A flag that takes a value, by its long name.
    Flag(String),
    Prompt,
    /// Words in place of others in the prompt; the first value is what is replaced.
    PromptSr,
    /// The scale of all LoRAs.
    LoraScale,
}

impl Setting {
    /// Its name, as it is typed.
    pub fn name(&self) -> &str {
        match self {
            Setting::Flag(name) => name,
            own => OWN_AXES.iter().find(|(_, setting)| setting == own).map_or("", |(name, _)| name),
        }
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
        let flags = Flags::of_generate();
        let parts: Vec<String> = texts.iter().flat_map(|text| axes_of(&flags, text)).collect();
        let mut axes = parts.iter().map(|text| axis(&flags, text)).collect::<Result<Vec<_>>>()?;
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

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.x.values.len() * self.y.as_ref().map_or(1, |y| y.values.len())
    }

    /// The axes and the numbers of their values in a cell, counted in reading order from 0.
    fn values(&self, cell: usize) -> impl Iterator<Item = (&GridAxis, usize)> {
        let (column, row) = (cell % self.x.values.len(), cell / self.x.values.len());
        [(&self.x, column)].into_iter().chain(self.y.as_ref().map(|y| (y, row)))
    }

    /// The runs that make all cells: one for each model, its LoRAs and how it is run, in the order of their first
    /// cells.
    pub fn runs(&self, args: &GenerateArgs, presets: &Presets, outside: &Outside) -> Result<Vec<Settings>> {
        let cells = self.cells() as u64;
        if cells > MAX_PICTURES {
            return Err(Failure::usage(format!("a grid of {cells} pictures"), format!("draw at most {MAX_PICTURES}")));
        }
        let mut prompts = outside.prompts.clone();
        if prompts.is_empty() {
            prompts.extend(outside.from.and_then(|picture| picture.prompt()).map(str::to_owned));
        }
        let own: Vec<Vec<GenerateArgs>> = [Some(&self.x), self.y.as_ref()]
            .into_iter()
            .flatten()
            .map(|axis| axis.values.iter().map(|value| args_of(&[(axis, value)])).collect())
            .collect::<Result<_>>()?;
        if let Some(y) = &self.y {
            // Whether both flags may be given together.
            args_of(&[(&self.x, &self.x.values[0]), (y, &y.values[0])])?;
        }
        let mut runs = Runs::default();
        for place in 0..cells {
            let (mut args, mut prompts, mut choices) = (args.clone(), prompts.clone(), Choices::default());
            let mut scale = None;
            for ((axis, number), own) in self.values(place as usize).zip(&own) {
                let (value, own) = (&axis.values[number], &own[number]);
                match axis.setting {
                    Setting::Flag(_) => {
                        let own = own_choices(own, vec![], presets, outside.is_file)?;
                        choices = choices.or(own);
                    }
                    Setting::Prompt => prompts = vec![value.clone()],
                    Setting::PromptSr => replace(&axis.values[0], value, &mut prompts)?,
                    Setting::LoraScale => scale = Some(number_of(value)?),
                }
            }
            if let Some(scale) = scale {
                let of_axis = self.values(place as usize).zip(&own).map(|((_, number), own)| &own[number].lora);
                let loras = of_axis.filter(|loras| !loras.is_empty()).last().unwrap_or(&args.lora).clone();
                args.lora = scaled(loras, scale)?;
                choices.loras = None;
            }
            let choices = choices.or(Choices::from_args(&args, prompts, outside.is_file));
            if choices.seed.as_ref().is_some_and(|seed| matches!(seed.value, Seed::List(_))) {
                let hint = "write the seeds as an axis, as in --grid seed=1,5,10-20";
                return Err(Failure::usage("a cell of a grid is one picture, and several seeds are given", hint));
            }
            let settings =
                resolve_choices(choices, Outside { prompts: vec![], cells: Some(cells), ..outside.clone() })?;
            if settings.prompts.len() > 1 {
                let hint = "leave --all out: a cell of a grid is one picture";
                return Err(Failure::usage(format!("{} prompts in a cell of a grid", settings.prompts.len()), hint));
            }
            let (size, request) = (settings.size, settings.request(0));
            let strength = settings.source.as_ref().map(|source| source.options.strength);
            let cell = Cell { place, request, size, line: None, path: None, references: None, strength };
            runs.put(settings, vec![cell]);
        }
        Ok(runs.all())
    }

    /// The run to plan: all cells, if one model makes them.
    pub fn largest_run(&self, args: &GenerateArgs, presets: &Presets, outside: &Outside) -> Result<Settings> {
        let mut runs = self.runs(args, presets, outside)?;
        match runs.len() {
            1 => Ok(runs.remove(0)),
            count => {
                let message =
                    format!("the grid is drawn in {count} runs, one after the other, each with its own model");
                Err(Failure::usage(message, "plan each of them alone, with one value of that axis"))
            }
        }
    }
}

/// What values of axes say as flags; nothing for axes that are no flags.
fn args_of(values: &[(&GridAxis, &String)]) -> Result<GenerateArgs> {
    let place = Place { file: "--grid".into(), line: 1 };
    let flag = |(axis, value): &(&GridAxis, &String)| match &axis.setting {
        Setting::Flag(name) => {
            Some(Flag { name: name.clone(), value: Value::Texts(vec![value.to_string()]), place: place.clone() })
        }
        _ => None,
    };
    let flags: Vec<Flag> = values.iter().filter_map(flag).collect();
    flags::parse(&flags).map_err(|error| {
        let failure = usage::failure(&error);
        Failure::usage(format!("--grid: {}", failure.message), flags::hint(&failure))
    })
}

/// The axes in a text. One begins at a word `NAME=`; an x or a comma before it stands between the axes.
fn axes_of(flags: &Flags, text: &str) -> Vec<String> {
    let is_between = |word: &str| matches!(word.to_lowercase().as_str(), "x" | "×" | "*" | "by" | "and" | "&" | ";");
    let mut axes = Vec::<Vec<&str>>::new();
    for word in text.split(' ') {
        let name = word.split_once('=').map(|(name, _)| name);
        let follows_x = axes
            .last()
            .and_then(|axis| axis.iter().rfind(|word| !word.is_empty()))
            .is_some_and(|last| is_between(last));
        let is_name = |name: &str| {
            setting(flags, name).is_ok()
                || follows_x && name.chars().all(|c| c.is_ascii_alphabetic() || "-_".contains(c))
        };
        match (axes.last_mut(), name.is_some_and(|name| !name.is_empty() && is_name(name))) {
            (Some(axis), true) if axis.iter().any(|word| word.contains('=')) => {
                if follows_x {
                    axis.truncate(axis.iter().rposition(|word| !word.is_empty()).unwrap_or_default());
                }
                axes.push(vec![word]);
            }
            (Some(axis), _) => axis.push(word),
            (None, _) => axes.push(vec![word]),
        }
    }
    axes.into_iter().map(|words| words.join(" ").trim().trim_end_matches(';').to_owned()).collect()
}

/// The setting called `name`; an alias of a flag is its name too.
fn setting(flags: &Flags, name: &str) -> Result<Setting> {
    let name = name.trim().replace('_', "-").to_ascii_lowercase();
    if let Some((_, own)) = OWN_AXES.iter().find(|(known, _)| *known == name) {
        return Ok(own.clone());
    }
    if let Some(why) = foreign::why(&name) {
        return Err(Failure::usage(why, foreign::HINT));
    }
    let is_axis = |name: &str| !OF_ONE_RUN.contains(&name) && !OF_ALL_CELLS.contains(&name);
    let takes_value = |name: &&str| flags.find(name).is_some_and(flags::takes_value);
    let Some(arg) = flags.find(&name) else {
        let names = flags.names().filter(|name| is_axis(name)).filter(takes_value);
        let nearest = Flags::nearest(&name, names.chain(OWN_AXES.map(|(name, _)| name)));
        let nearest = nearest.map(|nearest| format!("the nearest name is {nearest}; ")).unwrap_or_default();
        let hint =
            format!("{nearest}an axis is prompt, prompt-sr, lora-scale, or a flag with a value, as steps or seed");
        return Err(Failure::usage(format!("{name:?} is no setting of a grid"), hint));
    };
    let long = arg.get_long().expect("it was found by its long name");
    if !is_axis(long) {
        let message = format!("{long} is about all pictures of a grid, so it is no axis");
        return Err(Failure::usage(message, format!("give --{long} beside --grid, as far as it takes one")));
    }
    if !flags::takes_value(arg) {
        let message = format!("{long} is on or off, and an axis of a grid has values");
        return Err(Failure::usage(message, format!("draw one grid with --{long} and one without")));
    }
    Ok(Setting::Flag(long.to_owned()))
}

fn axis(flags: &Flags, text: &str) -> Result<GridAxis> {
    let Some((name, values)) = text.split_once('=') else {
        let hint = "give each setting its values, as in \"seed=1-4 x steps=2,4,8\"";
        return Err(Failure::usage(format!("{text:?} is no axis of a grid"), hint));
    };
    let setting = setting(flags, name)?;
    let is_range = WITH_RANGES.contains(&setting.name());
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

/// Puts `value` in the place of `searched`.
fn replace(searched: &str, value: &str, prompts: &mut [String]) -> Result<()> {
    if searched.is_empty() || !prompts.iter().any(|prompt| prompt.contains(searched)) {
        let message = format!("prompt-sr {value:?} on an axis of the grid");
        let hint = format!("prompt-sr replaces its first value, and the prompt has no {searched:?}");
        return Err(Failure::usage(message, hint));
    }
    prompts.iter_mut().for_each(|prompt| *prompt = prompt.replace(searched, value));
    Ok(())
}

fn number_of(scale: &str) -> Result<f32> {
    let message = || format!("lora-scale {scale:?} on an axis of the grid");
    scale.parse().map_err(|_| Failure::usage(message(), "lora-scale is a number, as 0.8"))
}

/// LoRAs with another scale behind their last colon.
fn scaled(mut loras: Vec<OsString>, scale: f32) -> Result<Vec<OsString>> {
    if loras.is_empty() {
        let hint = "add the LoRA with --lora FILE";
        return Err(Failure::usage("the grid has an axis of LoRA scales, and there is no LoRA", hint));
    }
    for lora in &mut loras {
        let mut scaled = without_scale(lora);
        scaled.push(format!(":{scale}"));
        *lora = scaled;
    }
    Ok(loras)
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
    use crate::settings::tests::{args, outside};

    fn parse(texts: &[&str]) -> Result<Option<Grid>> {
        Grid::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn grid(texts: &[&str]) -> Grid {
        parse(texts).unwrap().unwrap()
    }

    fn runs(texts: &[&str], args: &GenerateArgs) -> Result<Vec<Settings>> {
        grid(texts).runs(args, &Presets::built_in(), &outside())
    }

    /// What is asked for in each cell, in reading order.
    fn cells<T>(texts: &[&str], args: &GenerateArgs, of: impl Fn(&Settings, u64) -> T) -> Vec<T> {
        let runs = runs(texts, args).unwrap();
        let one = |run: &Settings| (0..run.pictures()).map(|i| (run.job(i).index, of(run, i))).collect::<Vec<_>>();
        let mut all: Vec<(u64, T)> = runs.iter().flat_map(one).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn axes_have_lists_and_ranges() {
        let two = grid(&["steps=2,4,8 x seed=1-3"]);
        assert_eq!(
            (two.x.setting.name(), two.x.values.as_slice()),
            ("steps", ["2", "4", "8"].map(String::from).as_slice())
        );
        let y = two.y.clone().unwrap();
        assert_eq!((y.setting.name(), y.values), ("seed", ["1", "2", "3"].map(String::from).to_vec()));
        assert_eq!(grid(&["steps=2,4,8", "seed=1..3"]), two);
        assert_eq!(grid(&["seed=7, 9-10"]).x.values, ["7", "9", "10"]);
        // An x is part of a value where no setting follows it.
        let replaced = grid(&["prompt-sr=a x b,c\\,d,"]);
        assert_eq!((replaced.x.values, replaced.y), (["a x b", "c,d", ""].map(String::from).to_vec(), None));
        assert_eq!(grid(&["Lora_Scale=0.5,1"]).x.setting, Setting::LoraScale);
        assert_eq!(grid(&["num_inference_steps=1"]).x.setting.name(), "steps");
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn two_axes_are_written_in_many_ways() {
        let two = grid(&["steps=2,4", "seed=1-3"]);
        for text in [
            "steps=2,4 x seed=1-3",
            "steps=2,4 X seed=1-3",
            "steps=2,4 × seed=1-3",
            "steps=2,4 by seed=1-3",
            "steps=2,4 seed=1-3",
            "steps=2,4; seed=1-3",
            "steps=2, 4  x  seed=1..3",
        ] {
            assert_eq!(grid(&[text]), two, "{text}");
        }
    }

    #[test]
    fn what_is_no_grid_is_refused_with_its_reason() {
        for (texts, reason) in [
            (&["steps"][..], "is no axis of a grid"),
            (&["seed x steps"], "is no axis of a grid"),
            (&["stepz=1,2"], "is no setting of a grid"),
            (&["steps=1,2 x stepz=1,2"], "\"stepz\" is no setting of a grid"),
            (&["steps="], "empty value"),
            (&["steps=1,,2"], "empty value"),
            (&["seed=4-1"], "seed 4-1"),
            (&["seed=0-99999999"], "seed 0-99999999"),
            (&["steps=1,2 x steps=3,4"], "both axes of the grid are steps"),
            (&["steps=1 x num-inference-steps=2"], "both axes of the grid are steps"),
            (&["steps=1 x seed=1 x guidance=1"], "a grid of 3 settings"),
            (&["output=a.png,b.png"], "output is about all pictures of a grid"),
            (&["batch=a,b"], "batch is about all pictures of a grid"),
            (&["watermark=true,false"], "watermark is on or off"),
            (&["sampler=euler,heun"], "there is no sampler to choose"),
        ] {
            let failure = parse(texts).unwrap_err();
            assert!(failure.message.contains(reason), "{texts:?}: {failure:?}");
        }
    }

    #[test]
    fn every_cell_has_its_own_values() {
        let usual = GenerateArgs { lora: vec!["a.safetensors:0.5".into(), "b".into()], width: Some(64), ..args() };
        let request = |run: &Settings, i| (run.request(i).steps.unwrap(), run.request(i).seed);
        assert_eq!(cells(&["steps=2,4 x seed=1-2"], &usual, request), [(2, 1), (4, 1), (2, 2), (4, 2)]);
        let loras = |run: &Settings, _| run.paths.loras.iter().map(|lora| lora.scale).collect::<Vec<_>>();
        assert_eq!(cells(&["lora-scale=0.25,1"], &usual, loras), [[0.25, 0.25], [1.0, 1.0]]);
        assert_eq!(cells(&["lora=x,y:2 x lora-scale=0.25"], &usual, loras), [[0.25], [0.25]]);
        let prompt = |run: &Settings, i| run.request(i).prompt;
        assert_eq!(cells(&["prompt-sr=red,blue,"], &usual, prompt), ["a red fox", "a blue fox", "a  fox"]);
        assert_eq!(cells(&["prompt=a cat,a dog"], &usual, prompt), ["a cat", "a dog"]);
        assert_eq!(runs(&["model=klein-mini,other"], &usual).unwrap().len(), 2);
        assert_eq!(runs(&["negative-prompt=a,b x guidance=1,2"], &usual).unwrap().len(), 1);
    }

    /// A value for every flag that takes one, so that a new flag is an axis or is refused.
    #[test]
    fn every_flag_with_a_value_is_an_axis_or_is_about_all_cells() {
        let flags = Flags::of_generate();
        let (mut axes, mut refused) = (0, 0);
        for name in flags.names().filter(|name| flags.find(name).is_some_and(flags::takes_value)) {
            let setting = match setting(&flags, name) {
                Ok(setting @ Setting::Flag(_)) => setting,
                Ok(_) => continue,
                Err(_) => {
                    refused += 1;
                    continue;
                }
            };
            let samples =
                ["1", "64", "64x64", "16:9", "white", "bf16", "1GiB", "diffusers", "cpu", "1\\,1\\,1\\,1", "444"];
            let axis = |value: &&str| GridAxis { setting: setting.clone(), values: list(value) };
            let changes = |value: &&str| {
                let axis = axis(value);
                let args = args_of(&[(&axis, &axis.values[0])]).ok()?;
                Some(format!("{args:?}") != format!("{:?}", GenerateArgs::default()))
            };
            assert!(samples.iter().any(|value| changes(value) == Some(true)), "{name}");
            axes += 1;
        }
        assert!(axes > 30 && refused > 10, "{axes} axes, {refused} refused");
    }

    #[test]
    fn presets_and_sizes_are_axes() {
        let size = |run: &Settings, i: u64| run.cells[i as usize].size.fitted([128, 128]);
        let sides = |w, h| (Some(w), Some(h));
        assert_eq!(cells(&["preset=high,draft"], &args(), size), [sides(256, 256), sides(64, 64)]);
        let typed = GenerateArgs { size: Some((96, 96)), ..args() };
        assert_eq!(cells(&["size=64x64,128x64"], &typed, size), [sides(64, 64), sides(128, 64)]);
        // A shape keeps the number of pixels.
        assert_eq!(
            cells(&["aspect=1:1,4:1"], &typed, size),
            [sides(96, 96), sides(192, 48)].map(|(w, h)| (w, h.max(Some(64))))
        );
    }

    #[test]
    fn values_that_the_setting_does_not_take_are_refused() {
        for (text, reason) in [
            ("steps=four", "invalid value 'four' for '--steps <N>'"),
            ("size=64", "is two numbers"),
            ("guidance=x", "it is no number"),
            ("strength=0", "is over 0 and at most 1"),
            ("strength=0.5", "strength is about a picture that is painted into"),
            ("lora-scale=0.5", "there is no LoRA"),
            ("prompt-sr=cat,dog", "prompt-sr"),
            ("size=64x64 x width=64", "cannot be used with"),
            ("preset=hihg", "no preset is called hihg"),
            ("seed=1\\,2", "several seeds"),
        ] {
            let failure = runs(&[text], &args()).unwrap_err();
            assert!(
                failure.message.contains(reason) || failure.hint.as_deref().unwrap().contains(reason),
                "{text}: {failure:?}"
            );
        }
    }
}

//! Runs from a file of JSON objects, one a line: names of flags with their values, `prompt` and `output`.
//!
//! In:  the text of the file. Out: for each line its settings, read as those of a file of settings are.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::check_effect;
use super::file::{self, OF_A_SOURCE, OF_ONE_RUN, is_setting};
use super::flags::{self, Flags, Place, Setting, Value, generate_args};
use crate::args::GenerateArgs;
use crate::failure::{Failure, Result};

/// Most lines of a file.
const MAX_LINES: usize = 100_000;

/// A line of the file.
#[derive(Clone, Debug)]
pub struct Line {
    pub place: Place,
    pub prompt: Option<String>,
    /// Its flags, and nothing else.
    pub args: GenerateArgs,
}

/// Reads the lines of `text`; those of white space are skipped.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Line>> {
    let flags = Flags::of_generate();
    let mut lines = Vec::new();
    for (i, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        if lines.len() == MAX_LINES {
            let message = format!("{} has more than {MAX_LINES} lines", path.display());
            return Err(Failure::usage(message, "split it over several runs"));
        }
        lines.push(line(&flags, text, Place { file: path.to_owned(), line: i + 1 })?);
    }
    match lines.is_empty() {
        true => {
            let hint = "write an object a line, as in {\"prompt\": \"a red fox\", \"output\": \"fox.png\"}";
            Err(Failure::usage(format!("{} has no line", path.display()), hint))
        }
        false => Ok(lines),
    }
}

fn line(flags: &Flags, text: &str, place: Place) -> Result<Line> {
    let object: Map<String, Json> = serde_json::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line").next().unwrap_or_default().to_owned();
        place.refuse(
            format_args!("no JSON object: {reason}"),
            "write one object on each line, as in {\"prompt\": \"a fox\"}",
        )
    })?;
    let (mut prompt, mut settings) = (None, Vec::new());
    for (key, value) in object {
        match (key.as_str(), value) {
            (_, Json::Null) => {}
            ("prompt", Json::String(text)) => prompt = Some(text),
            ("prompt", _) => return Err(place.refuse("prompt is not a text", "put it in quotes")),
            (key, value) => settings.push(setting(flags, key, &value, &place)?),
        }
    }
    let is_preset = |setting: &&Setting| setting.name == "preset";
    settings.iter().filter(|setting| !is_preset(setting)).try_for_each(|setting| check_effect(setting, |_| false))?;
    let args = generate_args(&settings)?;
    Ok(Line { place, prompt, args })
}

fn setting(flags: &Flags, key: &str, value: &Json, place: &Place) -> Result<Setting> {
    // Scripts write names in their own way.
    let key = key.replace('_', "-");
    if OF_ONE_RUN.contains(&key.as_str()) {
        let hint = "leave it out: a line has names of flags, prompt and output";
        return Err(place.refuse(format_args!("{key} cannot be set in a line"), hint));
    }
    // A line is a run of its own.
    let is_offered = |name: &str| name == "prompt" || OF_A_SOURCE.contains(&name) || is_setting(name);
    let arg = file::find(flags, &key, is_offered, place)?;
    let text = |value: &Json| match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(on) => Some(on.to_string()),
        _ => None,
    };
    let wrong = |what: &str, hint: &str| Err(place.refuse(format_args!("{key} is {what}"), hint));
    let value = match (value, flags::takes_value(arg)) {
        (Json::Bool(on), false) => Value::Switch(*on),
        (_, false) => return wrong("true or false", "write true or false without quotes"),
        (Json::Array(list), true) => {
            let Some(texts) = list.iter().map(text).collect::<Option<Vec<String>>>() else {
                return wrong("no list of texts or numbers", "write a list of texts or numbers");
            };
            match key.as_str() {
                // Seeds are written as numbers.
                "seed" => Value::Texts(vec![texts.join(",")]),
                _ if flags::is_list(arg) => Value::Texts(texts),
                _ => return wrong("one value, not a list", "remove the brackets"),
            }
        }
        (value, true) => match text(value) {
            Some(text) => Value::Texts(vec![text]),
            None => return wrong("not a text or a number", "put its value in quotes"),
        },
    };
    let name = arg.get_long().expect("it was found by its long name").to_owned();
    Ok(Setting { name, value, place: place.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Seed;

    fn read(text: &str) -> Result<Vec<Line>> {
        parse(text, Path::new("jobs.jsonl"))
    }

    #[test]
    fn a_line_has_flags_prompt_and_output() {
        let text = r#"{"prompt": "a fox", "seed": [1, 5], "no_metadata": true, "size": "64x64", "steps": null}

            {"output": "b.png", "lora": ["a:0.5"], "guidance": 2.5, "seed": "3-4", "json": false}"#;
        let lines = read(text).unwrap();
        assert_eq!((lines[0].prompt.as_deref(), lines[0].place.line), (Some("a fox"), 1));
        assert_eq!(lines[0].args.seed, Some(Seed::List(vec![1, 5])));
        assert!(lines[0].args.no_metadata && lines[0].args.steps.is_none());
        assert_eq!((lines[1].prompt.as_deref(), lines[1].place.line, lines[1].args.json), (None, 3, false));
        assert_eq!(lines[1].args.seed, Some(Seed::List(vec![3, 4])));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, message) in [
            ("{\"stpes\": 4}", "jobs.jsonl:1: there is no setting stpes"),
            (
                "{}\n{\"steps\": \"many\"}",
                "jobs.jsonl:2: invalid value 'many' for '--steps <N>': it is no whole number from 0 on",
            ),
            ("[1]", "jobs.jsonl:1: no JSON object: invalid type: sequence, expected a map"),
            ("{\"prompt\": 5}", "jobs.jsonl:1: prompt is not a text"),
            ("{\"batch\": \"x\"}", "jobs.jsonl:1: batch cannot be set in a line"),
            ("{\"steps\": [1, 2]}", "jobs.jsonl:1: steps is one value, not a list"),
            ("{\"grid\": \"steps=1,2\"}", "jobs.jsonl:1: grid belongs to one run and cannot be set in a file"),
            ("{\"quiet\": 1}", "jobs.jsonl:1: quiet is true or false"),
            ("{\"steps\": {}}", "jobs.jsonl:1: steps is not a text or a number"),
            (
                "{\"sampler_name\": \"Euler\"}",
                "jobs.jsonl:1: there is no sampler to choose: FLUX.2 [klein] is a flow model, drawn with Euler steps",
            ),
            ("\n \n", "jobs.jsonl has no line"),
        ] {
            assert_eq!(read(text).unwrap_err().message, message, "{text}");
        }
    }
}

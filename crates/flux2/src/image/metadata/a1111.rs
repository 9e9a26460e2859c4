//! The text of AUTOMATIC1111's web UI, which many programs write: the prompt, perhaps a line that begins with
//! `Negative prompt:`, and a line of settings as `Steps: 4, Seed: 7, Size: 512x512`.

use std::borrow::Cow;

use serde_json::Value;

/// Such a text in parts.
#[derive(Debug, PartialEq)]
pub(super) struct Text {
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    /// Names and values in order; none if there is no line of settings.
    pub(super) settings: Vec<(String, String)>,
}

/// Fewest settings that make a line one of settings and not of the prompt.
const FEWEST_SETTINGS: usize = 3;

/// A value of the line of settings: a JSON string if it could be taken for several.
pub(super) fn quoted(value: &str) -> Cow<'_, str> {
    match value.contains([',', ':', '\n', '\r']) {
        true => Value::from(value).to_string().into(),
        false => value.into(),
    }
}

/// Takes a text apart. Any text is a prompt if it is nothing more.
pub(super) fn parse(text: &str) -> Text {
    let mut lines: Vec<&str> = text.trim().lines().collect();
    let is_settings = |line: &&str| line.starts_with("Steps: ") && settings(line).len() >= FEWEST_SETTINGS;
    let at = lines.iter().rposition(is_settings).or(lines.len().checked_sub(1));
    let found = at.map(|at| settings(lines[at])).filter(|found| found.len() >= FEWEST_SETTINGS);
    if let (Some(at), Some(_)) = (at, &found) {
        lines.truncate(at);
    }
    let negative = lines.iter().position(|line| line.starts_with("Negative prompt:"));
    let (prompt, negative) = lines.split_at(negative.unwrap_or(lines.len()));
    let negative = negative.join("\n");
    let negative = negative.strip_prefix("Negative prompt:").map(|text| text.trim().to_owned());
    Text {
        prompt: prompt.join("\n").trim().to_owned(),
        negative_prompt: negative.filter(|text| !text.is_empty()),
        settings: found.unwrap_or_default(),
    }
}

fn settings(line: &str) -> Vec<(String, String)> {
    let (mut found, mut rest, mut attempts) = (vec![], line, 16);
    while let Some((name, value)) = rest.split_once(':') {
        let value = value.trim_start();
        let (value, after) = json_value(value, &mut attempts).unwrap_or_else(|| {
            let (value, after) = value.split_once(',').unwrap_or((value, ""));
            (value.trim().to_owned(), after)
        });
        let name = name.rsplit(',').next().unwrap_or(name).trim();
        let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || "_ -/".contains(c));
        if !name.is_empty() && is_name(name) {
            found.push((name.to_owned(), value));
        }
        rest = after;
    }
    found
}

/// A value that is quoted or structured, and what follows its comma. `attempts` bounds the work on texts that only look
/// so.
fn json_value<'a>(text: &'a str, attempts: &mut u32) -> Option<(String, &'a str)> {
    if !text.starts_with(['"', '[', '{']) || *attempts == 0 {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().and_then(Result::ok);
    let after = text.get(values.byte_offset()..).unwrap_or_default().trim_start();
    let after = if after.is_empty() { Some(after) } else { after.strip_prefix(',') };
    match (value, after) {
        (Some(Value::String(value)), Some(after)) => Some((value, after)),
        (Some(value), Some(after)) => Some((value.to_string(), after)),
        _ => {
            *attempts -= 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_web_ui_does() {
        assert_eq!(quoted("klein-4b"), "klein-4b");
        assert_eq!(quoted("a, b"), r#""a, b""#);
        assert_eq!(quoted("C:\\x\n\"y\""), r#""C:\\x\n\"y\"""#);
    }

    #[test]
    fn a_text_has_up_to_three_parts() {
        let settings = |text: &str| parse(text).settings;
        let text = "a fox,\nred\nNegative prompt: blue,\ngreen\nSteps: 4, Seed: 7, Model: \"a, b: c\", Size: 64x64";
        let parts = parse(text);
        assert_eq!((parts.prompt.as_str(), parts.negative_prompt.as_deref()), ("a fox,\nred", Some("blue,\ngreen")));
        let pairs = [("Steps", "4"), ("Seed", "7"), ("Model", "a, b: c"), ("Size", "64x64")];
        assert_eq!(parts.settings, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parse("just, a: prompt").prompt, "just, a: prompt");
        assert_eq!(settings("Steps: 4, Seed: 7, SDCPP: {\"a\": [1, 2]}, X: 1")[2].1, r#"{"a":[1,2]}"#);
        assert_eq!(settings("Steps: 4, Hashes: {\"a: 1, Seed: 7, Size: 8x8").len(), 4);
        assert_eq!(parse("").prompt, "");
    }
}

//! Clap's errors in the form of all others: what is wrong and, as a hint, what to do.
//!
//! Clap hands over the pieces (flag, value, possible values, similar names); the sentences are its own, in one line.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// The failure to report for a command line that clap refused.
pub fn failure(error: &clap::Error) -> Failure {
    let hints = hints(error);
    let hint = if hints.is_empty() { "run it with --help to see what it takes".to_owned() } else { hints.join("; ") };
    Failure::usage(message(error), hint)
}

fn message(error: &clap::Error) -> String {
    let text = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (arg, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    match error.kind() {
        ErrorKind::UnknownArgument => format!("unexpected argument '{arg}' found"),
        ErrorKind::InvalidSubcommand => {
            format!("unrecognized subcommand '{}'", text(ContextKind::InvalidSubcommand))
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(error.get(ContextKind::InvalidArg)).join(", ");
            format!("the following required arguments were not provided: {missing}")
        }
        ErrorKind::ArgumentConflict => match list(error.get(ContextKind::PriorArg)).as_slice() {
            [prior] if *prior != arg => format!("the argument '{arg}' cannot be used with '{prior}'"),
            priors @ [_, _, ..] => format!("the argument '{arg}' cannot be used with: {}", priors.join(", ")),
            _ => format!("the argument '{arg}' cannot be used multiple times"),
        },
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("a value is required for '{arg}' but none was supplied{}", possible(error))
        }
        ErrorKind::InvalidValue => format!("invalid value '{value}' for '{arg}'{}", possible(error)),
        ErrorKind::ValueValidation => {
            let reason = error.source().map_or_else(String::new, |source| format!(": {}", plain(&source.to_string())));
            format!("invalid value '{value}' for '{arg}'{reason}")
        }
        ErrorKind::TooManyValues => {
            format!("unexpected value '{value}' for '{arg}' found; no more were expected")
        }
        // The program has no flags that lead to another kind with a flag or a value in its context.
        kind => kind.to_string(),
    }
}

/// The standard library's reasons why something is no number, for those who do not program.
fn plain(reason: &str) -> &str {
    match reason {
        "invalid digit found in string" | "cannot parse integer from empty string" => "it is no whole number from 0 on",
        "invalid float literal" | "cannot parse float from empty string" => "it is no number",
        "number too large to fit in target type" => "it is too large",
        reason => reason,
    }
}

/// The values that a flag takes, if they have names.
fn possible(error: &clap::Error) -> String {
    match list(error.get(ContextKind::ValidValue)).as_slice() {
        [] => String::new(),
        values => format!(" [possible values: {}]", values.join(", ")),
    }
}

fn hints(error: &clap::Error) -> Vec<String> {
    let similar = [
        ("subcommand", ContextKind::SuggestedSubcommand),
        ("argument", ContextKind::SuggestedArg),
        ("value", ContextKind::SuggestedValue),
    ];
    let similar = similar.into_iter().filter_map(|(what, kind)| match list(error.get(kind)).as_slice() {
        [] => None,
        [name] => Some(format!("a similar {what} exists: '{name}'")),
        names => Some(format!("some similar {what}s exist: '{}'", names.join("', '"))),
    });
    similar.chain(list(error.get(ContextKind::Suggested))).collect()
}

/// The strings of a piece of context, without styles; none if it is not there.
fn list(value: Option<&ContextValue>) -> Vec<String> {
    match value {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    fn refused(argv: &[&str]) -> Failure {
        let argv = std::iter::once(&"dj-flux2").chain(argv);
        failure(&Args::try_parse_from(argv).err().expect("clap refuses it"))
    }

    /// What clap prints itself, on one line.
    fn rendered(argv: &[&str]) -> String {
        let error = Args::try_parse_from(std::iter::once(&"dj-flux2").chain(argv)).err().unwrap().render().to_string();
        let text = error.split("\n\nUsage:").next().unwrap().split("\n\nFor more information").next().unwrap();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("tip: "));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn clap_errors_become_an_error_and_a_hint() {
        let failure = refused(&["generate", "--widht", "512"]);
        assert_eq!(failure.message, "unexpected argument '--widht' found");
        assert_eq!(failure.hint.as_deref(), Some("a similar argument exists: '--width'"));
        let failure = refused(&["convert", "a", "b", "--to", "zzz"]);
        let values = "[possible values: bf16, int8, q8_0, q4_k]";
        assert_eq!(failure.message, format!("invalid value 'zzz' for '--to <FORMAT>' {values}"));
        assert_eq!(failure.hint.as_deref(), Some("run it with --help to see what it takes"));
    }

    #[test]
    fn no_part_of_the_message_is_lost() {
        for argv in [
            &["nonsense"][..],
            &["bench", "opps"],
            &["bench", "generate", "--synthetic", "a", "-m", "b"],
            &["bench", "generate", "--synthetic", "a", "-m", "b", "--vae", "c"],
            &["info"],
            &["info", "a.png", "b.png"],
            &["info", "a.png", "--json", "--json"],
            &["convert", "a"],
            &["convert", "a", "b", "--to"],
            &["generate", "-q", "-v"],
            &["generate", "--size", "64x64", "-W", "64", "-H", "64"],
            &["generate", "--quiet=yes"],
            &["generate", "-s"],
            &["generate", "-s", "x"],
            &["generate", "--device", "gpu"],
        ] {
            // Clap puts one item of a list on each line.
            let message = format!("error: {}", refused(argv).message).replace(", ", " ");
            let rendered =
                rendered(argv).replace("invalid digit found in string", plain("invalid digit found in string"));
            assert_eq!(message, rendered.replace(", ", " "), "{argv:?}");
        }
    }
}

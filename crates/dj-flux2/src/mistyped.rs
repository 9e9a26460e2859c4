//! One word in place of a prompt that was hardly meant to be drawn: a mistyped subcommand, a subcommand of another
//! program, or the name of a file.
//!
//! In:  the words of the prompt of a command line without a subcommand.
//! Out: the refusal, which says what may have been meant and how to draw the word all the same.

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Args;
use crate::failure::Failure;

/// Subcommands of other programs, with what does the same here.
const ELSEWHERE: [(&[&str], &str); 15] = [
    (&["version", "ver"], "--version"),
    (&["usage", "manual", "commands", "options"], "help"),
    (&["list", "ls", "ps", "search", "tags"], "models"),
    (&["pull", "get", "fetch", "install", "add", "update", "upgrade", "sync", "clone"], "download"),
    (&["rm", "del", "delete", "uninstall", "prune", "clean"], "remove"),
    (&["run", "gen", "create", "make", "draw", "edit", "txt2img", "img2img", "t2i", "i2i", "imagine"], "generate"),
    (&["show", "describe"], "inspect"),
    (&["metadata", "meta", "exif"], "info"),
    (&["check", "test", "env", "status", "devices", "diagnose"], "doctor"),
    (&["quantize", "quantise", "export"], "convert"),
    (&["benchmark", "perf"], "bench"),
    (&["estimate"], "plan"),
    (&["serve", "server", "listen", "daemon"], if cfg!(feature = "serve") { "serve" } else { "help" }),
    (&["repl", "shell", "interactive", "chat"], if cfg!(feature = "session") { "session" } else { "help" }),
    // Nothing here does the same.
    (&["start", "stop", "init", "login", "logout", "auth", "exit", "quit", "build"], "help"),
];

/// Words that can be drawn and are one letter away from a subcommand.
const DRAWN: [&str; 26] = [
    "beach", "bunch", "clan", "concert", "confit", "convent", "covert", "doctors", "helm", "insect", "kelp", "nerve",
    "plain", "plane", "plank", "plant", "presents", "remote", "sheen", "sheep", "sheer", "sweet", "swerve", "temples",
    "templets", "verve",
];

/// Endings of the files that this program reads.
const FILES: [&str; 8] = [".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".gguf", ".json", ".txt"];

/// The refusal of `words` as a prompt, if they look like something else. A second word is what a subcommand was to act
/// on; more are a sentence without its quotes.
pub fn refusal(words: &[String], exists: impl Fn(&Path) -> bool) -> Option<Failure> {
    let word = words.first()?.as_str();
    let draw = || format!("to draw it: dj-flux2 generate \"{}\"", words.join(" "));
    match words {
        [_] | [_, _] => {
            if let Some((what, meant)) = subcommand(word) {
                let rest = words.get(1).map_or(String::new(), |rest| format!(" {rest}"));
                let hint = format!("did you mean `dj-flux2 {meant}{rest}`? {}", draw());
                return Some(Failure::usage(format!("'{word}' {what}"), hint));
            }
        }
        _ => return None,
    }
    if words.len() > 1 || word.contains(char::is_whitespace) {
        return None;
    }
    let ending = FILES.iter().find(|ending| word.to_ascii_lowercase().ends_with(**ending));
    let found = exists(Path::new(word));
    if !found && ending.is_none() {
        return None;
    }
    let what = if found { "is a file, not a prompt" } else { "is the name of a file, not a prompt" };
    let meant = match ending {
        Some(&(".png" | ".jpg" | ".jpeg" | ".webp")) => {
            format!("did you mean `dj-flux2 info {word}`, or a prompt with `-i {word}`?")
        }
        Some(&".txt") => format!("did you mean `--prompt-file {word}`?"),
        _ => format!("did you mean `dj-flux2 inspect {word}`?"),
    };
    Some(Failure::usage(format!("'{word}' {what}"), format!("{meant} {}", draw())))
}

/// What `word` is, and the subcommand that may have been meant. Subcommands are in lower case, so other words are not
/// mistyped ones.
fn subcommand(word: &str) -> Option<(&'static str, String)> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if word.is_empty() || !word.chars().all(is_word) {
        return None;
    }
    let mut program = Args::command();
    program.build(); // adds `help`
    let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
    // A build without downloads has no subcommands for them.
    let elsewhere = ELSEWHERE.iter().find(|(words, _)| words.contains(&word)).map(|(_, meant)| *meant);
    if let Some(meant) = elsewhere {
        let meant = if names.contains(&meant) || meant == "--version" { meant } else { "help" };
        return Some(("is no subcommand", meant.to_owned()));
    }
    if DRAWN.contains(&word) {
        return None;
    }
    let (distance, name) = names.iter().map(|name| (strsim::osa_distance(word, name), *name)).min()?;
    // One slip of the fingers, two in a long word.
    let slips = if name.len() >= 8 { 2 } else { 1 };
    (distance <= slips).then(|| ("is no subcommand", name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(words: &[&str]) -> Option<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        refusal(&words, |path| path == Path::new("notes")).map(|failure| failure.hint.unwrap())
    }

    #[test]
    fn what_is_near_a_subcommand_is_not_drawn() {
        for (typed, meant) in [
            ("genrate", "generate"),
            ("inof", "info"),
            ("inpsect", "inspect"),
            ("pln", "plan"),
            ("docter", "doctor"),
            ("hlep", "help"),
            ("version", "--version"),
            ("run", "generate"),
            ("exif", "info"),
        ] {
            let expected = format!("did you mean `dj-flux2 {meant}`? to draw it: dj-flux2 generate \"{typed}\"");
            assert_eq!(hint(&[typed]), Some(expected));
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn what_is_near_a_subcommand_of_the_hub_is_not_drawn() {
        for (typed, meant) in [("modles", "models"), ("ls", "models"), ("donwlaod", "download"), ("rm", "remove")] {
            assert!(hint(&[typed]).unwrap().starts_with(&format!("did you mean `dj-flux2 {meant}`?")), "{typed}");
        }
        let expected = "did you mean `dj-flux2 download klein-4b`? to draw it: dj-flux2 generate \"pull klein-4b\"";
        assert_eq!(hint(&["pull", "klein-4b"]).unwrap(), expected);
    }

    #[test]
    fn the_name_of_a_file_is_not_drawn() {
        assert!(hint(&["fox.PNG"]).unwrap().starts_with("did you mean `dj-flux2 info fox.PNG`"));
        assert!(
            hint(&["style.safetensors"]).unwrap().starts_with("did you mean `dj-flux2 inspect style.safetensors`?")
        );
        assert!(hint(&["notes"]).is_some());
    }

    #[test]
    fn what_can_be_drawn_is_drawn() {
        for word in
            ["fox", "cat", "lighthouse", "Models", "LS", "", "füchse", "a red fox", "list of foxes", "my fox.png"]
        {
            assert_eq!(hint(&[word]), None, "{word}");
        }
        for word in DRAWN {
            assert_eq!(hint(&[word]), None, "{word}");
        }
        // Three words are a sentence without its quotes.
        assert_eq!(hint(&["draw", "a", "fox"]), None);
    }
}

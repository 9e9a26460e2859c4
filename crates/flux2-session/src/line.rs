//! What a line of a session asks for: a prompt, or a command that begins with an exclamation mark.
//!
//! A line that begins with `#` is a comment. One that begins with a backslash is a prompt, whatever follows: `\!`, `\#`
//! and `\2` are drawn.

use crate::Result as NamesResult;
use crate::names::Reference;

/// Most pictures of an exploration.
pub const MAX_EXPLORED: u32 = 16;
/// Pictures of an exploration if nobody says how many.
const EXPLORED: u32 = 4;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Nothing: white space or a comment.
    Nothing,
    /// A prompt, perhaps with references.
    Prompt(String),
    /// A command.
    Command(Command),
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Choose the size, or print it.
    Size(Option<String>),
    /// Choose the seed, or print it.
    Seed(Option<String>),
    /// Forget the last picture.
    Undo,
    /// Draw a prompt, or the last one, with several seeds.
    Explore {
        /// Number of pictures.
        count: u32,
        /// The prompt.
        prompt: Option<String>,
    },
    /// Keep pictures of the exploration, by their numbers on its sheet.
    Pick(Vec<u32>),
    /// Draw a prompt with the last picture as reference, unless it refers to others.
    Edit(String),
    /// Paint a prompt into the last picture, or the one that it begins with, where a mask is white.
    Mask {
        /// A file, or a reference.
        mask: String,
        /// The prompt.
        prompt: String,
    },
    /// Enlarge a picture.
    Upscale {
        /// How many times as wide and high.
        by: Option<f32>,
        /// The picture; the last if it is missing.
        of: Option<Reference>,
    },
    /// Write a picture to a file of this name.
    Save {
        /// The file.
        path: String,
        /// The picture; the last if it is missing.
        of: Option<Reference>,
    },
    /// Give a picture a name.
    Name {
        /// The name.
        name: String,
        /// The picture; the last if it is missing.
        of: Option<Reference>,
    },
    /// Print the last pictures, so many.
    History(Option<usize>),
    /// Choose a setting; print it without a value, and all without a name.
    Set {
        /// Name of the setting.
        name: Option<String>,
        /// Its value.
        value: Option<String>,
    },
    /// Choose no value for a setting.
    Unset(String),
    /// Show a picture; the last if none is named.
    Show(Option<Reference>),
    /// Print the commands, or what one of them does.
    Help(Option<String>),
    /// End the session.
    Quit,
}

/// A command as it is described to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// Its name, without the exclamation mark.
    pub name: &'static str,
    /// What follows it.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn info(name: &'static str, usage: &'static str, about: &'static str) -> CommandInfo {
    CommandInfo { name, usage, about }
}

/// All commands, in the order of the help.
pub const COMMANDS: [CommandInfo; 16] = [
    info("edit", "PROMPT", "draw with the last picture as reference image, unless the prompt refers to others"),
    info("mask", "FILE PROMPT", "paint into the last picture, or the one the prompt begins with, where FILE is white"),
    info("explore", "[COUNT] [PROMPT]", "draw with several seeds, 4 unless COUNT says so, and show one sheet"),
    info("pick", "NUMBER...", "keep pictures of the sheet; a number alone does the same"),
    info("upscale", "[FACTOR] [$N]", "enlarge a picture"),
    info("size", "[WxH|W:H|off]", "size or shape of the next pictures"),
    info("seed", "[NUMBER|random]", "seed of the next pictures"),
    info(
        "set",
        "[NAME [VALUE]]",
        "any setting of generate by the name of its flag, as in !set steps 8; without VALUE, print it",
    ),
    info("unset", "NAME", "choose no value for a setting"),
    info("undo", "", "forget the last picture; its file stays"),
    info("save", "FILE [$N]", "write a picture to a file"),
    info("name", "NAME [$N]", "give a picture a name, to refer to it as $NAME"),
    info("history", "[COUNT]", "list the pictures"),
    info("show", "[$N]", "show a picture"),
    info("help", "[COMMAND]", "list the commands, or describe one"),
    info("quit", "", "end the session, as Ctrl-D does"),
];

/// Why a line cannot be understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LineError {
    /// No command has this name.
    #[error("there is no command !{name}")]
    Unknown {
        /// The name.
        name: String,
        /// The nearest one.
        nearest: Option<&'static str>,
    },
    /// What follows a command is not what it takes.
    #[error("{reason}")]
    Arguments {
        /// The command.
        command: CommandInfo,
        /// What is wrong with it.
        reason: String,
    },
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(text: &str) -> Result<Line, LineError> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(Line::Nothing);
        }
        if let Some(prompt) = text.strip_prefix('\\') {
            return Ok(Line::Prompt(prompt.to_owned()));
        }
        let Some(command) = text.strip_prefix('!') else { return Ok(Line::Prompt(text.to_owned())) };
        let (name, rest) = split(command);
        let Some(info) = COMMANDS.iter().find(|known| known.name == name) else {
            return Err(LineError::Unknown { nearest: nearest(name), name: name.to_owned() });
        };
        arguments(info, rest).map(Line::Command)
    }
}

/// The numbers of a line that holds nothing else, as in `2` or `1, 3`.
pub fn numbers(text: &str) -> Option<Vec<u32>> {
    let words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
    words.map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>().filter(|numbers| !numbers.is_empty())
}

/// The command whose name is most similar to `name`.
fn nearest(name: &str) -> Option<&'static str> {
    let like = COMMANDS.iter().map(|known| (strsim::jaro_winkler(name, known.name), known.name));
    like.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// The first word, and the rest without the white space around it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// The first word, which may be in quotes, and the rest. A quote that does not end is a character.
fn quoted(text: &str) -> (&str, &str) {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some((word, rest)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return (word, rest.trim_start());
        }
    }
    split(text)
}

/// A command with what follows it.
fn arguments(info: &CommandInfo, rest: &str) -> Result<Command, LineError> {
    let wrong = |reason: String| LineError::Arguments { command: *info, reason };
    let missing = |what: &str| wrong(format!("!{} needs {what}", info.name));
    let needed = |text: &str, what: &str| if text.is_empty() { Err(missing(what)) } else { Ok(text.to_owned()) };
    let optional = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let end = |text: &str| match text.is_empty() {
        true => Ok(()),
        false => Err(wrong(format!("!{} does not take {text:?}", info.name))),
    };
    let reference = |text: &str| -> Result<Option<Reference>, LineError> {
        if text.is_empty() {
            return Ok(None);
        }
        let read: NamesResult<Reference> = match text.starts_with('$') {
            true => Reference::parse(text),
            false => return Err(wrong(format!("{text:?} is no picture: write $1, $-1 or a name as in $cat"))),
        };
        read.map(Some).map_err(|error| wrong(error.to_string()))
    };
    Ok(match info.name {
        "size" => Command::Size(optional(rest)),
        "seed" => Command::Seed(optional(rest)),
        "undo" => {
            end(rest)?;
            Command::Undo
        }
        "explore" => {
            let (first, behind) = split(rest);
            let (count, prompt) = match first.parse::<u32>() {
                Ok(count) => (count, behind),
                Err(_) => (EXPLORED, rest),
            };
            if !(2..=MAX_EXPLORED).contains(&count) {
                return Err(wrong(format!("{count} pictures on a sheet: 2 to {MAX_EXPLORED} are possible")));
            }
            Command::Explore { count, prompt: optional(prompt) }
        }
        "pick" => {
            needed(rest, "the number of a picture on the sheet")?;
            Command::Pick(numbers(rest).ok_or_else(|| wrong(format!("{rest:?} is no list of numbers")))?)
        }
        "edit" => Command::Edit(needed(rest, "a prompt")?),
        "mask" => {
            let (mask, prompt) = quoted(rest);
            let mask = needed(mask, "a file, white where it is painted, and a prompt")?;
            Command::Mask { mask, prompt: needed(prompt, "a prompt behind the file of the mask")? }
        }
        "upscale" => {
            let (first, behind) = split(rest);
            let (by, of) = match first.is_empty() || first.starts_with('$') {
                true => (None, rest),
                false => (Some(first), behind),
            };
            let by = by.map(|by| by.trim_end_matches('x').parse::<f32>().map_err(|_| by)).transpose();
            let by = by.map_err(|by| wrong(format!("{by:?} is no factor, as in 2 or 4")))?;
            Command::Upscale { by, of: reference(of)? }
        }
        "save" | "name" => {
            let what = if info.name == "save" { "the name of a file" } else { "a name" };
            // The name of a file may have spaces without being in quotes.
            let (text, of) = match quoted(rest) {
                (word, behind) if behind.is_empty() || behind.starts_with('$') => (word, behind),
                _ => match rest.rsplit_once(char::is_whitespace) {
                    Some((text, last)) if last.starts_with('$') => (text.trim_end(), last),
                    _ => (rest, ""),
                },
            };
            let (text, of) = (needed(text, what)?, reference(of)?);
            match info.name {
                "save" => Command::Save { path: text, of },
                _ => Command::Name { name: text.trim_start_matches('$').to_owned(), of },
            }
        }
        "history" => {
            let count = optional(rest).map(|count| count.parse().map_err(|_| wrong(format!("{count:?} is no number"))));
            Command::History(count.transpose()?)
        }
        "set" => {
            let (name, value) = match rest.split_once(|c: char| c == '=' || c.is_whitespace()) {
                Some((name, value)) => (name, value.trim_start_matches(|c: char| c == '=' || c.is_whitespace())),
                None => (rest, ""),
            };
            Command::Set { name: optional(name.trim_start_matches('-')), value: optional(value) }
        }
        "unset" => Command::Unset(needed(rest.trim_start_matches('-'), "the name of a setting")?),
        "show" => Command::Show(reference(rest)?),
        "help" => Command::Help(optional(rest.trim_start_matches('!'))),
        _ => {
            end(rest)?;
            Command::Quit
        }
    })
}

//! Prompts from the command line, a file, or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flux2::Error;

use crate::args::GenerateArgs;
use crate::failure::{Failure, Result, code};

/// Most bytes of prompts that are read from a file or standard input.
const MAX_BYTES: u64 = 64 << 20;

/// Reads all prompts of a run; none if none are given.
pub fn read_prompts(args: &GenerateArgs) -> Result<Vec<String>> {
    if let Some(path) = &args.prompt_file {
        let text = read_file(path)?;
        let prompts: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        return match prompts.is_empty() {
            true => Err(Failure::usage(format!("{} holds no prompt", path.display()), "write one prompt per line")),
            false => Ok(prompts),
        };
    }
    match args.typed_prompt() {
        [] => Ok(vec![]),
        [dash] if dash == "-" => {
            let text = read_text(io::stdin(), "standard input")?;
            if text.is_empty() {
                let hint = "write the prompt to it; for an empty prompt, pass \"\"";
                return Err(Failure::usage("standard input is empty or closed", hint));
            }
            let text = text.trim_start_matches('\u{feff}');
            let prompt = text.strip_suffix('\n').unwrap_or(text);
            Ok(vec![prompt.strip_suffix('\r').unwrap_or(prompt).to_owned()])
        }
        [prompt] => Ok(vec![prompt.clone()]),
        words => {
            let message = format!("the prompt is {} separate arguments", words.len());
            Err(Failure::usage(message, format!("put it in quotes: \"{}\"", words.join(" "))))
        }
    }
}

/// Reads a file of prompts or of a batch; `-` is standard input.
pub fn read_file(path: &Path) -> Result<String> {
    match path.to_str() {
        Some("-") => read_text(io::stdin(), "standard input"),
        _ => {
            let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
            read_text(file, &path.display().to_string())
        }
    }
}

fn read_text(reader: impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    let read = reader.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => Failure::usage(format!("{name} is not UTF-8"), "save it as UTF-8"),
        _ => Failure::new(code::FAILURE, format!("{name}: {e}"), "pass the prompt in quotes instead"),
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("{name} holds more than {MAX_BYTES} bytes of prompts"), "split it"));
    }
    // Editors on Windows begin a file with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

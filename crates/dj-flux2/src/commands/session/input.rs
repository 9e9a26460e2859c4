//! Where the lines of a session come from: a person at a terminal, or a script on standard input.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::complete::{Words, complete};
use crate::failure::{Failure, Result, code};
use crate::report::print;

/// What stands before the line that is typed.
const PROMPT: &str = "dj-flux2> ";
/// Lines that are kept for the next session.
const MAX_LINES: usize = 1000;
/// Most bytes of a line of a script.
const MAX_BYTES: u64 = 1 << 20;

/// What comes next.
pub enum Next {
    /// A line.
    Line(String),
    /// A line of a script that cannot be read.
    Bad(Failure),
    /// Ctrl-C: the line that was typed is not meant.
    Dropped,
    /// Ctrl-D, or the end of the script.
    End,
}

/// Where lines come from.
pub enum Input {
    /// A person.
    Terminal {
        editor: Box<Editor<Help, FileHistory>>,
        /// File of the lines that were typed.
        lines: Option<PathBuf>,
        /// Text that was typed before the first prompt and is read already.
        typed: String,
    },
    /// Standard input.
    Script,
}

impl Input {
    /// A person if standard input and standard error are terminals; lines that they type are kept in `folder`.
    pub fn new(folder: Option<&Path>) -> Result<Self> {
        if !is_interactive() {
            return Ok(Input::Script);
        }
        let failed = |error: ReadlineError| {
            Failure::new(code::FAILURE, format!("the terminal: {error}"), "pass a script on standard input instead")
        };
        let config = Config::builder().completion_type(CompletionType::List).max_history_size(MAX_LINES);
        let config = config.map_err(failed)?.history_ignore_dups(true).map_err(failed)?.build();
        let typed = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, typed).map_err(failed)?;
        editor.set_helper(Some(Help { words: Words::default() }));
        let lines = folder.map(|folder| folder.join("lines"));
        if let Some(lines) = lines.as_deref().filter(|lines| lines.is_file()) {
            // Lines that cannot be read are no reason not to draw.
            let _ = editor.load_history(lines);
        }
        Ok(Input::Terminal { editor: Box::new(editor), lines, typed: String::new() })
    }

    /// Takes text that somebody else has read from the terminal as if it were typed now. A script is not typed.
    pub fn was_typed(&mut self, text: String) {
        if let Input::Terminal { typed, .. } = self {
            typed.push_str(&text);
        }
    }

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line; `words` complete it.
    pub fn next(&mut self, words: impl FnOnce() -> Words) -> Result<Next> {
        match self {
            Input::Script => script_line(),
            Input::Terminal { editor, lines, typed } => {
                if let Some(help) = editor.helper_mut() {
                    help.words = words();
                }
                let whole = typed.split_once('\n').map(|(line, rest)| (line.to_owned(), rest.to_owned()));
                let read = match whole {
                    Some((line, rest)) => {
                        *typed = rest;
                        print(&format!("{PROMPT}{line}"))?;
                        Ok(line)
                    }
                    None => editor.readline_with_initial(PROMPT, (&std::mem::take(typed), "")),
                };
                match read {
                    Ok(line) => {
                        // As above.
                        let _ = editor.add_history_entry(line.as_str());
                        if let Some(lines) = lines {
                            let _ = lines.parent().map(fs::create_dir_all);
                            let _ = editor.append_history(&*lines);
                        }
                        Ok(Next::Line(line))
                    }
                    Err(ReadlineError::Interrupted) => Ok(Next::Dropped),
                    Err(ReadlineError::Eof) => Ok(Next::End),
                    Err(error) => {
                        let hint = "pass a script on standard input instead";
                        Err(Failure::new(code::FAILURE, format!("the terminal: {error}"), hint))
                    }
                }
            }
        }
    }
}

/// Whether somebody sees what is printed, and types.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The next line of a script.
fn script_line() -> Result<Next> {
    let mut line = Vec::new();
    let failed = |error: io::Error| {
        Failure::new(code::FAILURE, format!("standard input: {error}"), "pass the script as a file: session < FILE")
    };
    io::stdin().lock().take(MAX_BYTES + 1).read_until(b'\n', &mut line).map_err(failed)?;
    if line.len() as u64 > MAX_BYTES {
        if line.last() != Some(&b'\n') {
            io::stdin().lock().skip_until(b'\n').map_err(failed)?;
        }
        let message = format!("the line has more than {MAX_BYTES} bytes");
        return Ok(Next::Bad(Failure::usage(message, "write one prompt or command a line")));
    }
    if line.is_empty() {
        return Ok(Next::End);
    }
    match String::from_utf8(line) {
        Ok(line) => Ok(Next::Line(line.strip_prefix('\u{feff}').unwrap_or(&line).to_owned())),
        Err(_) => Ok(Next::Bad(Failure::usage("the line is not UTF-8", "save the script as UTF-8"))),
    }
}

/// Completes lines; nothing is colored or hinted at.
pub struct Help {
    words: Words,
}

impl Completer for Help {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, found) = complete(line.get(..pos).unwrap_or(line), &self.words);
        Ok((start, found.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect()))
    }
}

impl Hinter for Help {
    type Hint = String;
}

impl Highlighter for Help {}
impl Validator for Help {}
impl Helper for Help {}

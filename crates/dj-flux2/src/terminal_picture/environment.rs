//! What the environment says of the terminal.

use super::blocks::Colors;

/// Terminals that would show a question as text, or that are known to have nothing to answer.
const NOT_ASKED: [&str; 5] = ["linux", "cons", "eterm", "vt52", "ansi"];

/// Variables that describe a terminal.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `TERM`.
    pub term: String,
    /// `TERM_PROGRAM`, and `LC_TERMINAL`, which SSH hands on.
    pub programs: [String; 2],
    /// Whether tmux is around this program, on this machine.
    pub in_tmux: bool,
    /// `COLORTERM`.
    color_term: String,
    no_color: bool,
    /// Whether the locale says that text is in another encoding than UTF-8.
    is_other_encoding: bool,
}

impl Environment {
    /// Reads variables with `get`. Empty ones count as not set.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| get(name)).unwrap_or_default();
        let encoding = locale.split_once('.').map(|(_, rest)| rest.split('@').next().unwrap_or_default());
        let is_utf8 = |encoding: &str| ["utf-8", "utf8"].contains(&encoding.to_lowercase().as_str());
        Environment {
            term: get("TERM").unwrap_or_default(),
            programs: ["TERM_PROGRAM", "LC_TERMINAL"].map(|name| get(name).unwrap_or_default()),
            in_tmux: get("TMUX").is_some(),
            color_term: get("COLORTERM").unwrap_or_default(),
            no_color: get("NO_COLOR").is_some(),
            is_other_encoding: encoding.is_some_and(|encoding| !is_utf8(encoding)),
        }
    }

    /// Whether the terminal can move its cursor and has half blocks. One that does not say what it is might do neither.
    pub fn can_show(&self) -> bool {
        let is_named = cfg!(windows) || !self.term.is_empty();
        is_named && self.term != "dumb" && !self.is_other_encoding
    }

    /// Whether the terminal is tmux or screen, which understand what other terminals do only in part.
    pub fn is_multiplexed(&self) -> bool {
        self.in_tmux || ["screen", "tmux"].iter().any(|name| self.term.starts_with(name))
    }

    /// What the terminal is asked. `None` if it should not be.
    ///
    /// The last question is for the device attributes: practically every terminal answers, in the order of the
    /// questions. The cursor is put back and what is right of it erased, in case a question was shown as text.
    pub fn question(&self) -> Option<Vec<u8>> {
        // macOS's terminal shows what is between ESC _ and ESC \.
        if self.programs[0] == "Apple_Terminal" || NOT_ASKED.iter().any(|name| self.term.starts_with(name)) {
            return None;
        }
        // tmux would take the question about graphics for a title.
        let questions = match self.is_multiplexed() {
            true => "\x1b[c",
            false => "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[16t\x1b[>q\x1b[c",
        };
        Some(format!("\x1b7{questions}\x1b8\x1b[K").into_bytes())
    }

    /// The colors of text.
    pub fn colors(&self) -> Colors {
        let has = |part: &str| self.term.contains(part);
        match () {
            () if self.no_color || has("mono") || has("vt1") || has("vt2") || has("vt52") => Colors::None,
            // tmux reduces colors to those of the terminal around it.
            () if self.in_tmux || ["truecolor", "24bit"].contains(&self.color_term.as_str()) => Colors::True,
            () if has("direct") || has("kitty") || has("ghostty") || has("alacritty") || has("foot") => Colors::True,
            () if has("256") || cfg!(windows) => Colors::Table256,
            () => Colors::Table16,
        }
    }
}

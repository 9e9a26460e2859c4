//! Pictures in a terminal that the tests play: it reads what it is sent, and answers or does not.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::image::{RgbImage, decode, open};

use crate::cli::{Cli, shown};

/// The last question that a terminal is asked.
pub const QUESTION: &str = "\x1b[c";

/// A terminal of 80 columns and 24 rows in which a program runs: `script` of util-linux makes it, and hands on what the
/// program writes and what the test answers.
pub struct Terminal {
    program: Child,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a line of a shell in a terminal that answers `answer` when it is sent `question`.
    pub fn start(
        line: &str,
        folder: &Path,
        variables: &[(&str, &str)],
        question: &'static str,
        answer: &'static [u8],
    ) -> Self {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("stty cols 80 rows 24; {line}"), "/dev/null"]).current_dir(folder).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/bash").envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().expect("script of util-linux is there");
        let (mut reader, mut writer) = (program.stdout.take().unwrap(), program.stdin.take().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let screen = Arc::clone(&received);
        thread::spawn(move || {
            let mut answered = false;
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                let mut screen = screen.lock().unwrap();
                screen.extend_from_slice(&bytes[..read]);
                if !answered && find(&screen, question).is_some() {
                    answered = true;
                    writer.write_all(answer).and_then(|()| writer.flush()).unwrap();
                }
            }
            // Only now: the end of its input would end the program.
            drop(writer);
        });
        Terminal { program, received }
    }

    /// What it has received so far. Lines end in a carriage return and a line feed there.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).replace("\r\n", "\n")
    }

    /// Waits until it has received a text that `is_there` finds.
    pub fn wait_for(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let received = self.received();
            if is_there(&received) {
                return received;
            }
            assert!(Instant::now() < end, "no {what}: {received:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of the program, and returns its exit code and what the terminal received.
    pub fn end(mut self) -> (i32, String) {
        let code = self.program.wait().unwrap().code().unwrap();
        // What is still on its way.
        thread::sleep(Duration::from_millis(200));
        (code, self.received())
    }
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

const COLOR: [(&str, &str); 2] = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor")];

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{word}'")
}

/// Runs the program in a terminal that answers `answer`; returns what the terminal got, and the exit code.
fn run(cli: &Cli, args: &[&str], variables: &[(&str, &str)], answer: &'static [u8]) -> (String, i32) {
    let words: Vec<String> = [env!("CARGO_BIN_EXE_dj-flux2")].iter().chain(args).map(|word| quoted(word)).collect();
    let line = format!("{}; code=$?; stty -a; exit $code", words.join(" "));
    let (code, received) = Terminal::start(&line, &cli.path("."), variables, QUESTION, answer).end();
    // The terminal shows what is typed, and hands it over line by line.
    let (received, modes) = received.split_once("speed ").unwrap_or_else(|| panic!("{received:?}"));
    let has = |mode: &str| modes.split_whitespace().any(|word| word == mode);
    assert!(has("isig") && has("icanon") && has("echo"), "{modes}");
    (received.to_owned(), code)
}

/// Draws a cat and shows it.
fn cat(args: &[&str], variables: &[(&str, &str)], answer: &'static [u8]) -> (String, RgbImage) {
    let cli = Cli::without_model();
    let all = [&["a cat on a blue background", "-S", "11", "-o", "cat.png"], args].concat();
    let (received, code) = run(&cli, &all, variables, answer);
    assert_eq!(code, 0, "{received:?}");
    assert_eq!(received.contains("saved cat.png"), !args.contains(&"-q"), "{received:?}");
    (received, open(&cli.path("cat.png")).unwrap())
}

/// The pictures in kitty's sequences.
pub fn of_kitty(received: &str) -> Vec<RgbImage> {
    let mut pictures = Vec::new();
    let mut data = String::new();
    let sequences = received.split("\x1b_G").skip(1).filter_map(|rest| rest.split("\x1b\\").next());
    for (keys, chunk) in sequences.filter_map(|sequence| sequence.split_once(';')) {
        if keys.contains("a=q") {
            continue;
        }
        data += chunk;
        if keys.ends_with("m=0") {
            pictures.push(decode(&STANDARD.decode(&data).unwrap(), "kitty").unwrap());
            data.clear();
        }
    }
    pictures
}

const KITTY: &[u8] = b"\x1b_Gi=31;OK\x1b\\\x1b[6;20;10t\x1bP>|kitty(0.35.2)\x1b\\\x1b[?62;c";

#[test]
fn kitty_shows_the_finished_picture() {
    let (received, picture) = cat(&["--show"], &COLOR, KITTY);
    assert!(of_kitty(&received) == [picture], "{received:?}");
    // The line about the file is below the picture.
    assert!(received.rfind("\x1b_G") < received.find("saved cat.png"));
    let (received, picture) = cat(&["--show", "-q"], &COLOR, KITTY);
    assert!(of_kitty(&received) == [picture], "{received:?}");
}

#[test]
fn steps_are_shown_in_one_place_and_the_finished_picture_last() {
    let (received, picture) = cat(&["--show-steps"], &COLOR, KITTY);
    let pictures = of_kitty(&received);
    assert_eq!(pictures.len(), 5, "four steps and the picture");
    assert!(pictures.iter().all(|step| step.width() == 128 && step.height() == 128));
    assert!(pictures[4] == picture && pictures[0] != pictures[3]);
    assert_eq!(received.matches("\x1b_Ga=d,").count(), 4, "each takes the place of the one before");
    assert_eq!(received.matches("\x1b[7A\r\x1b[J").count(), 4);
    // They are the picture itself, watched or not.
    let cli = Cli::without_model();
    cli.stdout(["a cat on a blue background", "-S", "11", "-o", "cat.png"]);
    assert!(open(&cli.path("cat.png")).unwrap() == picture);
}

#[test]
fn other_terminals_get_what_they_say_they_understand() {
    let (received, _) = cat(&["--show"], &COLOR, b"\x1b[?62;4;22c");
    assert!(received.contains("\x1bP0;1q\"1;1;128;128#0;2;") && !received.contains('▀'), "{received:?}");
    let (received, picture) = cat(&["--show"], &COLOR, b"\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?62;4c");
    let file = received.split("\x1b]1337;File=inline=1;").nth(1).unwrap();
    let data = file.split_once(':').unwrap().1.split('\x07').next().unwrap();
    assert!(decode(&STANDARD.decode(data).unwrap(), "iterm").unwrap() == picture);
    let (received, _) = cat(&["--show"], &COLOR, b"\x1b[?1;2c");
    assert!(received.contains("\x1b[38;2;") && received.matches('▀').count() == 42 * 21, "{received:?}");
    let (received, _) = cat(&["--show"], &COLOR[..1], b"\x1b[?1;2c");
    assert!(received.contains("\x1b[38;5;") && !received.contains("\x1b[38;2;"), "{received:?}");
    let no_color = [COLOR[0], COLOR[1], ("NO_COLOR", "1")];
    let (received, _) = cat(&["--show"], &no_color, b"\x1b[?1;2c");
    assert!(received.contains('▓') && !received.contains("\x1b[38"), "{received:?}");
}

#[test]
fn a_terminal_that_never_answers_gets_half_blocks() {
    let start = Instant::now();
    let (received, _) = cat(&["--show"], &COLOR, b"");
    assert!(start.elapsed() > Duration::from_secs(1));
    assert_eq!(received.matches('▀').count(), 42 * 21, "{received:?}");
    // A question that was shown as text would be erased.
    assert!(received.contains("\x1b[c\x1b8\x1b[K"), "{received:?}");
}

#[test]
fn a_terminal_that_cannot_is_sent_lines_only() {
    for variables in [&[("TERM", "dumb")][..], &[], &[("TERM", "xterm"), ("LANG", "de_DE.ISO-8859-15")]] {
        let (received, _) = cat(&["--show-steps"], variables, b"");
        let is_quiet = !received.contains(QUESTION) && !received.contains('▀') && !received.contains("\x1b_");
        assert!(is_quiet, "{variables:?}: {received:?}");
        assert!(received.contains("pictures are not shown: standard output is no terminal that can"), "{received:?}");
        if variables == [("TERM", "dumb")] {
            assert!(!received.contains('\x1b'), "{received:?}");
        }
    }
}

#[test]
fn without_a_terminal_nothing_is_shown() {
    let cli = Cli::without_model();
    let output = cli.output(["a cat", "-S", "7", "-o", "cat.png", "--show"]);
    let said = shown(&output);
    assert_eq!(output.stdout, b"cat.png\n", "{said}");
    assert!(said.contains("note: pictures are not shown: standard output is no terminal that can"), "{said}");
    // A file of settings is for all runs: nobody asked for it in this one.
    cli.write("settings.toml", "show-steps = true\n");
    let output = cli.output(["a cat", "-S", "7", "-o", "cat.png", "--config", "settings.toml"]);
    assert!(output.status.success() && !shown(&output).contains("not shown"), "{}", shown(&output));
}

#[test]
fn ctrl_c_while_the_terminal_is_asked_ends_the_program() {
    // 128 and the number of the signal. A script in the background has told its programs to ignore it.
    for before in ["", "trap '' INT; "] {
        // On a busy machine the key may come when the second for an answer is over, and the picture is drawn: such a
        // run says nothing.
        let is_ended = (0..5).any(|_| {
            let cli = Cli::without_model();
            let line = format!("{before}'{}' 'a cat' --show", env!("CARGO_BIN_EXE_dj-flux2"));
            let (code, received) = Terminal::start(&line, &cli.path("."), &COLOR, QUESTION, b"\x03").end();
            if code == 0 {
                return false;
            }
            assert_eq!((code, cli.files()), (130, vec![]), "{received:?}");
            true
        });
        assert!(is_ended, "{before:?}");
    }
}

#[test]
fn a_program_in_the_background_asks_nothing() {
    let cli = Cli::without_model();
    let line = format!("set -m; {} 'a cat' -S 7 -o cat.png --show -q & wait", env!("CARGO_BIN_EXE_dj-flux2"));
    let (code, received) = Terminal::start(&line, &cli.path("."), &COLOR, QUESTION, b"").end();
    assert_eq!(code, 0, "{received:?}");
    assert!(!received.contains(QUESTION) && received.contains('▀'), "{received:?}");
    assert_eq!(cli.files(), ["cat.png"]);
}

#[test]
fn other_commands_show_what_they_make() {
    let cli = Cli::without_model();
    for (name, seed) in [("a.png", "1"), ("b.png", "2")] {
        cli.stdout(["a cat on a blue background", "-S", seed, "-o", name]);
    }
    let shows = |args: &[&str]| {
        let (received, code) = run(&cli, args, &COLOR, KITTY);
        assert_eq!(code, 0, "{received:?}");
        let pictures = of_kitty(&received);
        assert_eq!(pictures.len(), 1, "{args:?}: {received:?}");
        pictures[0].clone()
    };
    let large = shows(&["upscale", "a.png", "--by", "2", "-o", "large.png", "--show"]);
    assert!(large == open(&cli.path("large.png")).unwrap());
    let sheet = shows(&["sheet", "a.png", "b.png", "-o", "sheet.png", "--show"]);
    assert!(sheet == open(&cli.path("sheet.png")).unwrap());
    let difference = shows(&["compare", "a.png", "b.png", "--show"]);
    cli.stdout(["compare", "a.png", "b.png", "-o", "difference.png"]);
    assert!(difference == open(&cli.path("difference.png")).unwrap());
    let wipe = shows(&["compare", "a.png", "b.png", "--show", "--wipe"]);
    assert!(wipe != difference);
    assert!(cli.run(["compare", "a.png", "b.png", "--wipe"]).contains("exit code: 2"));
}

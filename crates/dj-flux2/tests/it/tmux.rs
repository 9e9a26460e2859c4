//! The program in tmux, with the screen read back.

use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use flux2::image::resize::resize_lanczos;
use flux2::image::{RgbImage, open};

use crate::cli::{Cli, fixture};
use crate::terminal::{Terminal, of_kitty};

/// A tmux server of its own, with one pane of 80 columns and 24 rows.
struct Tmux<'a> {
    cli: &'a Cli,
}

impl<'a> Tmux<'a> {
    /// Starts it with `options` and with a shell in the folder of `cli`.
    fn start(cli: &'a Cli, options: &str) -> Self {
        cli.write("tmux.conf", format!("set -g default-shell /bin/sh\nset -g status off\n{options}\n"));
        let tmux = Tmux { cli };
        let new = tmux.run(&["-f", "tmux.conf", "new-session", "-d", "-x", "80", "-y", "24", "PS1='> ' exec sh"]);
        assert!(new.status.success(), "tmux does not start: {}", String::from_utf8_lossy(&new.stderr));
        tmux
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        // -u: UTF-8, whatever the locale is.
        command.args(["-u", "-S", "tmux.sock"]).args(args).current_dir(self.cli.path("."));
        let path = format!("{}:/usr/bin:/bin", Path::new(env!("CARGO_BIN_EXE_dj-flux2")).parent().unwrap().display());
        command.env_clear().env("PATH", path).env("HOME", self.cli.path(".")).env("TERM", "xterm-256color");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let missing = "these tests need tmux: install it, as with `apt-get install tmux`";
        self.command(args).output().expect(missing)
    }

    fn type_line(&self, line: &str) {
        assert!(self.run(&["send-keys", "-l", line]).status.success());
        assert!(self.run(&["send-keys", "Enter"]).status.success());
    }

    /// The screen with the sequences that make its colors.
    fn screen(&self) -> String {
        String::from_utf8(self.run(&["capture-pane", "-p", "-e"]).stdout).unwrap()
    }

    /// Waits for a screen that `is_it`.
    fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = self.screen();
            if is_it(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "no {what}:\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// The colors of the half blocks on a screen: those of the text and of the background, line by line.
fn blocks(screen: &str) -> Vec<Vec<[[u8; 3]; 2]>> {
    let mut lines = Vec::new();
    let mut colors = [[0; 3]; 2];
    for line in screen.lines() {
        let mut found = Vec::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '▀' => found.push(colors),
                '\x1b' => {
                    let (codes, behind) = rest.strip_prefix('[').unwrap().split_once('m').unwrap();
                    rest = behind;
                    let codes: Vec<u8> = codes.split(';').map(|code| code.parse().unwrap_or(0)).collect();
                    for (at, code) in codes.iter().enumerate() {
                        if let (38 | 48, [2, red, green, blue, ..]) = (code, &codes[at + 1..]) {
                            colors[usize::from(*code == 48)] = [*red, *green, *blue];
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        if !found.is_empty() {
            lines.push(found);
        }
    }
    lines
}

#[test]
fn half_blocks_in_tmux_are_the_picture() {
    let cli = Cli::without_model();
    let tmux = Tmux::start(&cli, "");
    let title = tmux.run(&["display-message", "-p", "#{pane_title}"]).stdout;
    tmux.type_line("dj-flux2 'a cat on a blue background' -S 11 -o cat.png --show-steps");
    let screen = tmux.wait_for("finished picture", |screen| screen.contains("saved cat.png"));
    let lines = blocks(&screen);
    let picture = resize_lanczos(&open(&cli.path("cat.png")).unwrap(), 42, 42).unwrap();
    // The last line of the prompt and the line about the file are below it; its steps are gone.
    assert_eq!(lines.len(), 21, "{screen}");
    for (y, line) in lines.iter().enumerate() {
        assert_eq!(line.len(), 42, "{screen}");
        for (x, colors) in line.iter().enumerate() {
            let pixel = |row: u32| RgbImage::pixel(&picture, x as u32, row);
            assert_eq!(*colors, [pixel(2 * y as u32), pixel(2 * y as u32 + 1)], "{x},{y}");
        }
    }
    assert_eq!(tmux.run(&["display-message", "-p", "#{pane_title}"]).stdout, title, "no question became the title");
}

#[test]
fn nothing_strange_is_on_a_dumb_terminal() {
    let cli = Cli::without_model();
    let tmux = Tmux::start(&cli, "");
    tmux.type_line("clear; TERM=dumb dj-flux2 'a cat' -m klein-mini -S 7 -o cat.png --show-steps; echo end");
    let screen = tmux.wait_for("end", |screen| screen.lines().any(|line| line == "end"));
    let lines: Vec<&str> = screen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "note: pictures are not shown: standard output is no terminal that can", "{screen}");
    assert!(lines[1].starts_with("saved cat.png (seed 7, "), "{screen}");
    assert_eq!(lines[2..], ["end", ">"], "{screen}");
}

#[test]
fn progress_says_the_time_of_a_step_and_the_time_left() {
    let cli = Cli::with_tiny_model();
    let tmux = Tmux::start(&cli, "");
    let model = fixture("tiny/klein");
    tmux.type_line(&format!("clear; dj-flux2 'a red fox' -S 7 -s 1000 --size 256x256 -m {}", model.display()));
    let is_it = |screen: &str| screen.contains(" s a step, ") && screen.contains(" left");
    let screen = tmux.wait_for("progress", is_it);
    let line = screen.lines().find(|line| line.contains(" s a step, ")).unwrap();
    assert!(line.starts_with("denoise") && line.contains("step ") && line.contains("/1000"), "{screen}");
    assert!(tmux.run(&["send-keys", "C-c"]).status.success());
    tmux.wait_for("end", |screen| screen.contains("cancelled"));
    assert!(!cli.files().contains(&"output.png".to_owned()));
}

/// kitty around tmux, which lets sequences through: the picture goes to kitty, and placeholders for it into the pane.
#[test]
fn kitty_around_tmux_shows_the_picture_itself() {
    let cli = Cli::without_model();
    let tmux = Tmux::start(&cli, "set -g allow-passthrough on");
    let attach = "exec tmux -u -S tmux.sock attach";
    let variables = [("TERM", "xterm-256color")];
    let kitty = Terminal::start(attach, &cli.path("."), &variables, "\x1b[>q", b"\x1bP>|kitty(0.35.2)\x1b\\");
    let is_known = |tmux: &Tmux| {
        let answer = tmux.run(&["display-message", "-p", "#{client_termtype}"]).stdout;
        String::from_utf8_lossy(&answer).starts_with("kitty")
    };
    let end = Instant::now() + Duration::from_secs(20);
    while !is_known(&tmux) {
        assert!(Instant::now() < end, "tmux does not ask the terminal for its name: {:?}", kitty.received());
        thread::sleep(Duration::from_millis(20));
    }
    tmux.type_line("dj-flux2 'a cat on a blue background' -S 11 -o cat.png --show");
    let screen = tmux.wait_for("finished picture", |screen| screen.contains("saved cat.png"));
    let received = kitty.wait_for("picture", |received| received.contains("saved cat.png"));
    let pictures = of_kitty(&received);
    // tmux says that its characters have 16 by 32 pixels, so there is room for twice as many.
    let picture = resize_lanczos(&open(&cli.path("cat.png")).unwrap(), 256, 256).unwrap();
    assert!(pictures == [picture], "{pictures:?}");
    assert!(received.contains("\x1b_Ga=T,U=1,"), "{received:?}");
    let cells = |line: &str| line.matches('\u{10eeee}').count();
    assert_eq!(screen.lines().map(cells).filter(|cells| *cells > 0).collect::<Vec<_>>(), [16; 8], "{screen:?}");
    drop(tmux);
    kitty.end();
}

//! A person at a terminal, which tmux stands for: keys are sent, and the screen is read.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cli::Cli;

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal with a session in it.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// Starts `dj-flux2` with these arguments.
    fn start(cli: &Cli, name: &str, args: &str) -> Self {
        let home = cli.path("home");
        std::fs::create_dir_all(&home).unwrap();
        let terminal = Terminal { socket: format!("dj-flux2-{name}-{}", std::process::id()) };
        let line = format!(
            "cd '{}' && exec env -i TERM=screen HOME='{}' PATH='{}' '{}' {args}",
            cli.path("").display(),
            home.display(),
            std::env::var("PATH").unwrap_or_default(),
            env!("CARGO_BIN_EXE_dj-flux2"),
        );
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", &line]);
        terminal.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(args).output();
        let output = output.expect("these tests need tmux: install it, as with `apt-get install tmux`");
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for an empty line to type at. Before it is there the terminal handles keys itself, such as Ctrl-D.
    fn waits_for_a_line(&self) {
        self.screen(|screen| screen.trim_end().ends_with("dj-flux2>"));
    }

    fn type_line(&self, text: &str) {
        self.waits_for_a_line();
        self.tmux(&["send-keys", "-l", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// The screen and what was on it before, once that fits.
    fn screen(&self, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            // With the lines that pictures have pushed up.
            let screen = self.tmux(&["capture-pane", "-p", "-S", "-500"]);
            if fits(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn shows(&self, text: &str) -> String {
        self.screen(|screen| screen.contains(text))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

#[test]
fn a_prompt_is_typed_and_a_picture_is_there() {
    let cli = Cli::without_model();
    let terminal = Terminal::start(&cli, "types", "session");
    terminal.shows("Type a prompt; !help lists the commands");
    terminal.type_line("a cat on a blue background");
    terminal.shows("$1 output.png (128x128, seed ");
    assert!(cli.path("output.png").is_file());
    terminal.type_line("!name cat");
    terminal.shows("$1 is $cat");
    // The model is warm.
    let began = Instant::now();
    terminal.type_line("$cat make the background red");
    terminal.shows("$2 output-2.png (128x128, seed ");
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    // Tab completes, and an unknown command names the nearest.
    terminal.waits_for_a_line();
    terminal.tmux(&["send-keys", "-l", "!hist"]);
    terminal.tmux(&["send-keys", "Tab"]);
    terminal.shows("dj-flux2> !history");
    terminal.tmux(&["send-keys", "Enter"]);
    terminal.shows("from $1) make the background red");
    terminal.type_line("!udno");
    terminal.shows("did you mean !undo?");
    // Ctrl-C drops a line, Ctrl-D leaves.
    terminal.waits_for_a_line();
    terminal.tmux(&["send-keys", "-l", "not meant"]);
    terminal.tmux(&["send-keys", "C-c"]);
    // Keys behind Ctrl-C are dropped with the line.
    terminal.waits_for_a_line();
    terminal.tmux(&["send-keys", "C-d"]);
    terminal.shows("Pane is dead (status 0");
    let state = cli.path("home").join(".local/state/dj-flux2/session");
    let lines = std::fs::read_to_string(state.join("lines")).unwrap();
    assert!(lines.contains("a cat on a blue background") && lines.contains("!name cat"), "{lines}");
    // The next session has the pictures and the lines of this one.
    let terminal = Terminal::start(&cli, "again", "session");
    terminal.shows("2 pictures from before");
    terminal.type_line("$cat");
    terminal.shows("$1 $cat output.png (128x128");
    terminal.tmux(&["send-keys", "Up"]);
    terminal.tmux(&["send-keys", "Up"]);
    terminal.shows("dj-flux2> !udno");
    assert!(Path::new(&state.join("history.jsonl")).is_file());
}

#[test]
fn ctrl_c_cancels_the_picture_and_not_the_session() {
    let cli = Cli::without_model();
    let terminal = Terminal::start(&cli, "cancels", "session --set steps=500 --set size=256x256");
    terminal.type_line("a cat");
    terminal.shows("Ctrl-C cancels");
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.shows("error: cancelled");
    terminal.type_line("!set steps 1");
    terminal.type_line("a dog");
    terminal.shows("$1 output.png (256x256");
    assert!(!cli.path("output-2.png").exists());
}

#[test]
fn what_is_typed_ahead_is_done_in_its_turn() {
    let cli = Cli::without_model();
    // Typed before the session is there, also while it asks the terminal what that can show.
    let terminal = Terminal::start(&cli, "ahead", "session --set seed=7");
    terminal.tmux(&["send-keys", "-l", "!set steps 2\n!set size 256x256\n!set st"]);
    terminal.shows("dj-flux2> !set steps 2\ndj-flux2> !set size 256x256\ndj-flux2> !set st");
    terminal.tmux(&["send-keys", "-l", "eps 60\n"]);
    // Typed while a picture is drawn.
    terminal.type_line("a cat");
    terminal.shows("Ctrl-C cancels");
    terminal.tmux(&["send-keys", "-l", "!set steps 1\na dog\n!name rex\n!his"]);
    terminal.shows("$1 output.png (256x256");
    let screen = terminal.shows("dj-flux2> !his");
    assert!(screen.contains("$2 output-2.png (256x256"), "{screen}");
    assert!(screen.contains("$2 is $rex"), "{screen}");
}

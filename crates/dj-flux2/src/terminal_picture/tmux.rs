//! The terminal around tmux.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time that tmux has to answer.
const LIMIT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

/// What the terminal around tmux is called, if tmux lets sequences through to it.
pub fn outer() -> Option<String> {
    let mut command = Command::new("tmux");
    command.args(["display-message", "-p"]);
    if let Some(pane) = std::env::var_os("TMUX_PANE") {
        command.arg("-t").arg(pane);
    }
    command.arg("#{allow-passthrough} #{client_termname} #{client_termtype}");
    reachable(&output(command)?)
}

/// Reads tmux's answer: whether sequences are let through, and names of the terminal.
pub(super) fn reachable(answer: &str) -> Option<String> {
    let (passthrough, names) = answer.trim().split_once(' ')?;
    ["1", "on", "all"].contains(&passthrough).then(|| names.trim().to_owned())
}

/// What a command prints, unless it fails or takes too long.
fn output(mut command: Command) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let end = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => thread::sleep(POLL),
            Ok(Some(status)) => break status,
            _ => {
                // Either it ends now, or it has ended.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

/// `sequence` for the terminal around tmux.
pub fn through(sequence: &[u8], out: &mut Vec<u8>) {
    out.extend(b"\x1bPtmux;");
    for byte in sequence {
        // An escape character alone would end it.
        out.extend(std::iter::repeat_n(*byte, if *byte == 0x1b { 2 } else { 1 }));
    }
    out.extend(b"\x1b\\");
}

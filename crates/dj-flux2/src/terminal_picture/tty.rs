//! Asks the terminal and reads its answers.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use signal_hook::consts::SIGINT;
use signal_hook::low_level::emulate_default_handler;

/// What Ctrl-C sends while the terminal raises no signals.
const CTRL_C: u8 = 3;

/// The terminal, which gives its input at once and shows none of it, until this is dropped.
struct Silent {
    tty: File,
    before: Termios,
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal is gone.
        let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.before);
    }
}

/// Writes `question` to the terminal and reads its answer, until `is_enough` says so or the time `limit` has passed.
///
/// Nothing is asked unless standard output is the terminal of this process and the process is in its foreground: in the
/// background it would be stopped.
pub fn ask(question: &[u8], limit: Duration, is_enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    if tcgetpgrp(io::stdout())? != getpgrp() {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let tty = File::options().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&tty)?;
    let mut silent = Silent { tty, before: before.clone() };
    let mut modes = before;
    modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    // A read waits a tenth of a second at most.
    modes.special_codes[SpecialCodeIndex::VMIN] = 0;
    modes.special_codes[SpecialCodeIndex::VTIME] = 1;
    tcsetattr(&silent.tty, OptionalActions::Now, &modes)?;
    silent.tty.write_all(question)?;
    silent.tty.flush()?;

    let (end, mut answer) = (Instant::now() + limit, Vec::new());
    while !is_enough(&answer) && Instant::now() < end && !answer.contains(&CTRL_C) {
        let mut bytes = [0; 256];
        let read = silent.tty.read(&mut bytes)?;
        answer.extend_from_slice(&bytes[..read]);
    }
    drop(silent);
    if answer.contains(&CTRL_C) {
        // Nothing has begun that would have to be cancelled. A shell's script in the background has told its programs
        // to ignore SIGINT: a signal that is only raised would have no effect there.
        emulate_default_handler(SIGINT)?;
    }
    Ok(answer)
}

//! Progress of downloads and conversions: a bar on a terminal; elsewhere a line per file, and one every half minute.

use std::fmt::Write;
use std::time::{Duration, Instant};

use flux2::units::Time;
use flux2::{TransferEvent, TransferObserver};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState};

use super::{Report, Size, bars};
use crate::settings::Detail;

/// Time between lines if there is no bar.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

/// A transfer in progress. Its bar measures the speed even when it is hidden.
pub(super) struct Transfer {
    bar: ProgressBar,
    last_line: Instant,
}

impl Transfer {
    /// A transfer of `total` bytes, of which `done` were there before.
    fn new(done: u64, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(bars::style("{bar:32} {transfer}").with_key("transfer", show));
        // The second call keeps the first bytes out of the speed.
        bar.set_position(done);
        bar.reset_eta();
        Transfer { bar, last_line: Instant::now() }
    }
}

fn show(state: &ProgressState, out: &mut dyn Write) {
    // A bar that cannot be drawn is no reason to stop.
    let _ = out.write_str(&text(state.pos(), state.len().unwrap_or_default(), state.per_sec(), state.eta()));
}

/// Bytes transferred, and speed and time left once a speed is known.
fn text(done: u64, total: u64, bytes_per_second: f64, left: Duration) -> String {
    let text = format!("{} of {}", Size(done), Size(total));
    match bytes_per_second.is_finite() && bytes_per_second >= 1.0 {
        true => format!("{text}, {}/s, {} left", Size(bytes_per_second as u64), Time(left)),
        false => text,
    }
}

impl TransferObserver for Report {
    fn on_transfer(&mut self, event: &TransferEvent) {
        if self.detail == Detail::Quiet {
            return;
        }
        match event {
            TransferEvent::Started { files, done, total } => self.start_transfer(*files, *done, *total),
            TransferEvent::Progress { done } => {
                let Some(transfer) = &mut self.transfer else { return };
                transfer.bar.set_position(*done);
                if !self.bars && transfer.last_line.elapsed() >= BETWEEN_LINES {
                    transfer.last_line = Instant::now();
                    let bar = &transfer.bar;
                    let text = text(*done, bar.length().unwrap_or_default(), bar.per_sec(), bar.eta());
                    self.line(text);
                }
            }
            TransferEvent::FileFinished { path, size, elapsed } => {
                self.line(format_args!("{path} {} {}", Size(*size), Time(*elapsed)));
            }
            TransferEvent::Waiting { path } => {
                self.note(format_args!("{path}: waiting for another process that downloads it"));
            }
            TransferEvent::Retry { reason, pause } => {
                self.warning(format_args!("{reason}; retrying in {}", Time(*pause)));
            }
            TransferEvent::Finished => {
                self.clear_bars();
                self.transfer = None;
            }
            _ => {}
        }
    }
}

impl Report {
    fn start_transfer(&mut self, files: usize, done: u64, total: u64) {
        let transfer = Transfer::new(done, total);
        if self.bars {
            self.clear_bars();
            // Shown by the screen from here on.
            let bar = self.screen.add(transfer.bar.clone());
            bars::tick(&bar);
            self.lanes[0].bar = Some(bar);
        } else {
            let here = if done > 0 { format!(", {} already on this disk", Size(done)) } else { String::new() };
            let files = if files == 1 { "1 file".into() } else { format!("{files} files") };
            self.line(format_args!("{files}, {}{here}", Size(total)));
        }
        self.transfer = Some(transfer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_tells_its_speed_and_the_time_left() {
        let total = 16_000_000_000;
        assert_eq!(text(0, total, 0.0, Duration::ZERO), "0 bytes of 16.0 GB");
        assert_eq!(
            text(100_000_000, total, 1e8, Duration::from_secs(159)),
            "100 MB of 16.0 GB, 100 MB/s, 2 min 39 s left"
        );
        assert_eq!(
            text(160_000_000, total, 6e6, Duration::from_secs(2640)),
            "160 MB of 16.0 GB, 6.0 MB/s, 44 min 00 s left"
        );
    }

    #[test]
    fn what_was_there_before_does_not_count_as_speed() {
        let shown = |transfer: &Transfer| {
            let bar = &transfer.bar;
            text(bar.position(), bar.length().unwrap(), bar.per_sec(), bar.eta())
        };
        let transfer = Transfer::new(8_000_000_000, 16_000_000_000);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(shown(&transfer), "8.0 GB of 16.0 GB");
        transfer.bar.set_position(8_000_100_000);
        let speed = transfer.bar.per_sec();
        assert!(speed > 0.0 && speed <= 100_000.0 / 0.02, "{speed}");
        // Bytes that were wrong are gone again.
        transfer.bar.set_position(0);
        assert_eq!(shown(&transfer), "0 bytes of 16.0 GB");
    }
}

//! `dj-flux2 fleet status`: queues, workers, dead letters.

use std::io::{IsTerminal as _, Write as _};
use std::thread;
use std::time::Duration;

use flux2_fleet::{Announcement, Operator, Overview};

use super::{failed, open};
use crate::args::FleetStatusArgs;
use crate::failure::Result;
use crate::report::{json, print};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Moves the cursor to the first column of the first line, and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// Prints once, or until Ctrl-C.
pub fn run(args: &FleetStatusArgs) -> Result<()> {
    let is_live = !args.once && !args.server.json && std::io::stdout().is_terminal();
    let operator = open(&args.server)?;
    if is_live {
        watch(&operator);
    }
    let overview = operator.overview().map_err(failed)?;
    match args.server.json {
        true => print(&json(&overview)),
        false => lines(&overview).iter().try_for_each(|line| print(line)),
    }
}

/// Shows a table that changes, until a signal ends the process.
fn watch(operator: &Operator) -> ! {
    loop {
        let lines = match operator.overview() {
            Ok(overview) => lines(&overview),
            Err(error) => vec![error.to_string()],
        };
        let mut out = anstream::stdout().lock();
        let _ = write!(out, "{HOME}{}\n\nCtrl-C ends this\n", lines.join("\n"));
        let _ = out.flush();
        drop(out);
        thread::sleep(EVERY);
    }
}

fn lines(overview: &Overview) -> Vec<String> {
    let Overview { queues, workers, dead, .. } = overview;
    let mut lines = vec![format!("{:<20} {:<8} {:>8} {:>8}", "QUEUE", "PRIORITY", "WAITING", "DRAWN")];
    lines.extend(queues.iter().map(|queue| {
        let name = queue.kind.as_ref().map_or(queue.model.clone(), |kind| format!("{} on {kind}", queue.model));
        format!("{name:<20} {:<8} {:>8} {:>8}", queue.priority.name(), queue.waiting, queue.drawn)
    }));
    lines.push(String::new());
    lines.push(format!("{:<20} {:<9} {:>8} {:>8}  DEVICE, MODELS", "WORKER", "STATE", "DONE", "FAILED"));
    lines.extend(workers.iter().map(worker));
    if workers.is_empty() {
        lines.push("no worker is there: start one with `dj-flux2 worker --fleet URL`".into());
    }
    lines.push(String::new());
    lines.push(match dead {
        0 => "no dead letters".into(),
        count => format!("{count} dead letters: see `dj-flux2 fleet dead list`"),
    });
    lines
}

fn worker(one: &Announcement) -> String {
    let models = one.models.iter().map(|model| match model.is_warm {
        true => format!("{} (loaded)", model.name),
        false => model.name.clone(),
    });
    let models: Vec<String> = models.collect();
    format!(
        "{:<20} {:<9} {:>8} {:>8}  {} {}: {}",
        one.drawer.worker,
        one.activity.name(),
        one.done,
        one.failed,
        one.drawer.kind,
        one.drawer.version,
        models.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use flux2_fleet::{Activity, Drawer, Held, QueueLength};
    use flux2_jobs::Priority;

    use super::*;

    #[test]
    fn a_table_says_what_waits_and_who_is_there() {
        let queue =
            QueueLength { model: "klein-4b".into(), kind: None, priority: Priority::High, waiting: 3, drawn: 1 };
        let worker = Announcement {
            drawer: Drawer { worker: "gpu-0".into(), kind: "H200".into(), version: "1".into(), ..Drawer::default() },
            activity: Activity::Busy,
            models: vec![Held { name: "klein-4b".into(), is_warm: true, ..Held::default() }],
            done: 7,
            ..Announcement::default()
        };
        let overview = Overview { queues: vec![queue], workers: vec![worker], dead: 2 };
        let text = lines(&overview).join("\n");
        assert!(text.contains("klein-4b             high            3        1"), "{text}");
        assert!(text.contains("gpu-0                busy             7        0  H200 1: klein-4b (loaded)"), "{text}");
        assert!(text.contains("2 dead letters"), "{text}");
        assert!(lines(&Overview::default()).join("\n").contains("no worker is there"));
    }
}

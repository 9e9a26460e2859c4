//! `dj-flux2 mcp`: pictures for an agent, by the Model Context Protocol on standard input and output.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flux2::engine::MAX_USEFUL_BATCH;
use flux2_jobs::{Jobs, Options, Retention};
use flux2_mcp::{Direct, Handler, Limits, Root, stdio};

use crate::args::McpArgs;
use crate::cache_folder::user_data;
use crate::failure::{Failure, Result, code};
use crate::host::{self, Offer};
use crate::report::Report;
use crate::settings::Detail;
use crate::{credentials, history};

/// Bytes of pictures that the engine remembers: all are in files.
const REMEMBERED: u64 = 64 << 20;
/// Jobs that the engine remembers.
const JOBS: usize = 1000;
/// Most jobs that wait.
const QUEUE: usize = 100;

/// Folder of the history below that of files.
const HISTORY: &str = ".history";

/// Serves until the input ends, or a signal comes.
pub fn run(args: &McpArgs) -> Result<()> {
    let report = Report::new(Detail::Normal, false);
    let folder = folder(args, |name| std::env::var_os(name))?;
    let root = Root::open(&folder).map_err(|error| {
        let message = format!("{}: {error}", folder.display());
        Failure::new(code::FAILURE, message, "pass a folder that can be written, with --root FOLDER")
    })?;
    let offer = Offer::from(args);
    let jobs = Jobs::start(options(args)?, host::open(&offer)?.host)?;
    report.note(format_args!("pictures are written to {}", root.path().display()));
    if io::stdin().is_terminal() {
        report.note("an agent's program starts this and speaks JSON with it: see docs/guide/agents.md; Ctrl-D ends it");
    }
    let limits = Limits { pixels: args.max_pixels, ..Limits::default() };
    let usual = root.path().join(HISTORY);
    let history = history::open(args.history.as_deref(), Some(&usual), &report)?;
    let handler = Handler::of_one(Arc::new(Direct { jobs, limits }), root, history);
    stdio::serve(handler).map_err(|error| Failure { code: code::FAILURE, message: error.to_string(), hint: None })
}

fn options(args: &McpArgs) -> Result<Options> {
    let credentials = args.marks.c2pa_key.as_deref().zip(args.marks.c2pa_cert.as_deref());
    Ok(Options {
        max_queued: QUEUE,
        max_count: Limits::default().count,
        max_batch: MAX_USEFUL_BATCH,
        idle_unload: Some(args.idle_unload).filter(|seconds| *seconds > 0).map(Duration::from_secs),
        retention: Retention { bytes: REMEMBERED, jobs: JOBS, ..Retention::default() },
        max_upload_bytes: 4 * REMEMBERED,
        watermark: args.marks.watermark,
        signer: credentials::signer(credentials, std::collections::HashMap::new())?,
        ..Options::default()
    })
}

/// The folder of files: that of the flag, else one among the user's data.
fn folder(args: &McpArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let folder = args.root.clone().or_else(|| Some(user_data(env)?.join("dj-flux2").join("mcp")));
    folder.ok_or_else(|| {
        let message = "nothing says where pictures are written: neither XDG_DATA_HOME nor HOME is set";
        Failure::usage(message, "add --root FOLDER")
    })
}

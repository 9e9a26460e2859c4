//! The history of pictures that `session` and `mcp` go on with, in a folder that `--history` names.

use std::path::Path;

use flux2_session::{Error, History, HistoryOptions};

use crate::failure::Result;
use crate::report::Report;

/// Opens the history in the folder `named`, where `off` is none; `usual` is the folder if none is named. If the usual
/// one cannot be used, the pictures of this process are kept in memory.
pub fn open(named: Option<&Path>, usual: Option<&Path>, report: &Report) -> Result<History> {
    let options = HistoryOptions::default();
    let folder = match named {
        Some(off) if off == Path::new("off") => None,
        Some(folder) => Some(folder),
        None => usual,
    };
    let Some(folder) = folder else { return Ok(History::in_memory(options)) };
    match History::open(folder, options) {
        Ok((history, 0)) => Ok(history),
        Ok((history, unread)) => {
            report.warning(format_args!("{unread} lines of the history cannot be read, they are left out"));
            Ok(history)
        }
        Err(error @ (Error::InUse { .. } | Error::Io { .. })) if named.is_none() => {
            report.note(format_args!("{error}; numbers and names of pictures are forgotten when this process ends"));
            Ok(History::in_memory(options))
        }
        Err(error) => Err(error.into()),
    }
}

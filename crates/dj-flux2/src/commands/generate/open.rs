//! `--open`: shows finished pictures in the program that the desktop uses for them.

use std::path::Path;

use crate::report::Report;

/// Most pictures that are opened: each may be a window.
const MOST: usize = 8;

/// Opens the files. A desktop that cannot is a warning: the pictures are made.
pub fn open<'a>(files: impl Iterator<Item = &'a Path>, report: &Report) {
    let files: Vec<&Path> = files.collect();
    for file in files.iter().take(MOST) {
        if let Err(error) = ::open::that_detached(file) {
            report.warning(format_args!("{} could not be opened: {error}", file.display()));
            return;
        }
    }
    if files.len() > MOST {
        report.note(format_args!("{MOST} of {} pictures were opened", files.len()));
    }
}

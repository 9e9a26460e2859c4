//! `dj-flux2 man-pages`: the manual, made from the same definition as the help.

use crate::args::{self, ManPagesArgs};
use crate::failure::{Failure, Result, code};

/// Writes a page for the program and one for each subcommand.
pub fn run(args: &ManPagesArgs) -> Result<()> {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(args::command(true), folder));
    written
        .map_err(|error| Failure::new(code::FAILURE, format!("{}: {error}", folder.display()), "name another folder"))
}

//! Published upscalers on this disk: downloaded, checked, removed.

use std::path::PathBuf;

use flux2::hub::{Cache, Hub, HubOptions};
use flux2::upscale::published::{LICENSE, PublishedUpscaler};

use crate::args::DownloadArgs;
use crate::cache_folder::user_caches;
use crate::failure::{Failure, Result};
use crate::hub_options;
use crate::interrupt::cancelled_by_signals;
use crate::report::{Report, Size, print};
use crate::settings::Detail;

/// The variable with an address in place of GitHub's, for a mirror.
const VARIABLE: &str = "DJ_FLUX2_RELEASES";

/// The folder of downloaded upscalers.
fn folder() -> Option<PathBuf> {
    Some(user_caches(|name| std::env::var_os(name))?.join("dj-flux2").join("upscalers"))
}

/// The file of an upscaler, if it was downloaded.
pub fn file_of(published: &PublishedUpscaler) -> Option<PathBuf> {
    Cache::new(folder()?).release(&published.file)
}

/// Where upscalers are downloaded from and kept.
pub fn hub() -> Result<Hub> {
    let folder = folder().ok_or_else(|| {
        let message = "no folder for upscalers: neither XDG_CACHE_HOME nor HOME is set";
        Failure::usage(message, "set XDG_CACHE_HOME to a folder")
    })?;
    let options = hub_options::hub_options(folder.clone()).for_releases(folder);
    let endpoint = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty());
    Ok(Hub::new(HubOptions { endpoint: endpoint.unwrap_or(options.endpoint.clone()), ..options })?)
}

/// Downloads an upscaler, and prints its file.
pub fn download(published: &PublishedUpscaler, args: &DownloadArgs) -> Result<()> {
    let hub = hub()?;
    let plan = hub.release_plan(&published.file)?;
    let mut report = Report::new(if args.quiet { Detail::Quiet } else { Detail::Normal }, false);
    let (name, size) = (published.name, Size(published.file.bytes));
    match hub.missing_bytes(&plan) {
        0 => report.note(format_args!("{name} is on this disk, {size}")),
        _ => report.note(format_args!("{name}: {}, {}x, {size}, {LICENSE}", published.about, published.scale)),
    }
    let snapshot = hub.download(&plan, &mut report, &cancelled_by_signals())?;
    print(&snapshot.join(published.file.file).display().to_string())
}

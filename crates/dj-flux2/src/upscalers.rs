//! Upscalers by name or file, and where downloaded ones are kept.

use std::path::Path;

use flux2::upscale::LANCZOS;
use flux2::weights::Location;
use flux2::{UpscaleSize, Upscaler, Upscaling};

use crate::failure::{Failure, Result, code};
use crate::settings::UpscaleSetting;

/// The upscaler that `typed` names: Lanczos, the built-in one, a downloaded one, or a file. Without a name it is the
/// built-in one.
pub fn find(typed: Option<&Path>) -> Result<Upscaler> {
    let Some(typed) = typed else { return Ok(Upscaler::builtin()) };
    let name = typed.to_str().unwrap_or_default();
    if name.eq_ignore_ascii_case(LANCZOS) {
        return Ok(Upscaler::Lanczos);
    }
    if typed.exists() {
        return Ok(Upscaler::open(&Location::from(typed))?);
    }
    let builtin = Upscaler::builtin();
    if builtin.name().eq_ignore_ascii_case(name) {
        return Ok(builtin);
    }
    #[cfg(feature = "hub")]
    if let Some(published) = flux2::upscale::published::by_name(name) {
        return match published::file_of(published) {
            Some(file) => Ok(Upscaler::open(&Location::from(file))?),
            None => Err(Failure::new(
                code::MODEL_MISSING,
                format!("{} is not on this disk", published.name),
                format!("run `dj-flux2 download {}`", published.name),
            )),
        };
    }
    Err(Failure::new(
        code::MODEL_MISSING,
        format!("no upscaler is called {}", typed.display()),
        format!("pass {}, or the path of a .safetensors or .pth file", known_names().join(", ")),
    ))
}

/// The upscalers that a server or a session offers besides the usual ones: those that are `typed`, then the downloaded
/// ones.
#[cfg(any(feature = "mcp", feature = "serve", feature = "session"))]
pub fn offered(typed: &[std::path::PathBuf]) -> Result<Vec<Upscaler>> {
    let mut offered = typed.iter().map(|typed| find(Some(typed))).collect::<Result<Vec<_>>>()?;
    #[cfg(feature = "hub")]
    for file in flux2::upscale::published::PUBLISHED.iter().filter_map(published::file_of) {
        let upscaler = Upscaler::open(&Location::from(file))?;
        if !offered.iter().any(|known| known.name() == upscaler.name()) {
            offered.push(upscaler);
        }
    }
    Ok(offered)
}

/// How the pictures of a run are enlarged, opened.
pub fn of(setting: Option<&UpscaleSetting>) -> Result<Option<Upscaling>> {
    let opened = |UpscaleSetting { by, upscaler }: &UpscaleSetting| {
        Ok(Upscaling { upscaler: find(upscaler.as_deref())?, size: UpscaleSize::By(*by) })
    };
    setting.map(opened).transpose()
}

/// Names that need no file: what is built in, and what can be downloaded.
fn known_names() -> Vec<String> {
    let mut names = vec![LANCZOS.to_owned()];
    names.extend(Some(Upscaler::builtin().name().to_owned()).filter(|name| name != LANCZOS));
    #[cfg(feature = "hub")]
    names.extend(flux2::upscale::published::PUBLISHED.iter().map(|published| published.name.to_owned()));
    names
}

#[cfg(feature = "hub")]
pub mod published {
    //! Downloads of published upscalers.

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

    /// Downloads an upscaler, and prints its file.
    pub fn download(published: &PublishedUpscaler, args: &DownloadArgs) -> Result<()> {
        let folder = folder().ok_or_else(|| {
            let message = "no folder for upscalers: neither XDG_CACHE_HOME nor HOME is set";
            Failure::usage(message, "set XDG_CACHE_HOME to a folder")
        })?;
        let options = hub_options::hub_options(folder.clone()).for_releases(folder);
        let endpoint = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty());
        let hub = Hub::new(HubOptions { endpoint: endpoint.unwrap_or(options.endpoint.clone()), ..options })?;
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
}

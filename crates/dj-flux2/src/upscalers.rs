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
pub mod published;

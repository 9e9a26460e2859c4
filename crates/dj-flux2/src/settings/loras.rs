//! LoRAs that were typed as `FILE[:SCALE]`, and those that a picture records.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use flux2::image::LoraParameters;
use flux2::weights::Error;
use flux2::weights::LoraPath;

use crate::failure::{Failure, Result, code};

/// Reads `FILE[:SCALE]`. An existing file of that exact name wins; otherwise a number after the last colon is the
/// scale.
pub fn typed(typed: &OsStr, is_file: fn(&Path) -> bool) -> Result<LoraPath> {
    let (location, scale) = match scaled(typed).filter(|_| !is_file(Path::new(typed))) {
        Some((path, scale)) => (path.into(), scale),
        None => (Path::new(typed).into(), 1.0),
    };
    if !scale.is_finite() {
        return Err(Error::LoraScale { scale }.into());
    }
    Ok(LoraPath { location, scale })
}

/// Path and scale, if a number follows the last colon. The path may be in any encoding.
#[cfg(unix)]
fn scaled(typed: &OsStr) -> Option<(&Path, f32)> {
    use std::os::unix::ffi::OsStrExt as _;

    let bytes = typed.as_bytes();
    let colon = bytes.iter().rposition(|byte| *byte == b':')?;
    let scale = std::str::from_utf8(&bytes[colon + 1..]).ok()?.parse().ok()?;
    Some((Path::new(OsStr::from_bytes(&bytes[..colon])), scale))
}

#[cfg(not(unix))]
fn scaled(typed: &OsStr) -> Option<(&Path, f32)> {
    let (path, scale) = typed.to_str()?.rsplit_once(':')?;
    Some((Path::new(path), scale.parse().ok()?))
}

/// The file of a LoRA that `picture` was made with, or the folder of an adapter, in the current folder or beside the
/// picture. Its hash is compared once it is loaded.
pub fn recorded(lora: &LoraParameters, picture: &Path, is_file: fn(&Path) -> bool) -> Result<LoraPath> {
    let LoraParameters { name, scale, .. } = lora;
    // A picture comes from anywhere: a name with a path in it is not followed.
    let is_plain = |path: &PathBuf| matches!(path.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let places = |path: PathBuf| [path.clone(), picture.with_file_name(path)];
    let plain = |path: PathBuf| Some(path).filter(is_plain).into_iter().flat_map(places);
    let file = plain(format!("{name}.safetensors").into()).find(|path| is_file(path));
    let folder = || plain(name.into()).find(|path| is_file(&path.join("adapter_model.safetensors")));
    match file.or_else(folder) {
        Some(path) => Ok(LoraPath { location: path.into(), scale: *scale }),
        None => Err(Failure::new(
            code::MODEL_MISSING,
            format!("{} was made with the LoRA {name:?}, which is neither here nor beside it", picture.display()),
            format!("pass the LoRAs it was made with, this one with --lora FILE:{scale}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_path_in_another_encoding_has_a_scale_too() {
        use std::os::unix::ffi::OsStrExt as _;

        let lora = typed(OsStr::from_bytes(b"F\xfcchse.safetensors:0.5"), |_| false).unwrap();
        assert_eq!((lora.location.path().as_os_str().as_bytes(), lora.scale), (&b"F\xfcchse.safetensors"[..], 0.5));
    }

    #[test]
    fn a_lora_is_a_file_and_perhaps_a_scale() {
        let read = |text: &str, is_file| {
            typed(OsStr::new(text), is_file).map(|lora| (lora.location.path().display().to_string(), lora.scale))
        };
        let expect = |text, is_file, path: &str, scale| {
            assert_eq!(read(text, is_file).unwrap(), (path.to_owned(), scale), "{text}");
        };
        expect("style.safetensors", |_| true, "style.safetensors", 1.0);
        expect("style.safetensors:0.8", |_| false, "style.safetensors", 0.8);
        expect("style:-2", |_| false, "style", -2.0);
        expect("a:b:1e-1", |_| false, "a:b", 0.1);
        // A colon in the name.
        expect("style:2", |path| path == Path::new("style:2"), "style:2", 1.0);
        expect("c:/style.safetensors", |_| false, "c:/style.safetensors", 1.0);
        expect("style:", |_| false, "style:", 1.0);
        expect("style:v2", |_| false, "style:v2", 1.0);
        for text in ["style:nan", "style:inf", "style:1e400"] {
            assert_eq!(read(text, |_| false).unwrap_err().code, code::USAGE, "{text}");
        }
    }
}

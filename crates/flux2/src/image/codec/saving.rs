//! Files written as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What to do if the file to write exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// Keep it and fail.
    Fail,
    /// Replace it.
    Replace,
}

/// Write a file atomically: to a temporary file in the same folder, synced, then renamed.
///
/// Symbolic links are followed. A file that is replaced keeps its permissions; a new one has those of the umask, as
/// for an ordinary write.
///
/// # Errors
/// [`Error::OutputExists`] if it exists and may not be replaced; [`Error::Io`]. Neither leaves a file behind.
pub fn save(path: &Path, bytes: &[u8], if_exists: IfExists) -> Result<()> {
    let target = target(path, if_exists)?;
    write_and_rename(&target, bytes, if_exists, Durability::Disk).map_err(|error| unwritable(path, error))
}

/// As [`save`], replacing the file, without waiting for the disk: after a crash of the system the file may be the one
/// before, or empty. Whoever reads it meanwhile sees the old or the new one as a whole.
///
/// # Errors
/// [`Error::Io`].
pub fn save_for_now(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = target(path, IfExists::Replace)?;
    write_and_rename(&target, bytes, IfExists::Replace, Durability::Memory).map_err(|error| unwritable(path, error))
}

/// What a write waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Disk,
    Memory,
}

/// Check before long work whether [`save`] could write there, as far as possible without writing.
///
/// # Errors
/// Those of [`save`].
pub fn check_save(path: &Path, if_exists: IfExists) -> Result<()> {
    let target = target(path, if_exists)?;
    tempfile::tempfile_in(folder_of(&target)).map(drop).map_err(|error| unwritable(path, error))
}

/// The file that a write to `path` would create or replace, after its symbolic links.
fn target(path: &Path, if_exists: IfExists) -> Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&target) {
            Ok(_) if if_exists == IfExists::Fail => return Err(Error::OutputExists { path: path.into() }),
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&target).map_err(|error| unwritable(path, error))?;
                target = folder_of(&target).join(link);
            }
            // A rename would replace a device such as /dev/null by a file.
            Ok(found) if !found.is_file() => return Err(not_a_file(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(path, error)),
            Ok(_) | Err(_) => return Ok(target),
        }
    }
    Err(not_a_file(path))
}

/// Longest chain of symbolic links that is followed.
const MAX_LINKS: usize = 16;

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn not_a_file(path: &Path) -> Error {
    Error::Io { path: path.into(), source: io::Error::new(io::ErrorKind::InvalidInput, "not an ordinary file") }
}

/// The error of writing to `path`, without the name of the temporary file that `tempfile` adds.
fn unwritable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::OutputExists { path: path.into() },
        kind => {
            let source = error.raw_os_error().map_or(kind.into(), io::Error::from_raw_os_error);
            Error::Io { path: path.into(), source }
        }
    }
}

fn write_and_rename(target: &Path, bytes: &[u8], if_exists: IfExists, durability: Durability) -> io::Result<()> {
    let folder = folder_of(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dj-flux2-").suffix(".tmp");
    // Temporary files are private by default. This one becomes an ordinary file, whose mode follows the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    #[cfg(unix)]
    if let (IfExists::Replace, Ok(replaced)) = (if_exists, target.metadata()) {
        file.as_file().set_permissions(replaced.permissions())?;
    }
    if durability == Durability::Disk {
        file.as_file().sync_all()?;
    }
    match if_exists {
        IfExists::Replace => file.persist(target)?,
        IfExists::Fail => file.persist_noclobber(target)?,
    };
    // Some file systems cannot sync a folder; the file itself is safe.
    if let Ok(folder) = File::open(folder)
        && durability == Durability::Disk
    {
        let _ = folder.sync_all();
    }
    Ok(())
}

//! The folder that files of calls are confined to.
//!
//! A path of a call is relative and has no `..`. Symbolic links are followed as far as they stay below the folder; the
//! operating system resolves them (`openat2` on Linux), so nothing can be exchanged between a check and the use.

use std::io::{self, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions};

use crate::desk::{Result, ToolError};

/// Longest path of a call, in bytes.
const MAX_PATH: usize = 1024;
/// Names that are tried for a file, as in `fox.png`, `fox-2.png`.
const MAX_NAMES: u32 = 10_000;

/// A folder, opened.
#[derive(Debug)]
pub struct Root {
    folder: Dir,
    path: PathBuf,
}

impl Root {
    /// Open a folder, and make it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let path = path.canonicalize()?;
        Ok(Root { folder: Dir::open_ambient_dir(&path, ambient_authority())?, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a file below it.
    ///
    /// # Errors
    /// If the path leads elsewhere, or to something that is no file, is not there, or has more than `most` bytes.
    pub fn read(&self, path: &str, most: usize) -> Result<Vec<u8>> {
        let relative = checked(path)?;
        let file = self.open_file(relative).map_err(|error| self.failed(path, &error))?;
        let length = file.metadata().map_err(|error| self.failed(path, &error))?;
        if !length.is_file() {
            return Err(ToolError(format!("{path:?} is not a file")));
        }
        let too_long = || ToolError(format!("{path:?} is larger than {most} bytes, the most that is read"));
        if length.len() > most as u64 {
            return Err(too_long());
        }
        let mut bytes = Vec::with_capacity(length.len() as usize);
        // It may grow while it is read.
        file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| self.failed(path, &error))?;
        match bytes.len() <= most {
            true => Ok(bytes),
            false => Err(too_long()),
        }
    }

    /// Opened for reading without waiting for the other end of a pipe.
    fn open_file(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use cap_std::fs::OpenOptionsExt as _;
            let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
            options.custom_flags(flags.bits() as i32);
        }
        self.folder.open_with(path, &options)
    }

    /// Check the path of a file that is to be written, before anything is drawn for it.
    ///
    /// # Errors
    /// If it leads elsewhere, or a part of it is no folder.
    pub fn check_new(&self, path: &str) -> Result<()> {
        let relative = checked(path)?;
        let (Some(parent), Some(_)) = (relative.parent(), relative.file_name()) else {
            return Err(ToolError::new(format!("{path:?} names no file"), "give a name such as fox.png"));
        };
        self.make_folder(parent).map_err(|error| self.failed(path, &error))
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        match folder.as_os_str().is_empty() {
            true => Ok(()),
            false => self.folder.create_dir_all(folder),
        }
    }

    /// Write a new file: under the name of `path`, or with a number before the extension if that is taken. The file is
    /// there as a whole or not at all. Returns its path below the folder.
    ///
    /// # Errors
    /// As [`check_new`](Self::check_new); if the disk is full, say.
    pub fn write_new(&self, path: &str, bytes: &[u8]) -> Result<String> {
        self.check_new(path)?;
        self.write(Path::new(path), bytes).map_err(|error| self.failed(path, &error))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<String> {
        let name = self.reserve(path)?;
        let temporary = name.with_file_name(format!(".{}.part", name.file_name().unwrap_or_default().display()));
        let written = (|| {
            let mut file = self.folder.open_with(&temporary, OpenOptions::new().write(true).create_new(true))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.folder.rename(&temporary, &self.folder, &name)
        })();
        if let Err(error) = written {
            let _ = self.folder.remove_file(&temporary);
            let _ = self.folder.remove_file(&name);
            return Err(error);
        }
        Ok(name.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/"))
    }

    /// Makes an empty file of a name that was free, so that nobody else takes it.
    fn reserve(&self, path: &Path) -> io::Result<PathBuf> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = path.extension().map(|extension| format!(".{}", extension.display())).unwrap_or_default();
        for number in 1..=MAX_NAMES {
            let number = if number == 1 { String::new() } else { format!("-{number}") };
            let name = path.with_file_name(format!("{stem}{number}{extension}"));
            match self.folder.open_with(&name, OpenOptions::new().write(true).create_new(true)) {
                Ok(_) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many files have names like it"))
    }

    fn failed(&self, path: &str, error: &io::Error) -> ToolError {
        match error.kind() {
            io::ErrorKind::NotFound => ToolError::new(
                format!("there is no file {path:?}"),
                format_args!("paths are below {}", self.path.display()),
            ),
            io::ErrorKind::PermissionDenied => outside(path),
            _ => ToolError(format!("{path:?}: {error}")),
        }
    }
}

fn outside(path: &str) -> ToolError {
    ToolError::new(
        format!("{path:?} leads out of the folder of this server, or may not be read"),
        "name a file below it",
    )
}

/// A path of a call: relative, without `..` and without what could mean something else to an operating system.
fn checked(path: &str) -> Result<&Path> {
    if path.len() > MAX_PATH {
        return Err(ToolError(format!("a path of {} bytes; {MAX_PATH} are allowed", path.len())));
    }
    if path.is_empty() || path.contains(['\0', '\\']) || path.chars().any(char::is_control) {
        return Err(ToolError::new(format!("{path:?} is not a path"), "name a file below the folder of this server"));
    }
    let parsed = Path::new(path);
    match parsed.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true => Ok(parsed),
        false => Err(outside(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        (folder, root)
    }

    #[test]
    fn files_are_written_and_read_below_the_folder() {
        let (_folder, root) = root();
        assert_eq!(root.write_new("a/b/fox.png", b"1").unwrap(), "a/b/fox.png");
        assert_eq!(root.write_new("a/b/fox.png", b"2").unwrap(), "a/b/fox-2.png");
        assert_eq!(root.read("a/b/fox.png", 1).unwrap(), b"1");
        assert_eq!(root.read("./a/b/fox-2.png", 9).unwrap(), b"2");
        let names: Vec<_> =
            std::fs::read_dir(root.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn nothing_leads_out() {
        let (folder, root) = root();
        std::fs::write(folder.path().join("secret"), b"s").unwrap();
        let absolute = folder.path().join("secret").display().to_string();
        for path in
            ["../secret", "a/../../secret", &absolute, "..", ".", "", "/", "a\0b", "..\\secret", "C:\\x", "a\nb"]
        {
            assert!(root.read(path, 99).is_err(), "{path:?}");
            assert!(root.write_new(path, b"x").is_err(), "{path:?}");
        }
        assert!(root.read(&"x".repeat(2000), 9).unwrap_err().0.contains("2000 bytes"));
        assert_eq!(std::fs::read(folder.path().join("secret")).unwrap(), b"s");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_lead_nowhere_else() {
        use std::os::unix::fs::symlink;
        let (folder, root) = root();
        std::fs::write(folder.path().join("secret"), b"s").unwrap();
        std::fs::write(root.path().join("mine"), b"m").unwrap();
        symlink("mine", root.path().join("inside")).unwrap();
        symlink("../secret", root.path().join("out")).unwrap();
        symlink(folder.path(), root.path().join("up")).unwrap();
        symlink("/dev/zero", root.path().join("zero")).unwrap();
        symlink("/proc/self/environ", root.path().join("environ")).unwrap();
        assert_eq!(root.read("inside", 9).unwrap(), b"m");
        for path in ["out", "up/secret", "zero", "environ"] {
            assert!(root.read(path, 99).is_err(), "{path}");
        }
        assert!(root.write_new("up/new", b"x").is_err());
        assert!(!folder.path().join("new").exists());
        assert_eq!(root.write_new("out", b"x").unwrap(), "out-2");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_folder, root) = root();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, root.path().join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(root.read("pipe", 9).unwrap_err().0, "\"pipe\" is not a file");
        std::fs::create_dir(root.path().join("folder")).unwrap();
        assert_eq!(root.read("folder", 9).unwrap_err().0, "\"folder\" is not a file");
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let (_folder, root) = root();
        root.write_new("a", &[7; 100]).unwrap();
        assert_eq!(root.read("a", 100).unwrap().len(), 100);
        assert!(root.read("a", 99).unwrap_err().0.contains("larger than 99 bytes"));
    }
}

//! Where a model's files are: on disk, or in a table of bytes that is part of the program.
//!
//! In:  a path, or such a table. Out: what is there, and its bytes.
//!
//! The rest of the loader accesses files through this module only, so a built-in model takes the same path as one on
//! disk.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flux2_backend::{ByteOwner, HostBytes};

use crate::{Error, Result};

/// A file of a table: its path inside the folder, with `/` between its parts, and its bytes, of any alignment.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// A file or a folder, on disk or in a table.
#[derive(Clone, Default)]
pub struct Location {
    /// Path on disk, or below the name of the table.
    path: PathBuf,
    /// `None` for a path on disk.
    table: Option<&'static [EmbeddedFile]>,
}

/// Properties of a file at the time it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Regular file: not a folder, pipe or device.
    pub is_file: bool,
    /// Length in bytes.
    pub len: u64,
    modified: Option<SystemTime>,
}

impl Location {
    /// A folder made of `files`. Errors and the parameters of pictures call it `name`.
    pub fn embedded(name: &'static str, files: &'static [EmbeddedFile]) -> Self {
        Location { path: name.into(), table: Some(files) }
    }

    /// The model that comes with this library, klein-mini; `None` without the feature `mini`.
    pub fn builtin() -> Option<Self> {
        #[cfg(feature = "mini")]
        return Some(Location::embedded(crate::variant::KLEIN_MINI, flux2_mini::FILES));
        #[cfg(not(feature = "mini"))]
        None
    }

    /// The upscaler that comes with this library, compact-x4; `None` without the feature `upscaler`.
    pub fn builtin_upscaler() -> Option<Self> {
        #[cfg(feature = "upscaler")]
        return Some(Location::embedded("built-in", flux2_upscaler::FILES).join(flux2_upscaler::FILES[0].0));
        #[cfg(not(feature = "upscaler"))]
        None
    }

    /// Its path. Paths in a table begin with the table's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something is there.
    ///
    /// # Errors
    /// [`Error::Io`] if the system does not say, for example for lack of permission.
    pub fn exists(&self) -> Result<bool> {
        match self.table {
            None => self.path.try_exists().map_err(|source| self.io(source)),
            Some(_) => Ok(self.is_dir() || self.is_file()),
        }
    }

    /// Its path on disk with all links resolved; `None` if it does not exist or is not on disk.
    pub(crate) fn canonical(&self) -> Option<PathBuf> {
        self.table.is_none().then(|| self.path.canonicalize().ok())?
    }

    /// The entry `name` of this folder.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Location { path: self.path.join(name), table: self.table }
    }

    /// The folder it is in; the root is its own parent.
    pub(crate) fn parent(&self) -> Self {
        Location { path: self.path.parent().unwrap_or(&self.path).to_owned(), table: self.table }
    }

    pub(crate) fn is_dir(&self) -> bool {
        match self.table {
            None => self.path.is_dir(),
            Some(files) => {
                let folder = self.key().map(|key| if key.is_empty() { key } else { key + "/" });
                folder.is_some_and(|folder| files.iter().any(|(path, _)| path.starts_with(&folder)))
            }
        }
    }

    pub(crate) fn is_file(&self) -> bool {
        match self.table {
            None => self.path.is_file(),
            Some(_) => self.find().is_some(),
        }
    }

    /// Last part of its path, without the extension if it is a file. For a snapshot in the hub's cache, whose own name
    /// is a hash, the name of its repository.
    pub(crate) fn stem(&self) -> Option<String> {
        let full = match self.table {
            // A link keeps its own name: its target may be a blob named by a hash.
            None if self.is_dir() => &self.path.canonicalize().unwrap_or_else(|_| self.path.clone()),
            _ => &self.path,
        };
        let text = |part: &OsStr| part.to_string_lossy().into_owned();
        let repository = || {
            let snapshots = full.parent().filter(|folder| folder.ends_with("snapshots"))?;
            let repository = text(snapshots.parent()?.file_name()?);
            Some(repository.strip_prefix("models--")?.split_once("--")?.1.to_owned())
        };
        match self.is_dir() {
            true => repository().or_else(|| full.file_name().map(text)),
            false => full.file_stem().map(text),
        }
    }

    /// Entries of this folder, in alphabetical order.
    pub(crate) fn entries(&self) -> Result<Vec<Location>> {
        let mut names = Vec::new();
        match self.table {
            None => {
                for entry in std::fs::read_dir(&self.path).map_err(|e| self.io(e))? {
                    names.push(entry.map_err(|e| self.io(e))?.file_name());
                }
            }
            Some(files) => {
                let here = files.iter().filter_map(|(path, _)| {
                    let below = PathBuf::from(path).strip_prefix(self.key()?).ok()?.to_owned();
                    below.components().next().map(|name| name.as_os_str().to_owned())
                });
                names.extend(here);
            }
        }
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|name| self.join(name)).collect())
    }

    /// Properties of a file, read without opening it: opening a pipe would block until somebody writes to it.
    pub(crate) fn stat(&self) -> Result<Stat> {
        match self.table {
            None => std::fs::metadata(&self.path).map(Stat::of).map_err(|e| self.io(e)),
            Some(_) => match self.find() {
                Some(bytes) => Ok(Stat { is_file: true, len: bytes.len() as u64, modified: None }),
                None if self.is_dir() => Ok(Stat { is_file: false, len: 0, modified: None }),
                None => Err(self.io(std::io::ErrorKind::NotFound.into())),
            },
        }
    }

    /// Time of the last change of a file or its metadata (ctime, which no program can set) in seconds and nanoseconds;
    /// `None` where the system has no such time.
    pub(crate) fn change_time(&self) -> Option<(i64, i64)> {
        #[cfg(unix)]
        if self.table.is_none() {
            use std::os::unix::fs::MetadataExt as _;
            return std::fs::metadata(&self.path).ok().map(|meta| (meta.ctime(), meta.ctime_nsec()));
        }
        None
    }

    /// Opens a file for reading from its first byte on.
    pub fn reader(&self) -> Result<Box<dyn Read>> {
        match self.table {
            None => Ok(Box::new(File::open(&self.path).map_err(|e| self.io(e))?)),
            Some(_) => Ok(Box::new(self.embedded_bytes()?)),
        }
    }

    /// All bytes of a file, without copying them. A file on disk is mapped, and unmapped when the last slice of these
    /// bytes is dropped.
    ///
    /// The file must not be written to while it is mapped. A byte changed in place changes the picture, and a truncated
    /// file ends the process with SIGBUS, which a library cannot catch. Replace files by renaming.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if it is no longer the file that was `checked`.
    // The only unsafe code above the backend.
    #[allow(unsafe_code)]
    pub(crate) fn bytes(&self, checked: Stat) -> Result<HostBytes> {
        if self.table.is_some() {
            return Ok(HostBytes::new(Arc::new(self.embedded_bytes()?)));
        }
        let file = File::open(&self.path).map_err(|e| self.io(e))?;
        if Stat::of(file.metadata().map_err(|e| self.io(e))?) != checked {
            return Err(Error::FileChanged { path: self.path.clone() });
        }
        // SAFETY: sound as long as nobody writes to the file while it is mapped. No program can enforce that, and every
        // program that maps weights relies on it. Length and time were compared just before. The bytes are only decoded
        // as numbers, for which every bit pattern is valid.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| self.io(e))?;
        Ok(HostBytes::new(Arc::new(MappedFile(map))))
    }

    /// Wraps an error of the system with this path.
    pub fn io(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }

    /// Path inside the table: empty for the table itself, `None` for a path outside it.
    fn key(&self) -> Option<String> {
        let mut parts = self.path.components();
        parts.next()?;
        parts.map(|part| part.as_os_str().to_str()).collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
    }

    fn find(&self) -> Option<&'static [u8]> {
        let key = self.key()?;
        self.table?.iter().find(|(path, _)| *path == key).map(|(_, bytes)| *bytes)
    }

    fn embedded_bytes(&self) -> Result<&'static [u8]> {
        self.find().ok_or_else(|| self.io(std::io::ErrorKind::NotFound.into()))
    }
}

impl Stat {
    fn of(meta: std::fs::Metadata) -> Self {
        Stat { is_file: meta.is_file(), len: meta.len(), modified: meta.modified().ok() }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Location {
    fn from(path: &P) -> Self {
        Location::from(path.as_ref().to_owned())
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Location { path, table: None }
    }
}

impl From<String> for Location {
    fn from(path: String) -> Self {
        Location::from(PathBuf::from(path))
    }
}

/// Prints the path only: a table is long.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.table.is_some() { "Embedded" } else { "Disk" };
        f.debug_tuple(kind).field(&self.path).finish()
    }
}

/// A memory-mapped file.
struct MappedFile(memmap2::Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ByteOwner for MappedFile {
    fn is_mapped(&self) -> bool {
        true
    }

    #[allow(unsafe_code)]
    fn release_pages(&self, range: Range<usize>) {
        // Linux maps up to 64 KiB around a page that is read, so whole pages around the range are released. Bytes
        // beside it that are in use come back when they are read again.
        let whole = range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE).min(self.0.len());
        if !whole.is_empty() {
            // SAFETY: the mapping is shared, read-only and backed by a file, so dropped pages come back with the same
            // bytes. A failure leaves them in memory.
            #[cfg(unix)]
            let _ =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, whole.start, whole.len()) };
        }
    }
}

/// A multiple of the page size of all supported systems, and what Linux maps around a page that is read.
const PAGE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[EmbeddedFile] = &[("a.json", b"{}"), ("vae/config.json", b"[]"), ("vae/x/y", b"yy")];

    fn table() -> Location {
        Location::embedded("model", FILES)
    }

    #[test]
    fn a_table_has_the_folders_its_paths_name() {
        let root = table();
        assert!(root.is_dir() && !root.is_file());
        assert!(
            root.join("vae").is_dir() && root.join("vae/x").is_dir() && root.join("vae").join("x").join("y").is_file()
        );
        for missing in ["va", "vae/config", "nowhere", "../vae", "vae/../a.json", "vae/config.json/x"] {
            assert!(!root.join(missing).exists().unwrap(), "{missing}");
        }
        assert!(!root.join("/etc/passwd").exists().unwrap() && !root.parent().exists().unwrap());
        assert_eq!(root.join("vae/x").parent().path(), Path::new("model/vae"));
    }

    #[test]
    fn entries_are_each_named_once() {
        let names = |place: Location| -> Vec<String> {
            place.entries().unwrap().iter().map(|e| e.path().display().to_string()).collect()
        };
        assert_eq!(names(table()), ["model/a.json", "model/vae"]);
        assert_eq!(names(table().join("vae")), ["model/vae/config.json", "model/vae/x"]);
    }

    #[test]
    fn a_file_of_a_table_reads_as_its_bytes() {
        let file = table().join("vae/x/y");
        let stat = file.stat().unwrap();
        assert_eq!((stat.is_file, stat.len), (true, 2));
        assert_eq!(file.bytes(stat).unwrap()[..], *b"yy");
        assert!(!table().join("vae").stat().unwrap().is_file);
        assert!(matches!(table().join("z").reader(), Err(Error::Io { path, .. }) if path == Path::new("model/z")));
    }

    #[test]
    fn a_folder_is_called_by_its_last_part_and_a_file_without_its_extension() {
        assert_eq!(table().stem().as_deref(), Some("model"));
        assert_eq!(Location::from("/nowhere/klein.old.safetensors").stem().as_deref(), Some("klein.old"));
        let cache = tempfile::TempDir::new().unwrap();
        let snapshot = cache.path().join("models--owner--fox/snapshots/0123");
        std::fs::create_dir_all(&snapshot).unwrap();
        assert_eq!(Location::from(snapshot).stem().as_deref(), Some("fox"));
    }
}

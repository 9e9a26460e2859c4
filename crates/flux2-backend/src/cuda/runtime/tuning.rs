//! The fastest of cuBLASLt's algorithms for each shape: timed at its first use, kept on disk.
//!
//! One file for each model of GPU, version of cuBLASLt and number format, one line for each shape. All GPUs of a
//! process share the choices, so pictures do not depend on which of them draws. Without a folder nothing is timed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::GpuInfo;
use super::kernels::keep;
use super::libraries::{self, Library, LibrarySearch};
use crate::Compute;

/// cuBLASLt's description of an algorithm; valid for the version that returned it.
pub(crate) type Algorithm = [u64; 8];

/// The choices for one model of GPU, version and number format. The lock is held while an algorithm is being timed.
pub(crate) struct Choices {
    file: PathBuf,
    known: Mutex<BTreeMap<String, Algorithm>>,
}

impl Choices {
    /// The choices kept in `folder`; every backend of a process gets the same object.
    pub(crate) fn of(folder: &Path, gpu: &GpuInfo, compute: Compute) -> Arc<Self> {
        static ALL: Mutex<Vec<Arc<Choices>>> = Mutex::new(Vec::new());
        let found = libraries::load(&LibrarySearch::default()).iter().find(|found| found.library == Library::CublasLt);
        let version = found.and_then(|found| found.state.as_ref().ok()).map_or("", |loaded| &loaded.version);
        let name = format!("products {} {version} {compute}", gpu.name);
        let file = folder.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-") + ".txt");
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|choices| choices.file == file) {
            return Arc::clone(known);
        }
        let known = Mutex::new(fs::read_to_string(&file).map(|text| parse(&text)).unwrap_or_default());
        let choices = Arc::new(Choices { file, known });
        all.push(Arc::clone(&choices));
        choices
    }

    /// Returns the algorithm known for `shape` if it is `usable`, else the one that `time` finds, and keeps that.
    pub(crate) fn choose<E>(
        &self,
        shape: &str,
        usable: impl FnOnce(&Algorithm) -> bool,
        time: impl FnOnce() -> Result<Algorithm, E>,
    ) -> Result<Algorithm, E> {
        let mut known = self.lock();
        if let Some(algorithm) = known.get(shape).filter(|algorithm| usable(algorithm)) {
            return Ok(*algorithm);
        }
        let algorithm = time()?;
        known.insert(shape.to_owned(), algorithm);
        keep(&self.file, print(&known).as_bytes());
        Ok(algorithm)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Algorithm>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line for each shape: the algorithm's eight words in hexadecimal, then the shape.
fn print(known: &BTreeMap<String, Algorithm>) -> String {
    let mut text = String::new();
    for (shape, algorithm) in known {
        for word in algorithm {
            let _ = write!(text, "{word:016x} ");
        }
        let _ = writeln!(text, "{shape}");
    }
    text
}

/// Parses a file; damaged lines are ignored.
fn parse(text: &str) -> BTreeMap<String, Algorithm> {
    let line = |line: &str| {
        let mut parts = line.splitn(9, ' ');
        let mut algorithm = Algorithm::default();
        for word in &mut algorithm {
            *word = u64::from_str_radix(parts.next()?, 16).ok()?;
        }
        Some((parts.next()?.to_owned(), algorithm))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> GpuInfo {
        GpuInfo { name: "NVIDIA Test/1".into(), capability: [9, 0], memory: 0, multiprocessors: 1 }
    }

    #[test]
    fn what_was_timed_once_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let choices = Choices::of(folder.path(), &gpu(), Compute::Bf16);
        let chosen = choices.choose("4 x 5", |_| true, || Ok::<_, ()>([7; 8]));
        assert_eq!(chosen, Ok([7; 8]));
        let again = choices.choose("4 x 5", |_| true, || Err("timed twice"));
        assert_eq!(again, Ok([7; 8]));
        let text = fs::read_to_string(&choices.file).unwrap();
        assert_eq!(parse(&text), BTreeMap::from([("4 x 5".to_owned(), [7; 8])]));
        // An algorithm that the library no longer takes is timed again.
        assert_eq!(choices.choose("4 x 5", |_| false, || Ok::<_, ()>([8; 8])), Ok([8; 8]));
        assert!(Arc::ptr_eq(&choices, &Choices::of(folder.path(), &gpu(), Compute::Bf16)));
        assert_ne!(choices.file, Choices::of(folder.path(), &gpu(), Compute::F32).file);
        assert!(!choices.file.file_name().unwrap().to_str().unwrap().contains('/'));
    }

    #[test]
    fn lines_that_are_damaged_are_skipped() {
        let line = print(&BTreeMap::from([("a b c".to_owned(), [1, 2, 3, 4, 5, 6, 7, u64::MAX])]));
        let text = format!("nonsense\n{line}0123 4\n\u{fffd}\n{}", line.replace("a b c", ""));
        let known = parse(&text);
        assert_eq!(known.get("a b c"), Some(&[1, 2, 3, 4, 5, 6, 7, u64::MAX]));
        assert!(known.len() <= 2, "{known:?}");
    }
}

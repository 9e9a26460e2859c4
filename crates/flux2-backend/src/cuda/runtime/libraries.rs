//! Finding NVIDIA's libraries and loading them into this process.
//!
//! Nothing is linked. Each library is opened by path with `RTLD_GLOBAL`, so that the bindings, which ask for it by
//! name, find it loaded. A missing library is an error, never a panic.

use std::ffi::c_int;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix as unix_library;

/// Folders to look in before the usual ones.
#[derive(Clone, Debug, Default)]
pub struct LibrarySearch {
    /// Folders that hold the libraries themselves.
    pub folders: Vec<PathBuf>,
    /// Prefixes of Python installations (`PREFIX/lib/python3.*/site-packages`), where pip puts the libraries.
    pub python_prefixes: Vec<PathBuf>,
}

/// A library that the backend uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The CUDA driver, part of the graphics driver.
    Driver,
    /// Compiles kernels for GPUs whose kernels are not in the program.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Attention. Optional: our own kernels are slower.
    Cudnn,
}

/// The state of one library in this process.
#[derive(Clone, Debug)]
pub struct Found {
    /// The library.
    pub library: Library,
    /// Version and path, or why it cannot be used.
    pub state: Result<Loaded, String>,
}

/// A loaded library.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The version that the library reports.
    pub version: String,
    /// Its path; the file name alone if the system's loader found it.
    pub path: PathBuf,
    pub(crate) handle: Handle,
}

impl Library {
    /// All libraries, in the order in which they are loaded.
    pub const ALL: [Library; 4] = [Library::Driver, Library::Nvrtc, Library::CublasLt, Library::Cudnn];

    /// The name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Library::Driver => "CUDA driver",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Cudnn => "cuDNN",
        }
    }

    /// Whether nothing runs without it, on any GPU.
    pub const fn is_required(self) -> bool {
        matches!(self, Library::Driver | Library::CublasLt)
    }

    /// The command that installs it.
    pub const fn install(self) -> &'static str {
        match self {
            Library::Driver => "install NVIDIA's driver, 525 or later, for this system",
            Library::Nvrtc => "pip install nvidia-cuda-nvrtc",
            Library::CublasLt => "pip install nvidia-cublas",
            Library::Cudnn => "pip install nvidia-cudnn-cu13",
        }
    }

    /// File names (sonames, which fix the major version), newest first.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Library::Driver => &["libcuda.so.1"],
            Library::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Library::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Library::Cudnn => &["libcudnn.so.9"],
        }
    }

    /// A file that must lie beside the library. A cut-down cuDNN lacks the engines for its graphs.
    const fn companion(self) -> Option<&'static str> {
        match self {
            Library::Cudnn => Some("libcudnn_engines_runtime_compiled.so.9"),
            _ => None,
        }
    }

    fn version(self, handle: &unix_library::Library) -> Option<String> {
        match self {
            Library::Driver => {
                let mut version: c_int = 0;
                // SAFETY: the signature is the documented one.
                let get =
                    unsafe { handle.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion") }.ok()?;
                // SAFETY: `version` outlives the call, which needs no context.
                (unsafe { get(&mut version) } == 0).then(|| format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
            }
            Library::Nvrtc => {
                let (mut major, mut minor): (c_int, c_int) = (0, 0);
                // SAFETY: the signature is the documented one.
                let get =
                    unsafe { handle.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion") }
                        .ok()?;
                // SAFETY: both numbers outlive the call.
                (unsafe { get(&mut major, &mut minor) } == 0).then(|| format!("{major}.{minor}"))
            }
            Library::CublasLt => self.packed_version(handle, b"cublasLtGetVersion", [10_000, 100]),
            Library::Cudnn => self.packed_version(handle, b"cudnnGetVersion", [10_000, 100]),
        }
    }

    /// A version as one number, `major * units[0] + minor * units[1] + patch`.
    fn packed_version(self, handle: &unix_library::Library, symbol: &[u8], units: [usize; 2]) -> Option<String> {
        // SAFETY: the signature is the documented one.
        let get = unsafe { handle.get::<unsafe extern "C" fn() -> usize>(symbol) }.ok()?;
        // SAFETY: a function without arguments that returns a constant.
        let version = unsafe { get() };
        let [major, minor] = units;
        Some(format!("{}.{}.{}", version / major, version % major / minor, version % minor))
    }
}

/// Loads all libraries once for this process: later calls return what the first one found, whatever they ask to search.
pub fn load(search: &LibrarySearch) -> &'static [Found] {
    static FOUND: OnceLock<Vec<Found>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let folders = search.all_folders();
        Library::ALL.map(|library| Found { library, state: open(library, &folders) }).into()
    })
}

impl LibrarySearch {
    /// All folders to search that exist, in order.
    fn all_folders(&self) -> Vec<PathBuf> {
        let mut folders = self.folders.clone();
        let mut toolkits = entries(Path::new("/usr/local"), |name| name.starts_with("cuda"));
        toolkits.sort();
        toolkits.reverse(); // newest first
        folders.extend(toolkits.iter().map(|toolkit| toolkit.join("lib64")));
        let mut prefixes = self.python_prefixes.clone();
        prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
        for folder in entries(Path::new("/opt"), |_| true) {
            prefixes.extend([folder.join(".venv"), folder.join("venv"), folder]);
        }
        for prefix in prefixes {
            for python in entries(&prefix.join("lib"), |name| name.starts_with("python3")) {
                for packages in ["site-packages", "dist-packages"] {
                    let packages = entries(&python.join(packages).join("nvidia"), |_| true);
                    folders.extend(packages.iter().map(|package| package.join("lib")));
                }
            }
        }
        folders.retain(|folder| folder.is_dir());
        folders
    }
}

/// The entries of a folder whose names are `wanted`, sorted; empty if there is no such folder.
fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted);
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(named).collect();
    entries.sort();
    entries
}

/// Opens a library from the first of the folders that has it, else where the system's loader finds it.
fn open(library: Library, folders: &[PathBuf]) -> Result<Loaded, String> {
    let mut problem = None;
    // The driver is part of the system; copies in other folders are stubs for linking.
    let folders = if library == Library::Driver { &[] } else { folders };
    for file in library.files() {
        let candidates = folders.iter().map(|folder| folder.join(file)).filter(|path| path.is_file());
        for path in candidates.chain([PathBuf::from(file)]) {
            if library == Library::Nvrtc {
                open_builtins(&path);
            }
            let companion = library.companion().map(|file| path.with_file_name(file));
            if let Some(Err(error)) = companion.as_deref().map(open_globally) {
                problem = Some(error.to_string());
                continue;
            }
            match open_globally(&path) {
                Ok(handle) => {
                    let version = library.version(handle).ok_or_else(|| format!("{} has no version", path.display()));
                    return version.map(|version| Loaded { version, path, handle: Handle(handle) });
                }
                Err(error) if path.is_absolute() => problem = Some(error.to_string()),
                Err(_) => {}
            }
        }
    }
    Err(problem.unwrap_or_else(|| format!("no {} was found", library.files().join(" or "))))
}

/// NVRTC loads its builtins by name alone, so those beside it are opened first.
fn open_builtins(nvrtc: &Path) {
    let Some(folder) = nvrtc.parent() else { return };
    for path in entries(folder, |name| name.starts_with("libnvrtc-builtins.so.")) {
        // If they are missing, NVRTC reports it.
        let _ = open_globally(&path);
    }
}

/// Opens a library for the life of this process, with global symbols.
pub(super) fn open_globally(path: &Path) -> Result<&'static unix_library::Library, libloading::Error> {
    let flags = unix_library::RTLD_NOW | unix_library::RTLD_GLOBAL;
    // SAFETY: the initializers of these libraries set up their own state only.
    let library = unsafe { unix_library::Library::open(Some(path), flags) }?;
    Ok(Box::leak(Box::new(library)))
}

/// A loaded library.
#[derive(Clone, Copy)]
pub(crate) struct Handle(pub(super) &'static unix_library::Library);

impl Handle {
    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be the type of a pointer to that function.
    pub(crate) unsafe fn function<F: Copy>(self, name: &str) -> Option<F> {
        // SAFETY: the caller vouches for the type.
        unsafe { self.0.get::<F>(name.as_bytes()) }.ok().map(|function| *function)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

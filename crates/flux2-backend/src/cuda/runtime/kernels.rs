//! Kernels as machine code in the driver: embedded in the program for the usual architectures (`compiled.rs`), else
//! compiled by NVRTC on first use and cached on disk.
//!
//! A `.cu` file is compiled once for each compute format, with `common.cuh` in front. It includes nothing, so neither a
//! toolkit nor its headers are needed.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::compiled::{self, key};
use super::driver::{Device, check};
use super::libraries::{self, Found, Library, LibrarySearch};
use crate::{Compute, Error, Result};

/// A `.cu` file: its name and contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// The `.cu` file of that name, beside the caller.
macro_rules! source {
    ($name:literal) => {
        $crate::cuda::runtime::kernels::Source { name: $name, text: include_str!($name) }
    };
}
pub(crate) use source;

const COMMON: &str = include_str!("../common.cuh");

/// The architecture to compile for, as in `sm_90a`.
pub(crate) fn architecture([major, minor]: [i32; 2]) -> String {
    // The `a` enables `wgmma` on Hopper.
    format!("sm_{major}{minor}{}", if [major, minor] == [9, 0] { "a" } else { "" })
}

/// The compiled kernels of one backend.
pub(crate) struct Kernels {
    architecture: String,
    compute: Compute,
    cache: Option<PathBuf>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<(&'static str, &'static str), sys::CUfunction>,
}

// SAFETY: modules and functions of the driver may be used from any thread.
unsafe impl Send for Loaded {}

impl Kernels {
    pub(crate) fn new(capability: [i32; 2], compute: Compute, cache: Option<PathBuf>) -> Self {
        Kernels { architecture: architecture(capability), compute, cache, loaded: Mutex::default() }
    }

    /// The kernel `name` of `source`; compiles the file at its first use.
    pub(crate) fn function(&self, device: &Device, source: Source, name: &'static str) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().expect("no panic while the lock is held");
        if let Some(function) = loaded.functions.get(&(source.name, name)) {
            return Ok(*function);
        }
        device.bind()?;
        let module = match loaded.modules.get(source.name) {
            Some(module) => *module,
            None => {
                let module = self.module(source)?;
                loaded.modules.insert(source.name, module);
                module
            }
        };
        let symbol = CString::new(name).expect("kernel names have no zero byte");
        // SAFETY: modules stay loaded as long as the context does.
        let function = check("cuModuleGetFunction", unsafe { result::module::get_function(module, symbol) })?;
        loaded.functions.insert((source.name, name), function);
        Ok(function)
    }

    /// Loads a file's machine code: embedded, else cached on disk, else compiled and cached.
    fn module(&self, source: Source) -> Result<sys::CUmodule> {
        /// Held while a file is looked up and compiled: of several backends that start at once, one compiles and the
        /// others find the result. It guards no data, so a poisoned lock is harmless.
        static COMPILING: Mutex<()> = Mutex::new(());

        let program = program(source, self.compute);
        // SAFETY: `code` is what NVRTC returned, or a damaged file, which the driver refuses.
        let load = |code: &[u8]| check("cuModuleLoadData", unsafe { result::module::load_data(code.as_ptr().cast()) });
        let embedded = compiled::archive(&self.architecture, self.compute);
        // A driver older than the compiler may reject embedded code; NVRTC of its own age then compiles.
        if let Some(Ok(module)) = embedded.and_then(|archive| archive.get(&key(&program))).map(|code| load(code)) {
            return Ok(module);
        }
        let file = self.cache.as_deref().map(|folder| self.file(folder, source, &program));
        let _compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(module)) = file.as_deref().and_then(|file| fs::read(file).ok()).map(|code| load(&code)) {
            return Ok(module);
        }
        let code = compile(source.name, &program, &self.architecture)?;
        if let Some(file) = file {
            keep(&file, &code);
        }
        load(&code)
    }

    /// Path of a program's code in the cache. The name is keyed on everything the code depends on but NVRTC's version.
    fn file(&self, folder: &Path, source: Source, program: &str) -> PathBuf {
        let stem = source.name.trim_end_matches(".cu");
        folder.join(format!("{stem}-{}-{}-{:016x}.cubin", self.compute, self.architecture, key(program)))
    }
}

/// Writes a file atomically (temporary file, rename). Errors are ignored: what is not kept is made again.
pub(crate) fn keep(file: &Path, code: &[u8]) {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let Some(folder) = file.parent() else { return };
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = file.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&unfinished, code));
    if written.and_then(|()| fs::rename(&unfinished, file)).is_err() {
        let _ = fs::remove_file(&unfinished);
    }
}

/// The program that is compiled for a file. Comments and indentation are left out, so that editing them leaves the key
/// of the compiled code as it is.
fn program(source: Source, compute: Compute) -> String {
    let format = match compute {
        Compute::F32 => "#define COMPUTE_F32",
        Compute::Bf16 => "#define COMPUTE_BF16",
    };
    let lines = [format].into_iter().chain(COMMON.lines()).chain(source.text.lines()).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

/// Compiles for `architecture`. No GPU is needed.
///
/// # Errors
/// [`Error::Device`] without NVRTC, or with its log if it rejects the program.
fn compile(name: &str, program: &str, architecture: &str) -> Result<Vec<u8>> {
    let nvrtc = libraries::load(&LibrarySearch::default()).iter().find(|found| found.library == Library::Nvrtc);
    if let Some(Found { library, state: Err(reason) }) = nvrtc {
        let reason = format!("no kernels for {architecture} in this program, and {}: {reason}", library.name());
        return Err(Error::Device { call: "nvrtc", reason });
    }
    let failed = |error: nvrtc::NvrtcError| Error::Device { call: "nvrtc", reason: format!("{name}: {error}") };
    let text = CString::new(program).expect("sources have no zero byte");
    let program = nvrtc::create_program(&text, None).map_err(failed)?;
    let options = [&format!("--gpu-architecture={architecture}"), "--std=c++17", "-default-device"];
    // SAFETY: the program was created above and is destroyed below.
    let compiled = unsafe { nvrtc::compile_program(program, &options) };
    let code = match compiled {
        // SAFETY: as above; the buffer has the size that NVRTC asks for.
        Ok(()) => unsafe {
            let mut size = 0;
            let mut code = Vec::new();
            nvrtc_sys::nvrtcGetCUBINSize(program, &mut size)
                .result()
                .and_then(|()| {
                    code.resize(size, 0);
                    nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()
                })
                .map_err(failed)
                .map(|()| code)
        },
        Err(error) => {
            // SAFETY: as above.
            let log = unsafe { nvrtc::get_program_log(program) }.unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|c| c.to_ne_bytes()[0]).take_while(|c| *c != 0).collect();
            let reason = format!("{name} for {architecture}: {error}\n{}", String::from_utf8_lossy(&log));
            Err(Error::Device { call: "nvrtcCompileProgram", reason })
        }
    };
    // SAFETY: created above.
    let _ = unsafe { nvrtc::destroy_program(program) };
    code
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cuda::runtime::compiled::pack;

    /// For GPUs from Ampere to Blackwell.
    const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

    /// Every `.cu` file: its name and text.
    fn sources() -> Vec<Source> {
        let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
        let entries = ["product", "ops"].map(|room| fs::read_dir(cuda.join(room)).unwrap());
        let mut files: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "cu"));
        files.sort();
        assert!(files.len() > 8, "{files:?}");
        let source = |file: &PathBuf| Source {
            name: file.file_name().unwrap().to_str().unwrap().to_owned().leak(),
            text: fs::read_to_string(file).unwrap().leak(),
        };
        files.iter().map(source).collect()
    }

    /// The programs of one archive, with their names.
    fn programs(sources: &[Source], architecture: &str, compute: Compute) -> Vec<(&'static str, String)> {
        let wanted =
            |source: &&Source| source.name != "hopper.cu" || (architecture, compute) == ("sm_90a", Compute::Bf16);
        sources.iter().filter(wanted).map(|source| (source.name, program(*source, compute))).collect()
    }

    /// Needs NVRTC and no GPU; `.ci/cuda` brings it. With `DJ_FLUX2_WRITE_KERNELS=1` the archives are written.
    #[test]
    fn every_kernel_compiles_for_every_architecture() {
        let nvrtc = crate::cuda::tests::libraries().iter().find(|found| found.library == Library::Nvrtc).unwrap();
        if let Err(reason) = &nvrtc.state {
            #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
            return eprintln!("skipped: no NVRTC: {reason}");
        }
        let sources = sources();
        let archives = ARCHITECTURES.iter().flat_map(|a| [(*a, Compute::Bf16), (*a, Compute::F32)]);
        archives.collect::<Vec<_>>().into_par_iter().for_each(|(architecture, compute)| {
            let compiled = programs(&sources, architecture, compute).into_par_iter().map(|(name, program)| {
                let code = compile(name, &program, architecture).unwrap_or_else(|error| panic!("{error}"));
                assert!(!code.is_empty(), "{name} for {architecture}");
                (key(&program), code)
            });
            let entries: Vec<_> = compiled.collect();
            if std::env::var_os("DJ_FLUX2_WRITE_KERNELS").is_some() {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/compiled");
                fs::write(folder.join(format!("{architecture}-{compute}.deflate")), pack(&entries)).unwrap();
            }
        });
    }

    #[test]
    fn embedded_kernels_are_those_of_the_sources() {
        let sources = sources();
        for (architecture, compute) in ARCHITECTURES.iter().flat_map(|a| [(*a, Compute::Bf16), (*a, Compute::F32)]) {
            let archive = compiled::archive(architecture, compute).expect("every architecture has its archives");
            let programs = programs(&sources, architecture, compute);
            for (name, program) in &programs {
                let found = archive.contains_key(&key(program));
                assert!(found, "{name} was changed: write the kernels for {architecture} again with `just kernels`");
            }
            assert_eq!(archive.len(), programs.len(), "{architecture}, {compute}: code that no source makes");
        }
        assert!(compiled::archive("sm_75", Compute::Bf16).is_none());
    }

    #[test]
    fn comments_do_not_change_a_program() {
        let program = |text| program(Source { name: "x.cu", text }, Compute::F32);
        assert_eq!(program("// a\nint x;\n\n    // b\n    int y;\n"), program("int x;\nint y;"));
        assert_ne!(program("int x;"), program("int y;"));
    }

    #[test]
    fn hopper_has_instructions_of_its_own() {
        assert_eq!([[8, 0], [8, 9], [9, 0], [12, 0]].map(architecture), ["sm_80", "sm_89", "sm_90a", "sm_120"]);
    }

    #[test]
    fn code_is_kept_for_what_it_was_made_from() {
        let kernels = |compute| Kernels::new([9, 0], compute, None);
        let source = Source { name: "x.cu", text: "" };
        let file = |compute, program| kernels(compute).file(Path::new("/k"), source, program);
        assert_eq!(file(Compute::F32, "a"), Path::new("/k/x-f32-sm_90a-af63dc4c8601ec8c.cubin"));
        assert_ne!(file(Compute::F32, "a"), file(Compute::F32, "b"));
        assert_ne!(file(Compute::F32, "a"), file(Compute::Bf16, "a"));
    }

    #[test]
    fn code_that_several_threads_keep_is_whole() {
        let folder = std::env::temp_dir().join(format!("dj-flux2-kernels-{}", std::process::id()));
        let (file, code) = (folder.join("x.cubin"), vec![7; 1 << 20]);
        keep(&file, &code);
        let writer = || {
            for _ in 0..50 {
                keep(&file, &code);
                assert!(fs::read(&file).unwrap() == code);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(writer);
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}

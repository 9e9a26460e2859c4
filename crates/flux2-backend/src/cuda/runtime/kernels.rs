//! Our kernels: compiled by NVRTC for the GPU in use at their first launch, and cached on disk.
//!
//! A `.cu` file is compiled once for each compute dtype, with `common.cuh` prepended. It includes nothing, so neither
//! the CUDA toolkit nor its headers are needed.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::driver::{Device, check};
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

    /// Loads the machine code of a file: from the cache, else compiled and put there.
    fn module(&self, source: Source) -> Result<sys::CUmodule> {
        /// Held while a file is looked up and compiled: of several backends that start at once, one compiles and the
        /// others find the result. It guards no data, so a poisoned lock is harmless.
        static COMPILING: Mutex<()> = Mutex::new(());

        let program = program(source, self.compute);
        // SAFETY: `code` is what NVRTC returned, or a damaged file, which the driver refuses.
        let load = |code: &[u8]| check("cuModuleLoadData", unsafe { result::module::load_data(code.as_ptr().cast()) });
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

    /// The path in the cache, keyed on everything the code depends on but the version of NVRTC.
    fn file(&self, folder: &Path, source: Source, program: &str) -> PathBuf {
        // FNV-1a: guards against accidents; the cache is the user's own folder.
        let hash = program
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let stem = source.name.trim_end_matches(".cu");
        folder.join(format!("{stem}-{}-{}-{hash:016x}.cubin", self.compute, self.architecture))
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

/// The text that is compiled for a file.
fn program(source: Source, compute: Compute) -> String {
    let format = match compute {
        Compute::F32 => "#define COMPUTE_F32\n",
        Compute::Bf16 => "#define COMPUTE_BF16\n",
    };
    [format, COMMON, source.text].concat()
}

/// Compiles `program` for `architecture`. NVRTC must be loaded; no GPU is needed.
fn compile(name: &str, program: &str, architecture: &str) -> Result<Vec<u8>> {
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
    use crate::cuda::runtime::libraries::Library;

    /// For GPUs from Ampere to Blackwell.
    const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

    /// Needs NVRTC and no GPU; `.ci/cuda` brings it.
    #[test]
    fn every_kernel_compiles_for_every_architecture() {
        let nvrtc = crate::cuda::tests::libraries().iter().find(|found| found.library == Library::Nvrtc).unwrap();
        if let Err(reason) = &nvrtc.state {
            #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
            return eprintln!("skipped: no NVRTC: {reason}");
        }
        let folders = ["product", "ops"].map(|room| Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda").join(room));
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "cu")).collect();
        assert!(files.len() > 8, "{files:?}");
        let mut cases = Vec::new();
        for file in &files {
            let name = file.file_name().unwrap().to_str().unwrap();
            let text = fs::read_to_string(file).unwrap();
            let only_hopper = name == "hopper.cu";
            for architecture in ARCHITECTURES.iter().filter(|a| !only_hopper || **a == "sm_90a") {
                let formats = ["#define COMPUTE_BF16\n", "#define COMPUTE_F32\n"];
                for format in &formats[..if only_hopper { 1 } else { 2 }] {
                    cases.push((name.to_owned(), [*format, COMMON, &text].concat(), *architecture));
                }
            }
        }
        cases.into_par_iter().for_each(|(name, program, architecture)| {
            let code = compile(&name, &program, architecture).unwrap_or_else(|error| panic!("{error}"));
            assert!(!code.is_empty(), "{name} for {architecture}");
        });
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

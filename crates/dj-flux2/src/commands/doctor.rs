//! `dj-flux2 doctor`: CPU, GPUs, libraries and folders of this machine, and what a GPU run lacks.

use std::fs;
use std::path::Path;

use flux2::engine::{self, Machine, SystemLibrary};
use flux2::units::Memory;
use flux2::{Device, EngineOptions, NoGpu};

use crate::cache_folder;
use crate::failure::Result;
use crate::gpu_options::gpu_options;
use crate::report::print;
use crate::wording;

/// Prints one line per item.
pub fn run() -> Result<()> {
    let gpu = gpu_options();
    let kernels = gpu.kernel_cache.clone();
    let machine = engine::machine(&EngineOptions { gpu, ..EngineOptions::default() });
    let env = |name: &str| std::env::var_os(name);
    let mut rows = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    rows.extend(machine_rows(&machine));
    rows.insert(2, ("memory", memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())));
    let folder = |path: Option<&Path>| path.map_or("none".to_owned(), |path| path.display().to_string());
    rows.push(("texts", folder(cache_folder::text_cache(env).as_deref())));
    rows.push(("kernels", folder(kernels.as_deref())));
    #[cfg(feature = "hub")]
    rows.push(("models", folder(crate::hub_options::cache_folder(env).as_deref())));
    rows.iter().try_for_each(|(name, value)| print(&format!("{name:<12} {value}")))
}

fn machine_rows(machine: &Machine) -> Vec<(&'static str, String)> {
    let Machine { processor, threads, gpus, libraries, no_gpu } = machine;
    let mut rows =
        vec![("processor", format!("{processor}, {threads} thread{}", if *threads == 1 { "" } else { "s" }))];
    rows.extend(gpus.iter().enumerate().map(|(i, gpu)| ("GPU", format!("{}: {gpu}", Device::Cuda(Some(i))))));
    for SystemLibrary { name, state, install } in libraries {
        let state = match state {
            Ok((version, path)) => format!("{version}, {}", path.display()),
            Err(reason) => format!("missing: {reason}; {install}"),
        };
        rows.push((name, state));
    }
    let device = match no_gpu {
        None if gpus.len() > 1 => "the GPUs".to_owned(),
        None => "the GPU".to_owned(),
        Some(NoGpu { reason, remedy, .. }) => {
            let remedy = remedy.as_ref().map_or(String::new(), |remedy| format!("; {}", wording::remedy(remedy)));
            format!("the processor: {reason}{remedy}")
        }
    };
    rows.push(("draws on", device));
    rows
}

/// Total and available memory, from the text of `/proc/meminfo`.
fn memory(meminfo: &str) -> String {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kib| Memory(kib << 10))
    };
    match (bytes("MemTotal"), bytes("MemAvailable")) {
        (Some(all), Some(free)) => format!("{all}, {free} free"),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_is_missing_comes_with_what_helps() {
        let machine = Machine {
            processor: "avx2".into(),
            threads: 1,
            gpus: vec!["a GPU".into()],
            libraries: vec![
                SystemLibrary { name: "NVRTC", state: Ok(("13.0".into(), PathBuf::from("/x.so"))), install: "" },
                SystemLibrary { name: "cuBLASLt", state: Err("no x".into()), install: "pip install nvidia-cublas" },
            ],
            no_gpu: Some(NoGpu { reason: "no x".into(), remedy: None, has_driver: true }),
        };
        let rows: Vec<String> = machine_rows(&machine).iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            rows,
            [
                "processor: avx2, 1 thread",
                "GPU: cuda:0: a GPU",
                "NVRTC: 13.0, /x.so",
                "cuBLASLt: missing: no x; pip install nvidia-cublas",
                "draws on: the processor: no x"
            ]
        );
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(memory("MemTotal:  2097152 kB\nMemAvailable: 1048576 kB\n"), "2.0 GiB, 1.0 GiB free");
        assert_eq!(memory(""), "unknown");
    }
}

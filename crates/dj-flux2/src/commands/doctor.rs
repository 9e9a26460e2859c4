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
    rows.extend(machine_rows(&machine, has_nvidia_gpu(Path::new("/sys/bus/pci/devices"))));
    rows.insert(2, ("memory", memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())));
    let folder = |path: Option<&Path>| path.map_or("none".to_owned(), |path| path.display().to_string());
    rows.push(("texts", folder(cache_folder::text_cache(env).as_deref())));
    rows.push(("kernels", folder(kernels.as_deref())));
    #[cfg(feature = "hub")]
    rows.push(("models", folder(flux2::hub::environment::cache_folder(env).as_deref())));
    rows.iter().try_for_each(|(name, value)| print(&format!("{name:<12} {value}")))
}

/// Whether the PCI bus has a display controller of NVIDIA; `None` if this system does not list the bus.
fn has_nvidia_gpu(devices: &Path) -> Option<bool> {
    let mut devices = fs::read_dir(devices).ok()?.flatten().map(|device| device.path()).peekable();
    devices.peek()?;
    let holds = |file: &Path, start: &str| fs::read_to_string(file).is_ok_and(|text| text.trim().starts_with(start));
    Some(devices.any(|device| holds(&device.join("vendor"), "0x10de") && holds(&device.join("class"), "0x03")))
}

/// Without a driver, what else is missing is left out: it helps nobody yet.
fn machine_rows(machine: &Machine, has_nvidia_gpu: Option<bool>) -> Vec<(&'static str, String)> {
    let Machine { processor, threads, gpus, libraries, no_gpu } = machine;
    let mut rows =
        vec![("processor", format!("{processor}, {threads} thread{}", if *threads == 1 { "" } else { "s" }))];
    rows.extend(gpus.iter().enumerate().map(|(i, gpu)| ("GPU", format!("{}: {gpu}", Device::Cuda(Some(i))))));
    let has_driver = no_gpu.as_ref().is_none_or(|no_gpu| no_gpu.has_driver);
    for SystemLibrary { name, state, install } in libraries.iter().filter(|it| has_driver || it.state.is_ok()) {
        let state = match state {
            Ok((version, path)) => format!("{version}, {}", path.display()),
            Err(reason) => format!("missing: {reason}; {install}"),
        };
        rows.push((name, state));
    }
    let device = match no_gpu {
        None if gpus.len() > 1 => "the GPUs".to_owned(),
        None => "the GPU".to_owned(),
        Some(_) if !has_driver && has_nvidia_gpu == Some(false) => "the processor: there is no NVIDIA GPU".to_owned(),
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
        let rows = |machine: &Machine, has_gpu| -> Vec<String> {
            machine_rows(machine, has_gpu).iter().map(|(name, value)| format!("{name}: {value}")).collect()
        };
        assert_eq!(
            rows(&machine, Some(true)),
            [
                "processor: avx2, 1 thread",
                "GPU: cuda:0: a GPU",
                "NVRTC: 13.0, /x.so",
                "cuBLASLt: missing: no x; pip install nvidia-cublas",
                "draws on: the processor: no x"
            ]
        );
        // Without a driver no library helps, and without a GPU no driver does.
        let no_gpu = NoGpu { reason: "no driver".into(), remedy: None, has_driver: false };
        let machine = Machine { gpus: vec![], no_gpu: Some(no_gpu), ..machine };
        let start = ["processor: avx2, 1 thread", "NVRTC: 13.0, /x.so"];
        assert_eq!(rows(&machine, None), [&start[..], &["draws on: the processor: no driver"]].concat());
        let none = "draws on: the processor: there is no NVIDIA GPU";
        assert_eq!(rows(&machine, Some(false)), [&start[..], &[none]].concat());
    }

    #[test]
    fn a_gpu_is_found_on_the_bus() {
        let bus = tempfile::tempdir().unwrap();
        assert_eq!(has_nvidia_gpu(&bus.path().join("none")), None);
        let add = |name: &str, vendor: &str, class: &str| {
            fs::create_dir(bus.path().join(name)).unwrap();
            fs::write(bus.path().join(name).join("vendor"), vendor).unwrap();
            fs::write(bus.path().join(name).join("class"), class).unwrap();
        };
        add("0", "0x8086\n", "0x030000\n");
        add("1", "0x10de\n", "0x040300\n"); // its sound
        assert_eq!(has_nvidia_gpu(bus.path()), Some(false));
        add("2", "0x10de\n", "0x030200\n");
        assert_eq!(has_nvidia_gpu(bus.path()), Some(true));
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(memory("MemTotal:  2097152 kB\nMemAvailable: 1048576 kB\n"), "2.0 GiB, 1.0 GiB free");
        assert_eq!(memory(""), "unknown");
    }
}

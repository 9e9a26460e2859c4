//! What this machine offers to run a model on, for people who wonder why it runs where it does.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{EngineOptions, NoGpu, cpu, gpu};

/// Processor, GPUs and libraries of this machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Instruction set that the CPU kernels use.
    pub processor: String,
    /// CPU threads.
    pub threads: usize,
    /// The GPUs that the driver knows, each in a line.
    pub gpus: Vec<String>,
    /// The system libraries that a GPU needs.
    pub libraries: Vec<SystemLibrary>,
    /// Why [`Device::Auto`](super::Device::Auto) is the CPU, if it is.
    pub no_gpu: Option<NoGpu>,
}

/// A system library that a GPU needs.
#[derive(Clone, Debug)]
pub struct SystemLibrary {
    /// Its usual name, such as cuDNN.
    pub name: &'static str,
    /// Its version and path, or why it cannot be used.
    pub state: Result<(String, PathBuf), String>,
    /// The command that installs it.
    pub install: &'static str,
}

/// Look at this machine with `options`. A GPU is opened to see whether it can be used.
pub fn machine(options: &EngineOptions) -> Machine {
    let (processor, threads) = cpu::describe(options);
    let no_gpu = gpu::open(options, NonZeroUsize::MIN).err();
    let (gpus, libraries) = (gpu::list(&options.gpu), gpu::libraries(&options.gpu));
    Machine { processor, threads, gpus, libraries, no_gpu }
}

//! `dj-flux2 worker`: draws jobs of a fleet, in one process for each GPU.

mod supervisor;

use std::sync::Arc;

use flux2::engine::{self, Machine};
use flux2::{Device, EngineOptions};
use flux2_fleet::{Ended, Worker, WorkerOptions};
use flux2_jobs::Options;

use crate::args::{BackendKind, WorkerArgs};
use crate::commands::fleet::{failed, server};
use crate::commands::serve::fleet::queue_options;
use crate::commands::serve::log;
use crate::failure::{Failure, Result, code};
use crate::gpu_options::gpu_options;
use crate::host::{self, Offer};

/// Runs workers until a signal ends them.
pub fn run(args: &WorkerArgs) -> Result<()> {
    log::start(args.log_format, args.log_level);
    let machine = machine(args);
    // What is wrong with the models is said once, and before anything else.
    let offer = Offer::from(args);
    host::open(&offer)?;
    match args.only {
        Some(number) => run_one(args, number, &machine),
        None => supervisor::run(args, workers(args, &machine)),
    }
}

/// What draws on this machine.
fn machine(args: &WorkerArgs) -> Option<Machine> {
    let options = || EngineOptions { gpu: gpu_options(), ..EngineOptions::default() };
    (args.backend == BackendKind::Engine).then(|| engine::machine(&options()))
}

/// The GPU of a worker, if there is a choice of several.
fn device(args: &WorkerArgs, number: u16, machine: Option<&Machine>) -> Option<Device> {
    let gpus = machine.map_or(0, |machine| machine.gpus.len());
    let is_any = matches!(args.running.device, None | Some(Device::Auto | Device::Cuda(None)));
    (is_any && gpus > 0).then(|| Device::Cuda(Some(usize::from(number) % gpus)))
}

/// How many workers there are.
fn workers(args: &WorkerArgs, machine: &Option<Machine>) -> u16 {
    let gpus = machine.as_ref().map_or(0, |machine| machine.gpus.len());
    let usual = match device(args, 0, machine.as_ref()) {
        Some(_) => u16::try_from(gpus).unwrap_or(u16::MAX),
        None => 1,
    };
    args.workers.unwrap_or(usual)
}

/// Runs one worker in this process.
fn run_one(args: &WorkerArgs, number: u16, machine: &Option<Machine>) -> Result<()> {
    let mut args = args.clone();
    args.running.device = device(&args, number, machine.as_ref()).or(args.running.device);
    let options = WorkerOptions {
        name: format!("{}-{number}", name(&args)),
        kind: kind(&args, machine.as_ref()),
        server: server(&args.fleet, &args.credentials),
        queue: queue_options(&args.keep),
        place: args.keep.objects.clone().with_variables(std::env::vars()),
        jobs: Options {
            max_count: args.max_count,
            max_batch: engine::MAX_USEFUL_BATCH,
            idle_unload: args.idle_unload.map(std::time::Duration::from_secs),
            ..Options::default()
        },
        max_input: args.max_input as u64,
        patience: flux2_jobs::lanes::Patience::default(),
    };
    let host = host::open(&Offer::from(&args))?.host;
    let worker = Worker::start(options, Arc::clone(&host)).map_err(failed)?;
    // A supervisor that is killed leaves no worker behind.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let drain = worker.drainer();
    // Without a handler, a signal ends the process at once; the job goes to another worker then.
    let _ = ctrlc::set_handler(drain);
    match worker.wait().map_err(failed)? {
        Ended::Drained => Ok(()),
        Ended::DeviceLost => {
            let message = "the device failed several times: this process ends, so that it is opened again";
            Err(Failure { code: code::FAILURE, message: message.into(), hint: None })
        }
    }
}

/// The name of this machine's workers.
fn name(args: &WorkerArgs) -> String {
    let host = || std::fs::read_to_string("/etc/hostname").ok().map(|name| name.trim().to_owned());
    args.name.clone().or_else(host).filter(|name| !name.is_empty()).unwrap_or_else(|| "worker".into())
}

/// The kind of a worker's device: equal kinds draw equal bytes.
fn kind(args: &WorkerArgs, machine: Option<&Machine>) -> String {
    match (machine, args.running.device) {
        (None, _) => "fake".into(),
        (Some(machine), Some(Device::Cuda(gpu))) => {
            machine.gpus.get(gpu.unwrap_or_default()).map_or_else(|| "GPU".into(), ToString::to_string)
        }
        (Some(machine), _) => machine.processor.to_string(),
    }
}

//! The GPU as a device: libraries, driver calls, memory, kernels, CUDA graphs.
//!
//! | file | holds |
//! |---|---|
//! | `libraries.rs` | finding and opening NVIDIA's libraries |
//! | `driver.rs` | context, streams, events, launches, errors |
//! | `memory.rs` | the memory pool, copies to and from the host |
//! | `pinned.rs` | pinned host memory |
//! | `download.rs` | copies to the host that nobody waits for yet |
//! | `offload.rs` | weights in pinned host memory, copied to GPU slots ahead of their use |
//! | `energy.rs` | joules used, by NVML |
//! | `kernels.rs`, `compiled.rs` | `.cu` files as machine code: embedded, or compiled by NVRTC and cached on disk |
//! | `launch.rs` | kernel launches and their arguments |
//! | `replay.rs` | repeated work, captured once as a CUDA graph |
//! | `tuning.rs` | the fastest cuBLASLt algorithm for each shape, timed once and kept on disk |

pub(crate) mod compiled;
pub(crate) mod download;
pub(crate) mod driver;
pub(crate) mod energy;
pub(crate) mod kernels;
pub(crate) mod launch;
pub(crate) mod libraries;
pub(crate) mod memory;
pub(crate) mod offload;
pub(crate) mod pinned;
pub(crate) mod replay;
pub(crate) mod tuning;

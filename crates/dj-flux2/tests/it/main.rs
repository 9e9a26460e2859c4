//! The command line as its users see it: the real binary, the tiny checkpoint, no network.

mod again;
mod batches;
mod bench;
mod canvas;
mod cli;
mod completions;
mod convert;
#[cfg(all(unix, feature = "mini", feature = "serve", feature = "session"))]
mod examples;
mod explain;
mod files;
#[cfg(all(target_os = "linux", feature = "fleet"))]
mod fleet;
mod habits;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
#[cfg(unix)]
mod interrupt;
#[cfg(all(target_os = "linux", feature = "mini"))]
mod limits;
mod lora;
mod marks;
#[cfg(all(unix, feature = "mcp", feature = "mini"))]
mod mcp;
mod metadata;
#[cfg(feature = "mini")]
mod mini;
mod models;
mod outputs;
mod pictures;
mod plan;
mod prompts;
#[cfg(all(unix, feature = "serve"))]
mod serve;
#[cfg(all(unix, feature = "session"))]
mod session;
mod settings_files;
mod sheets;
mod templates;
#[cfg(all(unix, feature = "mini"))]
mod terminal;
mod text_cache;
#[cfg(feature = "mini")]
mod threads;
#[cfg(all(unix, feature = "mini"))]
mod tmux;
#[cfg(all(unix, feature = "mini", feature = "hub"))]
mod transcripts;
mod upscale;
mod usage;

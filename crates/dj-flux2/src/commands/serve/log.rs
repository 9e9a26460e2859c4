//! The log on standard error.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::args::{LogFormat, LogLevel};

/// Writes what the server logs from now on.
pub fn start(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // The library of the Model Context Protocol logs whole messages, which have prompts in them.
    // That of NATS logs each message that comes.
    let filter = Targets::new().with_default(level).with_target("rmcp", LevelFilter::OFF);
    let filter = filter.with_target("async_nats", level.min(LevelFilter::WARN));
    let log = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let log = match format {
        LogFormat::Text => log.with_filter(filter).boxed(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(true).with_span_list(false).with_filter(filter).boxed()
        }
    };
    tracing_subscriber::registry().with(log).init();
}

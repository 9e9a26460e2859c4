//! One file per subcommand, and what several of them share.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod config;
pub mod convert;
pub mod doctor;
#[cfg(feature = "hub")]
pub mod download;
pub mod explain;
#[cfg(feature = "fleet")]
pub mod fleet;
pub mod generate;
pub mod info;
pub mod inspect;
pub mod man_pages;
#[cfg(feature = "mcp")]
pub mod mcp;
#[cfg(feature = "hub")]
pub mod models;
pub mod plan;
pub mod presets;
#[cfg(feature = "hub")]
pub mod remove;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "session")]
pub mod session;
pub mod sheet;
pub mod templates;
pub mod upscale;
#[cfg(feature = "hub")]
pub mod verify;
#[cfg(feature = "fleet")]
pub mod worker;

use flux2::Residency;

#[cfg(feature = "hub")]
use download::find_or_offer;

/// Finds the model called `named`. A build without downloads has nothing to offer where it is missing.
#[cfg(not(feature = "hub"))]
fn find_or_offer(
    named: &flux2::weights::Location,
    _report: &mut crate::report::Report,
    _cancel: &std::cell::LazyCell<flux2::CancelToken>,
) -> crate::failure::Result<flux2::weights::Location> {
    crate::prepare::find_model(named)
}

/// What a residency means, as the end of a sentence about memory; empty for the usual one.
fn residency_note(residency: Residency) -> String {
    match residency {
        Residency::KeepAll | Residency::KeepForNext => ", networks kept for the next picture".into(),
        Residency::OneAtATime => ", one network at a time".into(),
        Residency::Blocks(0) => ", weights read for every use".into(),
        Residency::Blocks(1) => ", one block kept, other weights read for every use".into(),
        Residency::Blocks(count) => format!(", {count} blocks kept, other weights read for every use"),
        Residency::Smallest => ", weights read for every use, large maps computed in pieces".into(),
    }
}

//! What every target does: the bytes take the place of a file of the tiny model, and that is opened.
//!
//! What is accepted is read to the end, since nobody checks it again. Errors are what is expected of hostile files; a panic, a
//! sanitizer's report or a run out of time or memory is a finding.

#[path = "../../crates/flux2/tests/hostile/corpus.rs"]
mod corpus;
#[path = "../../crates/flux2/tests/hostile/load.rs"]
mod load;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub use corpus::{Hostile, Kind, corpus};
use load::{Model, Opened};

/// The repository's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The files that a target's bytes stand for.
pub fn places(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Safetensors => &["transformer.safetensors"],
        Kind::Gguf => &["transformer.gguf"],
        Kind::Lora => &["lora.safetensors"],
        Kind::Config => &["transformer/config.json", "text_encoder/config.json", "vae/config.json", "model_index.json"],
        Kind::Tokenizer => &["tokenizer/tokenizer.json"],
        Kind::Index => &["text_encoder/model.safetensors.index.json"],
    }
}

/// Opens `bytes` in the place of each file that they may be.
pub fn run(kind: Kind, bytes: &[u8]) {
    static MODEL: LazyLock<Model> = LazyLock::new(|| Model::new(&fixtures()));
    for place in places(kind) {
        // Errors are what hostile files are for.
        let _ = MODEL.with(place, bytes, || Opened::open(kind, &MODEL.path(""), place)?.read());
    }
}

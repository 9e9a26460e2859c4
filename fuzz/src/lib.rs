//! Code shared by all targets: replaces a file of the tiny model by the fuzzer's bytes and opens it.
//!
//! Files that are accepted are read completely, because nothing validates them later. Errors are the expected result; a
//! panic, a sanitizer report, a timeout or excessive memory is a finding.

#[path = "../../crates/flux2/tests/hostile/corpus.rs"]
mod corpus;
#[path = "../../crates/flux2/tests/hostile/load.rs"]
mod load;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub use corpus::{Hostile, Kind, corpus};
use load::{Model, Opened};

/// Path of the repository's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// Paths in the tiny model of the files that a target's bytes replace.
pub fn places(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Safetensors => &["transformer.safetensors"],
        Kind::Gguf => &["transformer.gguf"],
        Kind::Lora | Kind::Adapter => &["lora.safetensors"],
        Kind::AdapterConfig => &["adapter/adapter_config.json"],
        Kind::WholeModel => &["whole.safetensors"],
        Kind::Config => &["transformer/config.json", "text_encoder/config.json", "vae/config.json", "model_index.json"],
        Kind::Tokenizer => &["tokenizer/tokenizer.json"],
        Kind::Index => &["text_encoder/model.safetensors.index.json"],
        Kind::Picture => &["picture"],
        Kind::Pth => &["upscaler.pth"],
        Kind::Mask => &["mask"],
    }
}

/// Opens the model with `bytes` in place of each of [`places`].
pub fn run(kind: Kind, bytes: &[u8]) {
    static MODEL: LazyLock<Model> = LazyLock::new(|| Model::new(&fixtures()));
    for place in places(kind) {
        // An error is the expected result.
        let _ = MODEL.with(place, bytes, || Opened::open(kind, &MODEL.path(""), place)?.read());
    }
}

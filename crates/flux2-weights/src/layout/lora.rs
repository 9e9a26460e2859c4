//! Names in LoRA files. A new dialect is added here and nowhere else.
//!
//! A name is `PREFIX MODULE SUFFIX`. The module is a stored name of the transformer in one of its layouts, without
//! `.weight`. Prefix and suffix depend on the program that wrote the file:
//!
//! | program | prefix | factors |
//! |---|---|---|
//! | diffusers, PEFT | `transformer.`, `base_model.model.` or none | `.lora_A`, `.lora_B` |
//! | ai-toolkit, ComfyUI | `diffusion_model.`, `model.diffusion_model.` | either pair |
//! | kohya, musubi | `lora_unet_`, with `_` for every `.` of the module | `.lora_down`, `.lora_up` |
//! | OneTrainer | `lora_transformer_`, likewise | `.lora_down`, `.lora_up` |
//! | LyCORIS | `lycoris_`, likewise | `.lora_down`, `.lora_up` |
//! | older diffusers | `transformer.`, `unet.` | `.lora.down`, `.lora.up`, or with `_lora` |
//!
//! A factor is followed by `.weight`, or by an adapter's name and `.weight` as in `.lora_A.default.weight`. Any pair of
//! factors goes with any prefix. Sources: `loaders/lora_conversion_utils.py` in diffusers, `networks/lora_flux.py` in
//! kohya-ss/sd-scripts, `comfy/lora.py` in ComfyUI.

/// How a dialect marks the two factors of a matrix, between the module and `.weight`.
pub(crate) struct Factors {
    /// The factor `[rank, in]`.
    pub down: &'static str,
    /// The factor `[out, rank]`.
    pub up: &'static str,
}

/// Every pair of markers.
pub(crate) const FACTORS: &[Factors] = &[
    Factors { down: ".lora_A", up: ".lora_B" },
    Factors { down: ".lora_down", up: ".lora_up" },
    Factors { down: ".lora.down", up: ".lora.up" },
    Factors { down: "_lora.down", up: "_lora.up" },
];

/// Suffix of the number that, divided by the rank, scales a product.
pub(crate) const ALPHA: &str = ".alpha";

/// Suffix of the first factor in the dialect that has alpha.
pub(crate) const ALPHA_PARTNER: &str = ".lora_down.weight";

/// Prefixes of modules whose parts are separated by dots. Several may follow each other.
pub(crate) const PREFIXES: &[&str] =
    &["base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet."];

/// Prefixes of modules whose parts are separated by underscores.
pub(crate) const UNDERSCORED: &[&str] = &["lora_unet_", "lora_transformer_", "lycoris_"];

/// Beginnings of modules, and what some exports write instead: four letters are cut off.
pub(crate) const ALIASES: &[(&str, &str)] = &[("transformer_blocks.", "sformer_blocks.")];

/// Whether a tensor's name is that of a factor.
pub(super) fn is_factor(name: &str) -> bool {
    let is_marked = |marker: &str| name.match_indices(marker).any(|(at, _)| name[at + marker.len()..].starts_with('.'));
    FACTORS.iter().any(|factors| is_marked(factors.down) || is_marked(factors.up))
}

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
//! factors goes with any prefix. The tensors of LoHa, LoKr and whole differences ([`MARKERS`]) have one name in all
//! programs, with nothing behind it. Sources: `loaders/lora_conversion_utils.py` in diffusers, `networks/lora_flux.py`
//! in kohya-ss/sd-scripts, `comfy/lora.py` in ComfyUI, `modules` in LyCORIS.

/// The role of a tensor in an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// A number; alpha / rank scales the update.
    Alpha,
    /// The factor `[rank, in]` of a LoRA.
    Down,
    /// The factor `[out, rank]` of a LoRA.
    Up,
    /// The core `[rank, rank]` between the two.
    Mid,
    /// The whole update `[out, in]`.
    Diff,
    /// Factors of the first matrix of a LoHa: `[out, rank]` and `[rank, in]`.
    HadaW1A,
    HadaW1B,
    /// Factors of the second matrix.
    HadaW2A,
    HadaW2B,
    /// Cores `[rank, rank]` of the two matrices. With them the `A` factors are stored as `[rank, out]`.
    HadaT1,
    HadaT2,
    /// The outer matrix of a LoKr, whole or as two factors.
    LokrW1,
    LokrW1A,
    LokrW1B,
    /// The inner matrix of a LoKr, likewise.
    LokrW2,
    LokrW2A,
    LokrW2B,
    /// Core `[rank, rank]` of the inner matrix. With it the `A` factor is transposed.
    LokrT2,
}

/// Ends of names of tensors that are no factors of a LoRA.
pub(crate) const MARKERS: &[(&str, Role)] = &[
    (ALPHA, Role::Alpha),
    (".lora_mid.weight", Role::Mid),
    (".diff", Role::Diff),
    (".hada_w1_a", Role::HadaW1A),
    (".hada_w1_b", Role::HadaW1B),
    (".hada_w2_a", Role::HadaW2A),
    (".hada_w2_b", Role::HadaW2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::LokrW1),
    (".lokr_w1_a", Role::LokrW1A),
    (".lokr_w1_b", Role::LokrW1B),
    (".lokr_w2", Role::LokrW2),
    (".lokr_w2_a", Role::LokrW2A),
    (".lokr_w2_b", Role::LokrW2B),
    (".lokr_t2", Role::LokrT2),
];

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

/// Whether a tensor's name is that of a factor, or of another tensor that only adapters have.
pub(super) fn is_factor(name: &str) -> bool {
    if MARKERS.iter().any(|(marker, role)| *role != Role::Alpha && name.ends_with(marker)) {
        return true;
    }
    let is_marked = |marker: &str| name.match_indices(marker).any(|(at, _)| name[at + marker.len()..].starts_with('.'));
    FACTORS.iter().any(|factors| is_marked(factors.down) || is_marked(factors.up))
}

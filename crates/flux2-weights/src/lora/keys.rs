//! Names in LoRA files: which rows of which matrix a tensor belongs to, and its role there.
//!
//! The dialects of prefixes and suffixes are a table in [`layout::lora`](crate::layout::lora). The rest of a name is a
//! module: a stored name of the transformer in either layout, so the rules of [`layout`](crate::layout) lead to the
//! canonical matrix and its rows.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::TransformerConfig;
use crate::layout::lora::{ALIASES, ALPHA_PARTNER, FACTORS, MARKERS, PREFIXES, Role, UNDERSCORED};
use crate::layout::{Rule, transformer_dialects};

/// The parts of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'k> {
    pub prefix: &'k str,
    /// Name of a matrix without `.weight`; underscored ones keep their prefix.
    pub module: &'k str,
    pub role: Role,
    suffix: &'k str,
}

impl<'k> Key<'k> {
    /// Splits a name; `None` if no LoRA has such a name.
    pub fn parse(name: &'k str) -> Option<Self> {
        let marked = MARKERS.iter().find_map(|(marker, role)| Some((name.strip_suffix(marker)?, *role)));
        let (stem, role) = match marked {
            Some(found) => found,
            None => factor(name.strip_suffix(".weight")?)?,
        };
        let mut module = stem;
        while let Some(rest) = PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix)) {
            module = rest;
        }
        Some(Key { prefix: &stem[..stem.len() - module.len()], module, role, suffix: &name[stem.len()..] })
    }

    /// The name of the tensor beside this one that has another role, in the same dialect if this is a factor.
    pub fn sibling(&self, role: Role) -> String {
        let other = |from: &str, to: &str| Some(format!("{to}{}", self.suffix.strip_prefix(from)?));
        let of_dialect = match (self.role, role) {
            (Role::Down, Role::Up) => FACTORS.iter().find_map(|factors| other(factors.down, factors.up)),
            (Role::Up, Role::Down) => FACTORS.iter().find_map(|factors| other(factors.up, factors.down)),
            _ => None,
        };
        let marker = || MARKERS.iter().find(|(_, known)| *known == role).map_or(ALPHA_PARTNER, |(marker, _)| marker);
        let suffix = of_dialect.unwrap_or_else(|| marker().into());
        format!("{}{}{suffix}", self.prefix, self.module)
    }

    /// This name with another module.
    pub fn with_module(&self, module: &str) -> String {
        format!("{}{module}{}", self.prefix, self.suffix)
    }

    /// Whether a module is spelled like this one: with dots or with underscores.
    pub fn is_like(&self, module: &str) -> bool {
        let prefix = |module: &str| UNDERSCORED.iter().find(|prefix| module.starts_with(**prefix));
        prefix(self.module) == prefix(module)
    }
}

/// Splits the marker of a factor, and an adapter's name behind it, from a name without `.weight`.
fn factor(name: &str) -> Option<(&str, Role)> {
    let marked = |(marker, role): (&str, Role)| {
        let (stem, adapter) = name.rsplit_once(marker)?;
        let is_adapter = adapter.strip_prefix('.').is_some_and(|a| !a.is_empty() && !a.contains('.'));
        (adapter.is_empty() || is_adapter).then_some((stem, role))
    };
    FACTORS.iter().flat_map(|factors| [(factors.down, Role::Down), (factors.up, Role::Up)]).find_map(marked)
}

/// Where the product of two factors is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Canonical name of the matrix.
    pub canonical: String,
    /// Rows of the matrix that are updated.
    pub rows: Range<usize>,
    /// Number of columns of the matrix.
    pub cols: usize,
    /// Whether the layout of this name swaps the halves of the rows.
    pub is_swapped: bool,
}

/// The targets of a transformer, by module in both layouts and both spellings.
pub(super) struct Targets(BTreeMap<String, Target>);

impl Targets {
    pub fn of(config: &TransformerConfig) -> Self {
        let mut targets = BTreeMap::new();
        for dialect in transformer_dialects() {
            for (canonical, shape) in config.expected_tensors() {
                let &[rows, cols] = &shape[..] else { continue }; // LoRA is for matrices
                let (rule, stored) = dialect.find(&canonical);
                let height = rows / stored.len();
                for (i, name) in stored.iter().enumerate() {
                    let module = name.strip_suffix(".weight").unwrap_or(name);
                    let target = Target {
                        canonical: canonical.clone(),
                        rows: i * height..(i + 1) * height,
                        cols,
                        is_swapped: matches!(rule, Rule::SwapHalves(..)),
                    };
                    let underscored = module.replace('.', "_");
                    for prefix in UNDERSCORED {
                        targets.insert(format!("{prefix}{underscored}"), target.clone());
                    }
                    for (beginning, alias) in ALIASES {
                        if let Some(rest) = module.strip_prefix(beginning) {
                            targets.insert(format!("{alias}{rest}"), target.clone());
                        }
                    }
                    targets.insert(module.to_owned(), target);
                }
            }
        }
        Targets(targets)
    }

    pub fn find(&self, module: &str) -> Option<&Target> {
        self.0.get(module)
    }

    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The unsupported adapter that a tensor belongs to, recognized by a part of its name.
pub(super) fn unsupported(name: &str) -> Option<&'static str> {
    const TEXT_ENCODERS: [&str; 3] = ["lora_te", "text_encoder", "base_model.model.text_encoder"];
    const KINDS: [(&str, &str); 26] = [
        ("oft_", "an OFT"),
        ("boft_", "a BOFT"),
        ("dora_scale", "a DoRA"),
        ("lora_magnitude_vector", "a DoRA"),
        ("lokr_t1", "a LoKr of a convolution"),
        ("a1", "a GLoRA"),
        ("a2", "a GLoRA"),
        ("b1", "a GLoRA"),
        ("b2", "a GLoRA"),
        ("bm", "a GLoRA"),
        ("on_input", "an IA3"),
        ("ia3_", "an IA3"),
        ("q_layer", "a T-LoRA"),
        ("p_layer", "a T-LoRA"),
        ("vera_", "a VeRA"),
        ("hra_", "an HRA"),
        ("fourierft_", "a FourierFT"),
        ("randlora_", "a RandLoRA"),
        ("bone_", "a Bone"),
        ("miss_", "a MiSS"),
        ("set_weight", "new values of whole weights"),
        ("reshape_weight", "new shapes of weights"),
        ("w_norm", "changes of norms"),
        ("b_norm", "changes of norms"),
        ("diff_b", "changes of biases"),
        ("lora_embedding_", "a LoRA of an embedding"),
    ];
    const NORMS: [&str; 7] = ["norm", "norm.scale", "norm_scale", "norm_q", "norm_k", "norm_added_q", "norm_added_k"];
    if TEXT_ENCODERS.iter().any(|prefix| name.starts_with(prefix)) {
        return Some("a LoRA of a text encoder");
    }
    if name.ends_with(".bias") {
        return Some("changes of biases");
    }
    if name.strip_suffix(".diff").is_some_and(|module| NORMS.iter().any(|norm| module.ends_with(norm))) {
        return Some("changes of norms");
    }
    let is_of = |kind: &str, part: &str| part == kind || kind.ends_with('_') && part.starts_with(kind);
    KINDS.into_iter().find(|(kind, _)| name.split('.').any(|part| is_of(kind, part))).map(|(_, what)| what)
}

/// Another family of models that has such a module, where this family has none.
pub(super) fn other_family(name: &str) -> Option<&'static str> {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    // FLUX.1 has a modulation in each block, and other names for its MLPs.
    if has(&["img_mod", "txt_mod", "modulation_lin", "modulation.lin.", "norm1.linear", "norm1_context", "norm.linear"])
        && !has(&["stream_modulation"])
        || has(&["proj_mlp", "ff.net.", "ff_context.net.", "vector_in", "time_text_embed"])
    {
        return Some("FLUX.1");
    }
    has(&["down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks"]).then_some("Stable Diffusion")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_prefix_a_module_and_a_suffix() {
        let parts = |name| Key::parse(name).map(|k| (k.prefix, k.module, k.role));
        for (name, prefix, module, role) in [
            ("transformer.proj_out.lora_A.weight", "transformer.", "proj_out", Role::Down),
            (
                "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
                "transformer.",
                "transformer_blocks.0.attn.to_q",
                Role::Up,
            ),
            ("diffusion_model.img_in.lora_up.weight", "diffusion_model.", "img_in", Role::Up),
            ("base_model.model.img_in.lora_A.default.weight", "base_model.model.", "img_in", Role::Down),
            (
                "base_model.model.diffusion_model.img_in.alpha",
                "base_model.model.diffusion_model.",
                "img_in",
                Role::Alpha,
            ),
            ("lora_unet_img_in.lora_down.weight", "", "lora_unet_img_in", Role::Down),
            ("lycoris_img_in.lora_up.weight", "", "lycoris_img_in", Role::Up),
            ("unet.img_in.lora.down.weight", "unet.", "img_in", Role::Down),
            ("img_in_lora.up.weight", "", "img_in", Role::Up),
            ("img_in.lora_A.weight", "", "img_in", Role::Down),
            ("img_in.lora_mid.weight", "", "img_in", Role::Mid),
            ("transformer.proj_out.diff", "transformer.", "proj_out", Role::Diff),
            ("diffusion_model.img_in.lokr_w1", "diffusion_model.", "img_in", Role::LokrW1),
            ("lycoris_proj_out.hada_w2_b", "", "lycoris_proj_out", Role::HadaW2B),
        ] {
            assert_eq!(parts(name), Some((prefix, module, role)), "{name}");
        }
        for name in ["", "img_in.weight", "img_in.lora_A", "img_in.lora_A.a.b.weight", "img_in.lora_C.weight", "alpha"]
        {
            assert_eq!(parts(name), None, "{name}");
        }
    }

    #[test]
    fn a_sibling_is_written_alike() {
        for (name, role, sibling) in [
            ("transformer.proj_out.lora_A.weight", Role::Up, "transformer.proj_out.lora_B.weight"),
            ("a.lora_B.default.weight", Role::Down, "a.lora_A.default.weight"),
            ("lora_unet_img_in.lora_up.weight", Role::Down, "lora_unet_img_in.lora_down.weight"),
            ("lora_unet_img_in.alpha", Role::Down, "lora_unet_img_in.lora_down.weight"),
            ("img_in_lora.down.weight", Role::Up, "img_in_lora.up.weight"),
            ("lycoris_img_in.lokr_w2_a", Role::LokrW2B, "lycoris_img_in.lokr_w2_b"),
            ("unet.img_in.hada_w1_a", Role::HadaW2A, "unet.img_in.hada_w2_a"),
        ] {
            assert_eq!(Key::parse(name).unwrap().sibling(role), sibling);
        }
    }
}

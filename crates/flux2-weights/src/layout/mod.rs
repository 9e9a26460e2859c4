//! Naming schemes of checkpoints, and how each maps to the canonical names and forms that networks ask for.
//!
//! A scheme is a table of [`Rule`]s, one for each canonical tensor, with `{i}` where a number or another part of a name
//! stands on both sides. [`detect`] recognizes the scheme of a file by the names in it, never by its file name. A new
//! layout is a file of rules, a row of [`SCHEMES`] and a [`Layout`]; a new LoRA dialect is a row in [`lora`].
//!
//! Canonical form: q, k and v of a double block fused by rows; modulation halves in the order shift, scale; decoder
//! levels of the VAE numbered in the order they run; attention matrices of the VAE `[c, c]`; convolutions
//! `[o, i, kh, kw]`.

mod bfl;
mod diffusers;
pub(crate) mod lora;
mod qwen;

use std::fmt;

use flux2_base::Part;

/// A naming scheme of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Folders as the diffusers library writes them.
    Diffusers,
    /// Single files as Black Forest Labs publishes them.
    Bfl,
    /// The text encoder's names in safetensors files.
    HuggingFace,
    /// The text encoder's names in GGUF files.
    LlamaCpp,
    /// No file: random values under canonical names.
    Synthetic,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Diffusers => "diffusers",
            Layout::Bfl => "bfl",
            Layout::HuggingFace => "huggingface",
            Layout::LlamaCpp => "llama.cpp",
            Layout::Synthetic => "synthetic",
        })
    }
}

/// How a canonical tensor (first field) is stored (second field).
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Under another name.
    Same(&'static str, &'static str),
    /// As a 1x1 convolution, `[o, i, 1, 1]`; canonical is the matrix `[o, i]`.
    Flatten(&'static str, &'static str),
    /// In three matrices of equal size; canonical is their concatenation by rows.
    ConcatRows(&'static str, [&'static str; 3]),
    /// With the two halves of its rows swapped.
    SwapHalves(&'static str, &'static str),
}

impl Rule {
    fn canonical(&self) -> &'static str {
        let (Rule::Same(c, _) | Rule::Flatten(c, _) | Rule::ConcatRows(c, _) | Rule::SwapHalves(c, _)) = self;
        c
    }

    fn stored(&self) -> &[&'static str] {
        match self {
            Rule::Same(_, s) | Rule::Flatten(_, s) | Rule::SwapHalves(_, s) => std::slice::from_ref(s),
            Rule::ConcatRows(_, s) => s,
        }
    }
}

/// A scheme as one file uses it: with the prefix of its names.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    pub layout: Layout,
    rules: &'static [Rule],
    /// Patterns of names that files have and no network reads.
    unused: &'static [&'static str],
    /// Stands before every name.
    pub prefix: String,
    layers: Option<&'static str>,
    /// Index of the last VAE level, for schemes that number the levels in reverse.
    pub last_level: usize,
}

/// What a file is, judged by its tensor names.
#[derive(Debug)]
pub(super) enum Detected {
    Part(Part, Dialect),
    /// A LoRA for any network.
    Lora,
    /// Something recognizable that is no checkpoint of this family.
    Other(&'static str),
}

/// A naming scheme: how one part is stored in one layout.
struct Scheme {
    part: Part,
    layout: Layout,
    /// A name that only this scheme has.
    sign: &'static str,
    rules: &'static [Rule],
    /// Patterns of names that files have and no network reads.
    unused: &'static [&'static str],
    /// What stands before the number of a layer, in text encoders.
    layers: Option<&'static str>,
}

/// All schemes. A new layout is a row here, and a file of rules.
const SCHEMES: &[Scheme] = &[
    Scheme {
        part: Part::Transformer,
        layout: Layout::Bfl,
        sign: bfl::TRANSFORMER_SIGN,
        rules: bfl::TRANSFORMER,
        unused: bfl::UNUSED,
        layers: None,
    },
    Scheme {
        part: Part::Transformer,
        layout: Layout::Diffusers,
        sign: diffusers::TRANSFORMER_SIGN,
        rules: diffusers::TRANSFORMER,
        unused: bfl::UNUSED,
        layers: None,
    },
    Scheme {
        part: Part::Vae,
        layout: Layout::Bfl,
        sign: bfl::VAE_SIGN,
        rules: bfl::VAE,
        unused: bfl::VAE_UNUSED,
        layers: None,
    },
    Scheme {
        part: Part::Vae,
        layout: Layout::Diffusers,
        sign: diffusers::VAE_SIGN,
        rules: diffusers::VAE,
        unused: diffusers::VAE_UNUSED,
        layers: None,
    },
    Scheme {
        part: Part::TextEncoder,
        layout: Layout::HuggingFace,
        sign: qwen::SIGN,
        rules: qwen::RULES,
        unused: qwen::UNUSED,
        layers: Some(qwen::LAYERS),
    },
    Scheme {
        part: Part::TextEncoder,
        layout: Layout::LlamaCpp,
        sign: qwen::LLAMA_SIGN,
        rules: qwen::LLAMA_RULES,
        unused: qwen::LLAMA_UNUSED,
        layers: Some(qwen::LLAMA_LAYERS),
    },
];

/// Both schemes of the transformer, without a prefix.
pub(super) fn transformer_dialects() -> impl Iterator<Item = Dialect> {
    SCHEMES.iter().filter(|scheme| scheme.part == Part::Transformer).map(|scheme| Dialect::new(scheme, ""))
}

/// The networks whose sign is among the names, each part once, with whatever stands before the sign as prefix.
pub(super) fn networks<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Vec<(Part, Dialect)> {
    let mut networks: Vec<(Part, Dialect)> = Vec::new();
    for scheme in SCHEMES {
        let prefixes = names.clone().filter_map(|name| prefix_of(name, scheme.sign));
        // Of several, the shortest: the other may be an average of the weights.
        if let Some(prefix) = prefixes.min_by_key(|prefix| prefix.len())
            && networks.iter().all(|(part, _)| *part != scheme.part)
        {
            networks.push((scheme.part, Dialect::new(scheme, prefix)));
        }
    }
    networks
}

/// The network that a name belongs to, in a file of several.
pub(super) fn owner(networks: &[(Part, Dialect)], name: &str) -> Option<Part> {
    let has_prefix = |(_, dialect): &&(Part, Dialect)| !dialect.prefix.is_empty() && name.starts_with(&dialect.prefix);
    let longest = networks.iter().filter(has_prefix).max_by_key(|(_, dialect)| dialect.prefix.len());
    // A scale stands beside a weight.
    let weight = || Some(format!("{}.weight", name.rsplit_once('.')?.0));
    let owns = |dialect: &Dialect, name: &str| dialect.knows(name) || dialect.is_unused(name);
    let knows = |(_, dialect): &&(Part, Dialect)| {
        owns(dialect, name) || dialect.text_layer(name).is_some() || weight().is_some_and(|name| owns(dialect, &name))
    };
    let first = |name: &str| name.split_once('.').map(|(first, _)| first.to_owned());
    let is_beside = |(_, dialect): &&(Part, Dialect)| first(&dialect.prefix).is_some_and(|it| first(name) == Some(it));
    let found = longest.or_else(|| networks.iter().find(knows)).or_else(|| networks.iter().find(is_beside));
    found.map(|(part, _)| *part)
}

/// What stands before `sign` in a name.
fn prefix_of<'n>(name: &'n str, sign: &str) -> Option<&'n str> {
    name.strip_suffix(sign).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Another name of a stored tensor.
pub(super) fn other_spellings(name: &str) -> impl Iterator<Item = String> {
    let spelled = bfl::SPELLINGS.into_iter().filter(|(ours, _)| name.contains(ours));
    spelled.map(|(ours, other)| name.replace(ours, other))
}

/// Recognizes part, layout and prefix by names; `None` if no scheme fits.
pub(super) fn detect<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<Detected> {
    let has = |sign: &str| names.clone().any(|name| prefix_of(name, sign).is_some());
    // FLUX.2 [dev] has a guidance embedding, [klein] has none.
    if has(bfl::TRANSFORMER_SIGN) && has(bfl::GUIDANCE) || has(diffusers::GUIDANCE) {
        return Some(Detected::Other("FLUX.2 [dev] or another model with a guidance embedding"));
    }
    if let Some(packed) = names.clone().find_map(packed_by_others) {
        return Some(Detected::Other(packed));
    }
    // Before the networks: a file of a whole model holds an autoencoder with the same names.
    if let Some((_, family)) = FAMILIES.into_iter().find(|(sign, _)| has(sign)) {
        return Some(Detected::Other(family));
    }
    if let Some((part, dialect)) = networks(names.clone()).into_iter().next() {
        return Some(Detected::Part(part, dialect));
    }
    if names.clone().any(lora::is_factor) {
        return Some(Detected::Lora);
    }
    // The sign itself may be missing: take the scheme that fits most names, if it fits more than half.
    const LOOKED_AT: usize = 1000;
    const PREFIXES: [&str; 5] = ["model.diffusion_model.", "diffusion_model.", "first_stage_model.", "vae.", ""];
    let candidates = SCHEMES
        .iter()
        .flat_map(|scheme| PREFIXES.into_iter().map(move |prefix| (scheme.part, Dialect::new(scheme, prefix))));
    let fitting = |dialect: &Dialect| names.clone().take(LOOKED_AT).filter(|name| dialect.knows(name)).count();
    let (fits, part, dialect) = candidates.map(|(p, d)| (fitting(&d), p, d)).max_by_key(|(fits, ..)| *fits)?;
    (2 * fits > names.take(LOOKED_AT).count()).then_some(Detected::Part(part, dialect))
}

/// Signs of other families.
const FAMILIES: [(&str, &str); 4] = [
    ("double_blocks.0.img_mod.lin.weight", "FLUX.1"),
    ("transformer_blocks.0.norm1_context.linear.weight", "FLUX.1"),
    ("joint_blocks.0.context_block.adaLN_modulation.1.weight", "Stable Diffusion 3"),
    ("input_blocks.0.0.weight", "Stable Diffusion"),
];

/// What packs the weights of a network, if the name is that of a tensor beside weights in a format of another library.
fn packed_by_others(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last {
        _ if last.starts_with("bitsandbytes__") => Some("packed by bitsandbytes in 4 bits"),
        "SCB" => Some("packed by bitsandbytes in 8 bits"),
        "qweight" | "qzeros" => Some("packed by GPTQ, AWQ or Nunchaku"),
        // Group offsets; a layer has `bias`.
        "biases" => Some("packed by MLX, as mflux does"),
        _ => None,
    }
}

impl Dialect {
    fn new(scheme: &Scheme, prefix: &str) -> Self {
        let Scheme { layout, rules, unused, layers, .. } = *scheme;
        Dialect { layout, rules, unused, prefix: prefix.to_owned(), layers, last_level: 0 }
    }

    /// The scheme of `part` in `layout`, without a prefix; `None` if there is none.
    pub fn of(part: Part, layout: Layout) -> Option<Self> {
        SCHEMES.iter().find(|scheme| (scheme.part, scheme.layout) == (part, layout)).map(|scheme| Self::new(scheme, ""))
    }

    /// Whether a stored name occurs in this scheme, at any index.
    pub fn knows(&self, stored: &str) -> bool {
        let Some(name) = stored.strip_prefix(&*self.prefix) else { return false };
        let has_rule =
            |name: &str| self.rules.iter().flat_map(Rule::stored).any(|pattern| captures(pattern, name).is_some());
        let ours = bfl::SPELLINGS.into_iter().filter(|(_, other)| name.contains(other));
        has_rule(name) || ours.into_iter().any(|(ours, other)| has_rule(&name.replace(other, ours)))
    }

    /// The rule for a canonical name, and the stored names it needs, in order.
    ///
    /// # Panics
    /// If no rule covers `canonical`, which means that the table and the list of expected tensors disagree.
    pub fn find(&self, canonical: &str) -> (Rule, Vec<String>) {
        let found = self.rules.iter().find_map(|rule| Some((rule, captures(rule.canonical(), canonical)?)));
        let (rule, captured) = found.unwrap_or_else(|| panic!("no {} rule for `{canonical}`", self.layout));
        let stored = rule.stored().iter().map(|pattern| self.prefix.clone() + &self.fill(pattern, &captured));
        (*rule, stored.collect())
    }

    /// Whether no network reads this stored name.
    pub fn is_unused(&self, stored: &str) -> bool {
        if self.layers.is_some() && stored.rsplit('.').next() == Some(qwen::UNUSED_OUTSIDE) {
            return true;
        }
        let Some(name) = stored.strip_prefix(&*self.prefix) else { return false };
        self.unused.iter().any(|pattern| captures(pattern, name).is_some())
    }

    /// The layer of the text encoder that a stored name belongs to, with or without a rule for it.
    pub fn text_layer(&self, stored: &str) -> Option<usize> {
        stored.strip_prefix(&*self.prefix)?.strip_prefix(self.layers?)?.split('.').next()?.parse().ok()
    }

    fn fill(&self, pattern: &str, captured: &[(&str, &str)]) -> String {
        let value = |key: &str| captured.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let part = |part: &str| match placeholder(part) {
            None => part.to_owned(),
            Some(key) => match key.strip_prefix("last-") {
                None => value(key).expect("both sides of a rule have the same placeholders").to_owned(),
                Some(key) => {
                    let level: usize = value(key).and_then(|v| v.parse().ok()).expect("a level is a number");
                    self.last_level.saturating_sub(level).to_string()
                }
            },
        };
        pattern.split('.').map(part).collect::<Vec<_>>().join(".")
    }
}

/// Parts of `name` where `pattern` has `{key}`; `None` if the pattern does not fit. A placeholder is one dotted part.
fn captures<'p, 'n>(pattern: &'p str, name: &'n str) -> Option<Vec<(&'p str, &'n str)>> {
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    let mut found = Vec::new();
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return Some(found),
            (Some(p), Some(n)) => match placeholder(p) {
                Some(key) => found.push((key, n)),
                None if p == n => {}
                None => return None,
            },
            _ => return None,
        }
    }
}

fn placeholder(part: &str) -> Option<&str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_levels_are_reversed_in_bfl() {
        let dialect = Dialect {
            layout: Layout::Bfl,
            rules: bfl::VAE,
            unused: &[],
            prefix: String::new(),
            layers: None,
            last_level: 3,
        };
        for (canonical, stored) in [
            ("decoder.up.0.res.2.conv1.bias", "decoder.up.3.block.2.conv1.bias"),
            ("decoder.up.3.res.0.shortcut.weight", "decoder.up.0.block.0.nin_shortcut.weight"),
            ("decoder.up.1.upsample.weight", "decoder.up.2.upsample.conv.weight"),
            ("encoder.down.1.downsample.weight", "encoder.down.1.downsample.conv.weight"),
        ] {
            assert_eq!(dialect.find(canonical).1, [stored]);
        }
    }

    #[test]
    fn a_placeholder_is_one_part_of_a_name() {
        assert_eq!(captures("a.{i}.b", "a.12.b"), Some(vec![("i", "12")]));
        assert_eq!(captures("a.{i}.b", "a.1.2.b"), None);
        assert_eq!(captures("a.{i}", "a"), None);
    }
}

//! The family: what sets its members apart besides their weights.
//!
//! Source: README and `src/flux2/util.py` in black-forest-labs/flux2; the model cards. Base and distilled weights have
//! the same names and shapes, so only `model_index.json` or the user can tell them apart.

use std::collections::BTreeSet;

use crate::config::TransformerConfig;
use crate::mismatch::nearest_name;
use crate::sizes::Size;
use crate::{Error, Result};

/// How a model was trained, which decides how it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Step-distilled: few steps, no guidance.
    Distilled,
    /// Base model: many steps, classifier-free guidance.
    Base,
    /// Step-distilled, with cached keys and values of reference images.
    Kv,
}

impl Kind {
    /// Every kind, once.
    pub const ALL: &[Kind] = &[Kind::Distilled, Kind::Base, Kind::Kv];
}

/// How reference images enter the denoising loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Procedure {
    /// Reference tokens are part of the sequence in every step.
    Standard,
    /// References run once, before the first step; every step attends to their cached keys and values.
    KvCache,
}

/// A member of the family.
#[derive(Debug, PartialEq)]
pub struct Variant {
    /// Its name here, which `by_name` takes.
    pub name: &'static str,
    /// How it was trained and is run.
    pub kind: Kind,
    /// Name of the license of the weights.
    pub license: &'static str,
    /// Default number of steps.
    pub default_steps: u32,
    /// Default guidance scale; `None` if it runs without guidance.
    pub default_guidance: Option<f32>,
    /// Default width and height of its pictures, in pixels.
    pub default_px: u32,
    /// Name of the text encoder it was trained with.
    pub text_encoder: &'static str,
    /// Its repository on the Hugging Face hub; `None` for the built-in model and for custom sizes.
    pub repo: Option<&'static str>,
    /// Whether the hub requires the license to be accepted first.
    pub gated: bool,
    /// Approximate size of its files in bytes; 0 if it is not published.
    pub download_bytes: u64,
    /// Approximate memory for a small picture in bytes; 0 for custom sizes.
    pub memory_bytes: u64,
    /// How reference images enter the denoising loop.
    pub procedure: Procedure,
    size: Option<Size>,
}

/// Transformer, text encoder and autoencoder in bf16.
const BYTES_4B: u64 = 16_000_000_000;
const BYTES_9B: u64 = 34_700_000_000;
/// The transformer in bf16, a second copy of its q, k and v, and activations of 256x256 pixels; measured for 4B.
const MEMORY_4B: u64 = 8_600_000_000;
const MEMORY_9B: u64 = 20_000_000_000;
const APACHE: &str = "Apache-2.0";
const NON_COMMERCIAL: &str = "FLUX Non-Commercial License";

/// Defaults of the three kinds.
const DISTILLED: Variant = Variant {
    name: "klein (custom size)",
    kind: Kind::Distilled,
    license: "unknown",
    default_steps: 4,
    default_guidance: None,
    default_px: 512,
    text_encoder: "Qwen3",
    repo: None,
    gated: false,
    download_bytes: 0,
    memory_bytes: 0,
    procedure: Procedure::Standard,
    size: None,
};
const BASE: Variant = Variant {
    name: "klein-base (custom size)",
    kind: Kind::Base,
    default_steps: 50,
    default_guidance: Some(4.0),
    ..DISTILLED
};
const KV: Variant =
    Variant { name: "klein-kv (custom size)", kind: Kind::Kv, procedure: Procedure::KvCache, ..DISTILLED };

/// Who publishes the family.
const OWNER: &str = "black-forest-labs";

/// Name of the small model that comes with this library and draws emoji-like pictures of 128x128.
pub const KLEIN_MINI: &str = "klein-mini";

static FAMILY: [Variant; 9] = [
    Variant {
        name: "klein-4b",
        license: APACHE,
        text_encoder: "Qwen3-4B",
        repo: Some("black-forest-labs/FLUX.2-klein-4B"),
        download_bytes: BYTES_4B,
        memory_bytes: MEMORY_4B,
        size: Some(Size::Klein4B),
        ..DISTILLED
    },
    Variant {
        name: "klein-base-4b",
        license: APACHE,
        text_encoder: "Qwen3-4B",
        repo: Some("black-forest-labs/FLUX.2-klein-base-4B"),
        download_bytes: BYTES_4B,
        memory_bytes: MEMORY_4B,
        size: Some(Size::Klein4B),
        ..BASE
    },
    Variant {
        name: "klein-9b",
        license: NON_COMMERCIAL,
        text_encoder: "Qwen3-8B",
        repo: Some("black-forest-labs/FLUX.2-klein-9B"),
        gated: true,
        download_bytes: BYTES_9B,
        memory_bytes: MEMORY_9B,
        size: Some(Size::Klein9B),
        ..DISTILLED
    },
    Variant {
        name: "klein-base-9b",
        license: NON_COMMERCIAL,
        text_encoder: "Qwen3-8B",
        repo: Some("black-forest-labs/FLUX.2-klein-base-9B"),
        gated: true,
        download_bytes: BYTES_9B,
        memory_bytes: MEMORY_9B,
        size: Some(Size::Klein9B),
        ..BASE
    },
    Variant {
        name: "klein-9b-kv",
        license: NON_COMMERCIAL,
        text_encoder: "Qwen3-8B",
        repo: Some("black-forest-labs/FLUX.2-klein-9b-kv"),
        gated: true,
        download_bytes: BYTES_9B,
        memory_bytes: MEMORY_9B,
        size: Some(Size::Klein9B),
        ..KV
    },
    Variant { name: KLEIN_MINI, license: "MIT AND OFL-1.1", default_px: 128, size: Some(Size::Mini), ..DISTILLED },
    DISTILLED,
    BASE,
    KV,
];

impl Variant {
    /// The members with a name and sizes of their own.
    pub fn named() -> &'static [Variant] {
        &FAMILY[..6]
    }

    /// The member called `name`, in this or another spelling. `klein`, `klein-base` and `klein-kv` leave the size to
    /// the files.
    ///
    /// # Errors
    /// [`Error::UnknownVariant`] with the nearest name.
    pub fn by_name(name: &str) -> Result<&'static Variant> {
        let wanted = name.to_ascii_lowercase();
        let exact = FAMILY.iter().find(|v| v.short_name() == wanted || v.name == wanted);
        exact.or_else(|| Self::by_spelling(name)).ok_or_else(|| Error::UnknownVariant {
            name: name.to_owned(),
            nearest: nearest_name(&wanted, FAMILY.iter().map(Variant::short_name)),
        })
    }

    /// The published or built-in member whose name, or that of its repository with or without the owner, is most
    /// similar to `name`, in upper or lower case; `None` if none is similar.
    pub fn nearest(name: &str) -> Option<&'static Variant> {
        let wanted = name.to_ascii_lowercase();
        let names = |variant: &'static Variant| {
            let repo = variant.repo.unwrap_or(variant.name).to_ascii_lowercase();
            let of_repo = repo.rsplit('/').next().unwrap_or_default().to_owned();
            [variant.name.to_owned(), of_repo, repo].map(|name| (name, variant))
        };
        let all: Vec<(String, &Variant)> = Self::named().iter().flat_map(names).collect();
        // Words may be in another order, as in klein-4b-bse.
        let sorted = |text: &str| {
            let mut words: Vec<&str> = text.split(['-', '_', ' ', '.']).collect();
            words.sort_unstable();
            words.join("-")
        };
        let (typed, longest) = (sorted(&wanted), 200);
        let score = |name: &str| {
            let similar = strsim::normalized_damerau_levenshtein;
            similar(&wanted, name).max(similar(&typed, &sorted(name)))
        };
        let scored = all.iter().filter(|_| wanted.len() <= longest).map(|(name, variant)| (score(name), *variant));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score >= 0.5);
        best.map(|(_, variant)| variant)
    }

    /// The member published in a repository, `owner/name` in upper or lower case.
    pub fn by_repo(repo: &str) -> Option<&'static Variant> {
        Self::named().iter().find(|variant| variant.repo.is_some_and(|known| known.eq_ignore_ascii_case(repo)))
    }

    /// The member of `kind` with these sizes, else the custom member of that kind.
    pub fn detect(config: &TransformerConfig, kind: Kind) -> &'static Variant {
        let custom = FAMILY.iter().find(|v| v.kind == kind && v.is_custom());
        let fits = |size: Size| is_same_size(&size.transformer(), config);
        let known = FAMILY.iter().find(|v| v.kind == kind && v.size.is_some_and(fits));
        known.or(custom).expect("every kind has a row without sizes")
    }

    /// This variant, if the transformer has its sizes. A variant without sizes becomes the member that has them.
    ///
    /// # Errors
    /// [`Error::VariantSize`] if the transformer has other sizes.
    pub fn confirm(&'static self, config: &TransformerConfig) -> Result<&'static Variant> {
        let Some(size) = self.size else { return Ok(Self::detect(config, self.kind)) };
        let expected = size.transformer();
        match is_same_size(&expected, config) {
            true => Ok(self),
            false => Err(Error::VariantSize {
                variant: self.name,
                found: size_in_words(config),
                expected: size_in_words(&expected),
            }),
        }
    }

    /// The published or built-in variant whose name, or that of its repository without the owner, has the same letters
    /// and digits, or the same words in another order: `klein4b`, `FLUX.2-klein-4B` and `4b` are klein-4b,
    /// `klein-4b-base` is klein-base-4b.
    fn by_spelling(name: &str) -> Option<&'static Variant> {
        let letters = |text: &str| -> String {
            let letters = text.chars().filter(char::is_ascii_alphanumeric);
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        // What tells the variants apart; all are klein of FLUX.2.
        let words = |text: &str| -> BTreeSet<String> {
            let words = text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase);
            words.filter(|word| !["", "flux", "flux2", "2", "klein", "distilled"].contains(&word.as_str())).collect()
        };
        // A path or a repository of another owner is another model.
        let owned = name.split_once('/').filter(|(owner, _)| owner.eq_ignore_ascii_case(OWNER)).map(|(_, name)| name);
        let name = Some(owned.unwrap_or(name)).filter(|name| !name.contains(['/', '\\']))?;
        let of_repo = |variant: &Variant| variant.repo.and_then(|repo| repo.rsplit('/').next()).map(letters);
        let is_spelled = |variant: &&Variant| {
            letters(variant.name) == letters(name)
                || of_repo(variant).is_some_and(|repo| repo == letters(name))
                || words(variant.name) == words(name)
        };
        Self::named().iter().find(is_spelled)
    }

    /// The sizes of its networks; `None` if it leaves them to the files.
    pub(crate) fn size(&self) -> Option<Size> {
        self.size
    }

    /// The name of its kind: `klein`, `klein-base` or `klein-kv`.
    pub fn kind_name(&self) -> &'static str {
        let of_kind = FAMILY.iter().find(|v| v.kind == self.kind && v.is_custom());
        of_kind.expect("every kind has a row without sizes").short_name()
    }

    /// Whether it runs with few steps and without guidance.
    pub fn is_distilled(&self) -> bool {
        self.kind != Kind::Base
    }

    /// Whether it has no sizes of its own.
    pub fn is_custom(&self) -> bool {
        self.size.is_none()
    }

    fn short_name(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }
}

/// Whether two transformers have the sizes that tell the members of the family apart.
fn is_same_size(a: &TransformerConfig, b: &TransformerConfig) -> bool {
    let sizes = |c: &TransformerConfig| [c.hidden(), c.double_blocks, c.single_blocks, c.context_dim];
    sizes(a) == sizes(b)
}

fn size_in_words(config: &TransformerConfig) -> String {
    let TransformerConfig { double_blocks, single_blocks, context_dim, .. } = config;
    format!("width {}, {double_blocks} + {single_blocks} blocks, text width {context_dim}", config.hidden())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn klein_4b() -> TransformerConfig {
        Size::Klein4B.transformer()
    }

    #[test]
    fn sizes_and_kind_name_the_variant() {
        assert_eq!(Variant::detect(&klein_4b(), Kind::Distilled).name, "klein-4b");
        assert_eq!(Variant::detect(&klein_4b(), Kind::Base).name, "klein-base-4b");
        // Nobody publishes a 4B with a cache.
        assert_eq!(Variant::detect(&klein_4b(), Kind::Kv).name, "klein-kv (custom size)");
        let tiny = TransformerConfig { heads: 2, head_dim: 32, ..klein_4b() };
        let variant = Variant::detect(&tiny, Kind::Base);
        assert_eq!(
            (variant.name, variant.default_steps, variant.default_guidance),
            ("klein-base (custom size)", 50, Some(4.0))
        );
    }

    #[test]
    fn every_named_member_is_found_by_its_sizes() {
        for variant in Variant::named() {
            assert_eq!(Variant::by_name(variant.name).unwrap(), variant);
            assert!(!variant.is_custom() && variant.default_px.is_multiple_of(16));
        }
        let mini = Size::Mini.transformer();
        assert_eq!(Variant::detect(&mini, Kind::Distilled).name, KLEIN_MINI);
        assert_eq!(Variant::detect(&mini, Kind::Base).name, "klein-base (custom size)");
    }

    #[test]
    fn klein_4b_has_the_published_number_of_parameters() {
        let parameters: usize = klein_4b().expected_tensors().iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(parameters, 3_875_544_576);
    }

    #[test]
    fn a_misspelt_variant_is_told_the_nearest() {
        match Variant::by_name("klien-4b") {
            Err(Error::UnknownVariant { nearest: Some("klein-4b"), .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(Variant::by_name("KLEIN-9B-KV").unwrap().procedure, Procedure::KvCache);
        assert_eq!(Variant::by_name("klein-base").unwrap().kind, Kind::Base);
    }

    #[test]
    fn the_nearest_is_found_by_repositories_too() {
        let nearest = |name| Variant::nearest(name).map(|variant| variant.name);
        for name in ["klien-4b", "FLUX.2-klein-4B", "flux2-klein-4b", "black-forest-labs/FLUX.2-klien-4B"] {
            assert_eq!(nearest(name), Some("klein-4b"), "{name}");
        }
        assert_eq!(nearest("black-forest-labs/FLUX.2-klein-base-9b"), Some("klein-base-9b"));
        assert_eq!([nearest("klein-4b-bse"), nearest("bsae-klein-9b")], [Some("klein-base-4b"), Some("klein-base-9b")]);
        assert_eq!(nearest("stabilityai/sdxl-turbo"), None);
    }

    #[test]
    fn another_spelling_is_the_same_name() {
        let found = |name| Variant::by_spelling(name).map(|variant| variant.name);
        for name in ["klein-4b-base", "base-klein-4b", "4b-base", "FLUX.2-klein-4B-base", "flux2-base-klein_4b"] {
            assert_eq!(found(name), Some("klein-base-4b"), "{name}");
            assert_eq!(Variant::by_name(name).unwrap().name, "klein-base-4b", "{name}");
        }
        for name in ["4b", "4B", "klein-4b-distilled", "flux-4b", "black-forest-labs/flux2-klein-4b"] {
            assert_eq!(found(name), Some("klein-4b"), "{name}");
        }
        assert_eq!([found("kv-9b"), found("mini")], [Some("klein-9b-kv"), Some(KLEIN_MINI)]);
        for name in ["klein4b", "klein_4b", "Klein 4B", "FLUX.2-klein-4B", "flux2-klein-4b", "flux.2_klein_4b"] {
            assert_eq!(found(name), Some("klein-4b"), "{name}");
        }
        assert_eq!(found("FLUX.2 klein base 9B"), Some("klein-base-9b"));
        assert_eq!(found("KleinMini"), Some(KLEIN_MINI));
        for name in
            ["", "klein", "klien4b", "somebody/klein-4b", "./klein4b", "klein-4", "base", "klein-4b-fp8", "flux.2"]
        {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn a_named_variant_of_another_size_is_refused() {
        let by_name = |name| Variant::by_name(name).unwrap();
        assert_eq!(by_name("klein-base").confirm(&klein_4b()).unwrap().name, "klein-base-4b");
        assert!(matches!(
            by_name("klein-9b").confirm(&klein_4b()),
            Err(Error::VariantSize { variant: "klein-9b", .. })
        ));
    }
}

//! The sizes in which the family is published: the one place that states them.
//!
//! Source: `config.json` of the published folders, and of klein-mini's.

use crate::config::{TextConfig, TransformerConfig, VaeConfig};
use crate::variant::Variant;

/// A published size. Base, distilled and KV members of one size have the same networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Klein4B,
    Klein9B,
    Mini,
}

impl Size {
    /// Sizes of the flow transformer.
    pub fn transformer(self) -> TransformerConfig {
        let klein_4b = TransformerConfig {
            in_channels: 128,
            double_blocks: 5,
            single_blocks: 20,
            heads: 24,
            head_dim: 128,
            context_dim: 7680,
            mlp_hidden: 9216,
            time_channels: 256,
            rope_axes: vec![32; 4],
            rope_theta: 2000.0,
            eps: 1e-6,
        };
        match self {
            Size::Klein4B => klein_4b,
            Size::Klein9B => TransformerConfig {
                double_blocks: 8,
                single_blocks: 24,
                heads: 32,
                context_dim: 12_288,
                mlp_hidden: 12_288,
                ..klein_4b
            },
            Size::Mini => TransformerConfig {
                in_channels: 64,
                double_blocks: 2,
                single_blocks: 5,
                heads: 5,
                head_dim: 32,
                context_dim: 288,
                mlp_hidden: 320,
                rope_axes: vec![8; 4],
                ..klein_4b
            },
        }
    }

    /// Sizes of the text encoder. klein-mini's own vocabulary is smaller; here it has that of the built-in tokenizer.
    pub fn text_encoder(self) -> TextConfig {
        let qwen3_4b = TextConfig {
            vocab: 151_936,
            hidden: 2560,
            intermediate: 9728,
            layers: 36,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            rope_theta: 1e6,
            rms_eps: 1e-6,
            taps: vec![9, 18, 27],
            max_length: 512,
            fp8_block: [128; 2],
        };
        match self {
            Size::Klein4B => qwen3_4b,
            Size::Klein9B => TextConfig { hidden: 4096, intermediate: 12_288, ..qwen3_4b },
            Size::Mini => TextConfig {
                hidden: 96,
                intermediate: 192,
                layers: 4,
                heads: 4,
                kv_heads: 2,
                head_dim: 32,
                taps: vec![1, 2, 3],
                max_length: 48,
                ..qwen3_4b
            },
        }
    }

    /// Sizes of the autoencoder.
    pub fn vae(self) -> VaeConfig {
        let klein = VaeConfig {
            latent_channels: 32,
            encoder_channels: vec![128, 256, 512, 512],
            decoder_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            groups: 32,
            group_norm_eps: 1e-6,
            bn_eps: 1e-4,
        };
        match self {
            Size::Klein4B | Size::Klein9B => klein,
            Size::Mini => VaeConfig {
                latent_channels: 16,
                encoder_channels: vec![16, 32, 48, 64],
                decoder_channels: vec![24, 40, 64, 64],
                layers_per_block: 1,
                groups: 8,
                ..klein
            },
        }
    }
}

/// The transformers that LoRAs are made for, each under the name of a model that has it.
pub(crate) fn transformer_sizes() -> impl Iterator<Item = (&'static str, TransformerConfig)> {
    let named = Variant::named().iter().filter_map(|variant| Some((variant.name, variant.size()?.transformer())));
    // Source: `Flux2Params` in black-forest-labs/flux2.
    let dev = TransformerConfig {
        double_blocks: 8,
        single_blocks: 48,
        heads: 48,
        context_dim: 15_360,
        mlp_hidden: 18_432,
        ..Size::Klein4B.transformer()
    };
    named.chain([("FLUX.2 [dev]", dev)])
}

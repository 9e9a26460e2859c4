//! Models without files: the sizes of a member of the family.
//!
//! For benchmarks, with random weights. Pictures are noise; time and memory are those of the real model. For plans
//! before a model is downloaded, without values.
//!
//! Values are bf16, seeded by the tensor's name. A tensor is made when it is asked for, so no more networks are in
//! memory than with files.

use std::sync::Arc;

use flux2_backend::{DType, HostBytes, HostTensor};
use flux2_base::parallel::{all_threads, in_shares};

use crate::Result;
use crate::component::Component;
use crate::model_files::ModelFiles;
use crate::variant::Variant;

/// Values before a tensor repeats. A prime, so that rows of a matrix start at different values.
const PERIOD: usize = 65_537;
/// Fewest bytes that are worth a thread.
const PIECE: usize = 4 << 20;
/// Largest standard deviation of weights.
const MAX_STD: f32 = 0.05;

impl ModelFiles {
    /// A published model that is not on this disk, for dry runs. Its tensors are zeros in bf16, counted as mapped files.
    /// `None` if the table of sizes has no entry for `variant`.
    pub fn published(variant: &'static Variant) -> Option<Self> {
        let size = variant.size()?;
        let (transformer, text_encoder, vae) = (size.transformer(), size.text_encoder(), size.vae());
        let (of_transformer, of_text_encoder, of_vae) =
            (transformer.expected_tensors(), text_encoder.expected_tensors(), vae.expected_tensors());
        Some(ModelFiles {
            variant,
            name: variant.name.to_owned(),
            transformer: Component::published(transformer, of_transformer),
            text_encoder: Component::published(text_encoder, of_text_encoder),
            vae: Component::published(vae, of_vae),
            loras: Vec::new(),
            tokenizer: None,
            vocabulary: None,
        })
    }

    /// A model with the sizes of `variant` and random weights; `None` if the table of sizes has none.
    ///
    /// klein-mini gets the vocabulary of the built-in tokenizer.
    pub fn synthetic(variant: &'static Variant) -> Option<Self> {
        let size = variant.size()?;
        let (transformer, text_encoder, vae) = (size.transformer(), size.text_encoder(), size.vae());
        let (of_transformer, of_text_encoder, of_vae) =
            (transformer.expected_tensors(), text_encoder.expected_tensors(), vae.expected_tensors());
        Some(ModelFiles {
            variant,
            name: format!("synthetic {}", variant.name),
            transformer: Component::synthetic(transformer, of_transformer),
            text_encoder: Component::synthetic(text_encoder, of_text_encoder),
            vae: Component::synthetic(vae, of_vae),
            loras: Vec::new(),
            tokenizer: None,
            vocabulary: None,
        })
    }
}

/// The tensor `name`. Weights are scaled so that activations keep their size; norms and variances are around 1.
pub fn tensor(name: &str, shape: &[usize]) -> Result<HostTensor> {
    let (low, high) = match shape {
        [_] if name.ends_with("bn.var") => (0.5, 2.0),
        [_] if name.ends_with(".bias") || name.ends_with(".mean") => (-MAX_STD, MAX_STD),
        [_] => (0.9, 1.1),
        _ => {
            let fan_in = shape[1..].iter().product::<usize>() as f32;
            // Uniform values within sqrt(3) have a standard deviation of 1.
            let reach = 3f32.sqrt() * MAX_STD.min(1.0 / fan_in.sqrt());
            (-reach, reach)
        }
    };
    let count = shape.iter().product::<usize>();
    let bytes = repeated(&block(name, low, high), DType::Bf16.bytes(count));
    Ok(HostTensor::new(DType::Bf16, shape, HostBytes::new(Arc::new(bytes)))?)
}

/// [`PERIOD`] random values from `low` to `high`, as bf16.
fn block(name: &str, low: f32, high: f32) -> Vec<u8> {
    // FNV-1a of the name, then SplitMix64.
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut unit = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1u64 << 24) as f32
    };
    let bf16 = |value: f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
    (0..PERIOD).flat_map(|_| bf16(low + (high - low) * unit())).collect()
}

/// `len` bytes of repetitions of `block`, written by several threads, as a network has gigabytes.
fn repeated(block: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    in_shares(&mut bytes, all_threads(), PIECE, |first, mut share| {
        let mut start = first % block.len();
        while !share.is_empty() {
            let n = share.len().min(block.len() - start);
            let (now, later) = share.split_at_mut(n);
            now.copy_from_slice(&block[start..start + n]);
            (share, start) = (later, 0);
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightSource as _;
    use crate::variant::KLEIN_MINI;

    fn mini() -> ModelFiles {
        ModelFiles::synthetic(Variant::by_name(KLEIN_MINI).unwrap()).unwrap()
    }

    #[test]
    fn every_named_member_has_sizes_that_fit() {
        for variant in Variant::named() {
            let ModelFiles { transformer, text_encoder, vae, .. } = ModelFiles::synthetic(variant).unwrap();
            assert_eq!(variant.confirm(&transformer.config).unwrap(), variant);
            assert_eq!(transformer.config.context_dim, text_encoder.config.embedding_dim());
            assert_eq!(transformer.config.in_channels, 4 * vae.config.latent_channels);
        }
        assert!(ModelFiles::synthetic(Variant::by_name("klein").unwrap()).is_none());
    }

    #[cfg(feature = "mini")]
    #[test]
    fn klein_mini_has_the_sizes_of_the_one_that_is_built_in() {
        let model = crate::Location::builtin().unwrap();
        let (real, made) = (ModelFiles::open(&crate::ModelPaths { model, ..Default::default() }).unwrap(), mini());
        assert_eq!(made.transformer.config, real.transformer.config);
        assert_eq!(made.vae.config, real.vae.config);
        let vocab = real.text_encoder.config.vocab;
        assert_eq!(crate::TextConfig { vocab, ..made.text_encoder.config }, real.text_encoder.config);
    }

    #[test]
    fn values_follow_from_the_name_and_have_the_spread_they_should() {
        let mini = mini();
        let weights = mini.transformer.map().unwrap();
        let values = |name: &str| weights.tensor(name).unwrap().to_f32();
        let qkv = values("double.0.img.qkv");
        assert_eq!(qkv, values("double.0.img.qkv"));
        assert_ne!(qkv, values("double.1.img.qkv"));
        assert_eq!(weights.tensor("double.0.img.qkv").unwrap().shape(), [480, 160]);
        let std = |v: &[f32]| (v.iter().map(|x| f64::from(x * x)).sum::<f64>() / v.len() as f64).sqrt();
        assert!((std(&qkv) - 0.05).abs() < 1e-3, "{}", std(&qkv));
        let wide = tensor("wide", &[64, 10_000]).unwrap().to_f32();
        assert!((std(&wide) - 0.01).abs() < 2e-4, "{}", std(&wide));
        assert!(values("double.0.img.q_norm").iter().all(|v| (0.89..=1.1).contains(v)));

        let vae = mini.vae.map().unwrap();
        let values = |name: &str| vae.tensor(name).unwrap().to_f32();
        assert!(values("bn.var").iter().all(|v| (0.5..=2.0).contains(v)));
        assert!(values("bn.mean").iter().chain(&values("decoder.conv_in.bias")).all(|v| v.abs() <= 0.0501));
    }

    #[test]
    fn threads_write_what_one_would() {
        let block = block("x", 0.0, 1.0);
        let long = repeated(&block, 2 * PIECE + 1234);
        assert!(long.iter().zip(block.iter().cycle()).all(|(a, b)| a == b));
        assert_eq!(repeated(&block, 0), [0u8; 0]);
    }
}

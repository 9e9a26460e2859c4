//! Sizes of the autoencoder.

use std::path::Path;

use serde_json::{Value, json};

use super::{ExpectedTensor, LostValue, MAX_WIDTH, NORM_EPS, first_lost};
use crate::component::Shapes;
use crate::json::{ConfigProblem, Json, missing, range, unsupported, value};
use crate::{Error, Result};

/// Sizes of the autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the latents before patchifying, 32.
    pub latent_channels: usize,
    /// Channels of each encoder level, finest first.
    pub encoder_channels: Vec<usize>,
    /// Channels of each decoder level, finest first; the decoder runs them in reverse.
    pub decoder_channels: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub groups: usize,
    /// Added to the variance in group norms.
    pub group_norm_eps: f32,
    /// Added to the running variance when latents are normalized.
    pub bn_eps: f32,
}

impl VaeConfig {
    /// Value in all published models.
    const BN_EPS: f32 = 1e-4;

    /// Every tensor of the network, by canonical name.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut t = Vec::new();
        let (z, encoder) = (self.latent_channels, &self.encoder_channels);
        let decoder: Vec<usize> = self.decoder_channels.iter().rev().copied().collect();
        let (fine, coarse) = (encoder[0], encoder[encoder.len() - 1]);

        conv(&mut t, "encoder.conv_in", 3, fine, 3);
        let mut c = fine;
        for (i, &out) in encoder.iter().enumerate() {
            for j in 0..self.layers_per_block {
                res(&mut t, &format!("encoder.down.{i}.res.{j}"), c, out);
                c = out;
            }
            if i + 1 < encoder.len() {
                conv(&mut t, &format!("encoder.down.{i}.downsample"), c, c, 3);
            }
        }
        mid(&mut t, "encoder", coarse);
        norm(&mut t, "encoder.norm_out", coarse);
        conv(&mut t, "encoder.conv_out", coarse, 2 * z, 3);
        conv(&mut t, "encoder.quant", 2 * z, 2 * z, 1);

        conv(&mut t, "decoder.post_quant", z, z, 1);
        let mut c = decoder[0];
        conv(&mut t, "decoder.conv_in", z, c, 3);
        mid(&mut t, "decoder", c);
        for (i, &out) in decoder.iter().enumerate() {
            for j in 0..=self.layers_per_block {
                res(&mut t, &format!("decoder.up.{i}.res.{j}"), c, out);
                c = out;
            }
            if i + 1 < decoder.len() {
                conv(&mut t, &format!("decoder.up.{i}.upsample"), c, c, 3);
            }
        }
        norm(&mut t, "decoder.norm_out", c);
        conv(&mut t, "decoder.conv_out", c, 3, 3);
        t.push(("bn.mean".into(), vec![4 * z]));
        t.push(("bn.var".into(), vec![4 * z]));
        t
    }

    pub(crate) fn from_json(json: &Json) -> Result<Self> {
        json.only("in_channels", &[json!(3)])?;
        json.only("out_channels", &[json!(3)])?;
        json.only("act_fn", &[json!("silu")])?;
        json.only("use_quant_conv", &[json!(true)])?;
        json.only("use_post_quant_conv", &[json!(true)])?;
        json.only("mid_block_add_attention", &[json!(true)])?;
        json.only("patch_size", &[json!([2, 2])])?;
        for (key, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            if let Some(types) = json.object.get(key).and_then(Value::as_array)
                && let Some(other) = types.iter().find(|t| **t != json!(kind))
            {
                return Err(unsupported(&json.path, key, other, kind));
            }
        }
        let levels = json.object.get("block_out_channels").and_then(Value::as_array).map_or(4, Vec::len);
        let encoder_channels = json.sizes("block_out_channels", MAX_WIDTH, levels)?;
        let encoder_channels = encoder_channels.ok_or_else(|| missing(&json.path, "block_out_channels"))?;
        let decoder_channels = json.sizes("decoder_block_out_channels", MAX_WIDTH, levels)?;
        VaeConfig {
            latent_channels: json.size("latent_channels", MAX_WIDTH / 4)?,
            decoder_channels: decoder_channels.unwrap_or_else(|| encoder_channels.clone()),
            encoder_channels,
            layers_per_block: json.size("layers_per_block", 16)?,
            groups: json.size_or("norm_num_groups", MAX_WIDTH, 32)?,
            group_norm_eps: 1e-6,
            bn_eps: json.number("batch_norm_eps", 1e-12..=1e-1, Some(1e-4))? as f32,
        }
        .checked(&json.path)
    }

    pub(crate) fn infer(shapes: &Shapes) -> Result<Self> {
        let levels = shapes.count(|i| format!("encoder.down.{i}.res.0.conv1.weight"));
        if levels == 0 && shapes.axis("decoder.conv_in.weight", 4, 1).is_ok() {
            return Err(Error::Config { path: shapes.path().to_owned(), problem: ConfigProblem::DecoderOnly });
        }
        let channels = |side: &str| -> Result<Vec<usize>> {
            (0..levels).map(|i| shapes.axis(&format!("{side}.{i}.res.0.conv1.weight"), 4, 0)).collect()
        };
        let mut decoder_channels = channels("decoder.up")?;
        decoder_channels.reverse();
        let encoder_channels = channels("encoder.down")?;
        VaeConfig {
            groups: Self::likely_groups(&encoder_channels, &decoder_channels),
            latent_channels: shapes.axis("decoder.conv_in.weight", 4, 1)?,
            encoder_channels,
            decoder_channels,
            layers_per_block: shapes.count(|j| format!("encoder.down.0.res.{j}.conv1.weight")),
            group_norm_eps: NORM_EPS,
            bn_eps: Self::BN_EPS,
        }
        .checked(shapes.path())
    }

    /// Groups of a VAE without a configuration: 32 as published, or the most that divide all its widths.
    fn likely_groups(encoder_channels: &[usize], decoder_channels: &[usize]) -> usize {
        let fits = |groups: &usize| encoder_channels.iter().chain(decoder_channels).all(|c| c.is_multiple_of(*groups));
        [32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// A value that [`infer`](Self::infer) would get wrong, if there is one.
    pub(crate) fn lost_without_config(&self) -> Option<LostValue> {
        let groups = Self::likely_groups(&self.encoder_channels, &self.decoder_channels);
        first_lost([
            ("norm_num_groups", self.groups.to_string(), groups.to_string()),
            ("batch_norm_eps", self.bn_eps.to_string(), Self::BN_EPS.to_string()),
        ])
    }

    fn checked(self, path: &Path) -> Result<Self> {
        let levels = self.encoder_channels.len();
        // A token is 16x16 pixels: the encoder halves three times, then patches are 2x2.
        if levels != 4 {
            return Err(value(path, "block_out_channels", format!("{levels} levels"), "4 levels"));
        }
        range(path, "layers_per_block", self.layers_per_block, 16)?;
        range(path, "latent_channels", self.latent_channels, MAX_WIDTH / 4)?;
        let widths = self.encoder_channels.iter().chain(&self.decoder_channels);
        if let Some(c) = widths.copied().find(|c| *c == 0 || !c.is_multiple_of(self.groups)) {
            return Err(value(path, "norm_num_groups", self.groups, format!("a divisor of {c} channels")));
        }
        Ok(self)
    }
}

fn conv(t: &mut Vec<ExpectedTensor>, name: &str, c_in: usize, c_out: usize, kernel: usize) {
    t.push((format!("{name}.weight"), vec![c_out, c_in, kernel, kernel]));
    t.push((format!("{name}.bias"), vec![c_out]));
}

fn norm(t: &mut Vec<ExpectedTensor>, name: &str, c: usize) {
    t.push((format!("{name}.weight"), vec![c]));
    t.push((format!("{name}.bias"), vec![c]));
}

fn res(t: &mut Vec<ExpectedTensor>, name: &str, c_in: usize, c_out: usize) {
    norm(t, &format!("{name}.norm1"), c_in);
    conv(t, &format!("{name}.conv1"), c_in, c_out, 3);
    norm(t, &format!("{name}.norm2"), c_out);
    conv(t, &format!("{name}.conv2"), c_out, c_out, 3);
    if c_in != c_out {
        conv(t, &format!("{name}.shortcut"), c_in, c_out, 1);
    }
}

fn mid(t: &mut Vec<ExpectedTensor>, side: &str, c: usize) {
    res(t, &format!("{side}.mid.res.0"), c, c);
    norm(t, &format!("{side}.mid.attn.norm"), c);
    for name in ["q", "k", "v", "out"] {
        t.push((format!("{side}.mid.attn.{name}.weight"), vec![c, c]));
        t.push((format!("{side}.mid.attn.{name}.bias"), vec![c]));
    }
    res(t, &format!("{side}.mid.res.1"), c, c);
}

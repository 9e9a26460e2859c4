//! Layers (weights and the op that uses them), and the [`Loader`] that reads them from a [`WeightSource`].

use std::sync::Arc;

use flux2_backend::{
    Backend, ConvInput, ConvShape, Convolution, Format, HostBytes, HostTensor, Placement, Tensor, Weight, ops,
};

use crate::Result;
use crate::weights::{VaeConfig, WeightSource};

/// Hands the tensors of one model to a backend, by canonical name.
pub struct Loader<'a, B: Backend> {
    be: &'a B,
    source: &'a dyn WeightSource,
    prefix: String,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// A loader for all names of `source`.
    pub fn new(be: &'a B, source: &'a dyn WeightSource) -> Self {
        Loader { be, source, prefix: String::new() }
    }

    /// A loader for the names below `part`.
    pub fn at(&self, part: impl std::fmt::Display) -> Self {
        Loader { be: self.be, source: self.source, prefix: format!("{}{part}.", self.prefix) }
    }

    /// The backend the tensors go to.
    pub fn backend(&self) -> &'a B {
        self.be
    }

    /// A matrix `[out, in]`.
    ///
    /// # Errors
    /// If the source cannot give the tensor or the backend cannot take it.
    pub fn matrix(&self, name: &str) -> Result<Weight<B>> {
        let [all] = self.matrix_rows(name, |[rows, _]| [rows])?;
        Ok(all)
    }

    /// A matrix whose rows are looked up, a few at a time. Unless it is placed on the device, its rows are read from
    /// the file: offloading would copy all of it.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    pub fn table(&self, name: &str) -> Result<Weight<B>> {
        let (host, full_name) = (self.host(name)?, self.full_name(name));
        let format = self.source.format(&full_name);
        let placement = match self.source.placement(&full_name) {
            Placement::Device => Placement::Device,
            Placement::Host | Placement::File => Placement::File,
        };
        Ok(Weight::load_as(self.be, host.placed(placement), format)?)
    }

    /// A matrix split by rows into `N` matrices of the given `heights`, which add up to its own.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    pub fn matrix_rows<const N: usize>(
        &self,
        name: &str,
        heights: impl Fn([usize; 2]) -> [usize; N],
    ) -> Result<[Weight<B>; N]> {
        let full_name = self.full_name(name);
        let host = self.host(name)?.placed(self.source.placement(&full_name));
        let format = self.source.format(&full_name);
        let &[rows, cols] = host.shape() else { unreachable!("{name} is a matrix, as its configuration says") };
        let mut from = 0;
        let mut parts = Vec::with_capacity(N);
        for height in heights([rows, cols]) {
            parts.push(Weight::load_as(self.be, host.slice_rows(from..from + height)?, format)?);
            from += height;
        }
        if format != Format::AsStored {
            host.bytes().release_pages();
        }
        Ok(parts.try_into().unwrap_or_else(|_| unreachable!("as many as there are heights")))
    }

    /// A vector `[n]`, as f32.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    pub fn vector(&self, name: &str) -> Result<Tensor<B>> {
        let host = self.host(name)?;
        Ok(self.be.upload(host.shape(), &host.to_f32())?)
    }

    /// A vector on the host, as f32.
    ///
    /// # Errors
    /// If the source cannot give the tensor.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.host(name)?.to_f32())
    }

    fn host(&self, name: &str) -> Result<HostTensor> {
        Ok(self.source.tensor(&self.full_name(name))?)
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// A linear layer with a bias: the 1x1 convolutions of the autoencoder's attention.
pub struct Linear<B: Backend>(Convolution<B>);

impl<B: Backend> Linear<B> {
    /// `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn load(w: &Loader<B>) -> Result<Self> {
        let (weight, bias) = (w.matrix("weight")?, w.vector("bias")?);
        Ok(Linear(Convolution { weight, bias, shape: ConvShape::Pointwise }))
    }

    /// `x` `[n, in]` -> `[n, out]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, be: &B, x: &Tensor<B>) -> Result<Tensor<B>> {
        Ok(ops::linear(be, x, &self.0.weight, Some(&self.0.bias))?)
    }

    /// Add the result for every pixel of a map `x` `[h, w, in]` to `y` `[h, w, out]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn add_to(&self, be: &B, y: &mut Tensor<B>, x: &Tensor<B>) -> Result<()> {
        Ok(ops::conv2d_add(be, y, &x.into(), &self.0)?)
    }
}

/// A convolution.
pub struct Conv<B: Backend>(Convolution<B>);

impl<B: Backend> Conv<B> {
    /// `weight` `[out, in, k, k]` and `bias` `[out]`.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn load(w: &Loader<B>, shape: ConvShape) -> Result<Self> {
        let weight = channels_last(&w.host("weight")?)?;
        Ok(Conv(Convolution { weight: Weight::load(w.be, weight)?, bias: w.vector("bias")?, shape }))
    }

    /// As [`load`](Self::load), without a `bias`.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn load_without_bias(w: &Loader<B>, shape: ConvShape) -> Result<Self> {
        let weight = channels_last(&w.host("weight")?)?;
        let zeros = vec![0.0; weight.shape()[0]];
        let bias = w.be.upload(&[zeros.len()], &zeros)?;
        Ok(Conv(Convolution { weight: Weight::load(w.be, weight)?, bias, shape }))
    }

    /// `x` `[h, w, in]`, a map or the result of [`GroupNorm::silu`] -> `[h', w', out]` in the compute dtype.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward<'a>(&self, be: &B, x: impl Into<ConvInput<'a, B>>) -> Result<Tensor<B>> {
        Ok(ops::conv2d(be, &x.into(), &self.0)?)
    }

    /// As [`forward`](Self::forward), in f32: for the output of a network.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward_f32<'a>(&self, be: &B, x: impl Into<ConvInput<'a, B>>) -> Result<Tensor<B>> {
        Ok(ops::conv2d_f32(be, &x.into(), &self.0)?)
    }

    /// As [`forward`](Self::forward), added to `y` `[h', w', out]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn add_to<'a>(&self, be: &B, y: &mut Tensor<B>, x: impl Into<ConvInput<'a, B>>) -> Result<()> {
        Ok(ops::conv2d_add(be, y, &x.into(), &self.0)?)
    }

    /// The result for `x` as the input of another convolution, which computes it in bands. For maps that are too large
    /// to keep: every use computes it again.
    pub fn streamed<'a>(&'a self, x: &'a Tensor<B>) -> ConvInput<'a, B> {
        ConvInput { map: x, after: Some(&self.0), norm_silu: None }
    }

    /// Bytes of the result for `x`.
    pub fn result_bytes(&self, be: &B, x: &Tensor<B>) -> usize {
        let pixels: usize = x.shape()[..2].iter().map(|n| self.0.shape.output(*n)).product();
        be.compute().dtype().bytes(pixels * self.0.weight.shape()[0])
    }
}

/// Reorder a kernel `[out, in, k, k]` into the matrix `[out, k * k * in]` that channels-last maps need.
fn channels_last(kernel: &HostTensor) -> Result<HostTensor> {
    let &[out, channels, rows, cols] = kernel.shape() else {
        return Err(flux2_backend::Error::Shape {
            what: "convolution weight",
            found: kernel.shape().to_vec(),
            expected: "[out, in, k, k]".into(),
        }
        .into());
    };
    // Rows of 1 or 3 values cannot be in a block format, so every value is addressable.
    let (size, taps) = (kernel.dtype().bytes(1), rows * cols);
    let mut bytes = Vec::with_capacity(kernel.bytes().len());
    for filter in kernel.bytes().chunks_exact((channels * taps * size).max(1)) {
        for tap in 0..taps {
            for channel in 0..channels {
                bytes.extend_from_slice(&filter[(channel * taps + tap) * size..][..size]);
            }
        }
    }
    Ok(HostTensor::new(kernel.dtype(), [out, taps * channels], HostBytes::new(Arc::new(bytes)))?)
}

/// Group normalization with scale and shift.
pub struct GroupNorm<B: Backend>(flux2_backend::GroupNorm<B>);

impl<B: Backend> GroupNorm<B> {
    /// `weight` and `bias` `[c]`.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn load(w: &Loader<B>, config: &VaeConfig) -> Result<Self> {
        Self::load_of(w, config.groups, config.group_norm_eps)
    }

    /// As [`load`](Self::load), with so many groups and this added to the variance.
    ///
    /// # Errors
    /// As [`Loader::matrix`].
    pub fn load_of(w: &Loader<B>, groups: usize, eps: f32) -> Result<Self> {
        Ok(GroupNorm(flux2_backend::GroupNorm { groups, eps, weight: w.vector("weight")?, bias: w.vector("bias")? }))
    }

    /// `x` `[h, w, c]` -> the same shape.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, be: &B, x: &Tensor<B>) -> Result<Tensor<B>> {
        Ok(ops::group_norm(be, x, &self.0)?)
    }

    /// Group norm followed by SiLU, applied by the convolution that reads the result; only the statistics are computed
    /// here.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn silu<'a>(&self, be: &B, x: impl Into<ConvInput<'a, B>>) -> Result<ConvInput<'a, B>> {
        let x = x.into();
        let norm_silu = Some(ops::group_norm_statistics(be, &x, &self.0)?);
        Ok(ConvInput { norm_silu, ..x })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_last_moves_the_channel_axis_behind_the_taps() {
        let values: Vec<f32> = (0..2 * 3 * 4).map(|v| v as f32).collect(); // [2, 3, 2, 2]
        let moved = channels_last(&HostTensor::from_f32([2, 3, 2, 2], &values)).unwrap();
        assert_eq!(moved.shape(), [2, 12]);
        assert_eq!(moved.to_f32()[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        assert_eq!(moved.to_f32()[12], 12.0);
    }
}

//! 2D convolution of one of the kinds in [`ConvShape`]; sums in f32.
//!
//! Used by the autoencoder. Maps are channels-last (`[h, w, c]`); a weight row is
//! `[kernel row, kernel column, channel]`. Group norm and SiLU before a convolution and the residual addition after it
//! are fused into the op, so that neither needs a map of its own: see [`ConvInput`] and [`conv2d_add`]. Zero padding is
//! applied after the norm.

use crate::{Backend, DType, Error, Result, Tensor, Weight};

/// The parameters of a convolution.
pub struct Convolution<B: Backend> {
    /// Kernel, `[out, kernel * kernel * in]`.
    pub weight: Weight<B>,
    /// f32 `[out]`.
    pub bias: Tensor<B>,
    /// Kernel size, stride and padding.
    pub shape: ConvShape,
}

/// The input of a convolution: a map in memory, and what is applied to it on the fly.
///
/// Neither step's result is ever stored as a whole. Its rows are computed when the convolution needs them.
pub struct ConvInput<'a, B: Backend> {
    /// Compute `[h, w, c]`.
    pub map: &'a Tensor<B>,
    /// First, another convolution. It is recomputed wherever the map is read, which saves the memory of its result.
    pub after: Option<&'a Convolution<B>>,
    /// Then `silu(group_norm(x))` with these [statistics](crate::ops::group_norm_statistics), f32 `[3, c]`.
    pub norm_silu: Option<Tensor<B>>,
}

impl<'a, B: Backend> ConvInput<'a, B> {
    /// Height, width and channels of what the convolution reads.
    ///
    /// # Errors
    /// [`Error::Shape`] if `map` does not have three axes.
    pub fn size(&self) -> Result<[usize; 3]> {
        let [h, w, c] = self.map.dims("convolution: map")?;
        Ok(match self.after {
            Some(conv) => [conv.shape.output(h), conv.shape.output(w), conv.weight.shape()[0]],
            None => [h, w, c],
        })
    }

    /// This input without norm and SiLU.
    pub fn raw(&self) -> Self {
        ConvInput { map: self.map, after: self.after, norm_silu: None }
    }
}

impl<'a, B: Backend> From<&'a Tensor<B>> for ConvInput<'a, B> {
    fn from(map: &'a Tensor<B>) -> Self {
        ConvInput { map, after: None, norm_silu: None }
    }
}

/// The three kinds of convolution in the autoencoder. Weights are `[out, kernel * kernel * in]` (row, column, channel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvShape {
    /// 1x1: a product at each pixel.
    Pointwise,
    /// 3x3, one zero pixel around: `[h, w]` to `[h, w]`.
    Same,
    /// 3x3 with stride 2, one zero row below and one zero column to the right: `[h, w]` to `[h / 2, w / 2]`.
    Downsample,
    /// 3x3 on the nearest-neighbor doubled map: `[h, w]` to `[2 * h, 2 * w]`.
    Upsample,
}

impl ConvShape {
    /// Width and height of the kernel.
    pub const fn kernel(self) -> usize {
        match self {
            ConvShape::Pointwise => 1,
            _ => 3,
        }
    }

    /// Output height or width for an input of `n`.
    pub const fn output(self, n: usize) -> usize {
        match self {
            ConvShape::Pointwise | ConvShape::Same => n,
            ConvShape::Downsample => n / 2,
            ConvShape::Upsample => 2 * n,
        }
    }
}

/// `x` compute `[h, w, c]`, `conv` with weight `[o, kernel * kernel * c]` and bias f32 `[o]` -> compute `[h', w', o]`,
/// with `h'` and `w'` from [`ConvShape::output`].
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if the arguments are not as above, or `h` or `w` is odd in
/// [`ConvShape::Downsample`].
pub fn conv2d<B: Backend>(be: &B, x: &ConvInput<B>, conv: &Convolution<B>) -> Result<Tensor<B>> {
    check(be, x, conv)?;
    be.conv2d(x, conv, be.compute().dtype())
}

/// As [`conv2d`], but the result is f32.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_f32<B: Backend>(be: &B, x: &ConvInput<B>, conv: &Convolution<B>) -> Result<Tensor<B>> {
    check(be, x, conv)?;
    be.conv2d(x, conv, DType::F32)
}

/// `y += conv2d(x)` with `y` compute `[h', w', o]`, rounded once. `y` is copied first if another tensor shares its
/// memory.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_add<B: Backend>(be: &B, y: &mut Tensor<B>, x: &ConvInput<B>, conv: &Convolution<B>) -> Result<()> {
    y.expect_shape("conv2d: y", &check(be, x, conv)?)?;
    y.expect_dtype("conv2d: y", be.compute().dtype())?;
    be.conv2d_add(y, x, conv)
}

/// Checks all arguments; returns the shape of the result.
fn check<B: Backend>(be: &B, x: &ConvInput<B>, conv: &Convolution<B>) -> Result<[usize; 3]> {
    let [h, w, c] = check_input(be, "conv2d: x", x)?;
    check_convolution(conv, [h, w, c])
}

/// Checks the input; returns height, width and channels of the map that the convolution reads.
pub(super) fn check_input<B: Backend>(be: &B, what: &'static str, x: &ConvInput<B>) -> Result<[usize; 3]> {
    let mut size = x.map.dims(what)?;
    x.map.expect_dtype(what, be.compute().dtype())?;
    if let Some(conv) = x.after {
        size = check_convolution(conv, size)?;
    }
    if let Some(statistics) = &x.norm_silu {
        super::expect_f32("conv2d: statistics", statistics, &[3, size[2]])?;
    }
    Ok(size)
}

/// Checks `conv` against an input of `size`; returns the shape of the result.
fn check_convolution<B: Backend>(conv: &Convolution<B>, size: [usize; 3]) -> Result<[usize; 3]> {
    let [h, w, c] = size;
    let ([o, k], kernel) = (conv.weight.shape(), conv.shape.kernel());
    let wrong = |expected| Err(Error::Shape { what: "conv2d: x", found: size.to_vec(), expected });
    if k != kernel * kernel * c {
        return wrong(format!("[h, w, c] with {kernel} * {kernel} * c = {k} of weight [{o}, {k}]"));
    }
    if conv.shape == ConvShape::Downsample && (!h.is_multiple_of(2) || !w.is_multiple_of(2)) {
        return wrong("even height and width to halve them".into());
    }
    super::expect_f32("conv2d: bias", &conv.bias, &[o])?;
    Ok([conv.shape.output(h), conv.shape.output(w), o])
}

/// `x` `[h, w, c]` with `size = [h, w, c]`, `weight` `[o, kernel * kernel * c]`, `bias` `[o]` -> `[h', w', o]`.
///
/// Upsamples and zero-pads the map as the definition says, then computes a plain strided convolution.
pub fn reference(x: &[f32], size: [usize; 3], weight: &[f32], bias: &[f32], conv: ConvShape) -> Vec<f64> {
    let [h, w, c] = size;
    let (double, before, stride) = match conv {
        ConvShape::Pointwise => (1, 0, 1),
        ConvShape::Same => (1, 1, 1),
        ConvShape::Downsample => (1, 0, 2),
        ConvShape::Upsample => (2, 1, 1),
    };
    let at = |y: usize, x_: usize, channel: usize| {
        let (y, x_) = (y.wrapping_sub(before), x_.wrapping_sub(before));
        if y < h * double && x_ < w * double { f64::from(x[(y / double * w + x_ / double) * c + channel]) } else { 0.0 }
    };
    let kernel = conv.kernel();
    let mut out = Vec::new();
    for y in 0..conv.output(h) {
        for x_ in 0..conv.output(w) {
            for (weight, bias) in weight.chunks_exact(kernel * kernel * c).zip(bias) {
                let mut sum = f64::from(*bias);
                for (i, weight) in weight.iter().enumerate() {
                    let (tap, channel) = (i / c, i % c);
                    sum += f64::from(*weight) * at(y * stride + tap / kernel, x_ * stride + tap % kernel, channel);
                }
                out.push(sum);
            }
        }
    }
    out
}

//! Convolution over a map of pixels, one of the kinds in [`ConvShape`]; sums in f32.
//!
//! Used by the autoencoder. A pixel's channels are neighbours in memory, and a weight row is `[row, column, channel]`.

use crate::{Backend, ConvShape, DType, Result, Tensor, Weight};

/// `x` compute `[h, w, c]`, `weight` `[o, kernel * kernel * c]`, `bias` f32 `[o]` -> compute `[h', w', o]`, with `h'`
/// and `w'` from [`ConvShape::output`].
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::DType`] if the arguments are not as above, or `h` or `w` is odd in
/// [`ConvShape::Downsample`].
pub fn conv2d<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: &Tensor<B>,
    conv: ConvShape,
) -> Result<Tensor<B>> {
    convolution(be, x, weight, bias, conv, be.compute().dtype())
}

/// As [`conv2d`], but the sums stay f32.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_f32<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: &Tensor<B>,
    conv: ConvShape,
) -> Result<Tensor<B>> {
    convolution(be, x, weight, bias, conv, DType::F32)
}

fn convolution<B: Backend>(
    be: &B,
    x: &Tensor<B>,
    weight: &Weight<B>,
    bias: &Tensor<B>,
    conv: ConvShape,
    out: DType,
) -> Result<Tensor<B>> {
    let [h, w, c] = x.dims("conv2d: x")?;
    let [o, k] = weight.shape();
    if k != conv.kernel() * conv.kernel() * c {
        let kernel = conv.kernel();
        return Err(
            x.wrong_shape("conv2d: x", format!("[h, w, c] with {kernel} * {kernel} * c = {k} of weight [{o}, {k}]"))
        );
    }
    if conv == ConvShape::Downsample && (!h.is_multiple_of(2) || !w.is_multiple_of(2)) {
        return Err(x.wrong_shape("conv2d: x", "even height and width to halve them"));
    }
    x.expect_dtype("conv2d: x", be.compute().dtype())?;
    super::expect_f32("conv2d: bias", bias, &[o])?;
    be.conv2d(x, weight, bias, conv, out)
}

/// `x` `[h, w, c]` with `size = [h, w, c]`, `weight` `[o, kernel * kernel * c]`, `bias` `[o]` -> `[h', w', o]`.
///
/// The map is widened as the definition says (doubled for upsampling, zeros around), then a plain strided product.
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

//! Inputs and comparisons of the op matrix.

use super::*;

/// Asserts `shape`, `dtype`, and values within the tolerance for sums of `terms` products.
#[track_caller]
pub(super) fn check<B: Backend>(
    be: &B,
    got: &Tensor<B>,
    shape: &[usize],
    dtype: DType,
    expected: &[f64],
    terms: usize,
) -> Result<()> {
    assert_eq!((got.shape(), got.dtype()), (shape, dtype));
    assert_close(&be.download(got)?, expected, Tolerance::of(dtype, terms));
    Ok(())
}

/// In bf16 the softmax weights are rounded before they multiply the values: 2^-8 of each term, which in the worst case
/// is about four standard deviations of the sum.
pub(super) fn attention_tolerance<B: Backend>(be: &B, terms: usize) -> Tolerance {
    let rounding = if be.compute() == Compute::Bf16 { 2f64.powi(-7) } else { 0.0 };
    Tolerance::of(be.compute().dtype(), terms).and_of_rms(rounding)
}

/// A window in the middle of a wider tensor, starting at an odd column, and its values.
pub(super) fn window<B: Backend>(be: &B, name: &str, shape: &[usize], dtype: DType) -> Result<(Tensor<B>, Vec<f32>)> {
    let mut wide = shape.to_vec();
    let cols = *shape.last().unwrap();
    *wide.last_mut().unwrap() = cols + 7;
    let x = tensor(be, name, &wide, dtype)?.0.slice_cols(3..3 + cols);
    let values = be.download(&x)?;
    Ok((x, values))
}

/// Random bf16 weights, and their values.
pub(super) fn weight<B: Backend>(be: &B, name: &str, shape: [usize; 2]) -> Result<(Weight<B>, Vec<f32>)> {
    let values: Vec<bf16> = random(name, &shape).into_iter().map(bf16::from_f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let host = HostTensor::new(DType::Bf16, shape, HostBytes::new(Arc::new(bytes)))?;
    let values = host.to_f32();
    Ok((Weight::load(be, host)?, values))
}

/// A random convolution from `c` to `o` channels, and the values of its weight and bias.
pub(super) fn convolution<B: Backend>(
    be: &B,
    name: &str,
    [o, c]: [usize; 2],
    shape: ConvShape,
) -> Result<(Convolution<B>, Vec<f32>, Vec<f32>)> {
    let (weight, weights) = weight(be, &format!("{name}.weight"), [o, shape.kernel() * shape.kernel() * c])?;
    let (bias, biases) = tensor(be, &format!("{name}.bias"), &[o], F32)?;
    Ok((Convolution { weight, bias, shape }, weights, biases))
}

/// A random group norm of `c` channels, and the values of its weight and bias.
pub(super) fn normalization<B: Backend>(be: &B, groups: usize, c: usize) -> Result<(GroupNorm<B>, Vec<f32>, Vec<f32>)> {
    let ((weight, weights), (bias, biases)) = (tensor(be, "weight", &[c], F32)?, tensor(be, "bias", &[c], F32)?);
    Ok((GroupNorm { groups, weight, bias, eps: EPS }, weights, biases))
}

/// Values that are exact in bf16, stored as `dtype`, at offset `skip` of a buffer.
pub(super) fn dense(dtype: DType, shape: [usize; 2], skip: usize) -> HostTensor {
    let mut bytes = vec![0; skip];
    for value in random("dense", &shape).into_iter().map(|v| bf16::from_f32(v).to_f32()) {
        match dtype {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            other => panic!("{other} is not a dense format"),
        }
    }
    let end = bytes.len();
    HostTensor::new(dtype, shape, HostBytes::new(Arc::new(bytes)).slice(skip..end)).unwrap()
}

/// Random e4m3 values with scales for blocks of 32x48, whose products are exact in bf16.
pub(super) fn scaled_fp8(shape: [usize; 2]) -> HostTensor {
    let bytes: Vec<u8> =
        random("fp8", &shape).iter().map(|v| (v.abs() * 36.0) as u8 | ((*v < 0.0) as u8) << 7).collect();
    let blocks = [shape[0].div_ceil(32), shape[1].div_ceil(48)];
    let scale = |i| [0.25, 1.0, 1.5, 3.0, 0.625][i % 5];
    let scales = BlockScales { values: (0..blocks[0] * blocks[1]).map(scale).collect(), block: [32, 48] };
    let host = HostTensor::new(DType::F8E4M3, shape, HostBytes::new(Arc::new(bytes))).unwrap();
    host.with_scales(scales).unwrap()
}

//! int8 products: weights are quantized and packed once, when loaded; rows of the left operand are quantized at the
//! start of each product. The number format is in [`crate::quant::int8`].

use std::ops::Range;

use super::gemm::{self, Output, Staging};
use super::simd::{Element, MicroKernel, Tier, vectorize, with_element};
use super::{Buffer, CpuBackend};
use crate::quant::int8;
use crate::{DType, HostTensor, Result, Tensor};

/// An int8 weight `[n, k]`, packed as the micro-kernel reads it: panels of `cols` rows, and in a panel, for every four
/// columns, the bytes of all its rows.
pub struct Int8Matrix {
    packed: Buffer,
    groups: usize,
    shape: [usize; 2],
    /// Scale of each row.
    scales: Vec<f32>,
    /// Sum of the quantized values of each row.
    sums: Vec<i32>,
}

impl Int8Matrix {
    /// Quantizes and packs `weight` on all threads; a weight stored as i8 with one scale per row is only packed.
    pub(super) fn new(be: &CpuBackend, weight: &HostTensor) -> Result<Self> {
        let &[n, k] = weight.shape() else { unreachable!("`Weight::load` takes matrices only") };
        assert!(k <= int8::MAX_TERMS, "{k} terms do not fit an i32");
        let kernel = MicroKernel::select_int8(be.tier);
        let groups = k.div_ceil(4);
        let panel_len = groups * kernel.cols;
        let panels = n.div_ceil(kernel.cols);
        let stored = weight.scales().filter(|scales| weight.dtype() == DType::I8 && scales.block == [1, k]);
        let mut packed = be.buffers.take(4 * panels * panel_len)?;
        // Scale and sum of each row, including the padding rows of the last panel.
        let mut rows = vec![(0f32, 0i32); panels * kernel.cols];
        {
            let packed = Output::new(packed.as_mut_slice::<u32>(panels * panel_len), panel_len);
            let rows = Output::new(&mut rows, kernel.cols);
            let state = || (Staging::default(), vec![0u32; kernel.cols * groups]);
            be.threads.run(panels, state, |(staging, bytes), p| {
                // SAFETY: each panel belongs to one task.
                let (panel, rows) = unsafe { (packed.piece(p, 0..panel_len), rows.piece(p, 0..kernel.cols)) };
                let weight_rows = p * kernel.cols..n.min((p + 1) * kernel.cols);
                staging.values.resize(k, 0.0);
                for (row, (out, bytes)) in weight_rows.clone().zip(rows.iter_mut().zip(bytes.chunks_exact_mut(groups)))
                {
                    let bytes: &mut [i8] = bytemuck::cast_slice_mut(bytes);
                    let scale = match stored {
                        Some(scales) => {
                            bytes[..k].copy_from_slice(bytemuck::cast_slice(&weight.bytes()[row * k..][..k]));
                            scales.values.get(row)
                        }
                        None => {
                            weight.decode_row(row, 0, &mut staging.values);
                            quantize_weights(be.tier, &staging.values, &mut bytes[..k])
                        }
                    };
                    *out = (scale, sum(be.tier, &bytes[..k]));
                }
                let row = |r: usize| bytes[r * groups..][..groups].as_ptr();
                // SAFETY: each row has as many groups as the panel.
                unsafe { gemm::pack_rows(be.tier, kernel, panel, weight_rows.len(), row) };
            });
        }
        rows.truncate(n);
        let (scales, sums) = rows.into_iter().unzip();
        Ok(Int8Matrix { packed, groups, shape: [n, k], scales, sums })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Groups `groups` of panel `panel`, whose width is `cols`.
    pub(super) fn panel(&self, panel: usize, groups: Range<usize>, cols: usize) -> &[u32] {
        &self.packed.as_slice::<u32>()[(panel * self.groups + groups.start) * cols..][..groups.len() * cols]
    }

    /// Converts integer sums (i32 bits) to f32 values, in place. `columns` are columns of the result; `scale` and
    /// `zero` are those of the row of the left operand.
    pub(super) fn dequantize(&self, tier: Tier, columns: Range<usize>, (scale, zero): (f32, i32), values: &mut [f32]) {
        dequantize(tier, values, scale, zero, &self.scales[columns.clone()], &self.sums[columns]);
    }
}

/// Rows of a left operand in int8, each with a scale and a zero point.
pub(super) struct QuantizedRows {
    /// For each row: scale, zero point, groups of bytes.
    buffer: Buffer,
    stride: usize,
}

/// Words before the groups of a row: scale and zero point.
const HEADER: usize = 2;

impl QuantizedRows {
    /// Quantizes the rows of `parts`, tensors side by side.
    pub(super) fn new(be: &CpuBackend, parts: &[&Tensor<CpuBackend>]) -> Result<Self> {
        let (rows, k) = (parts[0].rows(), parts.iter().map(|part| part.cols()).sum::<usize>());
        let stride = HEADER + k.div_ceil(4);
        let mut buffer = be.buffers.take(4 * rows * stride)?;
        let words = buffer.as_mut_slice::<u32>(rows * stride);
        with_element!(parts[0].dtype(), T => be.threads.for_rows(words, stride, |i, out| {
            let (header, groups) = out.split_at_mut(HEADER);
            let mut bytes: &mut [u8] = bytemuck::cast_slice_mut(groups);
            let (mut low, mut high) = (0f32, 0f32);
            for part in parts {
                let (l, h) = range(be.tier, part.row::<T>(i));
                // Comparisons drop NaN; adding 0 * NaN keeps it.
                low = (if l < low { l } else { low }) + 0.0 * l;
                high = (if h > high { h } else { high }) + 0.0 * h;
            }
            let (scale, zero) = int8::activation_range(low, high);
            (header[0], header[1]) = (scale.to_bits(), zero as u32);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for part in parts {
                let (here, behind) = bytes.split_at_mut(part.cols());
                quantize_activations(be.tier, part.row::<T>(i), inverse, zero, here);
                bytes = behind;
            }
            bytes.fill(0); // padding, multiplied with zeros of the packed weight
        }));
        Ok(QuantizedRows { buffer, stride })
    }

    /// Address of the groups of row `i`.
    pub(super) fn pointer(&self, i: usize) -> *const u32 {
        self.buffer.as_slice::<u32>()[i * self.stride + HEADER..].as_ptr()
    }

    /// Scale and zero point of row `i`.
    pub(super) fn range(&self, i: usize) -> (f32, i32) {
        let header = &self.buffer.as_slice::<u32>()[i * self.stride..][..HEADER];
        (f32::from_bits(header[0]), header[1] as i32)
    }
}

vectorize! {
    fn quantize_weights(values: &[f32], out: &mut [i8]) -> f32 {
        int8::quantize_weights(values, out)
    }
}

vectorize! {
    fn sum(bytes: &[i8]) -> i32 {
        bytes.iter().map(|b| i32::from(*b)).sum()
    }
}

vectorize! {
    fn range<T: Element>(values: &[T]) -> (f32, f32) {
        int8::range(values, |v| v.to_f32())
    }
}

vectorize! {
    fn quantize_activations<T: Element>(values: &[T], inverse: f32, zero: i32, out: &mut [u8]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = int8::quantize_activation(value.to_f32(), inverse, zero);
        }
    }
}

vectorize! {
    fn dequantize(values: &mut [f32], scale: f32, zero: i32, scales: &[f32], sums: &[i32]) {
        for ((value, weight_scale), sum) in values.iter_mut().zip(scales).zip(sums) {
            let exact = (value.to_bits() as i32).wrapping_sub(zero.wrapping_mul(*sum));
            *value = exact as f32 * (scale * weight_scale);
        }
    }
}

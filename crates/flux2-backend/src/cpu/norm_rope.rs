//! `norm_rope`: one pass over each head; the normalized values never reach memory.

use super::simd::{Element, vectorize, with_element};
use super::{CpuBackend, lanes};
use crate::{Result, Rope, RopeLayout, Tensor};

pub(super) fn norm_rope(
    be: &CpuBackend,
    x: &Tensor<CpuBackend>,
    weight: &Tensor<CpuBackend>,
    rope: &Rope<CpuBackend>,
    eps: f32,
) -> Result<Tensor<CpuBackend>> {
    let weight = weight.elements::<f32>();
    with_element!(x.dtype(), T => be.build_rows(x.shape(), |i, out: &mut [T]| {
        let (x, cos, sin) = (x.row(i), rope.cos.row(i), rope.sin.row(i));
        match rope.layout {
            RopeLayout::Interleaved => interleaved(be.tier, x, weight, cos, sin, eps, out),
            RopeLayout::Halves => halves(be.tier, x, weight, cos, sin, eps, out),
        }
    }))
}

vectorize! {
    fn interleaved<T: Element>(x: &[T], weight: &[f32], cos: &[f32], sin: &[f32], eps: f32, out: &mut [T]) {
        let d = weight.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let scale = lanes::inverse_rms(x, eps);
            let pairs = x.chunks_exact(2).zip(weight.chunks_exact(2)).zip(cos.iter().zip(sin));
            for (out, ((x, weight), (cos, sin))) in out.chunks_exact_mut(2).zip(pairs) {
                let (a, b) = (x[0].to_f32() * scale * weight[0], x[1].to_f32() * scale * weight[1]);
                out[0] = T::from_f32(a * cos - b * sin);
                out[1] = T::from_f32(b * cos + a * sin);
            }
        }
    }
}

vectorize! {
    fn halves<T: Element>(x: &[T], weight: &[f32], cos: &[f32], sin: &[f32], eps: f32, out: &mut [T]) {
        let d = weight.len();
        let (first_weight, second_weight) = weight.split_at(d / 2);
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let scale = lanes::inverse_rms(x, eps);
            let (first_x, second_x) = x.split_at(d / 2);
            let (first_out, second_out) = out.split_at_mut(d / 2);
            let first = first_out.iter_mut().zip(first_x).zip(first_weight);
            let second = second_out.iter_mut().zip(second_x).zip(second_weight);
            let pairs = first.zip(second).zip(cos.iter().zip(sin));
            for ((((out_a, a), weight_a), ((out_b, b), weight_b)), (cos, sin)) in pairs {
                let (a, b) = (a.to_f32() * scale * weight_a, b.to_f32() * scale * weight_b);
                *out_a = T::from_f32(a * cos - b * sin);
                *out_b = T::from_f32(b * cos + a * sin);
            }
        }
    }
}

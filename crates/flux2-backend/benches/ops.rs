//! Times the products the model spends its time in, beside the peak of the processor measured in the same run.
//!
//! `cargo bench -p flux2-backend --bench ops [-- THREADS]`; each line is the median of several runs, with the share of
//! the peak that register-only multiply-adds reach on as many threads.

#![allow(clippy::print_stdout, unsafe_code)] // a bench reports to its terminal; the peak loop is intrinsics

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use flux2_backend::{
    AttentionMask, Backend, Compute, ConvShape, CpuBackend, CpuOptions, DType, HostBytes, HostTensor, Tensor, Weight,
};

fn main() {
    let threads = std::env::args().skip(1).find_map(|a| a.parse().ok()).and_then(NonZeroUsize::new);
    for compute in [Compute::Bf16, Compute::F32] {
        let be = CpuBackend::new(CpuOptions { compute, threads, tier: None });
        let peak = peak_gflops(compute, be.threads());
        println!("{compute}, {:?}, {} threads: peak {peak:.0} GFLOP/s", be.tier(), be.threads());
        for [m, k, n] in
            [[1536, 3072, 9216], [1024, 3072, 9216], [512, 2560, 9728], [768, 3072, 27648], [1536, 12288, 3072]]
        {
            let x = random(&be, &[m, k]);
            let w = weight(&be, [n, k]);
            let gflop = 2e-9 * (m * n * k) as f64;
            report(&format!("linear {m}x{k}x{n}"), gflop, peak, || {
                be.linear(&x, &w, None, compute.dtype()).unwrap();
            });
        }
        for n in [768, 1536, 4608] {
            let [q, k, v] = std::array::from_fn(|_| random(&be, &[n, 24 * 128]));
            report(&format!("attention {n} tokens, 24 heads of 128"), 4e-9 * (n * n * 24 * 128) as f64, peak, || {
                be.attention(&q, &k, &v, 128, AttentionMask::None).unwrap();
            });
        }
        for [side, channels] in [[64, 512], [128, 512], [256, 128], [512, 128]] {
            let x = random(&be, &[side, side, channels]);
            let w = weight(&be, [channels, 9 * channels]);
            let bias = be.upload(&[channels], &vec![0.0; channels]).unwrap();
            let gflop = 18e-9 * (side * side * channels * channels) as f64;
            report(&format!("conv 3x3 {channels} channels {side}x{side}"), gflop, peak, || {
                be.conv2d(&x, &w, &bias, ConvShape::Same, compute.dtype()).unwrap();
            });
        }
    }
}

fn report(name: &str, gflop: f64, peak: f64, run: impl Fn()) {
    run();
    let mut seconds: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = gflop / seconds[3];
    println!("  {name:44} {:8.2} ms {rate:7.0} GFLOP/s {:5.1} % of peak", 1e3 * seconds[3], 100.0 * rate / peak);
}

fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn random(be: &CpuBackend, shape: &[usize]) -> Tensor<CpuBackend> {
    let x = be.upload(shape, &values(shape.iter().product())).unwrap();
    be.cast(&x, be.compute().dtype()).unwrap()
}

/// As a bf16 checkpoint holds it.
fn weight(be: &CpuBackend, shape: [usize; 2]) -> Weight<CpuBackend> {
    let bytes: Vec<u8> =
        values(shape[0] * shape[1]).iter().flat_map(|v| half::bf16::from_f32(v / 64.0).to_le_bytes()).collect();
    let tensor = HostTensor::new(DType::Bf16, shape, HostBytes::new(Arc::new(bytes))).unwrap();
    Weight::load(be, tensor).unwrap()
}

/// What `threads` cores reach on multiply-adds that never leave the registers; 0 where no such loop is written.
fn peak_gflops(compute: Compute, threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && (compute == Compute::F32 || is_x86_feature_detected!("avx512bf16")) {
        const ROUNDS: usize = 30_000_000; // long enough for the threads to spread over the cores
        let flop = if compute == Compute::F32 { 32 } else { 64 } * peak::SUMS * ROUNDS * threads;
        let best = (0..5)
            .map(|_| {
                let start = Instant::now();
                std::thread::scope(|s| {
                    for _ in 0..threads {
                        // SAFETY: the processor has the instructions, as asked above.
                        s.spawn(|| unsafe {
                            match compute {
                                Compute::F32 => std::hint::black_box(peak::f32_loop(ROUNDS)),
                                Compute::Bf16 => std::hint::black_box(peak::bf16_loop(ROUNDS)),
                            }
                        });
                    }
                });
                start.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        return flop as f64 / best * 1e-9;
    }
    let _ = (compute, threads);
    0.0
}

#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;

    /// Independent sums: more than the latency of an operation times the units that do it.
    pub(super) const SUMS: usize = 16;

    /// `$sum = $next` for each of the sums, written out: as a loop over an array they would live in memory.
    macro_rules! on_every_sum {
        ($rounds:ident, $sum:ident => $next:expr) => {
            on_every_sum!($rounds, $sum => $next; s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15)
        };
        ($rounds:ident, $sum:ident => $next:expr; $($name:ident)*) => {{
            $(let mut $name = _mm512_setzero_ps();)*
            for _ in 0..$rounds {
                $(
                    let $sum = $name;
                    $name = $next;
                )*
            }
            let sums: [_; SUMS] = [$($name),*];
            sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
        }};
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_loop(rounds: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(1.0001), _mm512_set1_ps(0.9999));
        on_every_sum!(rounds, sum => _mm512_fmadd_ps(a, b, sum))
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_loop(rounds: usize) -> f32 {
        // SAFETY: both types are 512 bits.
        let a: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(0x3f80_3f80)) };
        on_every_sum!(rounds, sum => _mm512_dpbf16_ps(sum, a, a))
    }
}

//! Measured peak throughput of the processor, the reference for the roofline of benchmarks.
//!
//! Compute: multiply-adds on registers only, with the instructions of the micro-kernels in use. Memory: a copy between
//! buffers larger than the caches. Both use all threads and take the best of several runs, since other load can only
//! make a run slower.

use std::time::Instant;

use super::Threads;
use super::simd::Tier;
use crate::{Compute, Format};

/// Runs per measurement.
const RUNS: usize = 5;
/// Iterations of the loop per run: about 0.05 s, so that all threads overlap for most of it.
const ROUNDS: usize = 10_000_000;

/// A loop of multiply-adds on registers.
struct Loop {
    /// Floating-point (or integer) operations per round; a multiply-add is two.
    flop: usize,
    /// Runs the given number of rounds.
    run: unsafe fn(usize) -> f32,
}

impl Loop {
    /// Operations per second on all threads.
    ///
    /// # Safety
    /// The processor supports the instructions of the loop.
    unsafe fn measure(&self, rounds: usize, threads: &Threads) -> f64 {
        let tasks = threads.count();
        let seconds = best(|| {
            threads.run(
                tasks,
                || (),
                |(), _| {
                    // SAFETY: guaranteed by the caller.
                    std::hint::black_box(unsafe { (self.run)(rounds) });
                },
            );
        });
        (self.flop * rounds * tasks) as f64 / seconds
    }
}

/// The loop for the instructions that `MicroKernel::select` and `select_int8` choose; `None` if there is none for them.
fn select(tier: Tier, compute: Compute, format: Format) -> Option<Loop> {
    #[cfg(target_arch = "x86_64")]
    match (format, tier, compute) {
        (Format::Int8, Tier::Avx512Vnni | Tier::Avx512Bf16, _) => return Some(x86::AVX512_INT8),
        (Format::Int8, Tier::Avx2Vnni, _) => return Some(x86::AVX2_VNNI_INT8),
        (Format::Int8, ..) => return None,
        (_, Tier::Avx512Bf16, Compute::Bf16) => return Some(x86::AVX512_BF16),
        (_, Tier::Avx512 | Tier::Avx512Vnni | Tier::Avx512Bf16, _) => return Some(x86::AVX512_F32),
        (_, Tier::Avx2 | Tier::Avx2Vnni, _) => return Some(x86::AVX2_F32),
        (_, Tier::Portable, _) => {}
    }
    let _ = (tier, compute, format);
    None
}

/// See [`crate::Backend::peak_flops`].
pub(super) fn flops(tier: Tier, compute: Compute, format: Format, threads: &Threads) -> Option<f64> {
    // SAFETY: the processor supports the tier of a backend.
    select(tier, compute, format).map(|chosen| unsafe { chosen.measure(ROUNDS, threads) })
}

/// See [`crate::Backend::peak_bandwidth`].
pub(super) fn bandwidth(threads: &Threads) -> f64 {
    // 128 MiB each, written before they are read: pages never written all map to the same zero page.
    copy_bandwidth(32 << 20, threads)
}

/// Bytes per second, read and written, of copying `len` values. Pieces are short enough that `memcpy` uses no
/// non-temporal stores, as the ops use none.
fn copy_bandwidth(len: usize, threads: &Threads) -> f64 {
    const PIECE: usize = 16 << 10;
    let (from, mut to) = (vec![1f32; len], vec![0f32; len]);
    let seconds = best(|| {
        threads.for_rows(&mut to, PIECE, |i, piece| piece.copy_from_slice(&from[i * PIECE..][..piece.len()]));
    });
    std::hint::black_box(&to);
    (2 * size_of::<f32>() * len) as f64 / seconds
}

/// Seconds of the fastest run.
fn best(mut run: impl FnMut()) -> f64 {
    let seconds = (0..RUNS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Loop;

    /// Defines a loop over independent sums, more than the latency of an operation times the number of execution units.
    /// They are separate variables because an array would live in memory.
    macro_rules! register_loop {
        ($(#[$meta:meta])* $loop:ident, $run:ident, $features:literal, $macs:literal a round and sum, zero: $zero:expr,
         operands: $a:ident = $a_value:expr, $b:ident = $b_value:expr; $sum:ident => $next:expr, reduce: $reduce:expr;
         $($name:ident)*) => {
            #[target_feature(enable = $features)]
            fn $run(rounds: usize) -> f32 {
                let ($a, $b) = ($a_value, $b_value);
                $(let mut $name = $zero;)*
                for _ in 0..rounds {
                    $(
                        let $sum = $name;
                        $name = $next;
                    )*
                }
                0.0 $(+ $reduce($name))*
            }

            $(#[$meta])*
            pub(super) const $loop: Loop = Loop { flop: 2 * $macs * [$(stringify!($name)),*].len(), run: $run };
        };
    }

    register_loop!(
        AVX512_F32, avx512_f32, "avx512f", 16 a round and sum, zero: _mm512_setzero_ps(),
        operands: a = _mm512_set1_ps(1.0001), b = _mm512_set1_ps(0.9999);
        sum => _mm512_fmadd_ps(a, b, sum), reduce: |v| _mm512_reduce_add_ps(v);
        s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15
    );

    register_loop!(
        AVX512_BF16, avx512_bf16, "avx512f,avx512bf16", 32 a round and sum, zero: _mm512_setzero_ps(),
        operands: a = bf16_ones(), b = bf16_ones();
        sum => _mm512_dpbf16_ps(sum, a, b), reduce: |v| _mm512_reduce_add_ps(v);
        s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15
    );

    register_loop!(
        /// Unsigned times signed bytes.
        AVX512_INT8, avx512_int8, "avx512f,avx512vnni", 64 a round and sum, zero: _mm512_setzero_si512(),
        operands: a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
        sum => _mm512_dpbusd_epi32(sum, a, b), reduce: |v| _mm512_reduce_add_epi32(v) as f32;
        s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15
    );

    // 16 registers: 12 sums and two operands.
    register_loop!(
        AVX2_F32, avx2_f32, "avx2,fma", 8 a round and sum, zero: _mm256_setzero_ps(),
        operands: a = _mm256_set1_ps(1.0001), b = _mm256_set1_ps(0.9999);
        sum => _mm256_fmadd_ps(a, b, sum), reduce: |v| _mm256_cvtss_f32(v);
        s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11
    );

    register_loop!(
        /// Unsigned times signed bytes.
        AVX2_VNNI_INT8, avx2_vnni_int8, "avx2,avxvnni", 32 a round and sum, zero: _mm256_setzero_si256(),
        operands: a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
        sum => _mm256_dpbusd_avx_epi32(sum, a, b), reduce: |v| _mm256_cvtsi256_si32(v) as f32;
        s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11
    );

    #[target_feature(enable = "avx512f")]
    fn bf16_ones() -> __m512bh {
        // SAFETY: both types are 512 bits.
        unsafe { std::mem::transmute(_mm512_set1_epi32(0x3f80_3f80)) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn one_thread() -> Threads {
        Threads::new(NonZeroUsize::new(1)).unwrap()
    }

    #[test]
    fn every_loop_this_processor_can_run_has_a_rate() {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.available()) {
            for (compute, format) in
                [(Compute::F32, Format::AsStored), (Compute::Bf16, Format::AsStored), (Compute::Bf16, Format::Int8)]
            {
                let Some(chosen) = select(tier, compute, format) else {
                    let written = cfg!(target_arch = "x86_64") && tier != Tier::Portable && format != Format::Int8;
                    assert!(!written, "{tier} {compute} {format:?}");
                    continue;
                };
                // SAFETY: the processor has this tier.
                let rate = unsafe { chosen.measure(1000, &one_thread()) };
                assert!(rate.is_finite() && rate > 0.0, "{tier} {compute} {format:?}: {rate}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_round_counts_every_multiply_add() {
        let loops = [x86::AVX512_F32, x86::AVX512_BF16, x86::AVX512_INT8, x86::AVX2_F32, x86::AVX2_VNNI_INT8];
        assert_eq!(loops.map(|l| l.flop), [512, 1024, 2048, 192, 768]);
        if Tier::Avx512Vnni.available() {
            // SAFETY: checked above.
            let sum = unsafe { (x86::AVX512_INT8.run)(1000) };
            assert_eq!(sum, -(15 * 64 * 16 * 1000) as f32);
        }
    }

    #[test]
    fn copying_has_a_rate() {
        // Not a whole number of pieces.
        let rate = copy_bandwidth(48 << 10, &one_thread());
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}

//! Test helpers of this crate and of the crates above it: seeded values, tolerances with their derivation, and
//! [`on_every_backend!`](crate::on_every_backend).
//!
//! ```ignore
//! fn silu_of_zero<B: Backend>(be: &B) -> Result<()> {
//!     let y = be.download(&ops::silu(be, &be.upload(&[1], &[0.0])?)?)?;
//!     assert_close(&y, &[0.0], Tolerance::of(be.compute().dtype(), 1));
//!     Ok(())
//! }
//! on_every_backend!(silu_of_zero);
//! ```

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::cpu::Tier;
use crate::{Backend, Compute, CpuBackend, CpuOptions, DType, Result, Tensor};

pub use crate::{on_every_backend, on_every_cpu};

/// The path of a file or folder of the repository: below the folder where this was built, or, where a test binary was
/// copied to another machine, below the current folder.
pub fn repository(path: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if built.is_dir() { built.join(path) } else { path.into() }
}

/// A pseudo-random number in 0..1 for element `index` of the tensor `name`, the same on every machine.
///
/// The CRC-32 of the name plus a multiple of the index goes through a 32-bit mixer. That is a few lines in any
/// language, so other implementations can reproduce the values.
pub fn unit(name: &str, index: usize) -> f64 {
    let mut hash = crc32(name.as_bytes()).wrapping_add((index as u32).wrapping_mul(2_654_435_761));
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x7feb_352d);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x846c_a68b);
    hash ^= hash >> 16;
    (f64::from(hash) + 0.5) / 4_294_967_296.0
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Values of the tensor `name`, uniform over -sqrt(3)..sqrt(3): mean 0, variance 1.
pub fn random(name: &str, shape: &[usize]) -> Vec<f32> {
    let value = |i| ((2.0 * unit(name, i) - 1.0) * 3f64.sqrt()) as f32;
    (0..shape.iter().product()).map(value).collect()
}

/// A tensor of [`random`] values in `dtype`, and its values after rounding.
///
/// # Errors
/// Any error of the backend.
pub fn tensor<B: Backend>(be: &B, name: &str, shape: &[usize], dtype: DType) -> Result<(Tensor<B>, Vec<f32>)> {
    let x = crate::ops::cast(be, &be.upload(shape, &random(name, shape))?, dtype)?;
    let values = be.download(&x)?;
    Ok((x, values))
}

/// Largest allowed error of an element: `relative * |expected| + of_rms * rms(all expected)`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the element: covers rounding of the result.
    pub relative: f64,
    /// Relative to the root mean square of all elements: covers errors of the terms of a sum, which remain where the
    /// sum cancels.
    pub of_rms: f64,
}

impl Tolerance {
    /// For results in `dtype` that are sums of `terms` products, if the reference gets exactly the same inputs.
    ///
    /// Rounding the result costs half a unit in the last place: relative 2^-24 in f32, 2^-8 in bf16. A few f32
    /// operations around it (a division, an exponential) cost 2^-22 of the result, or of the terms that cancel in it.
    /// Sequential f32 summation of `terms` values of random sign has an error, relative to the rms of such sums, of
    /// about 0.4 * 2^-24 * sqrt(terms) on average, and ten times that in the worst of many thousand sums.
    pub fn of(dtype: DType, terms: usize) -> Self {
        let rounding = match dtype {
            DType::F32 => 2f64.powi(-24),
            DType::F16 => 2f64.powi(-11),
            DType::Bf16 => 2f64.powi(-8),
            other => panic!("results are never {other}"),
        };
        let operations = 2f64.powi(-22);
        Tolerance { relative: rounding + operations, of_rms: operations * (1.0 + (terms as f64).sqrt()) }
    }

    /// This tolerance with `more` added to [`of_rms`](Self::of_rms).
    pub fn and_of_rms(self, more: f64) -> Self {
        Tolerance { of_rms: self.of_rms + more, ..self }
    }
}

/// Asserts that every element of `got` is within `tolerance` of `expected`.
///
/// # Panics
/// If one is not, with the index and values of the worst element; or if the lengths differ.
#[track_caller]
pub fn assert_close<E: Copy + Into<f64>>(got: &[f32], expected: &[E], tolerance: Tolerance) {
    assert_eq!(got.len(), expected.len(), "number of values");
    let expected: Vec<f64> = expected.iter().map(|e| (*e).into()).collect();
    let rms = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    // Error in units of the bound; infinite for NaN.
    let excess = |i: usize| {
        let bound = tolerance.relative * expected[i].abs() + tolerance.of_rms * rms;
        let error = (f64::from(got[i]) - expected[i]).abs();
        let excess = if error == 0.0 { 0.0 } else { error / bound };
        (if excess.is_nan() { f64::INFINITY } else { excess }, bound)
    };
    let worst = (0..got.len()).max_by(|a, b| excess(*a).0.total_cmp(&excess(*b).0));
    if let Some(i) = worst
        && excess(i).0 > 1.0
    {
        let wrong = (0..got.len()).filter(|i| excess(*i).0 > 1.0).count();
        panic!(
            "{wrong} of {} values are off; the worst is [{i}]: got {}, expected {}, error {:.3e}, allowed {:.3e}; \
             relative L2 error {:.3e}",
            got.len(),
            got[i],
            expected[i],
            (f64::from(got[i]) - expected[i]).abs(),
            excess(i).1,
            relative_l2(got, &expected),
        );
    }
}

/// Relative L2 error, `|got - expected| / |expected|`.
pub fn relative_l2<E: Copy + Into<f64>>(got: &[f32], expected: &[E]) -> f64 {
    let square = |v: f64| v * v;
    let (error, length) = got.iter().zip(expected).fold((0.0, 0.0), |(error, length), (g, e)| {
        let e: f64 = (*e).into();
        (error + square(f64::from(*g) - e), length + square(e))
    });
    (error / length).sqrt()
}

/// Runs `case` on a CPU backend with this setup. Prints that it is skipped if the processor lacks `tier`.
///
/// # Panics
/// If `case` returns an error.
pub fn on_cpu<E: fmt::Debug>(
    compute: Compute,
    tier: Tier,
    threads: usize,
    case: impl FnOnce(&CpuBackend) -> Result<(), E>,
) {
    match cpu(compute, tier, threads) {
        Some(be) => case(&be).unwrap_or_else(|error| panic!("{error:?}")),
        #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
        None => eprintln!("skipped: this processor has no {tier:?} instructions"),
    }
}

/// A CPU backend with this setup; `None` if the processor lacks `tier`.
///
/// # Panics
/// If `threads` is zero.
pub fn cpu(compute: Compute, tier: Tier, threads: usize) -> Option<CpuBackend> {
    let threads = Some(NonZeroUsize::new(threads).expect("a thread or more"));
    tier.available().then(|| {
        CpuBackend::new(CpuOptions { compute, threads, tier: Some(tier), dry_run: false })
            .expect("threads can be started")
    })
}

/// Says on stderr that a test is skipped because there is no GPU, and why.
///
/// # Panics
/// If the environment variable `DJ_FLUX2_REQUIRE_GPU` is `1`: a run that is to test the GPU must not pass without one.
pub fn skip_without_gpu(reason: impl fmt::Display) {
    let is_required = std::env::var_os("DJ_FLUX2_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!is_required, "no GPU, and DJ_FLUX2_REQUIRE_GPU=1 requires one: {reason}");
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    {
        eprintln!("skipped: no GPU: {reason}");
    }
}

/// Runs `case` on the first GPU, or skips it ([`skip_without_gpu`]).
///
/// # Panics
/// If `case` returns an error, or there is no GPU and one is required.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub fn on_cuda<E: fmt::Debug>(compute: Compute, case: impl FnOnce(&crate::CudaBackend) -> Result<(), E>) {
    match cuda(compute) {
        Ok(be) => case(&be).unwrap_or_else(|error| panic!("{error:?}")),
        Err(reason) => skip_without_gpu(reason),
    }
}

/// A backend on the first GPU, shared by all tests of the process.
///
/// # Errors
/// As [`CudaBackend::new`](crate::CudaBackend::new).
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub fn cuda(compute: Compute) -> Result<crate::CudaBackend, crate::cuda::Unavailable> {
    use std::sync::OnceLock;
    static BACKENDS: [OnceLock<Result<crate::CudaBackend, crate::cuda::Unavailable>>; 2] =
        [OnceLock::new(), OnceLock::new()];
    let options = crate::CudaOptions { compute, ..Default::default() };
    BACKENDS[usize::from(compute == Compute::Bf16)].get_or_init(|| crate::CudaBackend::new(options)).clone()
}

/// Generates tests from functions `fn case<B: Backend>(be: &B) -> Result<(), E>`: one `#[test]` for each backend setup
/// of this build. Setups are both compute dtypes on every SIMD tier, with one or two threads, and on a GPU.
#[macro_export]
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_cpu! { @inside $case }
            $crate::on_cuda! { $case }
        }
    )+};
}

/// Generates two tests on the GPU; none in builds without CUDA.
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[doc(hidden)]
#[macro_export]
macro_rules! on_cuda {
    ($case:ident) => {
        #[test]
        fn cuda_f32() {
            $crate::testing::on_cuda($crate::Compute::F32, super::$case);
        }
        #[test]
        fn cuda_bf16() {
            $crate::testing::on_cuda($crate::Compute::Bf16, super::$case);
        }
    };
}

/// Generates two tests on the GPU; none in builds without CUDA.
#[cfg(not(all(feature = "cuda", target_os = "linux")))]
#[doc(hidden)]
#[macro_export]
macro_rules! on_cuda {
    ($case:ident) => {};
}

/// As [`on_every_backend!`](crate::on_every_backend), for CPU setups only.
#[macro_export]
macro_rules! on_every_cpu {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            $crate::on_every_cpu! { @inside $case }
        }
    )+};
    (@inside $case:ident) => {
            $crate::on_every_cpu! { @cpu $case
                cpu_f32_portable: F32, Portable, 1;
                cpu_bf16_portable: Bf16, Portable, 2;
            }
            #[cfg(target_arch = "aarch64")]
            $crate::on_every_cpu! { @cpu $case
                cpu_f32_neon: F32, Neon, 2;
                cpu_bf16_neon: Bf16, Neon, 1;
                cpu_bf16_neonbf16: Bf16, NeonBf16, 2;
            }
            #[cfg(target_arch = "x86_64")]
            $crate::on_every_cpu! { @cpu $case
                cpu_f32_avx2: F32, Avx2, 2;
                cpu_f32_avx512: F32, Avx512, 1;
                cpu_bf16_avx2: Bf16, Avx2, 1;
                cpu_bf16_avx2vnni: Bf16, Avx2Vnni, 2;
                cpu_bf16_avx512: Bf16, Avx512, 2;
                cpu_bf16_avx512vnni: Bf16, Avx512Vnni, 2;
                cpu_bf16_avx512bf16: Bf16, Avx512Bf16, 1;
            }
    };
    (@cpu $case:ident $($setup:ident: $compute:ident, $tier:ident, $threads:literal;)+) => {$(
        #[test]
        fn $setup() {
            $crate::testing::on_cpu($crate::Compute::$compute, $crate::cpu::Tier::$tier, $threads, super::$case);
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_other_languages_make() {
        let values = [0, 1, 2].map(|i| unit("x_embedder.weight", i));
        for (got, expected) in values.iter().zip([0.804_883_22, 0.037_396_97, 0.552_712_93]) {
            assert!((got - expected).abs() < 1e-8, "{values:?}");
        }
    }

    #[test]
    #[should_panic(expected = "1 of 3 values are off; the worst is [1]")]
    fn one_wrong_value_is_found() {
        assert_close(&[1.0, 2.001, 3.0], &[1.0, 2.0, 3.0], Tolerance::of(DType::F32, 1));
    }

    #[test]
    #[should_panic(expected = "the worst is [0]: got NaN")]
    fn nan_is_never_close() {
        assert_close(&[f32::NAN, 2.0], &[1.0, 2.0], Tolerance { relative: 1e9, of_rms: 1e9 });
    }
}

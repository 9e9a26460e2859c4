//! Results of the reference implementation on the tiny checkpoints, and comparisons with them.

use std::path::PathBuf;

use flux2_backend::testing::repository;
use flux2_backend::{Compute, CpuBackend, CpuOptions};
use safetensors::{Dtype, SafeTensors};

/// The path of a file below `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    repository("fixtures").join(path)
}

/// The CPU backend, in f32, that is compared with the reference.
pub fn f32_backend() -> CpuBackend {
    CpuBackend::new(CpuOptions { compute: Compute::F32, ..Default::default() }).unwrap()
}

/// A file of golden tensors.
pub struct Golden {
    name: String,
    /// The mapped file.
    pub bytes: Vec<u8>,
}

impl Golden {
    /// Opens `fixtures/golden/NAME.safetensors`.
    pub fn open(name: &str) -> Self {
        let path = fixture(&format!("golden/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Golden { name: name.into(), bytes }
    }

    /// Values of a tensor as f32; integers are exact.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.name));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
            Dtype::U8 => data.iter().map(|b| f32::from(*b)).collect(),
            other => panic!("{}: {name} is {other:?}", self.name),
        }
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    /// Values of a `[c, h, w]` tensor, transposed to `[h, w, c]`.
    pub fn channels_last(&self, name: &str) -> Vec<f32> {
        let (values, shape) = (self.values(name), self.shape(name));
        let &[c, h, w] = &shape[..] else { panic!("{name} is {shape:?}") };
        (0..h * w * c).map(|i| values[i % c * h * w + i / c]).collect()
    }
}

/// Assert that the L2 norm of `got - expected`, relative to that of `expected`, is at most `tolerance`.
///
/// # Panics
/// If it is not, with the worst element.
pub fn assert_relative(what: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = |(g, e): (&f32, &f32)| f64::from(*g) - f64::from(*e);
    let pairs = || got.iter().zip(expected);
    let relative = norm(&mut pairs().map(difference)) / norm(&mut expected.iter().map(|e| f64::from(*e)));
    let worst = pairs().map(difference).map(f64::abs).enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!(
        relative <= tolerance, // false for NaN
        "{what}: relative L2 {relative:.2e} is over {tolerance:.0e}; worst at {worst}: {} for {}",
        got[worst],
        expected[worst]
    );
}

/// Assert that every element of `got` is within `tolerance` of `expected`.
///
/// # Panics
/// If one is not, with the worst element.
pub fn assert_absolute(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let distance = |i: usize| (got[i] - expected[i]).abs();
    let worst = (0..got.len()).max_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
    assert!(
        distance(worst) <= tolerance, // false for NaN
        "{what}: worst at {worst}: {} for {}, {:.2e} apart, over {tolerance:.0e}",
        got[worst],
        expected[worst],
        distance(worst)
    );
}

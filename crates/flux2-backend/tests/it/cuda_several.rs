//! Several GPU backends in one process: two on the same GPU, and one on every GPU.

use std::process::{Command, Output};
use std::sync::Barrier;
use std::thread;

use flux2_backend::cuda::{self, Unavailable};
use flux2_backend::testing::{random, skip_without_gpu, tensor};
use flux2_backend::{
    AttentionInput, AttentionMask, Compute, CudaBackend, CudaOptions, HostTensor, Result, Runtime, Weight, ops,
};

fn open(ordinal: usize, compute: Compute) -> Result<CudaBackend, Unavailable> {
    CudaBackend::new(CudaOptions { compute, ordinal, ..Default::default() })
}

/// Work that uses every library and our own kernels: norm, SwiGLU, attention and a product, repeated `rounds` times.
fn work(be: &CudaBackend, rounds: usize) -> Result<Vec<f32>> {
    let (n, k, heads, head_dim) = (640, 512, 4, 128);
    let matrix = |name, shape: [usize; 2]| Weight::load(be, HostTensor::from_f32(shape, &random(name, &shape)));
    let [gate, up, down] = [matrix("gate", [k, k])?, matrix("up", [k, k])?, matrix("down", [k, k])?];
    let (ones, _) = tensor(be, "scale", &[k], flux2_backend::DType::F32)?;
    let mut x = tensor(be, "x", &[n, k], flux2_backend::DType::F32)?.0;
    assert_eq!(heads * head_dim, k);
    for _ in 0..rounds {
        let h = ops::rms_norm(be, &x, &ones, 1e-6)?;
        let h = ops::linear_swiglu(be, &h, &gate, &up)?;
        let h = ops::attention(be, &AttentionInput { q: &h, k: &h, v: &h, head_dim, mask: AttentionMask::None })?;
        x = ops::linear_f32(be, &h, &down, None)?;
    }
    be.download(&x)
}

/// Two backends run concurrently on one GPU; each is created, used and dropped on its own thread.
fn check_two_at_once(compute: Compute) {
    const ROUNDS: usize = 50;
    let alone = match open(0, compute) {
        Ok(be) => work(&be, ROUNDS).unwrap(),
        Err(reason) => return skip_without_gpu(&reason),
    };
    assert!(alone.iter().all(|value| value.is_finite()) && alone.iter().any(|value| *value != 0.0));
    let together = Barrier::new(2);
    let one = || {
        let be = open(0, compute).unwrap();
        together.wait();
        (0..3).map(|_| work(&be, ROUNDS).unwrap()).collect::<Vec<_>>()
    };
    let [first, second] = thread::scope(|scope| [scope.spawn(one), scope.spawn(one)].map(|t| t.join().unwrap()));
    for (i, got) in first.iter().chain(&second).enumerate() {
        assert!(*got == alone, "{compute}: run {i} of two backends at once differs from one alone");
    }
}

#[test]
fn two_on_one_gpu_give_the_bytes_of_one_f32() {
    check_two_at_once(Compute::F32);
}

#[test]
fn two_on_one_gpu_give_the_bytes_of_one_bf16() {
    check_two_at_once(Compute::Bf16);
}

/// Backends are created on one thread, used concurrently on others and dropped on a third.
#[test]
fn gpus_of_a_kind_give_the_same_bytes() {
    let gpus = match cuda::gpus(&Default::default()) {
        Ok(gpus) => gpus,
        Err(reason) => return skip_without_gpu(&reason),
    };
    let backends: Vec<_> = (0..gpus.len()).map(|ordinal| open(ordinal, Compute::Bf16)).collect();
    if let Some(Err(reason)) = backends.first() {
        return skip_without_gpu(reason);
    }
    // GPUs that are too old have no backend.
    let backends: Vec<_> = backends.into_iter().flatten().collect();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = backends.iter().map(|be| scope.spawn(|| work(be, 20).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (be, result) in backends.iter().zip(&results) {
        let first = backends.iter().position(|other| other.gpu().name == be.gpu().name).expect("itself at least");
        assert!(*result == results[first], "{}: two give other bytes", be.gpu().name);
    }
    thread::spawn(move || drop(backends)).join().unwrap();
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let count = match cuda::gpus(&Default::default()) {
        Ok(gpus) => gpus.len(),
        Err(reason) => return skip_without_gpu(&reason),
    };
    let refused = open(count + 5, Compute::F32).err();
    assert_eq!(refused, Some(Unavailable::NoDevice { ordinal: count + 5, count }));
}

/// Runs one GPU test of this program as a process of its own.
fn run_again(require_gpu: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "ops::silu::cuda_f32", "--nocapture"]).env("DJ_FLUX2_REQUIRE_GPU", require_gpu);
    command.output().unwrap()
}

#[test]
fn a_required_gpu_that_is_missing_is_a_failure() {
    let optional = run_again("0");
    assert!(optional.status.success(), "{optional:?}");
    let is_skipped = String::from_utf8_lossy(&optional.stderr).contains("skipped: no GPU");
    let required = run_again("1");
    assert_eq!(required.status.success(), !is_skipped, "{required:?}");
}

//! Noise against PyTorch's own: digests for torch-cpu, published values for CUDA.

use std::time::Instant;

use flux2::sampler::{NoiseKind, noise};
use half::bf16;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// torch 2.15.0, `torch.randn(n, generator=torch.Generator().manual_seed(seed))`: the first 16 hex digits of the
/// SHA-256 of the little-endian bytes, as f32 and drawn with dtype bf16.
const TORCH_CPU: [(u64, usize, &str, &str); 8] = [
    (0, 131_072, "48f863e5699c34f0", "4354b9f47f68bcdd"),
    (0, 524_288, "84ff3f017d1b8755", "63a4aeda5eff13b5"),
    (1, 131_072, "eed5d7e227b1a272", "bbe6b2f274e97b05"),
    (1, 524_288, "0e1d8a12bc8d14ba", "cfa3c3360de18f65"),
    (42, 131_072, "10543f477ae1e557", "f3f6a260b0e66c07"),
    (42, 524_288, "0d1f7de77a0539b4", "339a22e514bd1342"),
    (u32::MAX as u64, 131_072, "94294929d8de425f", "e33b3ee7a77d49b3"),
    (u32::MAX as u64, 524_288, "d368a898253693f9", "b79b1946fd240bba"),
];

/// As above, for seed 42 and small or odd numbers of elements, f32 only.
const TORCH_CPU_ODD: [(usize, &str); 9] = [
    (1, "f4e1275c6e3dd10f"),
    (5, "af33577995d9ae23"),
    (15, "8db9a5331024e1ef"),
    (16, "fc34b516db1204ac"),
    (17, "2ae700cddb7c7bef"),
    (20, "69370ba41138fb92"),
    (31, "7f2252163c2b02a8"),
    (40, "0efb3c2278f0cb81"),
    (1000, "13b35fb427f5f8d7"),
];

/// One of each kind, for what holds of all.
const KINDS: [NoiseKind; 3] = [NoiseKind::Philox, NoiseKind::TorchCpu, NoiseKind::TORCH_CUDA_H100];

/// The compiler asks for a new kind here: add it above too.
fn place(kind: NoiseKind) -> usize {
    match kind {
        NoiseKind::Philox => 0,
        NoiseKind::TorchCpu => 1,
        NoiseKind::TorchCuda { .. } => 2,
    }
}

fn digest(bytes: impl IntoIterator<Item = u8>) -> String {
    let sum = Sha256::digest(bytes.into_iter().collect::<Vec<u8>>());
    sum[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_f32(values: &[f32]) -> String {
    digest(values.iter().flat_map(|v| v.to_le_bytes()))
}

#[test]
fn torch_cpu_is_bit_exact() {
    for (seed, n, expected, _) in TORCH_CPU {
        assert_eq!(digest_f32(&noise(NoiseKind::TorchCpu, seed, n)), expected, "seed {seed}, n {n}");
    }
}

#[test]
fn torch_cpu_matches_every_row_of_the_table() {
    let table = std::fs::read(crate::golden::fixture("golden/noise.json")).unwrap();
    let table: Vec<serde_json::Value> = serde_json::from_slice(&table).unwrap();
    assert!(table.len() >= 25);
    let hex = |bytes: Vec<u8>| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    for row in table {
        let (seed, n) = (row["seed"].as_u64().unwrap(), row["n"].as_u64().unwrap() as usize);
        let values = noise(NoiseKind::TorchCpu, seed, n);
        assert_eq!(hex(values.iter().flat_map(|v| v.to_le_bytes()).collect()), row["f32"]["sha256"], "{seed} {n}");
        // If the length is not a multiple of 16, PyTorch redraws the last 16 values in bf16; no latent has such a
        // length.
        if n % 16 == 0 {
            let rounded = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes());
            assert_eq!(hex(rounded.collect()), row["bf16"]["sha256"], "{seed} {n}");
        }
    }
}

/// Values drawn by PyTorch 2.11 on an H200, from lengths that fit its threads to lengths that wrap around several
/// times.
#[test]
fn torch_cuda_has_the_element_order_of_a_real_gpu() {
    let table = std::fs::read(crate::golden::fixture("golden/noise_cuda.json")).unwrap();
    let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    let number = |v: &serde_json::Value| v.as_u64().unwrap();
    let (sms, threads_per_sm) = (number(&table["sms"]) as u32, number(&table["threads_per_sm"]) as u32);
    let mut compared = 0;
    for row in table["rows"].as_array().unwrap() {
        let (seed, n) = (number(&row["seed"]), number(&row["n"]) as usize);
        let got = noise(NoiseKind::TorchCuda { sms, threads_per_sm }, seed, n);
        let lists = ["index", "f32", "bf16"].map(|key| row[key].as_array().unwrap());
        for ((index, f32), bf16) in lists[0].iter().zip(lists[1]).zip(lists[2]) {
            let (got, f32, bf16) =
                (got[number(index) as usize], f32.as_f64().unwrap() as f32, bf16.as_f64().unwrap() as f32);
            // The GPU's fast sine has an absolute error of 2^-21, and the radius is at most 6.7.
            assert!((got - f32).abs() <= 4e-6, "seed {seed}, n {n}, element {index}: {got} for {f32}");
            assert!((half::bf16::from_f32(got).to_f32() - bf16).abs() <= bf16.abs() * 2f32.powi(-7) + 4e-6);
            compared += 1;
        }
    }
    assert!(compared > 1500);
}

#[test]
fn torch_cpu_rounded_is_its_bf16_noise() {
    for (seed, n, _, expected) in TORCH_CPU {
        let values = noise(NoiseKind::TorchCpu, seed, n);
        let rounded = digest(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()));
        assert_eq!(rounded, expected, "seed {seed}, n {n}");
    }
}

#[test]
fn torch_cpu_handles_short_and_odd_lengths() {
    for (n, expected) in TORCH_CPU_ODD {
        let values = noise(NoiseKind::TorchCpu, 42, n);
        assert_eq!(digest_f32(&values), expected, "n {n}: {:?}", &values[..n.min(16)]);
    }
    assert!(noise(NoiseKind::TorchCpu, 42, 0).is_empty());
}

#[test]
fn torch_cpu_ignores_the_high_half_of_the_seed() {
    let of = |seed| noise(NoiseKind::TorchCpu, seed, 64);
    assert_eq!(of(42), of((1 << 32) + 42));
    assert_eq!(of(u64::from(u32::MAX)), of((1 << 63) - 1));
    assert_ne!(of(42), of(43));
}

/// `torch.randn(5, device="cuda")` after `torch.manual_seed(0)`, as published; the GPU's sine has an error of about
/// 2e-6.
#[test]
fn philox_matches_published_cuda_values() {
    let expected = [-0.924662, -0.425344, -2.643846, 0.145184, -0.120867];
    for kind in [NoiseKind::Philox, NoiseKind::TORCH_CUDA_H100] {
        for (got, expected) in noise(kind, 0, 5).iter().zip(expected) {
            assert!((got - expected).abs() < 4e-6, "{kind}: {got}, expected {expected}");
        }
    }
}

#[test]
fn philox_uses_the_high_half_of_the_seed() {
    assert_ne!(noise(NoiseKind::Philox, 42, 64), noise(NoiseKind::Philox, (1 << 32) + 42, 64));
}

#[test]
fn torch_cuda_equals_philox_until_the_gpu_is_full() {
    const RTX_4070: NoiseKind = NoiseKind::TorchCuda { sms: 46, threads_per_sm: 1536 };
    let capacity = 46 * 1536;
    let fits = capacity; // a multiple of the block
    assert_eq!(noise(RTX_4070, 7, fits), noise(NoiseKind::Philox, 7, fits));

    let (gpu, philox) = (noise(RTX_4070, 7, 2 * capacity), noise(NoiseKind::Philox, 7, 2 * capacity));
    assert_eq!(gpu[..capacity], philox[..capacity]);
    assert!(gpu[capacity..].iter().zip(&philox[capacity..]).all(|(a, b)| a != b));
}

/// Elements, and their values by an independent port of the mapping to Python that computes in f64.
fn check_torch_cuda(kind: NoiseKind, n: usize, expected: &[(usize, f64)]) {
    let values = noise(kind, 42, n);
    for (element, expected) in expected {
        // The generator's angles are f32, the port's f64: an error of 2^-24 of a turn times a radius of at most 6.8.
        let got = f64::from(values[*element]);
        assert!((got - expected).abs() < 3e-6, "{kind}, element {element}: {got}, expected {expected}");
    }
}

#[test]
fn torch_cuda_goes_through_lanes_before_iterations() {
    let small = NoiseKind::TorchCuda { sms: 2, threads_per_sm: 256 };
    check_torch_cuda(
        small,
        4096,
        &[
            (0, 0.194019),
            (511, -0.8599697),
            (512, -0.9701898),
            (1024, 1.9239267),
            (1600, 0.0207957),
            (2047, 1.2978322),
            (2048, 0.1391375),
            (4095, -1.546172),
        ],
    );
}

#[test]
fn torch_cuda_strides_over_a_large_latent_by_the_size_of_the_gpu() {
    check_torch_cuda(
        NoiseKind::TORCH_CUDA_H100,
        600_000,
        &[
            (0, 0.194019),
            (270_335, -0.6520033),
            (270_336, -0.9701898),
            (540_671, -0.2068091),
            (540_672, 1.9239267),
            (599_999, 0.2805936),
        ],
    );
}

/// Generated by this code: a change here changes the image of every seed.
#[test]
fn philox_noise_never_changes() {
    assert_eq!(digest_f32(&noise(NoiseKind::Philox, 42, 131_072)), "3260bbd59a1699f0");
}

#[test]
fn every_kind_is_standard_normal() {
    for kind in KINDS {
        let values = noise(kind, 1234, 524_288);
        let n = values.len() as f64;
        let moment = |power: i32| values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / n;
        // Five standard errors at this n: 0.0014 of the mean, 0.002 of the second moment, 0.014 of the fourth.
        assert!(moment(1).abs() < 0.007, "{kind}: mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "{kind}: variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.07, "{kind}: fourth moment {}", moment(4));
    }
}

/// The latent of a 4-megapixel picture. Takes well under a second; the bound is loose because test machines are busy.
#[test]
fn two_million_values_take_well_under_ten_seconds() {
    for kind in KINDS {
        let start = Instant::now();
        assert_eq!(noise(kind, 5, 2_097_152).len(), 2_097_152);
        assert!(start.elapsed().as_secs() < 10, "{kind}: {:?}", start.elapsed());
    }
}

#[test]
fn kinds_read_back_as_printed() {
    for (i, kind) in KINDS.into_iter().enumerate() {
        assert_eq!(place(kind), i);
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let gpu = NoiseKind::TorchCuda { sms: 46, threads_per_sm: 1536 };
    for (name, kind) in [
        ("philox", NoiseKind::Philox),
        ("torch-cpu", NoiseKind::TorchCpu),
        ("torch-cuda:132x2048", NoiseKind::TORCH_CUDA_H100),
        ("torch-cuda:46x1536", gpu),
    ] {
        assert_eq!(name.parse(), Ok(kind));
        assert_eq!(kind.to_string(), name);
    }
    assert_eq!("torch-cuda".parse(), Ok(NoiseKind::TORCH_CUDA_H100));
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    for name in [
        "",
        "cpu",
        "Philox",
        "torch-cuda:",
        "torch-cuda:46",
        "torch-cuda:0x2048",
        "torch-cuda:46x255",
        "torch-cuda:-1x2048",
    ] {
        let error = name.parse::<NoiseKind>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{name}` is not a kind of noise")), "{error}");
    }
}

proptest! {
    #[test]
    fn every_value_is_finite(seed: u64, n in 0usize..600) {
        for kind in [NoiseKind::Philox, NoiseKind::TorchCpu, NoiseKind::TorchCuda { sms: 1, threads_per_sm: 256 }] {
            let values = noise(kind, seed, n);
            prop_assert_eq!(values.len(), n);
            prop_assert!(values.iter().all(|v| v.is_finite() && v.abs() < 7.0));
        }
    }

    /// The value of an element does not depend on the size of the image.
    #[test]
    fn philox_noise_of_a_small_image_begins_that_of_a_large_one(seed: u64, n in 0usize..600) {
        prop_assert_eq!(&noise(NoiseKind::Philox, seed, 600)[..n], &noise(NoiseKind::Philox, seed, n)[..]);
    }
}

//! Conversion of weights to other stored dtypes: error bounds, and independence of the number of threads.

use std::num::NonZeroUsize;

use flux2_backend::{
    Compute, CpuBackend, CpuOptions, DType, Error, Format, HostTensor, Runtime, Threads, Weight, encode, ops,
};
use proptest::prelude::*;

const FORMATS: [DType; 4] = [DType::Bf16, DType::I8, DType::Q8_0, DType::Q4K];

/// As many threads as the process may use.
fn threads() -> Threads {
    Threads::new(None).unwrap()
}

fn matrix(cols: usize, values: &[f32]) -> HostTensor {
    HostTensor::from_f32([values.len() / cols, cols], values)
}

fn encoded(values: &[f32], cols: usize, dtype: DType) -> Vec<f32> {
    let encoded = encode(&matrix(cols, values), dtype, &threads()).unwrap();
    assert_eq!((encoded.dtype(), encoded.shape()), (dtype, &[values.len() / cols, cols][..]));
    encoded.to_f32()
}

fn most(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |m, v| m.max(v.abs()))
}

fn mean_square_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// Rows of 256 values: uniform, shifted, heavy-tailed, or with magnitudes that differ between quarters, one of them
/// zero.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let shape = (-12i32..12, -1f32..1f32, 0u32..4);
    (shape, proptest::collection::vec((-1f32..1f32, 0u32..16), 256)).prop_map(|((exponent, middle, kind), values)| {
        let value = |(i, (v, rare)): (usize, (f32, u32))| match kind {
            0 => v,
            1 => v + 2.0 * middle,
            2 if rare == 0 => 8.0 * v,
            2 => v * v * v,
            _ => v * [0.0, 1.0, 0.01, 4.0][i / 64],
        };
        values.into_iter().enumerate().map(|at| value(at) * 2f32.powi(exponent)).collect()
    })
}

proptest! {
    #[test]
    fn bf16_bytes_and_q8_0_err_by_half_a_step(values in rows()) {
        for (value, got) in values.iter().zip(encoded(&values, 256, DType::Bf16)) {
            prop_assert!((value - got).abs() <= value.abs() * 2f32.powi(-8));
        }
        // The scale is rounded too: to f32 for i8, to f16 for q8_0, where it may be subnormal.
        let step = most(&values) / 127.0;
        for (value, got) in values.iter().zip(encoded(&values, 256, DType::I8)) {
            prop_assert!((value - got).abs() <= 0.500_1 * step, "{value} became {got}, step {step}");
        }
        for (values, got) in values.chunks(32).zip(encoded(&values, 256, DType::Q8_0).chunks(32)) {
            let step = most(values) / 127.0;
            for (value, got) in values.iter().zip(got) {
                let bound = 0.500_1 * step + value.abs() * 2f32.powi(-11) + 127.0 * 2f32.powi(-25);
                prop_assert!((value - got).abs() <= bound, "{value} became {got}, step {step}");
            }
        }
    }

    #[test]
    fn q4_k_errs_by_no_more_than_plain_rounding(values in rows()) {
        let ends = |v: &[f32]| v.iter().fold((0f32, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
        let ends: Vec<(f32, f32)> = values.chunks(32).map(ends).collect();
        let widest = ends.iter().map(|(low, high)| high - low).fold(0f32, f32::max);
        let lowest = ends.iter().map(|(low, _)| -low).fold(0f32, f32::max);
        // Half a step each for the value, the minimum and 15 times the scale; f16 steps if the block is tiny.
        let bound = 0.5 * (widest / 15.0 + lowest / 63.0 + widest / 63.0) * 1.01 + 63.0 * 16.0 * 2f32.powi(-25);
        let error = mean_square_error(&values, &encoded(&values, 256, DType::Q4K)).sqrt();
        prop_assert!(error <= f64::from(bound), "{error} with ends {ends:?}");
    }
}

/// Approximately normal values, as weights are: sums of 12 uniform ones.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..count).map(|_| (0..12).map(|_| unit()).sum::<f64>() - 6.0).map(|v| (0.02 * v) as f32).collect()
}

#[test]
fn relative_errors_of_bell_shaped_weights_are_what_the_formats_allow() {
    let values = normal(64 * 1024);
    let power = mean_square_error(&values, &vec![0.0; values.len()]);
    let relative = |dtype| (mean_square_error(&values, &encoded(&values, 1024, dtype)) / power).sqrt();
    let found = FORMATS.map(relative);
    // llama.cpp's q4_k (`make_qkx2_quants` with its weighting) has an error of 0.0706 on these values.
    for (found, most) in found.into_iter().zip([0.00168, 0.0077, 0.0053, 0.0692]) {
        assert!(found <= most && found > 0.9 * most, "{found}, at most {most}");
    }
}

#[test]
fn values_that_fit_a_format_stay() {
    // Scales that are exact in f16: 1/64 for q8_0, integer multiples of 1/1024 for q4_k.
    let byte = |i: usize| if i % 32 == 31 { 127 } else { (i * 37 % 255) as i32 - 127 };
    let q8: Vec<f32> = (0..512).map(|i| byte(i) as f32 / 64.0).collect();
    assert_eq!(encoded(&q8, 256, DType::Q8_0), q8);
    let q4: Vec<f32> = (0..512).map(|i| (i * 7 % 16 * [63, 21, 9, 3][i / 32 % 4]) as f32 / 1024.0).collect();
    assert_eq!(encoded(&q4, 256, DType::Q4K), q4);
    let zeros = vec![0.0; 512];
    for dtype in FORMATS {
        assert_eq!(encoded(&zeros, 256, dtype), zeros, "{dtype}");
    }
}

#[test]
fn what_is_not_finite_does_not_vanish() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = normal(512);
        values[300] = bad;
        for dtype in FORMATS {
            assert!(!encoded(&values, 512, dtype)[300].is_finite(), "{bad} in {dtype}");
        }
    }
}

#[test]
fn a_format_does_not_depend_on_threads_or_on_what_it_was_before() {
    let values = normal(40 * 512);
    let f32 = matrix(512, &values);
    for dtype in FORMATS {
        let of = |threads| encode(&f32, dtype, &Threads::new(NonZeroUsize::new(threads)).unwrap()).unwrap();
        let (one, three) = (of(1), of(3));
        assert!(one.bytes()[..] == three.bytes()[..] && one.scales() == three.scales(), "{dtype}");
        let again = encode(&one, dtype, &threads()).unwrap();
        assert!(one.bytes()[..] == again.bytes()[..], "{dtype}");
        for tier in flux2_backend::cpu::Tier::ALL {
            let be = CpuBackend::new(CpuOptions { tier: Some(tier), ..Default::default() }).unwrap();
            let format = [Format::Bf16, Format::Q8_0, Format::Q4K].into_iter().find(|f| f.dtype() == Some(dtype));
            let Some(format) = format else { continue };
            let load = |matrix: &HostTensor, format| Weight::load_as(&be, matrix.clone(), format).unwrap();
            let rows: Vec<u32> = (0..40).collect();
            let values = |weight| be.download(&ops::embedding(&be, &weight, &rows).unwrap()).unwrap();
            let rounded = values(load(&f32, format));
            assert!(rounded == one.to_f32(), "{dtype} by {tier}");
            assert!(rounded == values(load(&one, Format::AsStored)), "{dtype} by {tier}");
        }
    }
}

#[test]
fn rows_that_are_not_whole_blocks_stay_as_they_are() {
    let odd = matrix(48, &normal(96));
    for dtype in [DType::Q8_0, DType::Q4K] {
        assert_eq!(encode(&odd, dtype, &threads()).unwrap().dtype(), DType::F32);
    }
    assert!(matches!(encode(&odd, DType::Q6K, &threads()), Err(Error::DType { .. }) | Ok(_)));
    assert!(matches!(encode(&matrix(256, &normal(256)), DType::Q6K, &threads()), Err(Error::DType { .. })));
    let cube = HostTensor::from_f32([1, 1, 256], &normal(256));
    assert!(matches!(encode(&cube, DType::Q8_0, &threads()), Err(Error::Shape { .. })));
}

#[test]
fn bytes_that_are_stored_are_multiplied_as_they_are() {
    let be = CpuBackend::new(CpuOptions { compute: Compute::Bf16, ..Default::default() }).unwrap();
    let f32 = matrix(300, &normal(300 * 77));
    let stored = encode(&f32, DType::I8, &threads()).unwrap();
    let x = be.upload(&[5, 300], &normal(1500)).unwrap();
    let x = ops::cast(&be, &x, DType::Bf16).unwrap();
    let product = |weight: HostTensor| {
        let weight = Weight::load_as(&be, weight, Format::Int8).unwrap();
        be.download(&ops::linear_f32(&be, &x, &weight, None).unwrap()).unwrap()
    };
    assert_eq!(product(stored), product(f32));
}

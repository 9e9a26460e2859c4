//! Products with a weight.

use super::*;

pub(super) fn linear<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for [n, k, m] in [
        [0, 5, 7],
        [1, 1, 1],
        [1, 2, 48],
        [3, 7, 5],
        [13, 31, 97],
        [8, 64, 401],   // more columns than one task takes
        [2, 1025, 49],  // one more than a block in f32
        [9, 2051, 17],  // and in bf16, with half a pair left
        [1, 4100, 50],  // several blocks
        [1600, 24, 50], // more rows than one task takes
    ] {
        let (x, xs) = window(be, "x", &[n, k], compute)?;
        let (weight, ws) = weight(be, "weight", [m, k])?;
        let (bias, bs) = tensor(be, "bias", &[m], F32)?;
        let expected = ops::linear::reference(&xs, &ws, &bs, k);
        check(be, &ops::linear(be, &x, &weight, Some(&bias))?, &[n, m], compute, &expected, k)?;
        check(be, &ops::linear_f32(be, &x, &weight, Some(&bias))?, &[n, m], F32, &expected, k)?;
        let expected = ops::linear::reference(&xs, &ws, &[], k);
        check(be, &ops::linear(be, &x, &weight, None)?, &[n, m], compute, &expected, k)?;
    }
    // All stored dtypes, with values that are exact in each, at even and odd addresses.
    let (n, k, m) = (11, 333, 70);
    let (x, xs) = tensor(be, "x", &[2, n / 2, k], compute)?;
    let stored = [F32, DType::F16, DType::Bf16].map(|dtype| [0, 1].map(|skip| dense(dtype, [m, k], skip)));
    for host in stored.into_iter().flatten().chain([scaled_fp8([m, k])]) {
        let expected = ops::linear::reference(&xs, &host.to_f32(), &[], k);
        let weight = Weight::load(be, host)?;
        check(be, &ops::linear(be, &x, &weight, None)?, &[2, n / 2, m], compute, &expected, k)?;
    }
    // f32 weights may be rounded to bf16 for the product.
    let values = random("weight", &[m, k]);
    let weight = Weight::load(be, HostTensor::from_f32([m, k], &values))?;
    let got = be.download(&ops::linear_f32(be, &x, &weight, None)?)?;
    let rounding = if be.compute() == Compute::Bf16 { 2f64.powi(-7) } else { 0.0 };
    let tolerance = Tolerance::of(F32, k).and_of_rms(rounding);
    assert_close(&got, &ops::linear::reference(&xs, &values, &[], k), tolerance);
    Ok(())
}

pub(super) fn linear_add<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for [n, k, m] in [[1, 1, 1], [3, 7, 5], [13, 31, 97], [9, 2051, 17], [1600, 24, 50], [1100, 72, 136]] {
        let (y, ys) = window(be, "y", &[n, k], compute)?;
        let (weight, ws) = weight(be, "weight", [m, k])?;
        let (gate, gates) = window(be, "gate", &[1, m], F32)?;
        let (before, xs) = tensor(be, "x", &[n, m], F32)?;
        let product = ops::linear::reference(&ys, &ws, &[], k);
        let mut x = before.clone();
        ops::linear_add(be, &mut x, Some(&gate), &y, &weight)?;
        check(be, &x, &[n, m], F32, &ops::linear_add::reference(&xs, &gates, &product), k)?;
        let mut x = before.clone();
        ops::linear_add(be, &mut x, None, &y, &weight)?;
        check(be, &x, &[n, m], F32, &ops::linear_add::reference(&xs, &[], &product), k)?;
    }
    for ([n, k1, k2, m], aligned) in [[1, 1, 1, 1], [5, 3, 8, 50], [7, 32, 96, 33], [4, 2050, 1100, 10]]
        .into_iter()
        .map(|shape| (shape, false))
        // Large enough to occupy every multiprocessor of a GPU.
        .chain([([1500, 40, 72, 3080], true), ([4300, 72, 8, 1032], true)])
    {
        let part =
            |name, k| if aligned { tensor(be, name, &[n, k], compute) } else { window(be, name, &[n, k], compute) };
        let ((a, values_a), (b, values_b)) = (part("a", k1)?, part("b", k2)?);
        let rows = values_a.chunks(k1).zip(values_b.chunks(k2));
        let both: Vec<f32> = rows.flat_map(|(a, b)| [a, b].concat()).collect();
        let (weight, ws) = weight(be, "weight", [m, k1 + k2])?;
        let ((mut x, xs), (gate, gates)) = (tensor(be, "x", &[n, m], F32)?, window(be, "gate", &[1, m], F32)?);
        ops::linear_pair_add(be, &mut x, Some(&gate), [&a, &b], &weight)?;
        let product = ops::linear::reference(&both, &ws, &[], k1 + k2);
        check(be, &x, &[n, m], F32, &ops::linear_add::reference(&xs, &gates, &product), k1 + k2)?;
    }
    Ok(())
}

pub(super) fn linear_swiglu<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for ([n, k, m], aligned) in [[1, 1, 1], [3, 7, 5], [13, 31, 97], [8, 64, 401], [9, 2051, 17], [1600, 24, 50]]
        .into_iter()
        .map(|shape| (shape, false))
        .chain([([140, 72, 200], true), ([129, 2048, 136], true), ([1540, 24, 1544], true)])
    {
        let (x, xs) = if aligned { tensor(be, "x", &[n, k], compute)? } else { window(be, "x", &[n, k], compute)? };
        let ((gate, gates), (up, ups)) = (weight(be, "gate", [m, k])?, weight(be, "up", [m, k])?);
        let [gates, ups] = [gates, ups].map(|w| ops::linear::reference(&xs, &w, &[], k));
        let expected = ops::linear_swiglu::reference(&gates, &ups);
        let got = ops::linear_swiglu(be, &x, &gate, &up)?;
        assert_eq!((got.shape(), got.dtype()), (&[n, m][..], compute));
        // A value is the product of two sums, and the error of each is multiplied by the other. A bound from the rms of
        // all values would be too small for the few of which both are large.
        let sum = Tolerance::of(F32, k);
        let rms = |sums: &[f64]| (sums.iter().map(|s| s * s).sum::<f64>() / sums.len() as f64).sqrt();
        let (gate_rms, up_rms) = (rms(&gates), rms(&ups));
        let error_of = |value: f64, rms: f64| sum.relative * value.abs() + sum.of_rms * rms;
        let allowed = |i: usize| {
            let (gate, up) = (gates[i], ups[i]);
            // The slope of SiLU is at most 1.1.
            let of_sums = gate.abs() * error_of(up, up_rms) + 1.1 * up.abs() * error_of(gate, gate_rms);
            of_sums
                + error_of(gate, gate_rms) * error_of(up, up_rms)
                + Tolerance::of(compute, 1).relative * expected[i].abs()
        };
        for (i, value) in be.download(&got)?.into_iter().enumerate() {
            let (apart, allowed) = ((f64::from(value) - expected[i]).abs(), allowed(i));
            assert!(
                apart <= allowed,
                "[{i}]: got {value}, expected {}: {apart:e} apart, may be {allowed:e}",
                expected[i]
            );
        }
    }
    Ok(())
}

/// Products with int8 weights, against the formula for int8: its sums are exact, so only rounding of the scales and of
/// the result remains.
pub(super) fn int8_weights<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for [n, k, m] in [
        [1, 1, 1],
        [3, 7, 5],
        [13, 33, 97],
        [8, 64, 401],
        [2, 4097, 49], // one more than a block
        [9, 8195, 17], // several blocks and part of a group
        [1600, 24, 50],
    ] {
        // Not centered around zero, so that zero points matter.
        let shifted: Vec<f32> = random("x", &[n, k]).iter().map(|v| v + 0.7).collect();
        let x = ops::cast(be, &be.upload(&[n, k], &shifted)?, compute)?;
        let xs = be.download(&x)?;
        let host = |name| HostTensor::from_f32([m, k], &random(name, &[m, k]));
        let [gates, ups] = ["gate", "up"].map(|name| random(name, &[m, k]));
        let load = |name| Weight::load_as(be, host(name), Format::Int8);
        let (gate, up) = (load("gate")?, load("up")?);
        let gated = ops::linear::int8_reference(&xs, &gates, k);
        check(be, &ops::linear_f32(be, &x, &gate, None)?, &[n, m], F32, &gated, 1)?;
        check(be, &ops::linear(be, &x, &gate, None)?, &[n, m], compute, &gated, 1)?;
        let joined = ops::linear_swiglu::reference(&gated, &ops::linear::int8_reference(&xs, &ups, k));
        check(be, &ops::linear_swiglu(be, &x, &gate, &up)?, &[n, m], compute, &joined, 1)?;
        let (mut sum, before) = tensor(be, "sum", &[n, m], F32)?;
        if k > 1 {
            let (a, b) = (x.slice_cols(0..k / 3), x.slice_cols(k / 3..k));
            ops::linear_pair_add(be, &mut sum, None, [&a, &b], &gate)?;
            check(be, &sum, &[n, m], F32, &ops::linear_add::reference(&before, &[], &gated), 1)?;
        }
        // Error of the quantization itself: half a step of either operand in each term, of random sign.
        let exact = ops::linear::reference(&xs, &gates, &[], k);
        let got = be.download(&ops::linear_f32(be, &x, &gate, None)?)?;
        let error = flux2_backend::testing::relative_l2(&got, &exact);
        assert!(k < 30 || error < 0.012, "{n} x {k} x {m}: int8 is {error:.4} off");
    }
    Ok(())
}

/// Products with e4m3 weights, on GPUs that have them. Tensor cores accumulate with fewer bits than f32: 13 fractional
/// bits, aligned to the largest of 32 terms and the previous sum. So each 32 terms may cost 2^-13 of the largest
/// partial sum.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(super) fn e4m3_weights(be: &flux2_backend::CudaBackend) -> Result<()> {
    if !be.takes(Format::Fp8) {
        #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
        {
            eprintln!("skipped: this GPU has no products of e4m3");
        }
        return Ok(());
    }
    let compute = be.compute().dtype();
    for [n, k, m] in [
        [1, 1, 1],
        [3, 7, 5],
        [13, 33, 97],
        [2, 4097, 48],
        [140, 72, 200],
        [129, 2048, 136],
        [300, 16392, 264], // a row too long for registers
        [1500, 112, 3080],
        [4300, 80, 1032],
    ] {
        let (x, xs) = tensor(be, "x", &[n, k], compute)?;
        let [gates, ups] = ["gate", "up"].map(|name| random(name, &[m, k]));
        let load = |values: &[f32]| Weight::load_as(be, HostTensor::from_f32([m, k], values), Format::Fp8);
        let (gate, up) = (load(&gates)?, load(&ups)?);
        let lost = k.div_ceil(32) as f64 * 2f64.powi(-13);
        let close = |got: &Tensor<flux2_backend::CudaBackend>, dtype, expected: &[f64], lost: f64| -> Result<()> {
            assert_eq!((got.shape(), got.dtype()), (&[n, m][..], dtype));
            let Tolerance { relative, of_rms } = Tolerance::of(dtype, 1);
            // The largest partial sum is at most the final sum plus four times the rms.
            let tolerance = Tolerance { relative: relative + lost, of_rms: of_rms + 4.0 * lost };
            assert_close(&be.download(got)?, expected, tolerance);
            Ok(())
        };
        let gated = ops::linear::e4m3_reference(&xs, &gates, k);
        close(&ops::linear_f32(be, &x, &gate, None)?, F32, &gated, lost)?;
        close(&ops::linear(be, &x, &gate, None)?, compute, &gated, lost)?;
        let joined = ops::linear_swiglu::reference(&gated, &ops::linear::e4m3_reference(&xs, &ups, k));
        // An error of either sum is multiplied by the other, which may be the largest of thousands.
        close(&ops::linear_swiglu(be, &x, &gate, &up)?, compute, &joined, 10.0 * lost)?;
        let (before, values) = tensor(be, "sum", &[n, m], F32)?;
        let (factor, gates) = window(be, "factor", &[1, m], F32)?;
        let mut sum = before.clone();
        ops::linear_add(be, &mut sum, Some(&factor), &x, &gate)?;
        close(&sum, F32, &ops::linear_add::reference(&values, &gates, &gated), lost)?;
        if k > 1 {
            let cut = (k / 3).next_multiple_of(8).min(k - 1);
            let (a, b) = (x.slice_cols(0..cut), x.slice_cols(cut..k));
            let mut sum = before;
            ops::linear_pair_add(be, &mut sum, None, [&a, &b], &gate)?;
            close(&sum, F32, &ops::linear_add::reference(&values, &[], &gated), lost)?;
        }
    }
    // A matrix stored with one scale per row is used unchanged.
    let host = scaled_fp8([40, 64]);
    let whole = HostTensor::new(DType::F8E4M3, [40, 64], host.bytes().clone())?
        .with_scales(BlockScales { values: vec![0.25; 40].into(), block: [1, 64] })?;
    let (x, xs) = tensor(be, "x", &[9, 64], compute)?;
    let mut rounded = vec![0; 64];
    let rows = xs.chunks_exact(64).flat_map(|row| {
        let scale = flux2_backend::quant::fp8::quantize_row(row, &mut rounded);
        rounded.iter().map(|b| scale * flux2_backend::quant::fp8::e4m3_to_f32(*b)).collect::<Vec<_>>()
    });
    let expected = ops::linear::reference(&rows.collect::<Vec<_>>(), &whole.to_f32(), &[], 64);
    let got = ops::linear_f32(be, &x, &Weight::load_as(be, whole, Format::Fp8)?, None)?;
    let (lost, Tolerance { relative, of_rms }) = (2.0 * 2f64.powi(-13), Tolerance::of(F32, 1));
    let tolerance = Tolerance { relative: relative + lost, of_rms: of_rms + 4.0 * lost };
    assert_close(&be.download(&got)?, &expected, tolerance);
    Ok(())
}

pub(super) fn nan_survives_int8<B: Backend>(be: &B) -> Result<()> {
    let weight = Weight::load_as(be, HostTensor::from_f32([3, 40], &random("w", &[3, 40])), Format::Int8)?;
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = random("x", &[2, 40]);
        values[47] = bad;
        let x = ops::cast(be, &be.upload(&[2, 40], &values)?, be.compute().dtype())?;
        let y = be.download(&ops::linear_f32(be, &x, &weight, None)?)?;
        assert!(y[..3].iter().all(|v| v.is_finite()) && y[3..].iter().all(|v| !v.is_finite()), "{bad}: {y:?}");
    }
    Ok(())
}

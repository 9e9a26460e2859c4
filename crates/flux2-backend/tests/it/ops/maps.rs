//! Ops on maps: convolutions and what surrounds them.

use super::*;

pub(super) fn conv2d<B: Backend>(be: &B) -> Result<()> {
    use ConvShape::{Downsample, Pointwise, Same, Upsample};
    for (conv, [h, w, c], o) in [
        (Pointwise, [1, 1, 3], 5),
        (Pointwise, [5, 7, 32], 64),
        (Same, [1, 1, 3], 4),
        (Same, [1, 9, 2], 3),
        (Same, [9, 1, 5], 49),
        (Same, [5, 7, 3], 8),
        (Same, [4, 3, 130], 50),
        (Same, [40, 41, 3], 5), // more pixels than one task takes
        (Same, [19, 21, 72], 136),
        (Same, [18, 35, 64], 264), // more channels than a tile has
        (Same, [17, 16, 8], 3),
        (Downsample, [2, 2, 3], 4),
        (Downsample, [6, 10, 5], 49),
        (Upsample, [1, 1, 3], 4),
        (Upsample, [3, 5, 6], 50),
        (Upsample, [7, 1, 8], 3),
        (Upsample, [9, 5, 16], 8),
        (Pointwise, [20, 30, 40], 136),
        (Pointwise, [20, 30, 72], 8),
    ] {
        let compute = be.compute().dtype();
        let k = conv.kernel() * conv.kernel() * c;
        let (x, xs) = window(be, "x", &[h, w, c], compute)?;
        let (conv, ws, bs) = convolution(be, "conv", [o, c], conv)?;
        let expected = ops::conv2d::reference(&xs, [h, w, c], &ws, &bs, conv.shape);
        let shape = [conv.shape.output(h), conv.shape.output(w), o];
        check(be, &ops::conv2d(be, &(&x).into(), &conv)?, &shape, compute, &expected, k)?;
        check(be, &ops::conv2d_f32(be, &(&x).into(), &conv)?, &shape, F32, &expected, k)?;

        let (mut y, ys) = tensor(be, "y", &shape, compute)?;
        ops::conv2d_add(be, &mut y, &(&x).into(), &conv)?;
        let expected: Vec<f64> = expected.iter().zip(&ys).map(|(sum, y)| sum + f64::from(*y)).collect();
        check(be, &y, &shape, compute, &expected, k)?;
    }
    Ok(())
}

/// Group norm and SiLU fused before a convolution and a residual after it, as in the autoencoder.
pub(super) fn convolutions_normalize_what_they_read<B: Backend>(be: &B) -> Result<()> {
    use ConvShape::{Downsample, Pointwise, Same, Upsample};
    let compute = be.compute().dtype();
    for (shape, [h, w, c], groups, o) in [
        (Same, [1, 1, 4], 2, 3),
        (Same, [5, 7, 12], 3, 8),
        (Same, [9, 4, 5], 5, 49), // an odd number of channels
        (Same, [4, 3, 130], 1, 50),
        (Same, [33, 60, 8], 4, 3), // more pixels than one task takes
        (Pointwise, [5, 7, 32], 8, 64),
        (Downsample, [6, 10, 6], 3, 5),
        (Upsample, [3, 5, 6], 2, 50),
    ] {
        let k = shape.kernel() * shape.kernel() * c;
        let (x, xs) = window(be, "x", &[h, w, c], compute)?;
        let (norm, ws, bs) = normalization(be, groups, c)?;
        let normed = ops::group_norm::reference(&xs, groups, &ws, &bs, EPS);
        let silu: Vec<f32> = normed.iter().map(|v| (v / (1.0 + (-v).exp())) as f32).collect();
        let (conv, ws, bs) = convolution(be, "conv", [o, c], shape)?;
        let expected = ops::conv2d::reference(&silu, [h, w, c], &ws, &bs, shape);
        // Operands of the product are rounded: at most 2^-8 of each term, on average half that of their sum, and five
        // times that in the worst of thousands of sums.
        let rounding = if be.compute() == Compute::Bf16 { 2f64.powi(-6) } else { 2f64.powi(-21) };
        let close = |got: &Tensor<B>, dtype, expected: &[f64]| -> Result<()> {
            assert_eq!((got.shape(), got.dtype()), (&[shape.output(h), shape.output(w), o][..], dtype));
            assert_close(&be.download(got)?, expected, Tolerance::of(dtype, k).and_of_rms(rounding));
            Ok(())
        };
        let read = || -> Result<_> {
            let norm_silu = Some(ops::group_norm_statistics(be, &(&x).into(), &norm)?);
            Ok(ConvInput { map: &x, after: None, norm_silu })
        };
        close(&ops::conv2d(be, &read()?, &conv)?, compute, &expected)?;
        close(&ops::conv2d_f32(be, &read()?, &conv)?, F32, &expected)?;

        let (mut y, ys) = tensor(be, "y", &[shape.output(h), shape.output(w), o], compute)?;
        ops::conv2d_add(be, &mut y, &read()?, &conv)?;
        let expected: Vec<f64> = expected.iter().zip(&ys).map(|(sum, y)| sum + f64::from(*y)).collect();
        close(&y, compute, &expected)?;
    }
    Ok(())
}

/// A map that is computed in bands while it is read equals, to the bit, one that is computed and stored first.
pub(super) fn a_streamed_map_is_the_map<B: Backend>(be: &B) -> Result<()> {
    use ConvShape::{Downsample, Pointwise, Same, Upsample};
    let (x, _) = tensor(be, "x", &[13, 9, 6], be.compute().dtype())?;
    let (norm, ..) = normalization(be, 4, 8)?;
    for first in [Pointwise, Same, Upsample] {
        let (first, ..) = convolution(be, "first", [8, 6], first)?;
        let kept = ops::conv2d(be, &(&x).into(), &first)?;
        for second in [Pointwise, Same, Upsample, Downsample] {
            if second == Downsample && first.shape != Upsample {
                continue; // odd sides
            }
            let (second, ..) = convolution(be, "second", [5, 8], second)?;
            let run = |mut input: ConvInput<B>| -> Result<_> {
                let plain = be.download(&ops::conv2d(be, &input, &second)?)?;
                let statistics = ops::group_norm_statistics(be, &input, &norm)?;
                input.norm_silu = Some(statistics.clone());
                let normed = be.download(&ops::conv2d(be, &input, &second)?)?;
                Ok((plain, be.download(&statistics)?, normed))
            };
            let streamed = ConvInput { map: &x, after: Some(&first), norm_silu: None };
            assert!(run(streamed)? == run((&kept).into())?, "{:?} before {:?}", first.shape, second.shape);
        }
    }
    Ok(())
}

pub(super) fn group_norm<B: Backend>(be: &B) -> Result<()> {
    for ([h, w, c], groups) in
        [([1, 1, 4], 2), ([1, 1, 3], 3), ([3, 5, 12], 3), ([7, 1, 6], 1), ([43, 41, 32], 8), ([2, 3, 512], 32)]
    {
        for offset in [0.0, 100.0] {
            let wide = [h, w, c + 5];
            let values: Vec<f32> = random("x", &wide).iter().map(|v| v + offset).collect();
            let x = ops::cast(be, &be.upload(&wide, &values)?, be.compute().dtype())?.slice_cols(3..c + 3);
            let xs = be.download(&x)?;
            let (norm, ws, bs) = normalization(be, groups, c)?;
            let expected = ops::group_norm::reference(&xs, groups, &ws, &bs, EPS);
            let tolerance = Tolerance::of(be.compute().dtype(), 1);
            let got = ops::group_norm(be, &x, &norm)?;
            assert_eq!((got.shape(), got.dtype()), (&[h, w, c][..], be.compute().dtype()));
            assert_close(&be.download(&got)?, &expected, tolerance);
        }
    }
    Ok(())
}

pub(super) fn patchify<B: Backend>(be: &B) -> Result<()> {
    for [h, w, c] in [[2, 2, 1], [4, 6, 3], [10, 2, 32], [2, 300, 8]] {
        let (mean, means) = tensor(be, "mean", &[4 * c], F32)?;
        let stds: Vec<f32> = random("std", &[4 * c]).iter().map(|v| 2.0 + v).collect();
        let std = be.upload(&[4 * c], &stds)?;
        for dtype in [F32, be.compute().dtype()] {
            let (x, xs) = window(be, "x", &[h, w, c], dtype)?;
            let tokens = ops::patchify(be, &x, &mean, &std)?;
            let shape = [h / 2 * (w / 2), 4 * c];
            check(be, &tokens, &shape, F32, &ops::patchify::reference(&xs, [h, w, c], &means, &stds), 1)?;

            let back = ops::unpatchify(be, &tokens, [h / 2, w / 2], &mean, &std)?;
            let values = be.download(&tokens)?;
            let expected = ops::patchify::unpatchify_reference(&values, [h / 2, w / 2], &means, &stds);
            check(be, &back, &[h, w, c], be.compute().dtype(), &expected, 1)?;
            // The round trip is the identity.
            check(be, &back, &[h, w, c], be.compute().dtype(), &ops::cast::reference(&xs), 1)?;
        }
    }
    Ok(())
}

pub(super) fn pixel_shuffle<B: Backend>(be: &B) -> Result<()> {
    for ([h, w, c], s) in [([1, 1, 1], 1), ([1, 1, 1], 3), ([3, 5, 3], 2), ([7, 30, 3], 4), ([64, 9, 2], 2)] {
        let (x, xs) = window(be, "x", &[h, w, c * s * s], F32)?;
        let (base, bases) = window(be, "base", &[h, w, c], F32)?;
        let expected = ops::pixel_shuffle::reference(&xs, &bases, [h, w, c], s);
        check(be, &ops::pixel_shuffle(be, &x, &base)?, &[h * s, w * s, c], F32, &expected, 1)?;
    }
    Ok(())
}

pub(super) fn prelu<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for shape in [&[1, 1][..], &[3, 17], &[5, 7, 9], &[40, 12, 64]] {
        let (slope, slopes) = tensor(be, "slope", &shape[shape.len() - 1..], F32)?;
        for (mut x, xs) in [tensor(be, "x", shape, compute)?, window(be, "x", shape, compute)?] {
            ops::prelu(be, &mut x, &slope)?;
            check(be, &x, shape, compute, &ops::prelu::reference(&xs, &slopes), 1)?;
        }
    }
    Ok(())
}

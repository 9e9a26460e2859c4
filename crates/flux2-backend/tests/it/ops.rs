//! The op matrix: every op at awkward shapes, on every backend setup, against its f64 reference.
//!
//! Inputs are rounded to the dtype of the op before they are passed to the reference, so tolerances cover the op alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use flux2_backend::cpu::Tier;
use flux2_backend::host::BlockScales;
use flux2_backend::testing::{Tolerance, assert_close, cpu, on_every_backend, random, tensor};
use flux2_backend::{
    AttentionInput, AttentionMask, Backend, Compute, ConvInput, ConvShape, Convolution, CpuBackend, DType, Error,
    Format, GroupNorm, HostBytes, HostTensor, ModulatedLayerNorm, Result, Rope, RopeLayout, Runtime, Tensor, Weight,
    ops,
};
use half::{bf16, f16};

const F32: DType = DType::F32;
const EPS: f32 = 1e-6;

macro_rules! matrix {
    ($($op:ident),+ $(,)?) => {
        on_every_backend!($($op),+);
        /// Ops with a row in the matrix.
        const ROWS: &[&str] = &[$(stringify!($op)),+];
    };
}

matrix!(
    add_scaled,
    attention,
    cast,
    concat_cols,
    concat_rows,
    conv2d,
    embedding,
    euler_step,
    group_norm,
    guide,
    linear,
    linear_add,
    linear_swiglu,
    modulated_layer_norm,
    norm_rope,
    patchify,
    pixel_shuffle,
    prelu,
    rms_norm,
    silu,
);

on_every_backend!(
    a_streamed_map_is_the_map,
    attention_of_aligned_rows,
    convolutions_normalize_what_they_read,
    keys_that_no_query_sees_may_be_left_out,
    large_scores_do_not_overflow,
    wrong_shapes_are_named,
    wrong_dtypes_are_named,
    in_place_ops_leave_shared_memory_alone,
    in_place_ops_find_where_a_window_starts,
    nan_survives_int8,
    int8_weights
);

mod e4m3_weights {
    flux2_backend::on_cuda! { e4m3_weights }
}

#[test]
fn every_op_has_a_row() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeSet<String> = std::fs::read_dir(src.join("ops"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "mod")
        .collect();
    assert_eq!(files, ROWS.iter().map(ToString::to_string).collect(), "files in src/ops and rows of the matrix");
    for name in files {
        assert!(src.join("cpu").join(&name).with_extension("rs").is_file(), "no CPU kernel for {name}");
        let is_there = |room| src.join("cuda").join(room).join(&name).with_extension("rs").is_file();
        assert!(is_there("ops") || is_there("product"), "no CUDA kernel for {name}");
    }
}

fn add_scaled<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for shape in [&[1, 1][..], &[3, 17], &[5, 7, 9], &[40, 12, 64]] {
        let (y, ys) = window(be, "y", shape, compute)?;
        let (mut x, xs) = tensor(be, "x", shape, compute)?;
        ops::add_scaled(be, &mut x, &y, 0.2)?;
        check(be, &x, shape, compute, &ops::add_scaled::reference(&xs, &ys, 0.2), 1)?;
    }
    // Both aligned for wide loads.
    let (mut x, xs) = tensor(be, "x", &[33, 64], compute)?;
    let (y, ys) = tensor(be, "y", &[33, 64], compute)?;
    ops::add_scaled(be, &mut x, &y, -1.5)?;
    check(be, &x, &[33, 64], compute, &ops::add_scaled::reference(&xs, &ys, -1.5), 1)
}

fn attention<B: Backend>(be: &B) -> Result<()> {
    let causal = |valid| AttentionMask::Causal { valid };
    for (n, m, heads, head_dim, mask) in [
        (1, 1, [1, 1], 2, AttentionMask::None),
        (3, 7, [2, 2], 6, AttentionMask::None),
        (97, 50, [3, 1], 10, AttentionMask::None), // one more than a block of queries
        (5, 1100, [4, 2], 32, AttentionMask::None), // three blocks of keys
        (2, 481, [1, 1], 512, AttentionMask::None), // one more than a block of keys; the autoencoder's head
        (100, 960, [1, 1], 16, AttentionMask::None), // whole blocks of keys
        (1, 1, [2, 1], 4, causal(1)),
        (13, 13, [4, 2], 8, causal(9)),
        (130, 130, [2, 1], 128, causal(130)),
        (600, 600, [2, 1], 16, causal(1)), // all keys but the first are padding
        (600, 600, [2, 1], 16, causal(517)),
        (600, 517, [2, 1], 16, causal(517)), // keys of the padding left out
        (130, 7, [4, 2], 8, causal(7)),
    ] {
        let (q, qs) = window(be, "q", &[n, heads[0] * head_dim], be.compute().dtype())?;
        let (k, ks) = window(be, "k", &[m, heads[1] * head_dim], be.compute().dtype())?;
        let (v, vs) = window(be, "v", &[m, heads[1] * head_dim], be.compute().dtype())?;
        let got = ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })?;
        let expected = ops::attention::reference(&qs, &ks, &vs, heads, head_dim, mask);
        assert_eq!((got.shape(), got.dtype()), (&[n, heads[0] * head_dim][..], be.compute().dtype()));
        assert_close(&be.download(&got)?, &expected, attention_tolerance(be, head_dim + m));
    }
    // A batch: each item has keys of its own.
    for (items, n, m, heads, head_dim, mask) in [
        (2, 1, 3, [1, 1], 2, AttentionMask::None),
        (3, 97, 50, [4, 2], 16, AttentionMask::None),
        (2, 70, 70, [2, 1], 40, causal(9)),
    ] {
        let part = |name, rows, heads| window(be, name, &[items, rows, heads * head_dim], be.compute().dtype());
        let ((q, qs), (k, ks), (v, vs)) = (part("q", n, heads[0])?, part("k", m, heads[1])?, part("v", m, heads[1])?);
        let got = ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })?;
        let of_item = |values: &[f32], i: usize| values[i * values.len() / items..][..values.len() / items].to_vec();
        let expected = (0..items).flat_map(|i| {
            ops::attention::reference(&of_item(&qs, i), &of_item(&ks, i), &of_item(&vs, i), heads, head_dim, mask)
        });
        assert_eq!(got.shape(), [items, n, heads[0] * head_dim]);
        assert_close(&be.download(&got)?, &expected.collect::<Vec<_>>(), attention_tolerance(be, head_dim + m));
    }
    Ok(())
}

/// Rows aligned for wide loads, as in the models.
fn attention_of_aligned_rows<B: Backend>(be: &B) -> Result<()> {
    let causal = |valid| AttentionMask::Causal { valid };
    for (n, m, heads, head_dim, mask) in [
        (1, 1, [1, 1], 8, AttentionMask::None),
        (65, 63, [4, 2], 40, AttentionMask::None),
        (130, 129, [2, 1], 128, AttentionMask::None),
        (70, 264, [1, 1], 136, AttentionMask::None),
        (530, 520, [2, 1], 64, AttentionMask::None), // large enough for cuDNN
        (64, 64, [2, 2], 64, causal(64)),
        (130, 130, [4, 2], 128, causal(70)),
        (200, 33, [2, 1], 32, causal(33)),
    ] {
        let compute = be.compute().dtype();
        let (q, qs) = tensor(be, "q", &[n, heads[0] * head_dim], compute)?;
        let (k, ks) = tensor(be, "k", &[m, heads[1] * head_dim], compute)?;
        let (v, vs) = tensor(be, "v", &[m, heads[1] * head_dim], compute)?;
        let got = ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })?;
        let expected = ops::attention::reference(&qs, &ks, &vs, heads, head_dim, mask);
        assert_close(&be.download(&got)?, &expected, attention_tolerance(be, head_dim + m));
    }
    Ok(())
}

/// The text encoder relies on this: it computes no keys of the padding.
fn keys_that_no_query_sees_may_be_left_out<B: Backend>(be: &B) -> Result<()> {
    let (n, heads, head_dim) = (600, [4, 2], 32);
    let (q, _) = tensor(be, "q", &[n, heads[0] * head_dim], be.compute().dtype())?;
    let (k, _) = tensor(be, "k", &[n, heads[1] * head_dim], be.compute().dtype())?;
    let (v, _) = tensor(be, "v", &[n, heads[1] * head_dim], be.compute().dtype())?;
    for valid in [1, 20, 480, 517] {
        let mask = AttentionMask::Causal { valid };
        let all = be.download(&ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })?)?;
        let (k, v) = (k.slice_rows(0..valid), v.slice_rows(0..valid));
        let seen = be.download(&ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })?)?;
        assert!(all == seen, "{valid} keys of {n}");
    }
    Ok(())
}

/// Scores in the thousands, whose `e^score` is infinite: softmax must subtract the maximum first.
fn large_scores_do_not_overflow<B: Backend>(be: &B) -> Result<()> {
    let (n, m, head_dim) = (9, 700, 64);
    let large = |name, rows, factor: f32| {
        let values: Vec<f32> = random(name, &[rows, head_dim]).iter().map(|v| v * factor).collect();
        let x = ops::cast(be, &be.upload(&[rows, head_dim], &values)?, be.compute().dtype())?;
        let values = be.download(&x)?;
        Ok((x, values))
    };
    let ((q, qs), (k, ks)) = (large("q", n, 100.0)?, large("k", m, 10.0)?);
    let (v, vs) = tensor(be, "v", &[m, head_dim], be.compute().dtype())?;
    let got = ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask: AttentionMask::None })?;
    let expected = ops::attention::reference(&qs, &ks, &vs, [1, 1], head_dim, AttentionMask::None);
    // An f32 score of 5000 has an error of about 5000 * 2^-24, which is the relative error of its weight.
    let tolerance = attention_tolerance(be, head_dim + m).and_of_rms(5000.0 * 2f64.powi(-22));
    assert_close(&be.download(&got)?, &expected, tolerance);
    Ok(())
}

fn cast<B: Backend>(be: &B) -> Result<()> {
    for shape in [&[1][..], &[7, 3], &[257, 65]] {
        for (from, to) in [(F32, be.compute().dtype()), (be.compute().dtype(), F32)] {
            let (x, xs) = window(be, "x", shape, from)?;
            check(be, &ops::cast(be, &x, to)?, shape, to, &ops::cast::reference(&xs), 1)?;
        }
    }
    Ok(())
}

fn concat_cols<B: Backend>(be: &B) -> Result<()> {
    for (rows, cols) in [(1, &[1][..]), (13, &[2, 5, 1]), (64, &[300, 129])] {
        for dtype in [F32, be.compute().dtype()] {
            let part = |d: &usize| window(be, &format!("part of {d}"), &[rows, *d], dtype);
            let parts = cols.iter().map(part).collect::<Result<Vec<_>>>()?;
            let tensors: Vec<_> = parts.iter().map(|(x, _)| x).collect();
            let values: Vec<_> = parts.iter().zip(cols).map(|((_, values), d)| (values.as_slice(), *d)).collect();
            let got = ops::concat_cols(be, &tensors)?;
            check(be, &got, &[rows, cols.iter().sum()], dtype, &ops::concat_cols::reference(&values), 1)?;
        }
    }
    Ok(())
}

fn concat_rows<B: Backend>(be: &B) -> Result<()> {
    for (rows, cols) in [(&[1][..], 1), (&[2, 5, 1], 13), (&[300, 129], 64)] {
        for dtype in [F32, be.compute().dtype()] {
            let part = |n: &usize| window(be, &format!("part of {n}"), &[*n, cols], dtype);
            let parts = rows.iter().map(part).collect::<Result<Vec<_>>>()?;
            let tensors: Vec<_> = parts.iter().map(|(x, _)| x).collect();
            let values: Vec<_> = parts.iter().map(|(_, values)| values.as_slice()).collect();
            let got = ops::concat_rows(be, &tensors)?;
            check(be, &got, &[rows.iter().sum(), cols], dtype, &ops::concat_rows::reference(&values), 1)?;

            // Batches of three items, whose values alternate in the result.
            let part = |n: &usize| window(be, &format!("parts of {n}"), &[3, *n, cols], dtype);
            let parts = rows.iter().map(part).collect::<Result<Vec<_>>>()?;
            let tensors: Vec<_> = parts.iter().map(|(x, _)| x).collect();
            let items = (0..3)
                .flat_map(|i| parts.iter().map(move |(_, values)| &values[i * values.len() / 3..][..values.len() / 3]));
            let expected = ops::concat_rows::reference(&items.collect::<Vec<_>>());
            let got = ops::concat_rows(be, &tensors)?;
            check(be, &got, &[3, rows.iter().sum(), cols], dtype, &expected, 1)?;
        }
    }
    Ok(())
}

fn conv2d<B: Backend>(be: &B) -> Result<()> {
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
fn convolutions_normalize_what_they_read<B: Backend>(be: &B) -> Result<()> {
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
fn a_streamed_map_is_the_map<B: Backend>(be: &B) -> Result<()> {
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

fn embedding<B: Backend>(be: &B) -> Result<()> {
    for (table, d) in [(dense(F32, [5, 3], 0), 3), (dense(DType::Bf16, [101, 64], 1), 64), (scaled_fp8([70, 90]), 90)] {
        let values = table.to_f32();
        let last = table.shape()[0] as u32 - 1;
        let ids = [0, last, 3, 3, 1, last];
        let table = Weight::load(be, table)?;
        let expected = ops::embedding::reference(&values, &ids, d);
        check(be, &ops::embedding(be, &table, &ids)?, &[6, d], F32, &expected, 1)?;
        let refused = ops::embedding(be, &table, &[0, last + 1]).err();
        assert_eq!(refused, Some(Error::TokenId { id: last + 1, rows: last as usize + 1 }));
    }
    Ok(())
}

fn euler_step<B: Backend>(be: &B) -> Result<()> {
    for shape in [&[1, 1][..], &[3, 17], &[300, 67]] {
        let (mut x, xs) = tensor(be, "x", shape, F32)?;
        let (velocity, vs) = window(be, "velocity", shape, F32)?;
        ops::euler_step(be, &mut x, &velocity, -0.041_9)?;
        check(be, &x, shape, F32, &ops::euler_step::reference(&xs, &vs, -0.041_9), 1)?;
    }
    Ok(())
}

fn group_norm<B: Backend>(be: &B) -> Result<()> {
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

fn guide<B: Backend>(be: &B) -> Result<()> {
    for shape in [&[1, 1][..], &[3, 17], &[300, 67]] {
        let (uncond, us) = window(be, "uncond", shape, F32)?;
        let (cond, cs) = tensor(be, "cond", shape, F32)?;
        check(be, &ops::guide(be, &uncond, &cond, 4.0)?, shape, F32, &ops::guide::reference(&us, &cs, 4.0), 1)?;
    }
    Ok(())
}

fn linear<B: Backend>(be: &B) -> Result<()> {
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

fn linear_add<B: Backend>(be: &B) -> Result<()> {
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

fn linear_swiglu<B: Backend>(be: &B) -> Result<()> {
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
fn int8_weights<B: Backend>(be: &B) -> Result<()> {
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
fn e4m3_weights(be: &flux2_backend::CudaBackend) -> Result<()> {
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

fn nan_survives_int8<B: Backend>(be: &B) -> Result<()> {
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

fn modulated_layer_norm<B: Backend>(be: &B) -> Result<()> {
    for [n, d] in [[1, 2], [1, 7], [3, 17], [5, 128], [2, 3072], [600, 33]] {
        let (x, xs) = window(be, "x", &[n, d], F32)?;
        // As in the model: windows of one row.
        let (row, values) = tensor(be, "modulation", &[1, 3 * d], F32)?;
        let [shift, scale, _gate] = row.chunk_cols();
        let expected = ops::modulated_layer_norm::reference(&xs, &values[..d], &values[d..2 * d], EPS);
        let got = ops::modulated_layer_norm(
            be,
            &x,
            &ModulatedLayerNorm { shift: &shift, scale: &scale, eps: EPS, feeds: None },
        )?;
        check(be, &got, &[n, d], be.compute().dtype(), &expected, 1)?;
    }
    Ok(())
}

fn norm_rope<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    for [n, heads, d] in [[1, 1, 2], [3, 2, 6], [7, 3, 34], [300, 2, 128], [50, 3, 128]] {
        for layout in [RopeLayout::Interleaved, RopeLayout::Halves] {
            let aligned = n == 50;
            let shape = [n, heads * d];
            let (x, xs) = if aligned { tensor(be, "x", &shape, compute)? } else { window(be, "x", &shape, compute)? };
            let (weight, ws) = tensor(be, "weight", &[d], F32)?;
            let angles = random("angle", &[n, d / 2]);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let shape = [n, d / 2];
            let rope = Rope { cos: be.upload(&shape, &cos)?, sin: be.upload(&shape, &sin)?, layout };
            let expected = ops::norm_rope::reference(&xs, &ws, &cos, &sin, layout, heads, EPS);
            check(be, &ops::norm_rope(be, &x, &weight, &rope, EPS)?, &[n, heads * d], compute, &expected, 1)?;
        }
    }
    Ok(())
}

fn patchify<B: Backend>(be: &B) -> Result<()> {
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

fn pixel_shuffle<B: Backend>(be: &B) -> Result<()> {
    for ([h, w, c], s) in [([1, 1, 1], 1), ([1, 1, 1], 3), ([3, 5, 3], 2), ([7, 30, 3], 4), ([64, 9, 2], 2)] {
        let (x, xs) = window(be, "x", &[h, w, c * s * s], F32)?;
        let (base, bases) = window(be, "base", &[h, w, c], F32)?;
        let expected = ops::pixel_shuffle::reference(&xs, &bases, [h, w, c], s);
        check(be, &ops::pixel_shuffle(be, &x, &base)?, &[h * s, w * s, c], F32, &expected, 1)?;
    }
    Ok(())
}

fn prelu<B: Backend>(be: &B) -> Result<()> {
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

fn rms_norm<B: Backend>(be: &B) -> Result<()> {
    for [n, d] in [[1, 1], [1, 7], [3, 17], [5, 128], [2, 3072], [600, 33]] {
        let (x, xs) = window(be, "x", &[n, d], F32)?;
        let (weight, ws) = tensor(be, "weight", &[d], F32)?;
        let expected = ops::rms_norm::reference(&xs, &ws, EPS);
        check(be, &ops::rms_norm(be, &x, &weight, EPS)?, &[n, d], be.compute().dtype(), &expected, 1)?;
    }
    Ok(())
}

fn silu<B: Backend>(be: &B) -> Result<()> {
    for shape in [&[1][..], &[3, 17], &[300, 67]] {
        let (x, xs) = window(be, "x", shape, F32)?;
        check(be, &ops::silu(be, &x)?, shape, be.compute().dtype(), &ops::silu::reference(&xs), 1)?;
    }
    // Extreme values, where e^-x overflows or vanishes.
    let far = [-1e30, -1000.0, -100.0, -88.0, -20.0, -0.0, 0.0, 20.0, 88.0, 100.0, 1000.0];
    let got = be.download(&ops::silu(be, &be.upload(&[far.len()], &far)?)?)?;
    assert_close(&got, &ops::silu::reference(&far), Tolerance::of(be.compute().dtype(), 1));
    Ok(())
}

fn in_place_ops_leave_shared_memory_alone<B: Backend>(be: &B) -> Result<()> {
    let (x, before) = tensor(be, "x", &[6, 10], F32)?;
    let mut whole = x.clone();
    ops::euler_step(be, &mut whole, &x, 1.0)?;
    let mut columns = x.slice_cols(2..7);
    ops::euler_step(be, &mut columns, &x.slice_cols(0..5), 1.0)?;
    let mut rows = x.slice_rows(3..6);
    let y = ops::cast(be, &x.slice_rows(0..3), be.compute().dtype())?;
    ops::linear_add(be, &mut rows, Some(&x.slice_rows(0..1)), &y, &weight(be, "weight", [10, 10])?.0)?;
    assert_eq!(be.download(&x)?, before);
    assert_eq!(be.download(&whole)?, before.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    assert_eq!(be.download(&columns)?[5], before[12] + before[10]);
    Ok(())
}

/// The last rows of a matrix that was dropped: they are the only owner of a buffer that starts before them.
fn in_place_ops_find_where_a_window_starts<B: Backend>(be: &B) -> Result<()> {
    let (x, before) = tensor(be, "x", &[6, 10], F32)?;
    let mut last = x.slice_rows(3..6);
    drop(x);
    let one = be.upload(&[3, 10], &[1.0; 30])?;
    ops::euler_step(be, &mut last, &one, 1.0)?;
    assert_eq!(be.download(&last)?, before[30..].iter().map(|v| v + 1.0).collect::<Vec<_>>());
    Ok(())
}

fn wrong_shapes_are_named<B: Backend>(be: &B) -> Result<()> {
    let compute = be.compute().dtype();
    let f = |shape: &[usize]| tensor(be, "f", shape, F32).map(|(x, _)| x);
    let c = |shape: &[usize]| tensor(be, "c", shape, compute).map(|(x, _)| x);
    let weight = |shape| Weight::load(be, dense(F32, shape, 0));
    let refused = |expected: &str, result: Result<()>| match result {
        Err(Error::Shape { what, .. }) => assert_eq!(what, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let causal = |valid| AttentionMask::Causal { valid };
    let attend = |q: &[usize], k: &[usize], v: &[usize], head_dim, mask| {
        ops::attention(be, &AttentionInput { q: &c(q)?, k: &c(k)?, v: &c(v)?, head_dim, mask }).map(drop)
    };
    let none = AttentionMask::None;
    let rope =
        |shape: &[usize], sin: &[usize]| Ok(Rope { cos: f(shape)?, sin: f(sin)?, layout: RopeLayout::Interleaved });

    refused("attention: q", attend(&[2, 6], &[2, 6], &[2, 6], 3, none));
    refused("attention: q", attend(&[2, 6], &[2, 6], &[2, 6], 4, none));
    refused("attention: q", attend(&[2, 6], &[2, 6], &[2, 6], 0, none));
    refused("attention: k", attend(&[2, 6], &[2, 4], &[2, 4], 2, none));
    refused("attention: k", attend(&[2, 4], &[0, 4], &[0, 4], 2, none));
    refused("attention: k", attend(&[2, 4], &[3, 4], &[3, 4], 2, causal(2)));
    refused("attention: k", attend(&[2, 4], &[2, 4], &[2, 4], 2, causal(0)));
    refused("attention: k", attend(&[2, 4], &[2, 4], &[2, 4], 2, causal(3)));
    refused("attention: k", attend(&[2, 4], &[1, 4], &[1, 4], 2, causal(2)));
    refused("attention: v", attend(&[2, 4], &[3, 4], &[2, 4], 2, none));
    refused("attention: q", attend(&[1, 1, 2, 4], &[2, 4], &[2, 4], 2, none));
    refused("attention: k", attend(&[2, 2, 4], &[1, 2, 4], &[1, 2, 4], 2, none));
    refused("attention: k", attend(&[1, 2, 4], &[2, 4], &[2, 4], 2, none));
    refused("concat_rows: parts", ops::concat_rows(be, &[&f(&[2, 2, 3])?, &f(&[1, 2, 3])?]).map(drop));
    refused("concat_cols: parts", ops::concat_cols::<B>(be, &[]).map(drop));
    refused("concat_rows: parts", ops::concat_rows::<B>(be, &[]).map(drop));
    refused("concat_rows: parts", ops::concat_rows(be, &[&f(&[2, 3])?, &f(&[2, 4])?]).map(drop));
    let conv = |w, b: &[usize], shape| Ok(Convolution { weight: weight(w)?, bias: f(b)?, shape });
    let convolve =
        |x: &[usize], w, b: &[usize], shape| ops::conv2d(be, &(&c(x)?).into(), &conv(w, b, shape)?).map(drop);
    refused("conv2d: x", convolve(&[2, 2, 3], [4, 26], &[4], ConvShape::Same));
    refused("conv2d: x", convolve(&[2, 6], [4, 27], &[4], ConvShape::Same));
    refused("conv2d: x", convolve(&[3, 2, 3], [4, 27], &[4], ConvShape::Downsample));
    refused("conv2d: bias", convolve(&[2, 2, 3], [4, 27], &[3], ConvShape::Same));
    let add = |y: &[usize]| {
        ops::conv2d_add(be, &mut c(y)?, &(&c(&[2, 2, 3])?).into(), &conv([4, 27], &[4], ConvShape::Same)?)
    };
    refused("conv2d: y", add(&[2, 2, 3]));
    let read = |first, statistics: &[usize]| {
        let (map, first, second) =
            (c(&[2, 2, 3])?, conv(first, &[5], ConvShape::Same)?, conv([4, 45], &[4], ConvShape::Same)?);
        let input = ConvInput { map: &map, after: Some(&first), norm_silu: Some(f(statistics)?) };
        ops::conv2d(be, &input, &second).map(drop)
    };
    read([5, 27], &[3, 5])?;
    refused("conv2d: x", read([5, 28], &[3, 5]));
    refused("conv2d: statistics", read([5, 27], &[3, 3]));
    refused("euler_step: velocity", ops::euler_step(be, &mut f(&[2, 3])?, &f(&[2, 4])?, 1.0));
    let group = |x: &[usize], groups, w: &[usize], b: &[usize]| {
        ops::group_norm(be, &c(x)?, &GroupNorm { groups, weight: f(w)?, bias: f(b)?, eps: EPS }).map(drop)
    };
    refused("group_norm: x", group(&[2, 2, 6], 4, &[6], &[6]));
    refused("group_norm: x", group(&[2, 2, 6], 0, &[6], &[6]));
    refused("group_norm: weight", group(&[2, 2, 6], 3, &[3], &[6]));
    refused("group_norm: bias", group(&[2, 2, 6], 3, &[6], &[1, 6]));
    refused("guide: cond", ops::guide(be, &f(&[2, 3])?, &f(&[3, 2])?, 4.0).map(drop));
    refused("linear: x", ops::linear(be, &c(&[2, 3])?, &weight([5, 4])?, None).map(drop));
    refused("linear: bias", ops::linear_f32(be, &c(&[2, 3])?, &weight([5, 3])?, Some(&f(&[3])?)).map(drop));
    let linear_add = |x: &[usize], gate: Option<&[usize]>, y: &[usize], w| {
        let gate = gate.map(&f).transpose()?;
        ops::linear_add(be, &mut f(x)?, gate.as_ref(), &c(y)?, &weight(w)?)
    };
    refused("linear_add: x", linear_add(&[2, 3], None, &[2, 4], [5, 4]));
    refused("linear_add: gate", linear_add(&[2, 3], Some(&[3]), &[2, 4], [3, 4]));
    refused("linear_add: y", linear_add(&[2, 3], Some(&[1, 3]), &[1, 4], [3, 4]));
    refused("linear_add: y", linear_add(&[2, 3], None, &[2, 5], [3, 4]));
    refused("linear_add: y", linear_add(&[2, 3], None, &[2, 2, 4], [3, 4]));
    let pair =
        |a: &[usize], b: &[usize], w| ops::linear_pair_add(be, &mut f(&[2, 5])?, None, [&c(a)?, &c(b)?], &weight(w)?);
    refused("linear_pair_add: a", pair(&[2, 9], &[2, 1], [5, 8]));
    refused("linear_pair_add: a", pair(&[1, 3], &[1, 5], [5, 8]));
    refused("linear_pair_add: b", pair(&[2, 3], &[2, 4], [5, 8]));
    refused("linear_pair_add: b", pair(&[2, 3], &[1, 5], [5, 8]));
    let swiglu = |x: &[usize], gate, up| ops::linear_swiglu(be, &c(x)?, &weight(gate)?, &weight(up)?).map(drop);
    refused("linear_swiglu: x", swiglu(&[2, 3], [5, 4], [5, 4]));
    refused("linear_swiglu: x", swiglu(&[2, 4], [5, 4], [6, 4]));
    let modulate = |shift: &[usize], scale: &[usize]| {
        ops::modulated_layer_norm(
            be,
            &f(&[2, 3])?,
            &ModulatedLayerNorm { shift: &f(shift)?, scale: &f(scale)?, eps: EPS, feeds: None },
        )
        .map(drop)
    };
    refused("modulated_layer_norm: shift", modulate(&[3], &[1, 3]));
    refused("modulated_layer_norm: scale", modulate(&[1, 3], &[2, 3]));
    let rotate = |x: &[usize], w: &[usize], cos: &[usize], sin: &[usize]| {
        ops::norm_rope(be, &c(x)?, &f(w)?, &rope(cos, sin)?, EPS).map(drop)
    };
    refused("norm_rope: x", rotate(&[2, 6], &[4], &[2, 2], &[2, 2]));
    refused("norm_rope: weight", rotate(&[2, 6], &[3], &[2, 1], &[2, 1]));
    refused("norm_rope: cos", rotate(&[2, 8], &[4], &[3, 2], &[2, 2]));
    refused("norm_rope: sin", rotate(&[2, 8], &[4], &[2, 2], &[2, 4]));
    let patch = |x: &[usize], mean: &[usize], std: &[usize]| ops::patchify(be, &c(x)?, &f(mean)?, &f(std)?).map(drop);
    refused("patchify: x", patch(&[3, 2, 1], &[4], &[4]));
    refused("patchify: mean", patch(&[2, 2, 1], &[1], &[4]));
    refused("patchify: std", patch(&[2, 2, 1], &[4], &[1]));
    let unpatch =
        |x: &[usize], mean: &[usize], std: &[usize]| ops::unpatchify(be, &f(x)?, [2, 3], &f(mean)?, &f(std)?).map(drop);
    refused("unpatchify: tokens", unpatch(&[5, 4], &[4], &[4]));
    refused("unpatchify: tokens", unpatch(&[6, 6], &[6], &[6]));
    refused("unpatchify: mean", unpatch(&[6, 4], &[1], &[4]));
    refused("unpatchify: std", unpatch(&[6, 4], &[4], &[1]));
    refused("add_scaled: y", ops::add_scaled(be, &mut c(&[2, 3])?, &c(&[2, 4])?, 1.0));
    refused("prelu: slope", ops::prelu(be, &mut c(&[2, 3])?, &f(&[2])?));
    let shuffle = |x: &[usize], base: &[usize]| ops::pixel_shuffle(be, &f(x)?, &f(base)?).map(drop);
    refused("pixel_shuffle: x", shuffle(&[2, 12], &[2, 2, 3]));
    refused("pixel_shuffle: x", shuffle(&[2, 2, 13], &[2, 2, 3]));
    refused("pixel_shuffle: x", shuffle(&[2, 2, 2], &[2, 2, 3]));
    refused("pixel_shuffle: base", shuffle(&[2, 2, 12], &[2, 3]));
    refused("pixel_shuffle: base", shuffle(&[2, 2, 12], &[2, 3, 3]));
    refused("rms_norm: x", ops::rms_norm(be, &f(&[3])?, &f(&[3])?, EPS).map(drop));
    refused("rms_norm: weight", ops::rms_norm(be, &f(&[2, 3])?, &f(&[2])?, EPS).map(drop));
    Ok(())
}

/// With f32 compute there is only one dtype, so only `cast` can be given a wrong one.
fn wrong_dtypes_are_named<B: Backend>(be: &B) -> Result<()> {
    if be.compute() == Compute::F32 {
        let refused = ops::cast(be, &be.upload(&[1], &[1.0])?, DType::Bf16).err();
        assert_eq!(refused, Some(Error::DType { what: "cast: dtype", found: DType::Bf16, expected: F32 }));
        return Ok(());
    }
    let f = |shape: &[usize]| tensor(be, "f", shape, F32).map(|(x, _)| x);
    let c = |shape: &[usize]| tensor(be, "c", shape, DType::Bf16).map(|(x, _)| x);
    let weight = |shape| Weight::load(be, dense(F32, shape, 0));
    let refused = |expected: &str, result: Result<()>| match result {
        Err(Error::DType { what, .. }) => assert_eq!(what, expected),
        other => panic!("{expected}: {other:?}"),
    };
    let [m, v] = [&[2, 4][..], &[4]];
    let none = AttentionMask::None;
    let rope = || Ok(Rope { cos: f(&[2, 2])?, sin: f(&[2, 2])?, layout: RopeLayout::Halves });
    refused(
        "attention: q",
        ops::attention(be, &AttentionInput { q: &f(m)?, k: &c(m)?, v: &c(m)?, head_dim: 2, mask: none }).map(drop),
    );
    refused(
        "attention: k",
        ops::attention(be, &AttentionInput { q: &c(m)?, k: &f(m)?, v: &c(m)?, head_dim: 2, mask: none }).map(drop),
    );
    refused(
        "attention: v",
        ops::attention(be, &AttentionInput { q: &c(m)?, k: &c(m)?, v: &f(m)?, head_dim: 2, mask: none }).map(drop),
    );
    refused("cast: dtype", ops::cast(be, &f(m)?, DType::F16).map(drop));
    refused("concat_rows: parts", ops::concat_rows(be, &[&f(m)?, &c(m)?]).map(drop));
    let convolve = |x: Tensor<B>, bias| {
        let conv = Convolution { weight: weight([4, 9])?, bias, shape: ConvShape::Same };
        ops::conv2d(be, &(&x).into(), &conv).map(drop)
    };
    refused("conv2d: x", convolve(f(&[2, 2, 1])?, f(v)?));
    refused("conv2d: bias", convolve(c(&[2, 2, 1])?, c(v)?));
    refused("euler_step: x", ops::euler_step(be, &mut c(m)?, &f(m)?, 1.0));
    refused("euler_step: velocity", ops::euler_step(be, &mut f(m)?, &c(m)?, 1.0));
    let norm = |weight| Ok(GroupNorm { groups: 2, weight, bias: f(v)?, eps: EPS });
    refused("group_norm: x", ops::group_norm(be, &f(&[2, 2, 4])?, &norm(f(v)?)?).map(drop));
    let statistics = |weight| ops::group_norm_statistics(be, &(&c(&[2, 2, 4])?).into(), &norm(weight)?).map(drop);
    refused("group_norm: weight", statistics(c(v)?));
    refused("guide: uncond", ops::guide(be, &c(m)?, &f(m)?, 4.0).map(drop));
    refused("guide: cond", ops::guide(be, &f(m)?, &c(m)?, 4.0).map(drop));
    refused("linear: x", ops::linear(be, &f(m)?, &weight([3, 4])?, None).map(drop));
    refused("linear: bias", ops::linear(be, &c(m)?, &weight([4, 4])?, Some(&c(v)?)).map(drop));
    let square = weight([4, 4])?;
    refused("linear_add: x", ops::linear_add(be, &mut c(m)?, None, &c(m)?, &square));
    refused("linear_add: gate", ops::linear_add(be, &mut f(m)?, Some(&c(&[1, 4])?), &c(m)?, &square));
    refused("linear_add: y", ops::linear_add(be, &mut f(m)?, None, &f(m)?, &square));
    let wide = weight([4, 8])?;
    refused("linear_pair_add: a", ops::linear_pair_add(be, &mut f(m)?, None, [&f(m)?, &c(m)?], &wide));
    refused("linear_pair_add: b", ops::linear_pair_add(be, &mut f(m)?, None, [&c(m)?, &f(m)?], &wide));
    refused("linear_swiglu: x", ops::linear_swiglu(be, &f(m)?, &square, &square).map(drop));
    let row = f(&[1, 4])?;
    refused(
        "modulated_layer_norm: x",
        ops::modulated_layer_norm(be, &c(m)?, &ModulatedLayerNorm { shift: &row, scale: &row, eps: EPS, feeds: None })
            .map(drop),
    );
    refused(
        "modulated_layer_norm: shift",
        ops::modulated_layer_norm(
            be,
            &f(m)?,
            &ModulatedLayerNorm { shift: &c(&[1, 4])?, scale: &row, eps: EPS, feeds: None },
        )
        .map(drop),
    );
    refused("norm_rope: x", ops::norm_rope(be, &f(m)?, &f(v)?, &rope()?, EPS).map(drop));
    refused("norm_rope: weight", ops::norm_rope(be, &c(m)?, &c(v)?, &rope()?, EPS).map(drop));
    refused("patchify: mean", ops::patchify(be, &c(&[2, 2, 1])?, &c(v)?, &f(v)?).map(drop));
    refused("unpatchify: tokens", ops::unpatchify(be, &c(m)?, [1, 2], &f(v)?, &f(v)?).map(drop));
    refused("add_scaled: x", ops::add_scaled(be, &mut f(m)?, &c(m)?, 1.0));
    refused("add_scaled: y", ops::add_scaled(be, &mut c(m)?, &f(m)?, 1.0));
    refused("prelu: x", ops::prelu(be, &mut f(m)?, &f(v)?));
    refused("prelu: slope", ops::prelu(be, &mut c(m)?, &c(v)?));
    let one = || f(&[2, 2, 1]);
    refused("pixel_shuffle: x", ops::pixel_shuffle(be, &c(&[2, 2, 4])?, &one()?).map(drop));
    refused("pixel_shuffle: base", ops::pixel_shuffle(be, &f(&[2, 2, 4])?, &c(&[2, 2, 1])?).map(drop));
    refused("rms_norm: x", ops::rms_norm(be, &c(m)?, &f(v)?, EPS).map(drop));
    refused("rms_norm: weight", ops::rms_norm(be, &f(m)?, &c(v)?, EPS).map(drop));
    refused("silu: x", ops::silu(be, &c(m)?).map(drop));
    Ok(())
}

#[test]
fn same_bytes_for_one_and_two_threads() {
    for compute in [Compute::F32, Compute::Bf16] {
        let [one, two] = [1, 2].map(|threads| cpu(compute, Tier::detect(), threads).unwrap());
        assert_eq!(elementwise(&one).unwrap(), elementwise(&two).unwrap(), "elementwise ops in {compute}");
        assert_eq!(products(&one).unwrap(), products(&two).unwrap(), "products in {compute}");
    }
}

#[test]
fn all_tiers_give_the_same_bytes() {
    for compute in [Compute::F32, Compute::Bf16] {
        let portable = elementwise(&cpu(compute, Tier::Portable, 1).unwrap()).unwrap();
        for be in Tier::ALL.into_iter().filter_map(|tier| cpu(compute, tier, 1)) {
            for ((op, got), (_, expected)) in elementwise(&be).unwrap().iter().zip(&portable) {
                assert!(got == expected, "{op} in {compute} on {:?} differs from portable", be.tier());
            }
        }
    }
}

/// Bits of the results of ops that are plain loops or exact sums.
fn elementwise(be: &CpuBackend) -> Result<Vec<(&'static str, Vec<u32>)>> {
    let compute = be.compute().dtype();
    let [n, d] = [310, 136];
    let [x, y] = ["x", "y"].map(|name| tensor(be, name, &[n, d], F32).map(|(x, _)| x));
    let (x, y) = (x?, y?);
    let xc = ops::cast(be, &x, compute)?;
    let bytes = Weight::load_as(be, HostTensor::from_f32([77, d], &random("bytes", &[77, d])), Format::Int8)?;
    let (row, w, v) = (x.slice_rows(0..1), be.upload(&[d], &random("w", &[d]))?, be.upload(&[d], &random("v", &[d]))?);
    let rope = |layout| -> Result<Rope<CpuBackend>> {
        let [cos, sin] = ["cos", "sin"].map(|name| tensor(be, name, &[n, d / 2], F32).map(|(x, _)| x));
        Ok(Rope { cos: cos?, sin: sin?, layout })
    };
    let map = xc.reshape("map", [10, 31, d])?;
    let norm = GroupNorm { groups: 8, weight: w.clone(), bias: v.clone(), eps: EPS };
    let tokens = x.reshape("tokens", [n, d])?;
    let results = [
        ("add_scaled", in_place(&xc, |x| ops::add_scaled(be, x, &xc, -0.3))?),
        ("cast", xc.clone()),
        ("concat_rows", ops::concat_rows(be, &[&x, &y])?),
        ("euler_step", in_place(&x, |x| ops::euler_step(be, x, &y, -0.1))?),
        ("linear of int8", ops::linear(be, &xc, &bytes, None)?),
        ("group_norm", ops::group_norm(be, &map, &norm)?),
        ("group_norm_statistics", ops::group_norm_statistics(be, &(&map).into(), &norm)?),
        ("guide", ops::guide(be, &x, &y, 4.0)?),
        (
            "modulated_layer_norm",
            ops::modulated_layer_norm(be, &x, &ModulatedLayerNorm { shift: &row, scale: &row, eps: EPS, feeds: None })?,
        ),
        ("norm_rope, interleaved", ops::norm_rope(be, &xc, &w, &rope(RopeLayout::Interleaved)?, EPS)?),
        ("norm_rope, halves", ops::norm_rope(be, &xc, &w, &rope(RopeLayout::Halves)?, EPS)?),
        (
            "pixel_shuffle",
            ops::pixel_shuffle(be, &y.reshape("y", [10, 31, d])?, &x.slice_cols(0..34).reshape("x", [10, 31, 34])?)?,
        ),
        ("prelu", in_place(&xc, |x| ops::prelu(be, x, &w))?),
        ("rms_norm", ops::rms_norm(be, &x, &w, EPS)?),
        ("silu", ops::silu(be, &x)?),
        ("linear_swiglu of int8", ops::linear_swiglu(be, &xc, &bytes, &bytes)?),
        ("unpatchify", ops::unpatchify(be, &tokens, [10, 31], &w, &v)?),
    ];
    results.into_iter().map(|(op, result)| Ok((op, bits(be, &result)?))).collect()
}

/// Bits of the results of matrix products with more than one task in each direction.
fn products(be: &CpuBackend) -> Result<Vec<Vec<u32>>> {
    let (x, _) = tensor(be, "x", &[1700, 64], be.compute().dtype())?;
    let (square, bias) = (weight(be, "w", [250, 64])?.0, be.upload(&[250], &random("b", &[250]))?);
    let bytes = Weight::load_as(be, HostTensor::from_f32([250, 64], &random("bytes", &[250, 64])), Format::Int8)?;
    let (conv, ..) = convolution(be, "conv", [250, 64], ConvShape::Same)?;
    let map = x.reshape("map", [34, 50, 64])?;
    let norm_silu = Some(ops::group_norm_statistics(be, &(&map).into(), &normalization(be, 8, 64)?.0)?);
    let few = x.slice_rows(0..400);
    let results = [
        ops::linear(be, &x, &square, Some(&bias))?,
        ops::linear_swiglu(be, &x, &square, &square)?,
        ops::linear_swiglu(be, &x, &bytes, &bytes)?,
        ops::conv2d(be, &(&map).into(), &conv)?,
        ops::conv2d(be, &ConvInput { map: &map, after: None, norm_silu }, &conv)?,
        ops::attention(be, &AttentionInput { q: &few, k: &x, v: &x, head_dim: 16, mask: AttentionMask::None })?,
    ];
    results.iter().map(|result| bits(be, result)).collect()
}

fn in_place(
    x: &Tensor<CpuBackend>,
    op: impl FnOnce(&mut Tensor<CpuBackend>) -> Result<()>,
) -> Result<Tensor<CpuBackend>> {
    let mut x = x.clone();
    op(&mut x)?;
    Ok(x)
}

fn bits(be: &CpuBackend, x: &Tensor<CpuBackend>) -> Result<Vec<u32>> {
    Ok(be.download(x)?.iter().map(|v| v.to_bits()).collect())
}

/// Asserts `shape`, `dtype`, and values within the tolerance for sums of `terms` products.
#[track_caller]
fn check<B: Backend>(
    be: &B,
    got: &Tensor<B>,
    shape: &[usize],
    dtype: DType,
    expected: &[f64],
    terms: usize,
) -> Result<()> {
    assert_eq!((got.shape(), got.dtype()), (shape, dtype));
    assert_close(&be.download(got)?, expected, Tolerance::of(dtype, terms));
    Ok(())
}

/// In bf16 the softmax weights are rounded before they multiply the values: 2^-8 of each term, which in the worst case
/// is about four standard deviations of the sum.
fn attention_tolerance<B: Backend>(be: &B, terms: usize) -> Tolerance {
    let rounding = if be.compute() == Compute::Bf16 { 2f64.powi(-7) } else { 0.0 };
    Tolerance::of(be.compute().dtype(), terms).and_of_rms(rounding)
}

/// A window in the middle of a wider tensor, starting at an odd column, and its values.
fn window<B: Backend>(be: &B, name: &str, shape: &[usize], dtype: DType) -> Result<(Tensor<B>, Vec<f32>)> {
    let mut wide = shape.to_vec();
    let cols = *shape.last().unwrap();
    *wide.last_mut().unwrap() = cols + 7;
    let x = tensor(be, name, &wide, dtype)?.0.slice_cols(3..3 + cols);
    let values = be.download(&x)?;
    Ok((x, values))
}

/// Random bf16 weights, and their values.
fn weight<B: Backend>(be: &B, name: &str, shape: [usize; 2]) -> Result<(Weight<B>, Vec<f32>)> {
    let values: Vec<bf16> = random(name, &shape).into_iter().map(bf16::from_f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let host = HostTensor::new(DType::Bf16, shape, HostBytes::new(Arc::new(bytes)))?;
    let values = host.to_f32();
    Ok((Weight::load(be, host)?, values))
}

/// A random convolution from `c` to `o` channels, and the values of its weight and bias.
fn convolution<B: Backend>(
    be: &B,
    name: &str,
    [o, c]: [usize; 2],
    shape: ConvShape,
) -> Result<(Convolution<B>, Vec<f32>, Vec<f32>)> {
    let (weight, weights) = weight(be, &format!("{name}.weight"), [o, shape.kernel() * shape.kernel() * c])?;
    let (bias, biases) = tensor(be, &format!("{name}.bias"), &[o], F32)?;
    Ok((Convolution { weight, bias, shape }, weights, biases))
}

/// A random group norm of `c` channels, and the values of its weight and bias.
fn normalization<B: Backend>(be: &B, groups: usize, c: usize) -> Result<(GroupNorm<B>, Vec<f32>, Vec<f32>)> {
    let ((weight, weights), (bias, biases)) = (tensor(be, "weight", &[c], F32)?, tensor(be, "bias", &[c], F32)?);
    Ok((GroupNorm { groups, weight, bias, eps: EPS }, weights, biases))
}

/// Values that are exact in bf16, stored as `dtype`, at offset `skip` of a buffer.
fn dense(dtype: DType, shape: [usize; 2], skip: usize) -> HostTensor {
    let mut bytes = vec![0; skip];
    for value in random("dense", &shape).into_iter().map(|v| bf16::from_f32(v).to_f32()) {
        match dtype {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            other => panic!("{other} is not a dense format"),
        }
    }
    let end = bytes.len();
    HostTensor::new(dtype, shape, HostBytes::new(Arc::new(bytes)).slice(skip..end)).unwrap()
}

/// Random e4m3 values with scales for blocks of 32x48, whose products are exact in bf16.
fn scaled_fp8(shape: [usize; 2]) -> HostTensor {
    let bytes: Vec<u8> =
        random("fp8", &shape).iter().map(|v| (v.abs() * 36.0) as u8 | ((*v < 0.0) as u8) << 7).collect();
    let blocks = [shape[0].div_ceil(32), shape[1].div_ceil(48)];
    let scale = |i| [0.25, 1.0, 1.5, 3.0, 0.625][i % 5];
    let scales = BlockScales { values: (0..blocks[0] * blocks[1]).map(scale).collect(), block: [32, 48] };
    let host = HostTensor::new(DType::F8E4M3, shape, HostBytes::new(Arc::new(bytes))).unwrap();
    host.with_scales(scales).unwrap()
}

//! The op matrix: every op at awkward shapes, on every backend setup, against its f64 reference.
//!
//! Inputs are rounded to the dtype of the op before they are passed to the reference, so tolerances cover the op alone.

mod inputs;
mod maps;
mod products;
mod refused;
mod same_bytes;

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

use inputs::*;
use maps::*;
use products::*;
use refused::*;

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

fn guide<B: Backend>(be: &B) -> Result<()> {
    for shape in [&[1, 1][..], &[3, 17], &[300, 67]] {
        let (uncond, us) = window(be, "uncond", shape, F32)?;
        let (cond, cs) = tensor(be, "cond", shape, F32)?;
        check(be, &ops::guide(be, &uncond, &cond, 4.0)?, shape, F32, &ops::guide::reference(&us, &cs, 4.0), 1)?;
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

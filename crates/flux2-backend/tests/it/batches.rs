//! Batches `[b, n, d]`: an item gets the bytes that it gets alone, whatever the others are.

use flux2_backend::testing::{on_every_backend, random, tensor};
use flux2_backend::{
    AttentionInput, AttentionMask, Backend, DType, Error, Format, HostTensor, Result, Tensor, Weight, ops,
};

on_every_backend!(items_get_the_bytes_of_each_alone, attention_of_items, rows_of_items_are_joined);

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod shapes_of_klein_4b {
    flux2_backend::on_cuda! { shapes_of_klein_4b }
}

fn items_get_the_bytes_of_each_alone<B: Backend>(be: &B) -> Result<()> {
    for [n, k, m] in [[1, 8, 5], [7, 5, 3], [50, 72, 136], [112, 160, 160]] {
        for items in 1..=5 {
            products(be, [items, n], k, m)?;
        }
    }
    // More rows than one task of the CPU takes.
    products(be, [3, 600], 24, 50)
}

/// 256x256 and 512x512, where cuBLASLt has a choice of algorithms and our kernels one of tiles; cuDNN's attention.
#[cfg(all(feature = "cuda", target_os = "linux"))]
fn shapes_of_klein_4b(be: &flux2_backend::CudaBackend) -> Result<()> {
    for (shape, outputs) in [([4, 768], 3072), ([3, 1536], 1024)] {
        products(be, shape, 3072, outputs)?;
        attend(be, shape, [24, 24], 128)?;
    }
    Ok(())
}

/// All products of `[n, k]` rows with weights `[m, k]`, in every format that the backend multiplies.
fn products<B: Backend>(be: &B, [items, n]: [usize; 2], k: usize, m: usize) -> Result<()> {
    for format in [Format::AsStored, Format::Int8, Format::Fp8] {
        let load =
            |name: &str, cols| Weight::load_as(be, HostTensor::from_f32([m, cols], &random(name, &[m, cols])), format);
        let (gate, up) = match (load("gate", k), load("up", k)) {
            (Err(Error::Unsupported { .. }), _) => continue,
            (gate, up) => (gate?, up?),
        };
        let pair = load("pair", 2 * k)?;
        let (gates, _) = tensor(be, "factor", &[1, m], DType::F32)?;
        let what = format!("{items} x [{n}, {k}] * [{m}, {k}] in {format:?}");
        each_as_alone(be, &format!("linear, {what}"), [items, n, k], |x| ops::linear(be, x, &gate, None))?;
        each_as_alone(be, &format!("linear_f32, {what}"), [items, n, k], |x| ops::linear_f32(be, x, &gate, None))?;
        each_as_alone(be, &format!("swiglu, {what}"), [items, n, k], |x| ops::linear_swiglu(be, x, &gate, &up))?;
        let residual = |x: &Tensor<B>| be.upload(&[x.rows(), m], &vec![0.5; x.rows() * m]);
        for factor in [None, Some(&gates)] {
            each_as_alone(be, &format!("linear_add, {what}"), [items, n, k], |x| {
                let mut sum = residual(x)?;
                ops::linear_add(be, &mut sum, factor, x, &gate)?;
                Ok(sum)
            })?;
        }
        each_as_alone(be, &format!("linear_pair_add, {what}"), [items, n, k], |x| {
            let mut sum = residual(x)?;
            ops::linear_pair_add(be, &mut sum, Some(&gates), [x, x], &pair)?;
            Ok(sum)
        })?;
    }
    Ok(())
}

fn attention_of_items<B: Backend>(be: &B) -> Result<()> {
    for (n, heads, head_dim) in
        [(1, [1, 1], 2), (33, [4, 2], 6), (112, [5, 5], 32), (100, [2, 1], 128), (24, [1, 1], 136)]
    {
        for items in [1, 2, 5] {
            attend(be, [items, n], heads, head_dim)?;
        }
    }
    Ok(())
}

fn attend<B: Backend>(be: &B, [items, n]: [usize; 2], heads: [usize; 2], head_dim: usize) -> Result<()> {
    for mask in [AttentionMask::None, AttentionMask::Causal { valid: n.div_ceil(2) }] {
        let what = format!("attention, {items} x {n} tokens, heads {heads:?} of {head_dim}, {mask:?}");
        let [q_cols, kv_cols] = heads.map(|heads| heads * head_dim);
        each_as_alone(be, &what, [items, n, q_cols + 2 * kv_cols], |qkv| {
            let q = qkv.slice_cols(0..q_cols);
            let k = qkv.slice_cols(q_cols..q_cols + kv_cols);
            let v = qkv.slice_cols(q_cols + kv_cols..q_cols + 2 * kv_cols);
            ops::attention(be, &AttentionInput { q: &q, k: &k, v: &v, head_dim, mask })
        })?;
    }
    Ok(())
}

fn rows_of_items_are_joined<B: Backend>(be: &B) -> Result<()> {
    for dtype in [DType::F32, be.compute().dtype()] {
        for [items, first, second, cols] in [[1, 2, 3, 4], [2, 1, 5, 3], [5, 48, 64, 160]] {
            let part = |name, rows| -> Result<_> {
                let (wide, _) = tensor(be, name, &[items, rows, cols + 8], dtype)?;
                let window = wide.slice_cols(8..cols + 8);
                let values = be.download(&window)?;
                Ok((window, values))
            };
            let ((a, values_of_a), (b, values_of_b)) = (part("a", first)?, part("b", second)?);
            // A contiguous part too: its items are copied as one row each.
            let whole = be.upload(&[items, second, cols], &values_of_b)?;
            let whole = ops::cast(be, &whole, dtype)?;
            let joined = ops::concat_rows(be, &[&a, &b, &whole])?;
            assert_eq!(joined.shape(), [items, first + 2 * second, cols]);
            let chunks = values_of_a.chunks(first * cols).zip(values_of_b.chunks(second * cols));
            let expected: Vec<f32> = chunks.flat_map(|(a, b)| [a, b, b].concat()).collect();
            assert!(be.download(&joined)? == expected, "{items} items of {first} and {second} rows");
        }
    }
    Ok(())
}

/// Asserts that `op` computes for each item of a random batch of `shape` what it computes for the item alone.
#[track_caller]
fn each_as_alone<B: Backend>(
    be: &B,
    what: &str,
    shape: [usize; 3],
    op: impl Fn(&Tensor<B>) -> Result<Tensor<B>>,
) -> Result<()> {
    let [items, n, k] = shape;
    let compute = be.compute().dtype();
    let values = random(what, &shape);
    let input = |shape: &[usize], values: &[f32]| ops::cast(be, &be.upload(shape, values)?, compute);
    let together = be.download(&op(&input(&shape, &values)?)?)?;
    assert!(together.iter().all(|value| value.is_finite()) && together.iter().any(|value| *value != 0.0), "{what}");
    for (i, (values, together)) in values.chunks(n * k).zip(together.chunks(together.len() / items)).enumerate() {
        let alone = be.download(&op(&input(&[n, k], values)?)?)?;
        assert!(alone == together, "{what}: item {i} differs from itself alone");
    }
    Ok(())
}

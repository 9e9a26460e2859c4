//! Results that depend neither on the number of threads nor on the tier.

use super::*;

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

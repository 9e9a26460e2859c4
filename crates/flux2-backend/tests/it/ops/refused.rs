//! What violates the contract of an op is refused, with the name of the argument.

use super::*;

pub(super) fn wrong_shapes_are_named<B: Backend>(be: &B) -> Result<()> {
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
pub(super) fn wrong_dtypes_are_named<B: Backend>(be: &B) -> Result<()> {
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

//! Position ids of tokens, the rotary tables made from them, and the packing of latents into tokens.
//!
//! In:  sizes in tokens; a latent `[c, h, w]` in patchified form.
//! Out: ids `(t, h, w, l)` per token; tables of cosines and sines `[n, head_dim / 2]`; tokens `[h * w, c]`.
//!
//! Host arithmetic, once per request. Ids follow `prepare_ids` of black-forest-labs/flux2, the tables
//! `Flux2PosEmbed` in diffusers and `Qwen3RotaryEmbedding` in transformers.

use std::collections::HashMap;

/// Position of a token: image (t), row (h), column (w), index in the text (l).
pub type PositionId = [u32; 4];

/// Step in t from the generated image to the first reference image, to the second, and so on.
const REFERENCE_T_STEP: u32 = 10;

/// Ids of `n` text tokens, counted along the last axis.
pub fn text_ids(n: usize) -> Vec<PositionId> {
    (0..n as u32).map(|l| [0, 0, 0, l]).collect()
}

/// Ids of the tokens that are denoised: `h` rows of `w`, row by row.
pub fn image_ids(h: usize, w: usize) -> Vec<PositionId> {
    grid_ids(0, h, w)
}

/// Ids of reference image `k` (from 0): `h` rows of `w`, row by row. Every image begins at row 0, column 0.
pub fn reference_ids(k: usize, h: usize, w: usize) -> Vec<PositionId> {
    grid_ids(REFERENCE_T_STEP * (k as u32 + 1), h, w)
}

/// The id of a reference image's token if there were one reference image less before it.
pub fn one_reference_earlier([t, h, w, l]: PositionId) -> PositionId {
    [t - REFERENCE_T_STEP, h, w, l]
}

fn grid_ids(t: u32, h: usize, w: usize) -> Vec<PositionId> {
    (0..h as u32).flat_map(|y| (0..w as u32).map(move |x| [t, y, x, 0])).collect()
}

/// Rotary tables of the flow transformer: cosines and sines, each `[n, sum(axes) / 2]`, t first, then h, w, l.
///
/// Entry `i` of a row rotates the adjacent channels `2i` and `2i + 1` of a head. Angles are f64 as in diffusers, the
/// tables f32.
///
/// # Panics
/// If there are not four axes or one is odd.
pub fn rope_tables(ids: &[PositionId], axes: &[usize], theta: f64) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(axes.len(), 4, "rope_tables: an id has 4 axes");
    assert!(axes.iter().all(|channels| channels.is_multiple_of(2)), "rope_tables: axes {axes:?} do not pair");
    let frequencies: Vec<Vec<f64>> = axes
        .iter()
        .map(|channels| (0..channels / 2).map(|i| theta.powf(-2.0 * i as f64 / *channels as f64)).collect())
        .collect();
    // A picture has thousands of tokens but few positions on each axis: compute each position once.
    let rotations = |position: u32, axis: usize| -> Vec<(f32, f32)> {
        let angles = frequencies[axis].iter().map(|frequency| f64::from(position) * frequency);
        angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).collect()
    };
    let mut known: HashMap<(u32, usize), Vec<(f32, f32)>> = HashMap::new();
    let pairs = frequencies.iter().map(Vec::len).sum::<usize>() * ids.len();
    let (mut cosines, mut sines) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    for id in ids {
        for (axis, position) in id.iter().enumerate() {
            for (cosine, sine) in known.entry((*position, axis)).or_insert_with(|| rotations(*position, axis)) {
                cosines.push(*cosine);
                sines.push(*sine);
            }
        }
    }
    (cosines, sines)
}

/// Rotary tables of the text encoder for positions `0..n`: cosines and sines, each `[n, head_dim / 2]`.
///
/// Entry `i` of a row rotates the channels `i` and `i + head_dim / 2` of a head: the halves layout, unlike
/// [`rope_tables`]. Frequencies and angles are rounded to f32 where transformers rounds them; at position 511 the
/// rounding shows in the fifth decimal.
///
/// # Panics
/// If `head_dim` is odd.
pub fn rope_tables_1d(n: usize, head_dim: usize, theta: f64) -> (Vec<f32>, Vec<f32>) {
    assert!(head_dim.is_multiple_of(2), "rope_tables_1d: {head_dim} channels do not halve");
    let frequencies: Vec<f32> = (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / theta.powf(f64::from(exponent)) as f32
        })
        .collect();
    let angles = (0..n).flat_map(|p| frequencies.iter().map(move |frequency| f64::from(p as f32 * frequency)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

/// A patchified latent `[c, h, w]` as tokens `[h * w, c]`, row by row.
///
/// # Panics
/// If `latent` does not have `c * h * w` elements.
pub fn pack(latent: &[f32], c: usize, h: usize, w: usize) -> Vec<f32> {
    assert_eq!(latent.len(), c * h * w, "pack: latent of {c} x {h} x {w}");
    transpose(latent, c, h * w)
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| x[row * columns + column])).collect()
}

/// A noise level as model input, `[channels]`: cosines of `1000 * sigma` at falling frequencies, then the sines.
///
/// The factor 1000 is applied only here. Frequency and angle are rounded to f32 where PyTorch rounds them: at angles up
/// to 1000 the rounding shows in the fifth decimal, so exact arithmetic would agree less. PyTorch's `exp` is one ulp
/// off at 2 of the 128 frequencies (elements 12 and 106, PyTorch 2.15 on a CPU), which leaves a difference of 3e-5
/// there.
/// Source: `Timesteps(flip_sin_to_cos=True, downscale_freq_shift=0)` in diffusers.
///
/// # Panics
/// If `channels` is odd.
pub fn timestep_embedding(sigma: f32, channels: usize) -> Vec<f32> {
    assert!(channels.is_multiple_of(2), "timestep_embedding: {channels} channels do not halve");
    let half = channels / 2;
    let max_period_ln = -(10_000f64.ln() as f32);
    // The reference multiplies in the scheduler, divides in the pipeline and multiplies in the model: three roundings.
    let timestep = 1000.0 * (1000.0 * sigma / 1000.0);
    let angles: Vec<f64> = (0..half)
        .map(|i| {
            let frequency = f64::from(max_period_ln * i as f32 / half as f32).exp() as f32;
            f64::from(timestep * frequency)
        })
        .collect();
    let cosines = angles.iter().map(|angle| angle.cos() as f32);
    let sines = angles.iter().map(|angle| angle.sin() as f32);
    cosines.chain(sines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AXES: [usize; 4] = [32, 32, 32, 32];

    /// diffusers, theta 2000: pair, cosine, sine at one position on every axis.
    fn check_rope(position: u32, expected: &[(usize, f32, f32)]) {
        let (cos, sin) = rope_tables(&[[position; 4]], &AXES, 2000.0);
        assert_eq!((cos.len(), sin.len()), (64, 64));
        for (pair, c, s) in expected {
            for axis in 0..4 {
                let got = (cos[16 * axis + pair], sin[16 * axis + pair]);
                // The expected values have seven decimals.
                let close = (got.0 - c).abs() <= 1e-7 && (got.1 - s).abs() <= 1e-7;
                assert!(close, "position {position}, axis {axis}, pair {pair}: {got:?}, expected {:?}", (c, s));
            }
        }
    }

    #[test]
    fn rope_matches_the_reference() {
        check_rope(
            10,
            &[
                (0, -0.8390715, -0.5440211),
                (1, 0.9979087, -0.0646404),
                (2, -0.7482465, -0.6634208),
                (15, 0.9999677, 0.0080404),
            ],
        );
        check_rope(511, &[(1, -0.8940536, -0.4479599), (15, 0.9167734, 0.3994078)]);
    }

    #[test]
    fn rope_of_position_zero_rotates_nothing() {
        let (cos, sin) = rope_tables(&[[0; 4]], &AXES, 2000.0);
        assert!(cos.iter().all(|c| *c == 1.0) && sin.iter().all(|s| *s == 0.0));
    }

    #[test]
    fn rope_channels_are_in_the_order_t_h_w_l() {
        for axis in 0..4 {
            let mut id = [0; 4];
            id[axis] = 3;
            let (_, sin) = rope_tables(&[[0; 4], id], &[4, 8, 12, 16], 2000.0);
            let rotated: Vec<usize> = (0..20).filter(|i| sin[20 + i] != 0.0).collect();
            let expected = [0..2, 2..6, 6..12, 12..20][axis].clone();
            assert_eq!(rotated, expected.collect::<Vec<_>>(), "axis {axis}");
        }
    }

    #[test]
    fn text_counts_along_the_last_axis() {
        assert_eq!(text_ids(3), [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]);
    }

    #[test]
    fn image_ids_are_row_major() {
        assert_eq!(
            image_ids(2, 3),
            [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 2, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 2, 0]]
        );
    }

    #[test]
    fn references_are_ten_apart_and_start_at_the_corner() {
        assert_eq!(reference_ids(0, 1, 2), [[10, 0, 0, 0], [10, 0, 1, 0]]);
        assert_eq!(reference_ids(3, 2, 1), [[40, 0, 0, 0], [40, 1, 0, 0]]);
    }

    /// transformers' Qwen3RotaryEmbedding, head_dim 128, theta 1e6, f32: position, pair, cosine, sine.
    #[test]
    fn text_rope_matches_the_reference() {
        let (cos, sin) = rope_tables_1d(512, 128, 1e6);
        assert_eq!((cos.len(), sin.len()), (512 * 64, 512 * 64));
        for (p, pair, c, s) in QWEN3_ROPE {
            let got = (cos[p * 64 + pair], sin[p * 64 + pair]);
            let close = (got.0 - c).abs() <= 2e-7 && (got.1 - s).abs() <= 2e-7;
            assert!(close, "position {p}, pair {pair}: {got:?}, expected {:?}", (c, s));
        }
    }

    const QWEN3_ROPE: [(usize, usize, f32, f32); 9] = [
        (1, 0, 0.5403023, 0.841_471),
        (1, 1, 0.6925039, 0.7214141),
        (100, 3, -0.4738303, 0.8806162),
        (511, 0, -0.4716789, 0.8817704),
        (511, 1, -0.9721096, -0.2345273),
        (511, 2, 0.3857217, -0.9226152),
        (511, 10, -0.777_007, 0.6294919),
        (511, 31, 0.8055938, 0.5924683),
        (511, 63, 0.9999998, 0.0006341),
    ];

    #[test]
    fn pack_makes_the_channels_of_one_place_a_token() {
        // Two channels of 1 x 3.
        assert_eq!(pack(&[1., 2., 3., 10., 20., 30.], 2, 1, 3), [1., 10., 2., 20., 3., 30.]);
    }

    proptest! {
        #[test]
        fn packing_the_tokens_as_a_map_gives_the_latent_back(c in 1usize..9, h in 1usize..7, w in 1usize..7) {
            let latent: Vec<f32> = (0..c * h * w).map(|i| i as f32).collect();
            prop_assert_eq!(pack(&pack(&latent, c, h, w), h * w, 1, c), latent);
        }
    }
}

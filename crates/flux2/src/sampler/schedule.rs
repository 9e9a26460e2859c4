//! The noise levels of one image.
//!
//! In:  number of steps, number of image tokens.
//! Out: `steps + 1` sigmas from 1.0 (pure noise) down to 0.0.
//!
//! The levels are evenly spaced and then shifted towards high noise by `mu`, which depends on the size of the image and
//! on the number of steps. Follows `compute_empirical_mu` and `get_schedule` of black-forest-labs/flux2, and to the bit
//! diffusers' `FlowMatchEulerDiscreteScheduler` with exponential dynamic shifting, which rounds to f32 on the way. The
//! bits matter: an error of one ulp in a level rotates the highest frequency of the time embedding by 6e-5.

use crate::{Error, Result};

/// The program whose arithmetic makes the levels. All but one follow the same formula and round in other places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// diffusers, to the bit.
    #[default]
    Diffusers,
    /// `get_schedule` of black-forest-labs/flux2, and ComfyUI's Flux2Scheduler, to the bit: evenly spaced by
    /// `torch.linspace`, then shifted in f32.
    Linspace,
    /// The scheduler `discrete` of stable-diffusion.cpp: evenly spaced from 1000/1000 to 1/1000, so that the last level
    /// before 0 is nearly 0 itself.
    Discrete,
}

/// Largest number of steps; the schedulers of this family are defined on 1000 training steps.
pub const MAX_STEPS: u32 = 1000;

/// Above this many image tokens [`empirical_mu`] ignores the number of steps.
const LARGE_IMAGE_TOKENS: usize = 4300;

/// Noise levels for one image, from 1.0 (pure noise) down to 0.0, `steps + 1` values.
///
/// `image_tokens` is the number of tokens that are denoised, without text and reference images.
///
/// # Errors
/// [`Error::Steps`] if `steps` is not in `1..=MAX_STEPS`.
pub fn sigmas(steps: u32, image_tokens: usize) -> Result<Vec<f32>> {
    if !(1..=MAX_STEPS).contains(&steps) {
        return Err(Error::Steps { steps, max: MAX_STEPS });
    }
    // Finite even for token counts that no image has.
    let shift = (empirical_mu(image_tokens, steps).exp() as f32).min(f32::MAX);
    let last = 1.0 / f64::from(steps);
    let spacing = (last - 1.0) / f64::from(steps.max(2) - 1);
    let level = |i: u32| {
        let even = if i + 1 == steps { last } else { 1.0 + f64::from(i) * spacing } as f32;
        shift / (shift + (1.0 / even - 1.0))
    };
    Ok((0..steps).map(level).chain([0.0]).collect())
}

/// As [`sigmas`], computed as another program does.
///
/// # Errors
/// Those of [`sigmas`].
pub fn sigmas_by(schedule: Schedule, steps: u32, image_tokens: usize) -> Result<Vec<f32>> {
    let usual = sigmas(steps, image_tokens)?;
    let shifted = |level: fn(u32, u32) -> f32, shift: fn(f32, f32) -> f32| {
        let by = (empirical_mu(image_tokens, steps).exp() as f32).min(f32::MAX);
        (0..steps).map(|i| shift(level(i, steps), by)).chain([0.0]).collect()
    };
    Ok(match schedule {
        Schedule::Diffusers => usual,
        // PyTorch divides a number by a tensor as the product with its reciprocal.
        Schedule::Linspace => shifted(linspace, |level, by| (by + (level.recip() - 1.0)).recip() * by),
        Schedule::Discrete => {
            let by = empirical_mu_f32(image_tokens, steps).exp();
            let level = |i: u32| if steps == 1 { 999.0 } else { 999.0 - 999.0 / (steps - 1) as f32 * i as f32 };
            let shift = |timestep: f32| by / (by + (1.0 / ((timestep + 1.0) / 1000.0) - 1.0));
            (0..steps).map(|i| shift(level(i))).chain([0.0]).collect()
        }
    })
}

/// Value `i` of `torch.linspace(1, 0, steps + 1)`, which counts from the nearer end.
fn linspace(i: u32, steps: u32) -> f32 {
    let step = -1.0 / steps as f32;
    if i < steps.div_ceil(2) { step.mul_add(i as f32, 1.0) } else { -step * (steps - i) as f32 }
}

/// [`empirical_mu`] in f32, as stable-diffusion.cpp computes it.
fn empirical_mu_f32(image_tokens: usize, steps: u32) -> f32 {
    let tokens = image_tokens as f32;
    let at_200_steps = 0.00016927_f32 * tokens + 0.456_666_66_f32;
    if image_tokens > LARGE_IMAGE_TOKENS {
        return at_200_steps;
    }
    let at_10_steps = 8.738_095_5e-5_f32 * tokens + 1.898_333_3_f32;
    let per_step = (at_200_steps - at_10_steps) / 190.0;
    per_step * steps as f32 + (at_200_steps - 200.0 * per_step)
}

/// Noise levels for a picture that starts from an image: `steps + 1` values from the level of `strength` down to 0.0.
///
/// A strength of 1 gives [`sigmas`]. Otherwise the levels are evenly spaced from `strength` to 0 and then shifted as
/// usual. So each strength starts at another level, also with few steps.
///
/// # Errors
/// As [`sigmas`].
///
/// # Panics
/// If `strength` is not over 0 and at most 1.
pub fn sigmas_from(strength: f64, steps: u32, image_tokens: usize) -> Result<Vec<f32>> {
    assert!(strength > 0.0 && strength <= 1.0, "sigmas_from: strength {strength}");
    let full = sigmas(steps, image_tokens)?;
    if strength == 1.0 {
        return Ok(full);
    }
    let shift = empirical_mu(image_tokens, steps).exp();
    let level = |i: u32| {
        let even = strength * (1.0 - f64::from(i) / f64::from(steps));
        (shift / (shift + (1.0 / even - 1.0))) as f32
    };
    Ok((0..steps).map(level).chain([0.0]).collect())
}

/// The logarithm of the shift towards high noise.
///
/// Linear in `image_tokens`, with one fit for 10 and one for 200 steps, interpolated in `steps`. Above 4300 image
/// tokens only the second fit is used, so the function jumps there (at 4 steps from 2.31 to 1.18); the models were
/// released with that jump.
pub fn empirical_mu(image_tokens: usize, steps: u32) -> f64 {
    let tokens = image_tokens as f64;
    let at_200_steps = 0.00016927 * tokens + 0.45666666;
    if image_tokens > LARGE_IMAGE_TOKENS {
        return at_200_steps;
    }
    let at_10_steps = 8.73809524e-05 * tokens + 1.89833333;
    let per_step = (at_200_steps - at_10_steps) / 190.0;
    at_200_steps + per_step * (f64::from(steps) - 200.0)
}

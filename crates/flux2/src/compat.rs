//! Other programs whose pictures are to be reproduced from a seed.
//!
//! In:  a program. Out: its rules where programs differ: the noise of a seed and its number format, noise levels, how
//! reference images are prepared, how the decoder's output becomes bytes.
//!
//! | program | noise | levels | reference images | bytes |
//! |---|---|---|---|---|
//! | `diffusers` | PyTorch on the CPU, in the format of the run | its scheduler | at most 1024² pixels | nearest |
//! | `bfl`, `dj-flux2` | PyTorch on CUDA, bf16 | `get_schedule` | 2024² if it is the only one, else 1024² | truncated |
//! | `comfy` | PyTorch on the CPU, f32 | `Flux2Scheduler` | as large as they are | truncated |
//! | `sdcpp` | its own generator, f32 | `discrete` | as for diffusers, which is not its way | nearest |
//!
//! None of these programs reads color profiles, and all drop the alpha channel. `bfl`, `dj-flux2` and `sdcpp` do not
//! turn pictures as their EXIF says. Read in: diffusers 0.42.1, black-forest-labs/flux2 `sampling.py` and `cli.py`, the
//! node `Flux2Scheduler` of ComfyUI, `denoiser.hpp` and `util.cpp` of stable-diffusion.cpp, djkunkel/dj-flux2
//! `generate_image.py`.

use std::fmt;
use std::str::FromStr;

use crate::image::{Preparation, Rounding, Transparency};
use crate::sampler::{NoiseKind, Schedule};

/// A program whose pictures are to be reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compat {
    /// diffusers, `Flux2KleinPipeline`, with a generator on the CPU.
    Diffusers,
    /// `scripts/cli.py` of black-forest-labs/flux2.
    Bfl,
    /// ComfyUI, with the nodes Flux2Scheduler, RandomNoise and KSamplerSelect euler.
    Comfy,
    /// stable-diffusion.cpp with its default generator, sampler and scheduler.
    StableDiffusionCpp,
    /// `generate_image.py` of djkunkel/dj-flux2.
    DjFlux2,
}

impl Compat {
    /// All programs.
    pub const ALL: [Compat; 5] =
        [Compat::Diffusers, Compat::Bfl, Compat::Comfy, Compat::StableDiffusionCpp, Compat::DjFlux2];

    /// Its name in one word.
    pub const fn name(self) -> &'static str {
        match self {
            Compat::Diffusers => "diffusers",
            Compat::Bfl => "bfl",
            Compat::Comfy => "comfy",
            Compat::StableDiffusionCpp => "sdcpp",
            Compat::DjFlux2 => "dj-flux2",
        }
    }

    /// The generator that it makes noise with.
    pub const fn noise(self) -> NoiseKind {
        match self {
            Compat::Diffusers | Compat::Comfy => NoiseKind::TorchCpu,
            Compat::Bfl | Compat::DjFlux2 => NoiseKind::TORCH_CUDA_H100,
            Compat::StableDiffusionCpp => NoiseKind::Philox,
        }
    }

    /// Whether its noise is rounded to bf16, in a run that computes in f32 or not.
    pub const fn rounds_noise(self, computes_in_f32: bool) -> bool {
        match self {
            Compat::Diffusers => !computes_in_f32,
            Compat::Bfl | Compat::DjFlux2 => true,
            Compat::Comfy | Compat::StableDiffusionCpp => false,
        }
    }

    /// How it computes noise levels.
    pub const fn schedule(self) -> Schedule {
        match self {
            Compat::Diffusers => Schedule::Diffusers,
            Compat::Bfl | Compat::Comfy | Compat::DjFlux2 => Schedule::Linspace,
            Compat::StableDiffusionCpp => Schedule::Discrete,
        }
    }

    /// How it turns the decoder's output into bytes.
    pub const fn rounding(self) -> Rounding {
        match self {
            Compat::Diffusers => Rounding::HalfToEven,
            Compat::Bfl | Compat::DjFlux2 => Rounding::TruncateAround127,
            Compat::Comfy => Rounding::Truncate,
            Compat::StableDiffusionCpp => Rounding::HalfAway,
        }
    }

    /// How it prepares each of `count` reference images.
    pub fn preparation(self, count: usize) -> Preparation {
        let with_area = |max_area| Preparation { max_area, ..Preparation::default() };
        let preparation = match self {
            Compat::Bfl | Compat::DjFlux2 if count == 1 => with_area(2024 * 2024),
            Compat::Comfy => with_area(Preparation::MOST_AREA),
            _ => Preparation::default(),
        };
        Preparation {
            transparency: Transparency::Dropped,
            is_turned: matches!(self, Compat::Diffusers | Compat::Comfy),
            is_converted: false,
            ..preparation
        }
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`Compat`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no program whose pictures are reproduced: diffusers, bfl, comfy, sdcpp, dj-flux2")]
pub struct ParseCompatError(String);

/// Reads what `Display` writes.
impl FromStr for Compat {
    type Err = ParseCompatError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Compat::ALL.into_iter().find(|compat| compat.name() == name);
        known.ok_or_else(|| ParseCompatError(name.to_owned()))
    }
}

/// Round values to bf16, ties to even, as PyTorch does.
pub fn round_to_bf16(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        let even = (bits >> 16) & 1;
        *value = f32::from_bits(bits.wrapping_add(0x7fff + even) & 0xffff_0000);
    }
}

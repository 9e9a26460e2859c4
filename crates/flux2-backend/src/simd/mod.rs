//! SIMD code, selected at run time by [`Tier`].
//!
//! | file | holds |
//! |---|---|
//! | `tier.rs` | the tiers and their detection |
//! | `micro_kernel.rs` | contract of the micro-kernels, and which one a tier uses |
//! | `x86.rs`, `aarch64.rs`, `portable.rs` | micro-kernels, written by hand for each instruction set |
//! | `math.rs` | `exp` and the like as vectorizable arithmetic |
//!
//! All other loops are written once and compiled for every tier by [`vectorize!`]. Fused multiply-add is not enabled
//! there, so all tiers give the same bytes.

#![allow(unsafe_code)] // instruction sets: every block says why it holds

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod math;
mod micro_kernel;
mod portable;
mod tier;
#[cfg(target_arch = "x86_64")]
mod x86;

use bytemuck::Pod;
use half::bf16;

use crate::DType;

pub(super) use math::{exp2_of_nonpositive, silu};
pub(super) use micro_kernel::{MAX_TILE_ROWS, MicroKernel, Operand, RowPointers};
pub use tier::Tier;

/// The Rust type of an activation's elements: `f32` or `bf16`.
pub(super) trait Element: Pod + Send + Sync {
    const DTYPE: DType;
    /// Widens; exact.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Branch-free, unlike the `half` crate's conversion, so that loops vectorize.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        bf16::from_bits(if value.is_nan() { 0x7fc0 } else { rounded })
    }
}

/// Runs `$body` with `$t` as a type alias of the element type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            other => unreachable!("activations are f32 or bf16, not {other}"),
        }
    };
}
pub(super) use with_element;

/// Function multiversioning: defines a function whose body is compiled for every tier and selected by its first
/// argument, a [`Tier`].
///
/// On aarch64 there is a single version: NEON is part of the baseline, and plain loops gain nothing from the rest.
macro_rules! vectorize {
    (
        $(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident: $bound:path),+>)?
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // kernels take slices, not structs
        #[allow(unsafe_code)] // calls a function compiled for instructions the processor has
        $vis fn $name $(<$($g: $bound),+>)? (tier: $crate::simd::Tier, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)] // as above
            fn body $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)] // as above
                fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::<$($g),+>)? ($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)] // as above
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body $(::<$($g),+>)? ($($arg),*)
                }
                use $crate::simd::Tier::{Avx2, Avx2Vnni, Avx512, Avx512Bf16, Avx512Vnni, Portable};
                match tier {
                    // SAFETY: the processor supports the tier of a backend.
                    Avx512 | Avx512Vnni | Avx512Bf16 => unsafe { avx512 $(::<$($g),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    Avx2 | Avx2Vnni => unsafe { avx2 $(::<$($g),+>)? ($($arg),*) },
                    Portable => body $(::<$($g),+>)? ($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = tier;
                body $(::<$($g),+>)? ($($arg),*)
            }
        }
    };
}
pub(super) use vectorize;

/// Interleaves 8 rows: `out[group * stride + row] = rows[row][group]`.
///
/// # Safety
/// Each row is readable for `groups` groups, `out` is writable for `groups` rows of 8 groups, `stride` apart, and the
/// processor supports `tier`.
pub(super) unsafe fn interleave_8(tier: Tier, rows: [*const u32; 8], groups: usize, out: *mut u32, stride: usize) {
    #[allow(unused_mut)] // on other architectures, only the plain loop remains
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if tier >= Tier::Avx2 {
        while done + 8 <= groups {
            // SAFETY: within what the caller promised, since `done + 8 <= groups`.
            unsafe { x86::transpose_8x8(rows.map(|row| row.add(done)), out.add(done * stride), stride) };
            done += 8;
        }
    }
    #[cfg(target_arch = "aarch64")]
    if tier >= Tier::Neon {
        while done + 4 <= groups {
            // SAFETY: within what the caller promised, since `done + 4 <= groups`.
            unsafe { aarch64::transpose_8x4(rows.map(|row| row.add(done)), out.add(done * stride), stride) };
            done += 4;
        }
    }
    let _ = tier;
    for group in done..groups {
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: `group < groups`; rows of a mapped file may be unaligned.
            unsafe { out.add(group * stride + r).write(row.add(group).read_unaligned()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::from_f32(value), bf16::from_f32(value));
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value}: {ours} {theirs}");
        }
    }
}

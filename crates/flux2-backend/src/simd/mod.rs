//! Instruction sets: which this processor has, and code compiled for each.
//!
//! Micro-kernels are written by hand per set (`x86.rs`, `aarch64.rs`, `portable.rs`). Everything that is a plain loop is written once
//! and compiled for every set by [`vectorize!`]; there no fused multiply-add is used, so all sets give the same bytes.

#![allow(unsafe_code)] // instruction sets: every block says why it holds

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use bytemuck::Pod;
use half::bf16;

use crate::{Compute, DType};

/// An instruction set, from the least to the most able. A processor need not have all that stand before its best; those
/// of other architectures do not exist in a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with 8-bit dot products (AVX-VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with 8-bit dot products (AVX512-VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The same with bf16 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with dot products of bf16 and of bytes (I8MM).
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
}

impl Tier {
    /// All of this architecture, rising.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: [Tier; 6] =
        [Tier::Portable, Tier::Avx2, Tier::Avx2Vnni, Tier::Avx512, Tier::Avx512Vnni, Tier::Avx512Bf16];
    /// All of this architecture, rising.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: [Tier; 3] = [Tier::Portable, Tier::Neon, Tier::NeonBf16];
    /// All of this architecture.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: [Tier; 1] = [Tier::Portable];

    /// The best this processor has.
    pub fn detect() -> Self {
        // Intel's run bf16 dot products at less than half the rate of f32 multiply-adds (docs/performance.md).
        #[cfg(target_arch = "x86_64")]
        if is_intel() {
            return Tier::Avx512Vnni.lowered();
        }
        let [.., best] = Self::ALL;
        best.lowered()
    }

    /// This one, or the best below it that the processor has.
    pub fn lowered(self) -> Self {
        Self::ALL.into_iter().rev().find(|tier| *tier <= self && tier.available()).unwrap_or(Tier::Portable)
    }

    /// Whether the processor has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            // The compiler takes F16C for granted where there is AVX-512.
            let avx512 = || {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            let avx512_vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
            match self {
                Tier::Portable => true,
                Tier::Avx2 => avx2(),
                Tier::Avx2Vnni => avx2() && is_x86_feature_detected!("avxvnni"),
                Tier::Avx512 => avx512(),
                Tier::Avx512Vnni => avx512_vnni(),
                Tier::Avx512Bf16 => avx512_vnni() && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            let neon = is_aarch64_feature_detected!("neon");
            match self {
                Tier::Portable => true,
                Tier::Neon => neon,
                Tier::NeonBf16 => neon && is_aarch64_feature_detected!("bf16") && is_aarch64_feature_detected!("i8mm"),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Tier::Portable
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    #[allow(unused_unsafe)] // safe in later versions of the compiler
    // SAFETY: every processor of this architecture has the instruction and this leaf.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    [leaf.ebx, leaf.edx, leaf.ecx] == [b"Genu", b"ineI", b"ntel"].map(|part| u32::from_le_bytes(*part))
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Vnni => "avx2-vnni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Tier::NeonBf16 => "neon-bf16",
        })
    }
}

/// An element type of activations.
pub(super) trait Element: Pod + Send + Sync {
    /// Its name.
    const DTYPE: DType;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest even.
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

    // Without branches, unlike the `half` crate's, so that loops vectorize.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        bf16::from_bits(if value.is_nan() { 0x7fc0 } else { rounded })
    }
}

/// Run `$body` with `$t` standing for the element type of `$dtype`.
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

/// Define a function that is compiled for every instruction set; the caller passes the [`Tier`] first.
///
/// On aarch64 the plain body is all there is: the compiler takes NEON for granted, and bf16 products are no use here.
macro_rules! vectorize {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // kernels take their tensors one by one
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
                    // SAFETY: a backend's tier is one the processor has.
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

/// `e^x` to two units in the last place, as plain arithmetic that vectorizes; 0 below -87, infinite above 88.7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let clamped = x.clamp(-87.0, 88.7);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // x - n ln 2 in two parts, so that the product is exact.
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    // e^r on |r| <= ln 2 / 2: the Cephes coefficients.
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    // Times 2^n, in two factors since n may be 128. Overflow checks would keep the loop from vectorizing.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = y * power(half) * power(n.wrapping_sub(half));
    if x < -87.0 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        y
    }
}

/// `2^x` for `x <= 0` to two units in the last place, 2^-126 at least: half the work of [`exp`], for the weights of attention.
#[inline(always)]
pub(super) fn exp2_of_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // as in `exp`
    let clamped = if x < -126.0 { -126.0 } else { x }; // keeps NaN
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    // 2^r on |r| <= 1/2: the polynomial of this degree with the smallest relative error, 9e-8.
    let mut p = 1.326_472_6e-3;
    #[allow(clippy::approx_constant)] // the fourth is near ln 2, and not it
    for c in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = p * r + c;
    }
    // Times 2^n: n goes into the exponent, which stays above 0.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    f32::from_bits(f32::to_bits(p).wrapping_add(n << 23))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Most rows of a micro-kernel's tile.
pub(super) const MAX_TILE_ROWS: usize = 12;

/// One row of a product's left operand for each row of a tile.
pub(super) type RowPointers = [*const u32; MAX_TILE_ROWS];

/// What a micro-kernel multiplies. Operands are read in groups of 4 bytes that are neighbors along the summed axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// f32: one to a group, sums in f32.
    F32,
    /// bf16: two to a group, sums in f32.
    Bf16,
    /// Unsigned bytes on the left, signed on the right: four to a group, sums in i32, which hold every product exactly.
    Int8,
}

/// The innermost loop of every product: a tile of the result, `rows` x `cols`.
///
/// The left operand stays where it is, one pointer for each row; the right one is packed: for each group, `cols` columns.
#[derive(Clone, Copy)]
pub(super) struct MicroKernel {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub cols: usize,
    /// What is in a group.
    pub operand: Operand,
    /// The instructions it is made of, and what they multiply.
    pub name: &'static str,
    run: unsafe fn(&[RowPointers], usize, *const u32, *mut f32, usize, bool),
}

impl MicroKernel {
    /// The fastest kernel for `compute`. Sets without bf16 products use the f32 kernel on widened values.
    pub(super) fn select(tier: Tier, compute: Compute) -> Self {
        use Operand::{Bf16, F32};
        #[cfg(target_arch = "x86_64")]
        match (tier, compute) {
            (Tier::Avx512Bf16, Compute::Bf16) => {
                return MicroKernel {
                    rows: 8,
                    cols: 48,
                    operand: Bf16,
                    name: "avx512-bf16 bf16",
                    run: x86::avx512_bf16::<8, 3>,
                };
            }
            (Tier::Avx512 | Tier::Avx512Vnni | Tier::Avx512Bf16, _) => {
                return MicroKernel {
                    rows: 8,
                    cols: 48,
                    operand: F32,
                    name: "avx512 f32",
                    run: x86::avx512_f32::<8, 3>,
                };
            }
            (Tier::Avx2 | Tier::Avx2Vnni, _) => {
                return MicroKernel { rows: 6, cols: 16, operand: F32, name: "avx2 f32", run: x86::avx2_f32::<6, 2> };
            }
            (Tier::Portable, _) => {}
        }
        #[cfg(target_arch = "aarch64")]
        match (tier, compute) {
            (Tier::NeonBf16, Compute::Bf16) => {
                return MicroKernel {
                    rows: 6,
                    cols: 16,
                    operand: Bf16,
                    name: "neon-bf16 bf16",
                    run: aarch64::neon_bf16_6x16,
                };
            }
            (Tier::NeonBf16 | Tier::Neon, _) => {
                return MicroKernel { rows: 6, cols: 16, operand: F32, name: "neon f32", run: aarch64::neon_f32_6x16 };
            }
            (Tier::Portable, _) => {}
        }
        let _ = (tier, compute, Bf16);
        MicroKernel { rows: 4, cols: 16, operand: F32, name: "portable f32", run: portable::f32_4x16 }
    }

    /// The same for attention, whose heads of 128 channels the widest tiles do not divide.
    pub(super) fn select_attention(tier: Tier, compute: Compute) -> Self {
        let kernel = Self::select(tier, compute);
        #[cfg(target_arch = "x86_64")]
        if kernel.cols == 48 {
            let run =
                if kernel.operand == Operand::Bf16 { x86::avx512_bf16::<12, 2> } else { x86::avx512_f32::<12, 2> };
            return MicroKernel { rows: 12, cols: 32, run, ..kernel };
        }
        kernel
    }

    /// The fastest kernel for bytes. Sums are exact, so all of them give the same.
    pub(super) fn select_int8(tier: Tier) -> Self {
        let operand = Operand::Int8;
        #[cfg(target_arch = "x86_64")]
        match tier {
            Tier::Avx512Vnni | Tier::Avx512Bf16 => {
                return MicroKernel {
                    rows: 8,
                    cols: 48,
                    operand,
                    name: "avx512-vnni int8",
                    run: x86::avx512_int8::<8, 3>,
                };
            }
            Tier::Avx2Vnni => {
                return MicroKernel {
                    rows: 6,
                    cols: 16,
                    operand,
                    name: "avx2-vnni int8",
                    run: x86::avx2_vnni_int8::<6, 2>,
                };
            }
            Tier::Avx2 | Tier::Avx512 => {
                return MicroKernel { rows: 3, cols: 16, operand, name: "avx2 int8", run: x86::avx2_int8_3x16 };
            }
            Tier::Portable => {}
        }
        #[cfg(target_arch = "aarch64")]
        if tier == Tier::NeonBf16 {
            return MicroKernel { rows: 6, cols: 16, operand, name: "neon-i8mm int8", run: aarch64::neon_int8_6x16 };
        }
        let _ = tier;
        MicroKernel { rows: 4, cols: 16, operand, name: "portable int8", run: portable::int8_4x16 }
    }

    /// The same kernel with a tile just wide enough for `columns`, where there is one: for the last panel of a product,
    /// so that 128 columns cost 48 + 48 + 32 and not three times 48.
    pub(super) fn for_columns(self, columns: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        match (self.cols, self.operand, columns) {
            (48, Operand::Bf16, ..=16) => return MicroKernel { cols: 16, run: x86::avx512_bf16::<8, 1>, ..self },
            (48, Operand::Bf16, ..=32) => return MicroKernel { cols: 32, run: x86::avx512_bf16::<8, 2>, ..self },
            (48, Operand::F32, ..=16) => return MicroKernel { cols: 16, run: x86::avx512_f32::<8, 1>, ..self },
            (48, Operand::F32, ..=32) => return MicroKernel { cols: 32, run: x86::avx512_f32::<8, 2>, ..self },
            _ => {}
        }
        let _ = columns;
        self
    }

    /// Values along the summed axis in a group.
    pub(super) fn group(&self) -> usize {
        match self.operand {
            Operand::F32 => 1,
            Operand::Bf16 => 2,
            Operand::Int8 => 4,
        }
    }

    /// The dtype of a left operand that is a tensor.
    pub(super) fn dtype(&self) -> DType {
        match self.operand {
            Operand::F32 => DType::F32,
            Operand::Bf16 => DType::Bf16,
            Operand::Int8 => unreachable!("bytes are made by `QuantizedRows`"),
        }
    }

    /// `c (+)= a * b` for one tile. The summed axis is `segments` after each other, `groups` of each.
    ///
    /// # Safety
    /// The first `self.rows` pointers of each segment are readable for `groups` groups, `b` for
    /// `segments.len() * groups * self.cols` groups, and `c` is writable for `self.rows` rows of `self.cols` values that
    /// are `stride` apart (of i32 bits for [`Operand::Int8`]). The processor has the instruction set this kernel was selected for.
    #[inline]
    pub(super) unsafe fn run(
        &self,
        segments: &[RowPointers],
        groups: usize,
        b: *const u32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { (self.run)(segments, groups, b, c, stride, accumulate) }
    }
}

/// Write rows side by side: `out[group * stride + row] = rows[row][group]`, for 8 rows.
///
/// # Safety
/// Each row is readable for `groups` groups, `out` is writable for `groups` rows of 8 groups, `stride` apart, and the
/// processor has the instruction set of `tier`.
pub(super) unsafe fn interleave_8(tier: Tier, rows: [*const u32; 8], groups: usize, out: *mut u32, stride: usize) {
    #[allow(unused_mut)] // where there is only the plain loop
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
            // SAFETY: `group < groups`; rows of a file may be unaligned.
            unsafe { out.add(group * stride + r).write(row.add(group).read_unaligned()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_by_its_own_instructions_and_not_by_the_best_there_are() {
        #[cfg(target_arch = "x86_64")]
        for (tier, bf16, int8) in [
            (Tier::Avx512Bf16, "avx512-bf16 bf16", "avx512-vnni int8"),
            (Tier::Avx512Vnni, "avx512 f32", "avx512-vnni int8"),
            (Tier::Avx512, "avx512 f32", "avx2 int8"),
            (Tier::Avx2Vnni, "avx2 f32", "avx2-vnni int8"),
            (Tier::Avx2, "avx2 f32", "avx2 int8"),
        ] {
            assert_eq!(MicroKernel::select(tier, Compute::Bf16).name, bf16, "{tier}");
            assert_eq!(MicroKernel::select_int8(tier).name, int8, "{tier}");
        }
        #[cfg(target_arch = "aarch64")]
        for (tier, bf16, int8) in
            [(Tier::NeonBf16, "neon-bf16 bf16", "neon-i8mm int8"), (Tier::Neon, "neon f32", "portable int8")]
        {
            assert_eq!(MicroKernel::select(tier, Compute::Bf16).name, bf16, "{tier}");
            assert_eq!(MicroKernel::select_int8(tier).name, int8, "{tier}");
        }
        assert_eq!(MicroKernel::select(Tier::Portable, Compute::Bf16).name, "portable f32");
        assert_eq!(MicroKernel::select_int8(Tier::Portable).name, "portable int8");
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {}, expected {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-100.0), exp(100.0)), (0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp2_is_within_two_units_in_the_last_place() {
        for i in 0..=1_260_000 {
            let x = i as f32 * -1e-4;
            let expected = f64::from(x).exp2();
            let got = exp2_of_nonpositive(x);
            let error = (f64::from(got) / expected - 1.0).abs();
            assert!(error < 2.0 * f64::from(f32::EPSILON), "2^{x} = {got}, expected {expected}");
        }
        assert_eq!(exp2_of_nonpositive(0.0), 1.0);
        assert_eq!(exp2_of_nonpositive(f32::NEG_INFINITY), 2f32.powi(-126));
        assert!(exp2_of_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::from_f32(value), bf16::from_f32(value));
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value}: {ours} {theirs}");
        }
    }
}

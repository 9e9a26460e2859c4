//! The micro-kernel: the innermost loop of every product, and which one a tier uses.
//!
//! Operands are read in groups: 4 bytes that hold one f32, two bf16 or four int8 values, consecutive along the summed
//! axis.

#[cfg(target_arch = "aarch64")]
use super::aarch64;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Tier, portable};
use crate::{Compute, DType};

/// Most rows of any micro-kernel's tile.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// Addresses of the rows of the left operand, one for each row of a tile.
pub(crate) type RowPointers = [*const u32; MAX_TILE_ROWS];

/// Number format of a micro-kernel's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// One f32 per group; f32 sums.
    F32,
    /// Two bf16 per group; f32 sums.
    Bf16,
    /// Four bytes per group, unsigned on the left and signed on the right; i32 sums, which are exact.
    Int8,
}

/// A kernel that computes a tile of the result, `rows` x `cols`.
///
/// The left operand is read in place through one pointer per row. The right operand is a packed panel: for each group,
/// the group's values of `cols` columns.
#[derive(Clone, Copy)]
pub(crate) struct MicroKernel {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub cols: usize,
    /// Number format of both operands.
    pub operand: Operand,
    /// Instruction set and number format, for reports.
    pub name: &'static str,
    run: unsafe fn(&[RowPointers], usize, *const u32, *mut f32, usize, bool),
}

impl MicroKernel {
    /// The fastest kernel for `compute`. Tiers without bf16 products use the f32 kernel on widened values.
    pub(crate) fn select(tier: Tier, compute: Compute) -> Self {
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

    /// As [`select`](Self::select), for attention: tiles of 48 columns do not divide its heads of 128 channels.
    pub(crate) fn select_attention(tier: Tier, compute: Compute) -> Self {
        let kernel = Self::select(tier, compute);
        #[cfg(target_arch = "x86_64")]
        if kernel.cols == 48 {
            let run =
                if kernel.operand == Operand::Bf16 { x86::avx512_bf16::<12, 2> } else { x86::avx512_f32::<12, 2> };
            return MicroKernel { rows: 12, cols: 32, run, ..kernel };
        }
        kernel
    }

    /// The fastest kernel for int8. Sums are exact, so all tiers give the same result.
    pub(crate) fn select_int8(tier: Tier) -> Self {
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

    /// This kernel with the narrowest available tile that holds `columns`. For the last panel of a product: 128 columns
    /// then cost 48 + 48 + 32, not three times 48.
    pub(crate) fn for_columns(self, columns: usize) -> Self {
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

    /// Values per group, consecutive along the summed axis.
    pub(crate) fn group(&self) -> usize {
        match self.operand {
            Operand::F32 => 1,
            Operand::Bf16 => 2,
            Operand::Int8 => 4,
        }
    }

    /// The dtype of the left operand.
    ///
    /// # Panics
    /// For int8, whose left operand is no tensor.
    pub(crate) fn dtype(&self) -> DType {
        match self.operand {
            Operand::F32 => DType::F32,
            Operand::Bf16 => DType::Bf16,
            Operand::Int8 => unreachable!("the left operand of int8 is `QuantizedRows`"),
        }
    }

    /// Computes one tile: `c = a * b`, or `c += a * b` if `accumulate`. The summed axis is the concatenation of
    /// `segments`, each of `groups` groups.
    ///
    /// # Safety
    /// The first `self.rows` pointers of each segment are readable for `groups` groups, `b` for
    /// `segments.len() * groups * self.cols` groups, and `c` is writable for `self.rows` rows of `self.cols` values
    /// that are `stride` apart (with i32 bits for [`Operand::Int8`]). The processor has this
    /// kernel's tier.
    #[inline]
    pub(crate) unsafe fn run(
        &self,
        segments: &[RowPointers],
        groups: usize,
        b: *const u32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe { (self.run)(segments, groups, b, c, stride, accumulate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_named_after_the_instructions_it_uses() {
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
}

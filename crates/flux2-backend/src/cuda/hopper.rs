//! Products on Hopper with what follows them in one kernel, where that saves a pass over the result; see `hopper.cu`.
//!
//! Everything here is asked first whether it [fits](CudaBackend::on_hopper); what does not goes through cuBLASLt.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::{Geometry, check};
use super::kernels::source;
use super::{CudaBackend, Matrix, Source, int};
use crate::{Compute, Result, Tensor};

const HOPPER: Source = source!("hopper.cu");

/// As in `hopper.cu`.
const TILE_K: usize = 64;
const TILE_W: usize = 16;
/// Four stages of tiles, and room to align them.
const SHARED: u32 = 4 * 48 * 1024 + 1024;

/// What is done to a product before it is written.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// A bias for each column, added to what is at `add` unless that is 0, rounded to bf16.
    Bf16 { bias: &'a Tensor<CudaBackend>, add: u64 },
    /// A bias for each column, f32: of [`Left::Pixels`] only.
    F32 { bias: &'a Tensor<CudaBackend> },
    /// `silu` of it times the product with another weight, bf16.
    Swiglu { up: &'a Matrix },
}

/// The left operand.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Rows.
    Rows(&'a Tensor<CudaBackend>),
    /// A map `[h, w, c]` of which 3x3 pixels are seen, zeros around it.
    Pixels(&'a Tensor<CudaBackend>),
}

/// As in `hopper.cu`.
#[repr(C)]
struct Task {
    rows: i32,
    cols: i32,
    iterations: i32,
    m_tiles: i32,
    n_tiles: i32,
    height: i32,
    width: i32,
    channels: i32,
    tiles_across: i32,
    stride: i32,
    bias: u64,
    add: u64,
    out: u64,
}

/// A matrix or map as the copy engine sees it.
#[repr(C, align(64))]
struct TensorMap(sys::CUtensorMap);

impl CudaBackend {
    /// Whether these operands can be multiplied here.
    pub(super) fn on_hopper(&self, operands: &[&Tensor<Self>]) -> bool {
        let fits = |x: &&Tensor<Self>| x.is_wide(8) && x.rows() > 0;
        self.device.info.capability == [9, 0] && self.compute == Compute::Bf16 && operands.iter().all(fits)
    }

    /// Write `finish(left * weight^T)` to rows of `weight.rows` values from `out` on, for `op`.
    ///
    /// # Safety
    /// `out` must hold the result, 16-byte aligned; `left` must [fit](Self::on_hopper); for results in bf16 the
    /// columns must be a multiple of 8; vectors and the second weight must be as long as the first
    /// weight has rows.
    pub(super) unsafe fn multiply(
        &self,
        op: &'static str,
        left: Left,
        weight: &Matrix,
        finish: Finish,
        out: u64,
    ) -> Result<()> {
        self.device.bind()?;
        let (cols, swiglu) = (weight.rows, matches!(finish, Finish::Swiglu { .. }));
        // 128 rows by 256 columns a block, or, where there are no more columns than that, 256 by 128.
        let narrow = !swiglu && (cols <= 128 || matches!(finish, Finish::F32 { .. }));
        let (tile_rows, tile_cols) = if narrow { (256, 128) } else { (128, 256) };
        let (name, bias, add, second) = match (finish, left, narrow) {
            (Finish::Swiglu { up }, ..) => ("product_swiglu", 0, 0, up),
            (Finish::Bf16 { bias, add }, Left::Rows(_), false) => ("product_bf16", bias.address(), add, weight),
            (Finish::Bf16 { bias, add }, Left::Rows(_), true) => ("product_bf16_narrow", bias.address(), add, weight),
            (Finish::Bf16 { bias, add }, Left::Pixels(_), false) => ("convolution_bf16", bias.address(), add, weight),
            (Finish::Bf16 { bias, add }, Left::Pixels(_), true) => {
                ("convolution_bf16_narrow", bias.address(), add, weight)
            }
            (Finish::F32 { bias }, ..) => ("convolution_f32", bias.address(), 0, weight),
        };
        let n_tiles = cols.div_ceil(if swiglu { tile_cols / 2 } else { tile_cols });
        let half = tile_cols / 2;
        let b = TensorMap::matrix(weight.buffer.address(), [weight.stride, cols], weight.stride, [TILE_K, half])?;
        let second_b =
            TensorMap::matrix(second.buffer.address(), [weight.stride, cols], weight.stride, [TILE_K, half])?;
        let mut task = Task {
            rows: 0,
            cols: int(cols),
            iterations: 0,
            m_tiles: 0,
            n_tiles: int(n_tiles),
            height: 0,
            width: 0,
            channels: TILE_K as i32,
            tiles_across: 1,
            stride: int(cols),
            bias,
            add,
            out,
        };
        let a = match left {
            Left::Rows(x) => {
                let (rows, k) = (x.rows(), x.cols());
                (task.rows, task.iterations) = (int(rows), int(k.div_ceil(TILE_K)));
                task.m_tiles = int(rows.div_ceil(tile_rows));
                TensorMap::matrix(x.address(), [k, rows], x.row_stride(), [TILE_K, tile_rows])?
            }
            Left::Pixels(map) => {
                let &[h, w, c] = map.shape() else { unreachable!("a map has three axes") };
                let tile_h = tile_rows / TILE_W;
                task.iterations = int(9 * c.div_ceil(TILE_K));
                (task.height, task.width, task.channels) = (int(h), int(w), int(c));
                task.tiles_across = int(w.div_ceil(TILE_W));
                task.m_tiles = int(w.div_ceil(TILE_W) * h.div_ceil(tile_h));
                let stride = map.row_stride();
                TensorMap::new(map.address(), [c, w, h], [stride, w * stride], [TILE_K, TILE_W, tile_h])?
            }
        };
        self.note(op, "wgmma");
        let tiles = (task.m_tiles as u32).div_ceil(2) * task.n_tiles as u32;
        let clusters = tiles.min(self.device.info.multiprocessors / 2);
        let function = self.kernels.function(&self.device, HOPPER, name)?;
        self.allow_shared(HOPPER, name, SHARED)?;
        let geometry = Geometry { grid: [2 * clusters, 1, 1], block: 384, shared: SHARED };
        let pointer = |map: &TensorMap| (&raw const *map).cast_mut().cast::<c_void>();
        let maps = [&a, &b, &second_b].map(pointer);
        let mut arguments = [maps[0], maps[1], maps[2], (&raw mut task).cast()];
        // SAFETY: these are the kernel's arguments; it writes nothing outside the result, which the caller vouches for.
        unsafe { self.device.launch(function, geometry, &mut arguments) }
    }
}

impl TensorMap {
    /// Rows of `size[0]` values, `size[1]` of them.
    fn matrix(address: u64, size: [usize; 2], stride: usize, tile: [usize; 2]) -> Result<Self> {
        Self::new(address, size, [stride.max(size[0]).next_multiple_of(8)], tile)
    }

    /// bf16 values, the first axis innermost; `strides` in elements, of all axes but the first.
    fn new<const N: usize, const M: usize>(
        address: u64,
        size: [usize; N],
        strides: [usize; M],
        tile: [usize; N],
    ) -> Result<Self> {
        let mut map = TensorMap(sys::CUtensorMap { opaque: [0; 16] });
        let (size, tile) = (size.map(|n| n as u64), tile.map(|n| n as u32));
        let (strides, steps) = (strides.map(|n| 2 * n as u64), [1u32; N]);
        // SAFETY: all arrays are as long as the axes say, and outlive the call.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                N as u32,
                address as *mut c_void,
                size.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", status.result())?;
        Ok(map)
    }
}

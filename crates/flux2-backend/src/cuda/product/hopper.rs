//! Products on Hopper with what follows them in one kernel, where that saves a pass over the result; see `hopper.cu`.
//!
//! Everything here is asked first whether it [fits](CudaBackend::on_hopper); what does not goes through cuBLASLt.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::quantized::QuantizedRows;
use crate::cuda::runtime::driver::{Geometry, check};
use crate::cuda::{CudaBackend, Matrix, Source, int, source};
use crate::{Compute, DType, Result, Tensor};

const HOPPER: Source = source!("hopper.cu");

/// Bytes of a row that come at a time, and pixels of a convolution's tile side by side, as in `hopper.cu`.
const TILE_BYTES: usize = 128;
const TILE_W: usize = 16;
/// Four stages of tiles, room to align them, and results on their way to memory.
const SHARED: u32 = 4 * 48 * 1024 + 1024 + 32 * 1024;

/// What is done to a product before it is written.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// A bias for each column, added to what is at `add` unless that is 0, rounded to bf16.
    Bf16 { bias: &'a Tensor<CudaBackend>, add: u64 },
    /// A bias for each column, f32: of [`Left::Pixels`] only.
    F32 { bias: &'a Tensor<CudaBackend> },
    /// Rounded to bf16: of [`Left::Quantized`] only.
    Scaled,
    /// `silu` of it times the product with another weight, bf16.
    Swiglu { up: &'a Matrix },
    /// Added to the f32 that are there, times the gate of each column if there is one.
    Add { gate: Option<&'a Tensor<CudaBackend>> },
}

/// The left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Rows; for [`Epilogue::Add`] perhaps two parts side by side.
    Rows(&'a [&'a Tensor<CudaBackend>]),
    /// Rows in e4m3, for a weight in e4m3.
    Quantized(&'a QuantizedRows),
    /// A map `[h, w, c]` of which 3x3 pixels are seen, zeros around it.
    Pixels(&'a Tensor<CudaBackend>),
}

/// Rows and columns of a block's tile, and the threads that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    cols: usize,
    threads: u32,
}

impl Tile {
    const WIDE: Self = Tile { rows: 128, cols: 256, threads: 384 };
    const SQUARE: Self = Tile { rows: 192, cols: 192, threads: 512 };
    const NARROW: Self = Tile { rows: 256, cols: 128, threads: 384 };

    /// The one that is done first with `rows` and `cols` on `multiprocessors` that take a tile each at a time, the work of a
    /// turn being that of a whole tile also for those without.
    fn for_size(size: [usize; 2], multiprocessors: usize) -> Self {
        let time = |tile: &Tile| {
            let [tiles, at_once] = tile.pairs(size, multiprocessors);
            tiles.div_ceil(at_once) * tile.rows * tile.cols
        };
        [Tile::WIDE, Tile::SQUARE].into_iter().min_by_key(time).expect("there are two")
    }

    /// How many pairs of neighbouring tiles there are, and how many are worked on at a time.
    fn pairs(self, [rows, cols]: [usize; 2], multiprocessors: usize) -> [usize; 2] {
        [rows.div_ceil(2 * self.rows) * cols.div_ceil(self.cols), (multiprocessors / 2).max(1)]
    }
}

/// As in `hopper.cu`.
#[repr(C)]
#[derive(Default)]
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
    first_iterations: i32,
    first_k: i32,
    bias: u64,
    gate: u64,
    row_scale: u64,
    scale: u64,
    second_scale: u64,
    add: u64,
    out: u64,
}

/// A matrix or map as the copy engine sees it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TensorMap(sys::CUtensorMap);

impl CudaBackend {
    /// Whether these operands can be multiplied here.
    pub(crate) fn on_hopper(&self, operands: &[&Tensor<Self>]) -> bool {
        let fits = |x: &&Tensor<Self>| x.is_wide(8) && x.rows() > 0;
        self.is_hopper() && operands.iter().all(fits)
    }

    /// Whether a product of `rows` and `cols` keeps most multiprocessors at work here; smaller tiles than there are do better
    /// where not.
    pub(crate) fn fills_hopper(&self, size: [usize; 2]) -> bool {
        let multiprocessors = self.device.info.multiprocessors as usize;
        let [pairs, at_once] = Tile::for_size(size, multiprocessors).pairs(size, multiprocessors);
        4 * pairs >= 3 * pairs.next_multiple_of(at_once)
    }

    /// Whether the GPU has the instructions of `hopper.cu`, and products are in bf16.
    pub(crate) fn is_hopper(&self) -> bool {
        self.device.info.capability == [9, 0] && self.compute == Compute::Bf16
    }

    /// Write `epilogue(left * weight^T)` to rows of `weight.rows` values from `out` on, for `op`.
    ///
    /// # Safety
    /// `out` must hold the result, 16-byte aligned; `left` must [fit](Self::on_hopper); but for results in f32 of
    /// [`Epilogue::F32`] the columns must be a multiple of 8; vectors and the second weight must be as long as the first
    /// weight has rows, and in e4m3 as the first.
    pub(crate) unsafe fn multiply(
        &self,
        op: &'static str,
        left: Left,
        weight: &Matrix,
        epilogue: Epilogue,
        out: u64,
    ) -> Result<()> {
        self.device.bind()?;
        let cols = weight.rows;
        let swiglu = matches!(epilogue, Epilogue::Swiglu { .. });
        let is_narrow = cols <= 128 || matches!(epilogue, Epilogue::F32 { .. });
        let rows = match left {
            Left::Rows(parts) => parts[0].rows(),
            Left::Quantized(x) => x.rows,
            Left::Pixels(map) => map.rows(),
        };
        let tile = match epilogue {
            Epilogue::Bf16 { .. } | Epilogue::F32 { .. } if is_narrow => Tile::NARROW,
            Epilogue::Bf16 { .. } | Epilogue::F32 { .. } => Tile::WIDE,
            _ => {
                Tile::for_size([rows, if swiglu { 2 * cols } else { cols }], self.device.info.multiprocessors as usize)
            }
        };
        let square = tile == Tile::SQUARE;
        let name = match (epilogue, left) {
            (Epilogue::Bf16 { .. }, Left::Pixels(_)) if is_narrow => "convolution_bf16_narrow",
            (Epilogue::Bf16 { .. }, Left::Pixels(_)) => "convolution_bf16",
            (Epilogue::F32 { .. }, _) => "convolution_f32",
            (Epilogue::Bf16 { .. }, _) if is_narrow => "product_bf16_narrow",
            (Epilogue::Bf16 { .. }, _) => "product_bf16",
            (Epilogue::Scaled, _) if square => "product_e4m3_square",
            (Epilogue::Scaled, _) => "product_e4m3",
            (Epilogue::Swiglu { .. }, Left::Quantized(_)) if square => "product_swiglu_e4m3_square",
            (Epilogue::Swiglu { .. }, Left::Quantized(_)) => "product_swiglu_e4m3",
            (Epilogue::Swiglu { .. }, _) if square => "product_swiglu_square",
            (Epilogue::Swiglu { .. }, _) => "product_swiglu",
            (Epilogue::Add { .. }, Left::Quantized(_)) if square => "product_add_e4m3_square",
            (Epilogue::Add { .. }, Left::Quantized(_)) => "product_add_e4m3",
            (Epilogue::Add { .. }, _) if square => "product_add_square",
            (Epilogue::Add { .. }, _) => "product_add",
        };
        let n_tiles = cols.div_ceil(if swiglu { tile.cols / 2 } else { tile.cols });
        let mut task = Task {
            rows: int(rows),
            cols: int(cols),
            m_tiles: int(rows.div_ceil(tile.rows)),
            n_tiles: int(n_tiles),
            stride: int(cols),
            out,
            ..Task::default()
        };
        let mut second = weight;
        match epilogue {
            Epilogue::Bf16 { bias, add } => (task.bias, task.add) = (bias.address(), add),
            Epilogue::F32 { bias } => task.bias = bias.address(),
            Epilogue::Swiglu { up } => second = up,
            Epilogue::Add { gate } => task.gate = gate.map_or(0, Tensor::address),
            Epilogue::Scaled => {}
        }
        let scales = |weight: &Matrix| weight.bytes.as_ref().map_or(0, |bytes| bytes.scales.address());
        (task.scale, task.second_scale) = (scales(weight), scales(second));

        let dtype = weight.bytes.as_ref().map_or(self.compute.dtype(), |bytes| bytes.code.dtype());
        let tile_k = TILE_BYTES / dtype.bytes(1);
        let there = self.present(weight)?;
        let second_there = swiglu.then(|| self.present(second)).transpose()?;
        match &weight.bytes {
            Some(bytes) => self.note_quantized("wgmma", bytes),
            None => self.note(op, "wgmma"),
        }
        if self.device.dry_run {
            return Ok(());
        }
        let box_of = |weight: &Matrix, address| {
            let size = [weight.stride, cols];
            TensorMap::new(dtype, address, size, [weight.stride], [tile_k, tile.cols / 2])
        };
        let second_address = second_there.as_ref().unwrap_or(&there).address();
        let (b, second_b) = (box_of(weight, there.address())?, box_of(second, second_address)?);
        // What a warpgroup stores at a time: 64 rows, or of a convolution 64 pixels, of up to 64 columns.
        let stored_cols = if swiglu && square { 32 } else { 64 };
        let result = match (epilogue, left) {
            (Epilogue::F32 { .. } | Epilogue::Add { .. }, _) => None, // not by the copy engine
            (_, Left::Pixels(map)) => {
                let &[h, w, _] = map.shape() else { unreachable!("a map has three axes") };
                let tile = [stored_cols, TILE_W, 64 / TILE_W];
                Some(TensorMap::new(DType::Bf16, out, [cols, w, h], [cols, w * cols], tile)?)
            }
            _ => Some(TensorMap::new(DType::Bf16, out, [cols, rows], [cols], [stored_cols, 64])?),
        };
        let [a, second_a] = match left {
            Left::Rows(parts) => {
                let (first, last) = (parts[0], parts[parts.len() - 1]);
                let iterations = |x: &Tensor<Self>| x.cols().div_ceil(tile_k);
                (task.first_iterations, task.first_k) = (int(iterations(first)), int(first.cols()));
                task.iterations = int(parts.iter().map(|x| iterations(x)).sum());
                let rows_of = |x: &Tensor<Self>| {
                    let stride = x.row_stride().max(x.cols()).next_multiple_of(8);
                    TensorMap::new(dtype, x.address(), [x.cols(), x.rows()], [stride], [tile_k, tile.rows])
                };
                [rows_of(first)?, rows_of(last)?]
            }
            Left::Quantized(x) => {
                task.iterations = int(x.k.div_ceil(tile_k));
                (task.first_iterations, task.first_k) = (task.iterations, int(x.k));
                task.row_scale = x.scales.address();
                [TensorMap::new(dtype, x.buffer.address(), [x.stride, x.rows], [x.stride], [tile_k, tile.rows])?; 2]
            }
            Left::Pixels(map) => {
                let &[h, w, c] = map.shape() else { unreachable!("a map has three axes") };
                let tile_h = tile.rows / TILE_W;
                task.iterations = int(9 * c.div_ceil(tile_k));
                (task.height, task.width, task.channels) = (int(h), int(w), int(c));
                task.tiles_across = int(w.div_ceil(TILE_W));
                task.m_tiles = int(w.div_ceil(TILE_W) * h.div_ceil(tile_h));
                let stride = map.row_stride();
                [TensorMap::new(dtype, map.address(), [c, w, h], [stride, w * stride], [tile_k, TILE_W, tile_h])?; 2]
            }
        };
        let tiles = (task.m_tiles as u32).div_ceil(2) * task.n_tiles as u32;
        let clusters = tiles.min(self.device.info.multiprocessors / 2);
        let function = self.kernels.function(&self.device, HOPPER, name)?;
        self.allow_shared(HOPPER, name, SHARED)?;
        let geometry = Geometry { grid: [2 * clusters, 1, 1], block: tile.threads, shared: SHARED };
        let pointer = |map: &TensorMap| (&raw const *map).cast_mut().cast::<c_void>();
        let maps = [a, second_a, b, second_b, result.unwrap_or(a)];
        let [a, second_a, b, second_b, result] = [0, 1, 2, 3, 4].map(|i| pointer(&maps[i]));
        let mut arguments = [a, second_a, b, second_b, result, (&raw mut task).cast()];
        // SAFETY: these are the kernel's arguments; it writes nothing outside the result, which the caller vouches for.
        unsafe { self.device.launch(function, geometry, &mut arguments) }
    }
}

impl TensorMap {
    /// Values of `dtype`, the first axis innermost; `strides` in elements, of all axes but the first.
    fn new<const N: usize, const M: usize>(
        dtype: DType,
        address: u64,
        size: [usize; N],
        strides: [usize; M],
        tile: [usize; N],
    ) -> Result<Self> {
        use sys::CUtensorMapDataType as Type;
        let element = match dtype {
            DType::F8E4M3 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            _ => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let mut map = TensorMap(sys::CUtensorMap { opaque: [0; 16] });
        let (size, tile) = (size.map(|n| n as u64), tile.map(|n| n as u32));
        let (strides, steps) = (strides.map(|n| dtype.bytes(n) as u64), [1u32; N]);
        // SAFETY: all arrays are as long as the axes say, and outlive the call.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                element,
                N as u32,
                address as *mut c_void,
                size.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                if tile[0] as usize * dtype.bytes(1) < TILE_BYTES {
                    sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B
                } else {
                    sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
                },
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", status.result())?;
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_leave_few_multiprocessors_without_work() {
        let tile = |rows, cols| Tile::for_size([rows, cols], 132);
        // 36 x 12 tiles of 128 x 256 are four turns, the last one a quarter full; 24 x 16 of 192 x 192 nearly three.
        assert_eq!(tile(4608, 3072), Tile::SQUARE);
        assert_eq!(tile(1536, 9216), Tile::SQUARE);
        assert_eq!(tile(4608, 9216), Tile::WIDE);
    }
}

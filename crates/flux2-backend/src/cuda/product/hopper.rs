//! Product and epilogue in one kernel on Hopper: tile, kernel and tensor maps for `hopper.cu`.
//!
//! [`Product::path`] says which products fit.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::quantized::QuantizedRows;
use super::{Epilogue, Left, Product, im2col};
use crate::cuda::runtime::driver::check;
use crate::cuda::{CudaBackend, Geometry, Matrix, Source, int, source};
use crate::{Compute, ConvShape, DType, Result, Tensor};

const HOPPER: Source = source!("hopper.cu");

/// Bytes of k in a tile, and pixels of a convolution's tile side by side, as in `hopper.cu`.
const TILE_BYTES: usize = 128;
const TILE_W: usize = 16;
/// Shared memory of a block: four stages of tiles, room to align them, and results on their way to memory.
const SHARED: u32 = 4 * 48 * 1024 + 1024 + 32 * 1024;

/// Rows and columns of a block's tile, and the threads of the block.
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

    /// The tile that minimizes waves x tile area for a result of `size` (rows, columns).
    fn for_size(size: [usize; 2], multiprocessors: usize) -> Self {
        let time = |tile: &Tile| {
            let [tiles, at_once] = tile.pairs(size, multiprocessors);
            tiles.div_ceil(at_once) * tile.rows * tile.cols
        };
        [Tile::WIDE, Tile::SQUARE].into_iter().min_by_key(time).expect("there are two")
    }

    /// Pairs of tiles (a cluster has two blocks) in a result of `size`, and pairs in a wave.
    fn pairs(self, [rows, cols]: [usize; 2], multiprocessors: usize) -> [usize; 2] {
        [rows.div_ceil(2 * self.rows) * cols.div_ceil(self.cols), (multiprocessors / 2).max(1)]
    }
}

/// The left operand, as far as kernels differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    Bf16,
    E4m3,
    /// The 3x3 windows of a bf16 map.
    Pixels,
}

/// The epilogue, as far as kernels differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A bias, optionally added to the previous result; rounded to bf16.
    Bias,
    /// A bias; written in f32.
    BiasF32,
    /// The scales of e4m3; rounded to bf16.
    Scale,
    Swiglu,
    Add,
}

/// A kernel of `hopper.cu`.
struct Kernel {
    kind: Kind,
    operand: Operand,
    tile: Tile,
    name: &'static str,
}

const fn kernel(kind: Kind, operand: Operand, tile: Tile, name: &'static str) -> Kernel {
    Kernel { kind, operand, tile, name }
}

const KERNELS: [Kernel; 15] = [
    kernel(Kind::Bias, Operand::Bf16, Tile::WIDE, "product_bf16"),
    kernel(Kind::Bias, Operand::Bf16, Tile::NARROW, "product_bf16_narrow"),
    kernel(Kind::Bias, Operand::Pixels, Tile::WIDE, "convolution_bf16"),
    kernel(Kind::Bias, Operand::Pixels, Tile::NARROW, "convolution_bf16_narrow"),
    kernel(Kind::BiasF32, Operand::Pixels, Tile::NARROW, "convolution_f32"),
    kernel(Kind::Scale, Operand::E4m3, Tile::WIDE, "product_e4m3"),
    kernel(Kind::Scale, Operand::E4m3, Tile::SQUARE, "product_e4m3_square"),
    kernel(Kind::Swiglu, Operand::Bf16, Tile::WIDE, "product_swiglu"),
    kernel(Kind::Swiglu, Operand::Bf16, Tile::SQUARE, "product_swiglu_square"),
    kernel(Kind::Swiglu, Operand::E4m3, Tile::WIDE, "product_swiglu_e4m3"),
    kernel(Kind::Swiglu, Operand::E4m3, Tile::SQUARE, "product_swiglu_e4m3_square"),
    kernel(Kind::Add, Operand::Bf16, Tile::WIDE, "product_add"),
    kernel(Kind::Add, Operand::Bf16, Tile::SQUARE, "product_add_square"),
    kernel(Kind::Add, Operand::E4m3, Tile::WIDE, "product_add_e4m3"),
    kernel(Kind::Add, Operand::E4m3, Tile::SQUARE, "product_add_e4m3_square"),
];

impl Kernel {
    /// The kernel for a result of `rows` and `cols`.
    fn choose(kind: Kind, operand: Operand, [rows, cols]: [usize; 2], multiprocessors: usize) -> &'static Self {
        let tile = match kind {
            Kind::BiasF32 => Tile::NARROW,
            Kind::Bias if cols <= 128 => Tile::NARROW,
            Kind::Bias => Tile::WIDE,
            // Gate and up lie side by side in a tile.
            Kind::Swiglu => Tile::for_size([rows, 2 * cols], multiprocessors),
            Kind::Scale | Kind::Add => Tile::for_size([rows, cols], multiprocessors),
        };
        let fits = |kernel: &&Kernel| (kernel.kind, kernel.operand, kernel.tile) == (kind, operand, tile);
        KERNELS.iter().find(fits).expect("every kind of product has kernels of its tiles")
    }

    /// Columns of the result that a tile holds.
    fn result_cols(&self) -> usize {
        if self.kind == Kind::Swiglu { self.tile.cols / 2 } else { self.tile.cols }
    }

    /// The dtype of both operands.
    fn dtype(&self) -> DType {
        if self.operand == Operand::E4m3 { DType::F8E4M3 } else { DType::Bf16 }
    }

    /// Elements of k in a tile.
    fn tile_k(&self) -> usize {
        TILE_BYTES / self.dtype().bytes(1)
    }
}

/// What a launch computes, as in `hopper.cu`.
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

/// A matrix or map as TMA reads and writes it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TensorMap(sys::CUtensorMap);

impl CudaBackend {
    /// Whether a product of `size` (rows, columns) fills at least three quarters of its waves. Below that, cuBLASLt's
    /// smaller tiles are faster.
    pub(super) fn fills_hopper(&self, size: [usize; 2]) -> bool {
        let multiprocessors = self.device.info.multiprocessors as usize;
        let [pairs, at_once] = Tile::for_size(size, multiprocessors).pairs(size, multiprocessors);
        4 * pairs >= 3 * pairs.next_multiple_of(at_once)
    }

    /// Whether the GPU has the instructions of `hopper.cu`, and products are in bf16.
    pub(crate) fn is_hopper(&self) -> bool {
        self.device.info.capability == [9, 0] && self.compute == Compute::Bf16
    }
}

/// Enqueues a product whose path is [`Path::Hopper`](super::Path::Hopper). `quantized` are the rows of its left operand
/// if the weight is in e4m3.
pub(super) fn run(be: &CudaBackend, product: &Product, quantized: Option<&QuantizedRows>) -> Result<()> {
    be.device.bind()?;
    match (product.left, quantized) {
        (Left::Map(map, ConvShape::Upsample), _) => {
            let map = im2col::doubled(be, map)?;
            launch(be, product, Operands::Pixels(&map))
        }
        (Left::Map(map, ConvShape::Pointwise), _) => launch(be, product, Operands::Rows(&[map])),
        (Left::Map(map, _), _) => launch(be, product, Operands::Pixels(map)),
        (Left::Rows(_), Some(rows)) => launch(be, product, Operands::Quantized(rows)),
        (Left::Rows(parts), None) => launch(be, product, Operands::Rows(parts)),
    }
}

/// The left operand in memory.
#[derive(Clone, Copy)]
enum Operands<'a> {
    /// One tensor, or two side by side.
    Rows(&'a [&'a Tensor<CudaBackend>]),
    Quantized(&'a QuantizedRows),
    /// A map `[h, w, c]`, for a convolution that keeps its size.
    Pixels(&'a Tensor<CudaBackend>),
}

impl Operands<'_> {
    fn operand(&self) -> Operand {
        match self {
            Operands::Rows(_) => Operand::Bf16,
            Operands::Quantized(_) => Operand::E4m3,
            Operands::Pixels(_) => Operand::Pixels,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Operands::Rows(parts) => parts[0].rows(),
            Operands::Quantized(x) => x.rows,
            Operands::Pixels(map) => map.rows(),
        }
    }

    /// The maps of the left operand and of its second part (the same if there is none); fills in their fields of
    /// `task`.
    fn tensor_maps(self, kernel: &Kernel, task: &mut Task) -> Result<[TensorMap; 2]> {
        let (tile, tile_k, dtype) = (kernel.tile, kernel.tile_k(), kernel.dtype());
        Ok(match self {
            Operands::Rows(parts) => {
                let (first, last) = (parts[0], parts[parts.len() - 1]);
                let iterations = |x: &Tensor<CudaBackend>| x.cols().div_ceil(tile_k);
                (task.first_iterations, task.first_k) = (int(iterations(first)), int(first.cols()));
                task.iterations = int(parts.iter().map(|x| iterations(x)).sum());
                let map_of = |x: &Tensor<CudaBackend>| {
                    let stride = x.row_stride().max(x.cols()).next_multiple_of(8);
                    TensorMap::new(dtype, x.address(), [x.cols(), x.rows()], [stride], [tile_k, tile.rows])
                };
                [map_of(first)?, map_of(last)?]
            }
            Operands::Quantized(x) => {
                task.iterations = int(x.k.div_ceil(tile_k));
                (task.first_iterations, task.first_k) = (task.iterations, int(x.k));
                task.row_scale = x.scales.address();
                [TensorMap::new(dtype, x.buffer.address(), [x.stride, x.rows], [x.stride], [tile_k, tile.rows])?; 2]
            }
            Operands::Pixels(map) => {
                let [h, w, c] = map.dims("conv2d: x")?;
                let tile_h = tile.rows / TILE_W;
                task.iterations = int(9 * c.div_ceil(tile_k));
                (task.height, task.width, task.channels) = (int(h), int(w), int(c));
                task.tiles_across = int(w.div_ceil(TILE_W));
                task.m_tiles = int(w.div_ceil(TILE_W) * h.div_ceil(tile_h));
                let stride = map.row_stride();
                [TensorMap::new(dtype, map.address(), [c, w, h], [stride, w * stride], [tile_k, TILE_W, tile_h])?; 2]
            }
        })
    }
}

fn launch(be: &CudaBackend, product: &Product, left: Operands) -> Result<()> {
    let (weight, cols) = (product.weight, product.weight.rows);
    let (kind, second) = match product.epilogue {
        Epilogue::Store { bias: None, .. } => (Kind::Scale, None),
        Epilogue::Store { y, .. } if y.dtype() == DType::F32 => (Kind::BiasF32, None),
        Epilogue::Store { .. } => (Kind::Bias, None),
        Epilogue::Add { .. } => (Kind::Add, None),
        Epilogue::Swiglu { up, .. } => (Kind::Swiglu, Some(up)),
    };
    let multiprocessors = be.device.info.multiprocessors;
    let rows_of_item = left.rows() / product.items().max(1);
    let kernel = Kernel::choose(kind, left.operand(), [rows_of_item, cols], multiprocessors as usize);
    let there = be.present(weight)?;
    let second_there = second.map(|second| be.present(second)).transpose()?;
    match (&weight.quantized, product.left) {
        (Some(quantized), _) => be.note_quantized("wgmma", quantized),
        (None, Left::Rows(_)) => be.note("linear", "wgmma"),
        (None, Left::Map(..)) => be.note("conv2d", "wgmma"),
    }
    if be.device.dry_run {
        return Ok(());
    }
    let mut task = Task::new(product, kernel, left.rows());
    let [a, second_a] = left.tensor_maps(kernel, &mut task)?;
    let b = weight_map(weight, there.address(), kernel)?;
    let second_b = match (second, &second_there) {
        (Some(second), Some(there)) => weight_map(second, there.address(), kernel)?,
        _ => b,
    };
    let result = result_map(kernel, left, cols, task.out)?.unwrap_or(a);
    let tiles = (task.m_tiles as u32).div_ceil(2) * task.n_tiles as u32;
    let clusters = tiles.min(multiprocessors / 2);
    let function = be.kernels.function(&be.device, HOPPER, kernel.name)?;
    be.allow_shared(HOPPER, kernel.name, SHARED)?;
    let geometry = Geometry { grid: [2 * clusters, 1, 1], block: kernel.tile.threads, shared: SHARED };
    let pointer = |map: &TensorMap| (&raw const *map).cast_mut().cast::<c_void>();
    let [a, second_a, b, second_b, result] =
        [pointer(&a), pointer(&second_a), pointer(&b), pointer(&second_b), pointer(&result)];
    let mut arguments = [a, second_a, b, second_b, result, (&raw mut task).cast()];
    // SAFETY: these are the kernel's arguments. It writes the result alone, which has a row for each of the left
    // operand; vectors and the second weight are as long as the weight has rows.
    unsafe { be.device.launch(function, geometry, &mut arguments) }
}

impl Task {
    /// All but the fields of the left operand.
    fn new(product: &Product, kernel: &Kernel, rows: usize) -> Self {
        let cols = product.weight.rows;
        let mut task = Task {
            rows: int(rows),
            cols: int(cols),
            m_tiles: int(rows.div_ceil(kernel.tile.rows)),
            n_tiles: int(cols.div_ceil(kernel.result_cols())),
            stride: int(cols),
            ..Task::default()
        };
        let mut second = product.weight;
        match product.epilogue {
            Epilogue::Store { bias, accumulate, y } => {
                task.bias = bias.map_or(0, Tensor::address);
                task.out = y.address();
                task.add = if accumulate { y.address() } else { 0 };
            }
            Epilogue::Add { gate, x } => (task.gate, task.out) = (gate.map_or(0, Tensor::address), x.address()),
            Epilogue::Swiglu { up, y } => (second, task.out) = (up, y.address()),
        }
        let scales = |weight: &Matrix| weight.quantized.as_ref().map_or(0, |quantized| quantized.scales.address());
        (task.scale, task.second_scale) = (scales(product.weight), scales(second));
        task
    }
}

/// The map of a weight at `address`: each block of a cluster reads half a tile and multicasts it to both.
fn weight_map(weight: &Matrix, address: u64, kernel: &Kernel) -> Result<TensorMap> {
    let size = [weight.stride, weight.rows];
    TensorMap::new(kernel.dtype(), address, size, [weight.stride], [kernel.tile_k(), kernel.tile.cols / 2])
}

/// The map that bf16 results are stored with, 64 rows or pixels of up to 64 columns at a time; `None` for f32, which
/// the threads write themselves.
fn result_map(kernel: &Kernel, left: Operands, cols: usize, out: u64) -> Result<Option<TensorMap>> {
    if matches!(kernel.kind, Kind::BiasF32 | Kind::Add) {
        return Ok(None);
    }
    let stored_cols = if kernel.kind == Kind::Swiglu && kernel.tile == Tile::SQUARE { 32 } else { 64 };
    Ok(Some(match left {
        Operands::Pixels(map) => {
            let [h, w, _] = map.dims("conv2d: x")?;
            let tile = [stored_cols, TILE_W, 64 / TILE_W];
            TensorMap::new(DType::Bf16, out, [cols, w, h], [cols, w * cols], tile)?
        }
        _ => TensorMap::new(DType::Bf16, out, [cols, left.rows()], [cols], [stored_cols, 64])?,
    }))
}

impl TensorMap {
    /// A map of `dtype` elements, the first axis innermost; `strides` in elements, of all axes but the first.
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
        // 36 x 12 tiles of 128 x 256 are four waves, the last one a quarter full; 24 x 16 of 192 x 192 nearly three.
        assert_eq!(tile(4608, 3072), Tile::SQUARE);
        assert_eq!(tile(1536, 9216), Tile::SQUARE);
        assert_eq!(tile(4608, 9216), Tile::WIDE);
    }
}

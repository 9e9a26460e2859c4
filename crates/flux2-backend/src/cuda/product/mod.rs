//! Products with weights and what follows them: `linear`, `linear_add`, `linear_swiglu`, and the product of a
//! convolution.
//!
//! | file | holds |
//! |---|---|
//! | `linear*.rs`, `linear.cu` | the ops, and the pass after cuBLASLt where it lacks the epilogue |
//! | `hopper.rs`, `hopper.cu` | product and epilogue in one kernel, on Hopper |
//! | `cublaslt.rs` | products through cuBLASLt |
//! | `quantized.rs`, `quantized.cu` | int8 and e4m3: quantizing weights and rows, the pass that applies their scales |
//! | `im2col.rs`, `im2col.cu` | a convolution's windows as rows |
//! | `matrix.rs` | weights on the GPU, and where they are between uses |
//!
//! [`Product::path`] is the one place that chooses between the kernel of `hopper.cu`, cuBLASLt alone, and cuBLASLt
//! followed by a pass.

pub(crate) mod cublaslt;
pub(crate) mod hopper;
mod im2col;
pub(crate) mod linear;
pub(crate) mod linear_add;
pub(crate) mod linear_swiglu;
pub(crate) mod matrix;
pub(crate) mod quantized;

use self::cublaslt::{Out, padded};
use self::matrix::Matrix;
use self::quantized::QuantizedDType;
use crate::cuda::CudaBackend;
use crate::{ConvShape, DType, Result, Tensor};

/// `epilogue(left * weight^T)`. Shapes and dtypes fit each other, as the contracts of the ops say.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) weight: &'a Matrix,
    pub(crate) epilogue: Epilogue<'a>,
}

/// The left operand of a [`Product`].
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Rows, compute `[n, k]` or a batch `[b, n, k]`; for [`Epilogue::Add`] perhaps two tensors side by side.
    Rows(&'a [&'a Tensor<CudaBackend>]),
    /// The windows of a convolution over a map, compute `[h, w, c]`. The weight is dense, the epilogue
    /// [`Epilogue::Store`] with a bias.
    Map(&'a Tensor<CudaBackend>, ConvShape),
}

/// What is done to a product before it is written, and where to.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// `y = product + bias`, in the dtype of `y`; with `accumulate` (maps only) `y += product + bias`.
    Store { bias: Option<&'a Tensor<CudaBackend>>, accumulate: bool, y: &'a Tensor<CudaBackend> },
    /// `x += gate * product`, f32.
    Add { gate: Option<&'a Tensor<CudaBackend>>, x: &'a Tensor<CudaBackend> },
    /// `y = silu(product) * (left * up^T)`.
    Swiglu { up: &'a Matrix, y: &'a Tensor<CudaBackend> },
}

/// How a [`Product`] is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Product and epilogue in one kernel of `hopper.cu`.
    Hopper,
    /// cuBLASLt writes the result.
    CublasLt,
    /// cuBLASLt writes f32 (or i32) sums, and a second kernel applies the epilogue.
    CublasLtThenPass,
}

impl Product<'_> {
    /// Items of the left operand: 1 unless it is a batch. Whatever decides on the order of sums (path, tile, algorithm)
    /// is chosen for the rows of an item, so that an item gets the same bytes in every batch.
    fn items(&self) -> usize {
        match self.left {
            Left::Rows(parts) => parts[0].batch_dims("product").map_or(1, |[items, ..]| items),
            Left::Map(..) => 1,
        }
    }

    /// Chooses how to compute this product. The same shapes and alignments always get the same path, hence the same
    /// bytes.
    pub(crate) fn path(&self, be: &CudaBackend) -> Path {
        if be.is_hopper() && self.left_fits_hopper() && self.epilogue_fits_hopper(be) {
            return Path::Hopper;
        }
        // cuBLASLt writes rows of multiples of 16 bytes, and knows neither our biases and gates nor scales of rows.
        let is_plain = self.weight.quantized.is_none() && self.weight.rows == padded(self.weight.rows);
        match self.epilogue {
            Epilogue::Store { bias: None, .. } if is_plain => Path::CublasLt,
            Epilogue::Add { gate: None, x } if is_plain && x.is_wide(4) => Path::CublasLt,
            _ => Path::CublasLtThenPass,
        }
    }

    /// Whether TMA can read the left operand and `wgmma` multiply it.
    fn left_fits_hopper(&self) -> bool {
        let fits = |x: &Tensor<CudaBackend>| x.is_wide(8) && x.rows() > 0;
        match (&self.weight.quantized, self.left) {
            // Quantized rows are made aligned.
            (Some(quantized), _) => quantized.dtype == QuantizedDType::E4m3,
            (None, Left::Rows(parts)) => parts.iter().all(|x| fits(x)),
            (None, Left::Map(_, ConvShape::Downsample)) => false,
            (None, Left::Map(map, _)) => fits(map),
        }
    }

    /// Whether a kernel of `hopper.cu` has this epilogue, can write the result, and is faster than cuBLASLt.
    fn epilogue_fits_hopper(&self, be: &CudaBackend) -> bool {
        let (cols, is_quantized) = (self.weight.rows, self.weight.quantized.is_some());
        match self.epilogue {
            // Without anything to fuse, cuBLASLt is as fast.
            Epilogue::Store { bias: None, y, .. } => is_quantized && y.dtype() != DType::F32 && cols.is_multiple_of(8),
            Epilogue::Store { bias: Some(bias), y, .. } => {
                let writes_y = match y.dtype() {
                    DType::F32 => matches!(self.left, Left::Map(_, ConvShape::Same | ConvShape::Upsample)),
                    _ => y.is_wide(8),
                };
                !is_quantized && writes_y && bias.address().is_multiple_of(8)
            }
            Epilogue::Add { x, .. } => {
                let rows = x.rows() / self.items().max(1);
                cols.is_multiple_of(8) && x.is_wide(2) && (is_quantized || be.fills_hopper([rows, cols]))
            }
            Epilogue::Swiglu { .. } => cols.is_multiple_of(8),
        }
    }

    /// Enqueues the product and its epilogue.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is no room for sums, quantized rows or an offloaded
    /// weight.
    pub(crate) fn run(&self, be: &CudaBackend) -> Result<()> {
        let path = self.path(be);
        let (parts, rows) = match (self.left, &self.weight.quantized) {
            (Left::Rows(parts), Some(quantized)) => (parts, Some(be.quantize_rows(parts, quantized.dtype)?)),
            (Left::Rows(parts), None) => (parts, None),
            (Left::Map(map, shape), _) => {
                return match path {
                    Path::Hopper => hopper::run(be, self, None),
                    _ => im2col::run(be, self, map, shape),
                };
            }
        };
        match (path, rows) {
            (Path::Hopper, rows) => hopper::run(be, self, rows.as_deref()),
            (Path::CublasLt, _) => self.run_on_cublaslt(be, parts),
            (Path::CublasLtThenPass, Some(rows)) => quantized::run(be, self, &rows),
            (Path::CublasLtThenPass, None) => match self.epilogue {
                Epilogue::Store { bias, y, .. } => linear::with_pass(be, parts, self.weight, bias, y),
                Epilogue::Add { gate, x } => linear_add::with_pass(be, parts, self.weight, gate, x),
                Epilogue::Swiglu { up, y } => linear_swiglu::with_pass(be, parts, [self.weight, up], y),
            },
        }
    }

    fn run_on_cublaslt(&self, be: &CudaBackend, parts: &[&Tensor<CudaBackend>]) -> Result<()> {
        let (to, accumulate) = match self.epilogue {
            Epilogue::Store { y, .. } => (y, false),
            Epilogue::Add { x, .. } => (x, true),
            Epilogue::Swiglu { .. } => unreachable!("two products and a pass"),
        };
        let out = Out { address: to.address(), stride: self.weight.rows, dtype: to.dtype(), accumulate };
        be.multiply(parts, self.weight, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::GpuInfo;
    use crate::testing::tensor;
    use crate::{Compute, Convolution, Format, HostTensor, Runtime, Weight};

    fn backend(capability: [i32; 2]) -> CudaBackend {
        let gpu = GpuInfo { name: "a GPU".into(), capability, memory: 80 << 30, multiprocessors: 132 };
        CudaBackend::dry_run(gpu, Compute::Bf16, None).unwrap()
    }

    fn weight(be: &CudaBackend, shape: [usize; 2], format: Format) -> Weight<CudaBackend> {
        Weight::load_as(be, HostTensor::from_f32(shape, &vec![0.0; shape[0] * shape[1]]), format).unwrap()
    }

    /// The paths of `linear` with and without a bias and in f32, of `linear_add` with and without a gate, and of
    /// SwiGLU, for 64 columns of k.
    fn paths(be: &CudaBackend, [rows, cols]: [usize; 2], format: Format) -> [Path; 6] {
        let zeros = |shape: &[usize], dtype| tensor(be, "zeros", shape, dtype).unwrap().0;
        let weight = weight(be, [cols, 64], format);
        let (x, bias, gate) =
            (zeros(&[rows, 64], DType::Bf16), zeros(&[cols], DType::F32), zeros(&[1, cols], DType::F32));
        let (y, stream) = (zeros(&[rows, cols], DType::Bf16), zeros(&[rows, cols], DType::F32));
        let store = |bias, y| Epilogue::Store { bias, accumulate: false, y };
        let epilogues = [
            store(None, &y),
            store(Some(&bias), &y),
            store(None, &stream),
            Epilogue::Add { gate: Some(&gate), x: &stream },
            Epilogue::Add { gate: None, x: &stream },
            Epilogue::Swiglu { up: weight.matrix(), y: &y },
        ];
        let (parts, weight) = ([&x], weight.matrix());
        epilogues.map(|epilogue| Product { left: Left::Rows(&parts), weight, epilogue }.path(be))
    }

    #[test]
    fn a_product_takes_the_fastest_path_that_has_its_epilogue() {
        use Path::{CublasLt as Alone, CublasLtThenPass as Pass, Hopper};
        let (hopper, ada) = (backend([9, 0]), backend([8, 9]));
        let large = [4608, 3072];
        assert_eq!(paths(&hopper, large, Format::AsStored), [Alone, Hopper, Alone, Hopper, Hopper, Hopper]);
        assert_eq!(paths(&hopper, large, Format::Fp8), [Hopper, Pass, Pass, Hopper, Hopper, Hopper]);
        assert_eq!(paths(&hopper, large, Format::Int8), [Pass; 6]);
        // Too few tiles for the multiprocessors.
        assert_eq!(paths(&hopper, [512, 256], Format::AsStored), [Alone, Hopper, Alone, Pass, Alone, Hopper]);
        assert_eq!(paths(&hopper, [512, 256], Format::Fp8), [Hopper, Pass, Pass, Hopper, Hopper, Hopper]);
        // Rows that are no multiple of 16 bytes.
        assert_eq!(paths(&hopper, [4608, 132], Format::AsStored), [Pass; 6]);
        assert_eq!(paths(&ada, large, Format::AsStored), [Alone, Pass, Alone, Pass, Alone, Pass]);
        assert_eq!(paths(&ada, large, Format::Fp8), [Pass; 6]);
    }

    /// An item of a batch gets the bytes that it gets alone only if it takes the same path.
    #[test]
    fn a_batch_takes_the_path_of_an_item() {
        let be = backend([9, 0]);
        let weight = weight(&be, [3072, 64], Format::AsStored);
        let path = |shape: &[usize]| {
            let left = tensor(&be, "left", shape, DType::Bf16).unwrap().0;
            let x = tensor(&be, "x", &[left.rows(), 3072], DType::F32).unwrap().0;
            let gate = tensor(&be, "gate", &[1, 3072], DType::F32).unwrap().0;
            let epilogue = Epilogue::Add { gate: Some(&gate), x: &x };
            Product { left: Left::Rows(&[&left]), weight: weight.matrix(), epilogue }.path(&be)
        };
        assert_eq!([path(&[512, 64]), path(&[16, 512, 64])], [Path::CublasLtThenPass; 2]);
        assert_eq!([path(&[16 * 512, 64]), path(&[2, 16 * 512, 64])], [Path::Hopper; 2]);
    }

    #[test]
    fn convolutions_on_hopper_are_one_kernel_but_for_strides() {
        let be = backend([9, 0]);
        let map = tensor(&be, "map", &[16, 16, 64], DType::Bf16).unwrap().0;
        let path = |shape: ConvShape, channels: usize, dtype| {
            let kernel = shape.kernel();
            let weight = weight(&be, [channels, kernel * kernel * 64], Format::AsStored);
            let bias = be.upload(&[channels], &vec![0.0; channels]).unwrap();
            let conv = Convolution { weight, bias, shape };
            let size = [shape.output(16), shape.output(16), channels];
            let y = be.empty(&size, dtype).unwrap();
            let epilogue = Epilogue::Store { bias: Some(&conv.bias), accumulate: false, y: &y };
            Product { left: Left::Map(&map, shape), weight: conv.weight.matrix(), epilogue }.path(&be)
        };
        for shape in [ConvShape::Pointwise, ConvShape::Same, ConvShape::Upsample] {
            assert_eq!(path(shape, 64, DType::Bf16), Path::Hopper, "{shape:?}");
        }
        assert_eq!(path(ConvShape::Downsample, 64, DType::Bf16), Path::CublasLtThenPass);
        // The picture: three channels in f32.
        assert_eq!(path(ConvShape::Same, 3, DType::F32), Path::Hopper);
        assert_eq!(path(ConvShape::Pointwise, 8, DType::F32), Path::CublasLtThenPass);
    }
}

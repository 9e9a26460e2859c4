//! `modulated_layer_norm`. If the result feeds a weight in e4m3, the same kernel also quantizes its rows.

use std::sync::Arc;

use super::rms_norm::NORM;
use crate::cuda::product::quantized::QuantizedDType;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Compute, ModulatedLayerNorm, Result, Tensor};

const THREADS: u32 = 256;
/// Longest row that the e4m3 kernel keeps in registers, as in `norm.cu`.
const LONGEST: usize = 4 * 4 * THREADS as usize;

pub(crate) fn modulated_layer_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    norm: &ModulatedLayerNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let &ModulatedLayerNorm { shift, scale, eps, feeds } = norm;
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let wide = [x, shift, scale].iter().all(|x| x.is_wide(4));
    let name = if wide { "modulated_layer_norm_wide" } else { "modulated_layer_norm" };
    let geometry = Geometry::block_each(x.rows(), THREADS);
    let d = x.cols();
    let feeds_e4m3 = feeds.is_some_and(|weight| weight.matrix().is_e4m3());
    if wide && be.compute == Compute::Bf16 && feeds_e4m3 && d.is_multiple_of(16) && d <= LONGEST {
        let quantized = be.empty_rows([x.rows(), d], QuantizedDType::E4m3)?;
        let (q, scales) = (quantized.buffer.address(), quantized.scales.address());
        let name = "modulated_layer_norm_e4m3";
        // SAFETY: as below; there is room for all rows in e4m3.
        unsafe { launch!(be, NORM, name, geometry, [int(d), x, x.row_stride(), shift, scale, eps, &y, q, scales])? };
        *y.buffer().quantized_rows() = Some(Arc::new(quantized));
        return Ok(y);
    }
    // SAFETY: `y` has the shape of `x`, and `shift` and `scale` as many values as a row.
    unsafe { launch!(be, NORM, name, geometry, [int(x.cols()), x, x.row_stride(), shift, scale, eps, &y])? };
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::GpuInfo;
    use crate::testing::{on_cuda, random, tensor};
    use crate::{DType, Error, Format, HostTensor, Runtime, Weight, ops};

    /// The norm of 5 rows of 256, without the weight it feeds and with it.
    fn norms(be: &CudaBackend, feeds: &Weight<CudaBackend>) -> Result<[Tensor<CudaBackend>; 2]> {
        let x = tensor(be, "x", &[5, 256], DType::F32)?.0;
        let (shift, scale) =
            (tensor(be, "shift", &[1, 256], DType::F32)?.0, tensor(be, "scale", &[1, 256], DType::F32)?.0);
        let norm = |feeds| {
            let norm = ModulatedLayerNorm { shift: &shift, scale: &scale, eps: 1e-6, feeds };
            modulated_layer_norm(be, &x, &norm)
        };
        Ok([norm(None)?, norm(Some(feeds))?])
    }

    fn weight(be: &CudaBackend, format: Format) -> Result<Weight<CudaBackend>> {
        Weight::load_as(be, HostTensor::from_f32([64, 256], &random("weight", &[64, 256])), format)
    }

    #[test]
    fn rows_are_quantized_for_the_weight_they_feed() {
        let gpu = GpuInfo { name: "a GPU".into(), capability: [9, 0], memory: 80 << 30, multiprocessors: 132 };
        let be = CudaBackend::dry_run(gpu, Compute::Bf16, None).unwrap();
        for format in [Format::AsStored, Format::Int8, Format::Fp8] {
            let has_rows =
                norms(&be, &weight(&be, format).unwrap()).unwrap().map(|y| y.buffer().quantized_rows().is_some());
            assert_eq!(has_rows, [false, format == Format::Fp8], "{format:?}");
        }
    }

    #[test]
    fn quantizing_in_the_norm_gives_the_same_bytes() {
        on_cuda(Compute::Bf16, |be| {
            if be.takes(Format::Fp8) {
                let weight = weight(be, Format::Fp8)?;
                let [plain, quantized] = norms(be, &weight)?;
                assert!(be.download(&plain)? == be.download(&quantized)?, "the norm");
                let product = |x| be.download(&ops::linear(be, x, &weight, None)?);
                assert!(product(&plain)? == product(&quantized)?, "the product after it");
            }
            Ok::<_, Error>(())
        });
    }
}

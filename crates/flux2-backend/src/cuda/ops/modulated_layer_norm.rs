//! `modulated_layer_norm`; where its rows are multiplied in e4m3, they are rounded on the way.

use std::sync::Arc;

use super::rms_norm::NORM;
use crate::cuda::product::quantized::QuantizedDType;
use crate::cuda::{CudaBackend, Geometry, int, launch};
use crate::{Compute, ModulatedLayerNorm, Result, Tensor};

const THREADS: u32 = 256;
/// Longest row that is kept in registers, as in `norm.cu`.
const LONGEST: usize = 4 * 4 * THREADS as usize;

pub(crate) fn modulated_layer_norm(
    be: &CudaBackend,
    x: &Tensor<CudaBackend>,
    norm: &ModulatedLayerNorm<CudaBackend>,
) -> Result<Tensor<CudaBackend>> {
    let &ModulatedLayerNorm { shift, scale, eps, feeds: _ } = norm;
    let y = be.empty(x.shape(), be.compute.dtype())?;
    let wide = [x, shift, scale].iter().all(|x| x.is_wide(4));
    let name = if wide { "modulated_layer_norm_wide" } else { "modulated_layer_norm" };
    let geometry = Geometry::block_each(x.rows(), THREADS);
    let d = x.cols();
    if wide && be.compute == Compute::Bf16 && be.rounds_rows_of(d) && d.is_multiple_of(16) && d <= LONGEST {
        let rounded = be.empty_rows([x.rows(), d], QuantizedDType::E4m3)?;
        let (q, scales) = (rounded.buffer.address(), rounded.scales.address());
        let arguments = [x.address(), shift.address(), scale.address(), y.address()];
        let [from, shift, scale, to] = arguments;
        // SAFETY: as below; there is room for all rows in e4m3.
        unsafe {
            let name = "modulated_layer_norm_e4m3";
            launch!(be, NORM, name, geometry, [int(d), from, x.row_stride(), shift, scale, eps, to, q, scales])?;
        }
        *y.buffer().quantized_rows() = Some(Arc::new(rounded));
        return Ok(y);
    }
    // SAFETY: `y` has the shape of `x`, and `shift` and `scale` as many values as a row.
    unsafe { launch!(be, NORM, name, geometry, [int(x.cols()), x, x.row_stride(), shift, scale, eps, &y])? };
    Ok(y)
}

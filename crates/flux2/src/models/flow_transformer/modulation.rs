//! What a noise level does to the blocks: shift, scale and gate.

use flux2_backend::{Backend, Tensor};

/// Shift, scale and gate for one half of a block, each f32 `[1, hidden]`.
pub(super) struct Modulation<B: Backend> {
    pub(super) shift: Tensor<B>,
    pub(super) scale: Tensor<B>,
    pub(super) gate: Tensor<B>,
}

/// The modulation of all blocks at one noise level.
pub(super) struct Modulations<B: Backend> {
    pub(super) img: [Modulation<B>; 2],
    pub(super) txt: [Modulation<B>; 2],
    pub(super) single: Modulation<B>,
    pub(super) final_shift: Tensor<B>,
    pub(super) final_scale: Tensor<B>,
}

/// The modulation of all blocks at one noise level, as rows that the blocks split: f32 `[1, 6 * hidden]` for the image
/// stream and for the text stream, `[1, 3 * hidden]` for single blocks, `[1, 2 * hidden]` for the head.
pub struct ModulationRows<B: Backend>(pub(super) [Tensor<B>; 4]);

impl<B: Backend> Modulations<B> {
    /// Split the four rows of [`ModulationRows`].
    pub(super) fn new([img, txt, single, last]: &[Tensor<B>; 4]) -> Self {
        let [final_shift, final_scale] = last.chunk_cols();
        Modulations {
            img: img.chunk_cols().map(|half| Modulation::new(&half)),
            txt: txt.chunk_cols().map(|half| Modulation::new(&half)),
            single: Modulation::new(single),
            final_shift,
            final_scale,
        }
    }
}

impl<B: Backend> Modulation<B> {
    /// Split a row `[1, 3 * hidden]`.
    fn new(row: &Tensor<B>) -> Self {
        let [shift, scale, gate] = row.chunk_cols();
        Modulation { shift, scale, gate }
    }
}

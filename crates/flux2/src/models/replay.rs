//! A pass that a backend may capture once and replay: a CUDA graph on a GPU, a plain call on the CPU.

use flux2_backend::{Backend, Tensor};

use super::Pulse;
use crate::Result;

/// The captures of one network's pass, one for each set of input shapes.
///
/// A capture refers to the weights it multiplies: declare this field before them, so that it is dropped first.
pub(super) struct ReplayedPass<B: Backend>(B::Recordings);

impl<B: Backend> ReplayedPass<B> {
    /// A pass that has not been captured.
    pub(super) fn new() -> Self {
        ReplayedPass(B::Recordings::default())
    }

    /// Free the captures and their memory; the next passes are captured anew.
    pub(super) fn clear(&mut self) {
        self.0 = B::Recordings::default();
    }

    /// Run `pass(inputs, pulse)`, which must depend on nothing but weights and the values of `inputs`.
    ///
    /// `pulse` is called `blocks` times whether or not the pass itself runs: a replay has no blocks to call it after,
    /// so the remaining calls are made when it returns.
    ///
    /// # Errors
    /// Those of `pass` and of `pulse`, and failures of the device.
    pub(super) fn run(
        &self,
        be: &B,
        inputs: &[&Tensor<B>],
        blocks: usize,
        pulse: &mut Pulse,
        mut pass: impl FnMut(&[Tensor<B>], &mut Pulse) -> Result<Tensor<B>>,
    ) -> Result<Tensor<B>> {
        let mut called = 0;
        let result = be.replay(&self.0, inputs, |inputs| {
            pass(inputs, &mut || {
                called += 1;
                pulse()
            })
        })?;
        for _ in called..blocks {
            pulse()?;
        }
        Ok(result)
    }
}

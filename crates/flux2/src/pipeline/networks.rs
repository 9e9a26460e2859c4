//! The three networks of a model: loaded when a stage asks for one, released by the [`Residency`].
//!
//! In:  checked files. Out: networks, each with its weights where its stage needs them.
//!
//! | residency | text encoder | flow transformer | decoder |
//! |---|---|---|---|
//! | `KeepAll` | stays | stays | stays |
//! | `KeepForNext` | released before the others load | stays | stays |
//! | `OneAtATime` | released before the others load | released before the decoder loads | released after its stage |
//! | `Blocks`, `Smallest` | as above | weights offloaded; on the CPU, read from the mapped file | as above |
//!
//! The text encoder and the flow transformer are by far the largest; only `KeepAll` has both in device memory. The
//! encoder half of the autoencoder is never kept: its results are.

use std::num::NonZeroUsize;

use flux2_backend::{Backend, Compute, Placement};

use super::loading::{KeptBlocks, Terms, load};
use super::slot::Slot;
use crate::Result;
use crate::event::{CancelToken, Observer};
use crate::models::flow_transformer::FlowTransformer;
use crate::models::qwen3::Qwen3;
use crate::models::vae;
use crate::weights::{ModelFiles, Part, Precision, WithLoras};
use flux2_base::parallel::all_threads;

/// Which networks stay in memory between the stages of a run: the GPU's memory if there is one, else the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// As [`Blocks`](Self::Blocks) with none, and the decoder keeps no large map: some are computed three times.
    Smallest,
    /// As [`OneAtATime`](Self::OneAtATime), and only so many of the flow transformer's blocks keep their weights. The
    /// CPU reads the others from the mapped files at every use, as far as the files hold them in the format of the run.
    /// A GPU's flow transformer stays loaded, with the other weights offloaded to host memory, from where each is
    /// copied when it is used.
    Blocks(usize),
    /// Each network is released when its stage is over. The text encoder's weights, which are used once, are not kept.
    #[default]
    OneAtATime,
    /// The text encoder is released when its stage is over, the others stay for the next picture: for series. If a
    /// GPU's is needed again, it is loaded with offloaded weights and stays.
    KeepForNext,
    /// Every network stays once it is loaded.
    KeepAll,
}

impl Residency {
    /// Whether a network is released when its stage is over.
    fn releases(self) -> bool {
        !matches!(self, Residency::KeepAll | Residency::KeepForNext)
    }

    /// Blocks of the flow transformer that keep their weights; `None` if all weights are kept.
    fn kept_blocks(self) -> Option<usize> {
        match self {
            Residency::Blocks(count) => Some(count),
            Residency::Smallest => Some(0),
            Residency::OneAtATime | Residency::KeepForNext | Residency::KeepAll => None,
        }
    }

    /// This one and those that keep less in memory, in falling order. Of [`Blocks`](Self::Blocks), the one that keeps
    /// none.
    pub(crate) fn and_smaller(self) -> impl Iterator<Item = Residency> {
        use Residency::{Blocks, KeepAll, KeepForNext, OneAtATime, Smallest};
        let first = if matches!(self, Blocks(_)) { Blocks(0) } else { self };
        [KeepAll, KeepForNext, OneAtATime, Blocks(0), Smallest].into_iter().skip_while(move |r| *r != first)
    }
}

/// The networks of one model on one backend.
pub(super) struct Networks<B: Backend> {
    pub(super) be: B,
    pub(super) files: ModelFiles,
    pub(super) precision: Precision,
    /// Host threads for what the backend does not do: adding LoRAs to weights, noise, pixels.
    pub(super) threads: NonZeroUsize,
    residency: Residency,
    /// Set by the ladder when memory was short.
    streams_decoder: bool,
    /// Set by the ladder when memory was short.
    offloads_encoder: bool,
    text_encoder: Slot<Qwen3<B>>,
    transformer: Slot<FlowTransformer<B>>,
    decoder: Slot<vae::Decoder<B>>,
}

impl<B: Backend> Networks<B> {
    /// Nothing loaded yet; numbers in the compute dtype of `be`.
    pub(super) fn new(be: B, files: ModelFiles, residency: Residency) -> Self {
        let precision = match be.compute() {
            Compute::F32 => Precision::F32,
            Compute::Bf16 => Precision::BF16,
        };
        Networks {
            be,
            files,
            precision,
            threads: all_threads(),
            residency,
            streams_decoder: false,
            offloads_encoder: false,
            text_encoder: Slot::new(),
            transformer: Slot::new(),
            decoder: Slot::new(),
        }
    }

    // ---- one for each stage ----

    /// The text encoder. Device memory is cleared of the flow transformer first, unless both may stay.
    pub(super) fn text_encoder(&mut self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<&Qwen3<B>> {
        let terms = self.terms(Part::TextEncoder);
        let takes_room = self.residency != Residency::KeepAll && !is_offloaded(&self.be, terms.placement);
        if self.text_encoder.is_empty() && takes_room {
            self.release_transformer();
            self.be.trim();
        }
        let (be, files) = (&self.be, &self.files.text_encoder);
        let encoder = self
            .text_encoder
            .get_or_load(terms.placement, || load(observer, cancel, terms, files, |c, w| Qwen3::load(be, c, w)))?;
        Ok(encoder)
    }

    /// The encoder half of the autoencoder, for the caller to drop after its stage.
    pub(super) fn vae_encoder(&mut self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<vae::Encoder<B>> {
        self.release_text_encoder();
        let (be, terms) = (&self.be, self.terms(Part::Vae));
        load(observer, cancel, terms, &self.files.vae, |c, w| vae::Encoder::load(be, c, w))
    }

    /// The flow transformer, with the LoRAs added to its weights.
    pub(super) fn transformer(
        &mut self,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<&FlowTransformer<B>> {
        self.release_text_encoder();
        let (be, terms, threads) = (&self.be, self.terms(Part::Transformer), self.threads);
        let (files, loras) = (&self.files.transformer, &self.files.loras);
        let transformer = self.transformer.get_or_load(terms.placement, || {
            load(observer, cancel, terms, files, |c, base| {
                FlowTransformer::load(be, c, &WithLoras { base, loras, threads })
            })
        })?;
        Ok(transformer)
    }

    /// The decoder half of the autoencoder. [`after_decoding`](Self::after_decoding) must follow.
    pub(super) fn decoder(&mut self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<&vae::Decoder<B>> {
        if self.residency.releases() {
            self.release_transformer();
            self.be.trim();
        }
        let (be, terms) = (&self.be, self.terms(Part::Vae));
        let files = &self.files.vae;
        let decoder = self.decoder.get_or_load(terms.placement, || {
            load(observer, cancel, terms, files, |c, w| vae::Decoder::load(be, c, w))
        })?;
        if self.residency == Residency::Smallest || self.streams_decoder {
            decoder.keep_no_large_map();
        }
        Ok(decoder)
    }

    /// Call this after the decoder's stage, also after an error.
    pub(super) fn after_decoding(&mut self) {
        if self.residency.releases() {
            self.decoder.release();
        }
        self.be.trim();
    }

    /// Whether a network is released when its stage is over.
    pub(super) fn releases(&self) -> bool {
        self.residency.releases()
    }

    /// Whether as little as possible is in memory at a time.
    pub(super) fn keeps_little(&self) -> bool {
        self.residency.kept_blocks().is_some()
    }

    // ---- policy ----

    fn terms(&self, part: Part) -> Terms {
        let config = &self.files.transformer.config;
        let kept = match (part, self.residency.kept_blocks()) {
            (Part::Transformer, Some(count)) => {
                KeptBlocks { count, double_blocks: config.double_blocks, single_blocks: config.single_blocks }
            }
            _ => KeptBlocks::default(),
        };
        Terms { part, precision: self.precision, placement: self.placement(part), kept }
    }

    /// Where the weights of a network would be between uses if it were loaded now.
    fn placement(&self, part: Part) -> Placement {
        let is_needed_again = self.be.is_asynchronous() && self.text_encoder.was_loaded();
        match (part, self.residency) {
            // Used once, then released: nothing is worth a copy.
            (Part::TextEncoder, residency) if residency.releases() => Placement::File,
            (Part::TextEncoder, Residency::KeepForNext) if is_needed_again => Placement::Host,
            (Part::TextEncoder, _) if self.offloads_encoder => Placement::Host,
            (Part::Transformer, residency) if residency.kept_blocks().is_some() => Placement::Host,
            _ => Placement::Device,
        }
    }

    fn release_text_encoder(&mut self) {
        let keeps_all = self.residency == Residency::KeepAll;
        if self.text_encoder.release_unless(|placement| keeps_all || is_offloaded(&self.be, placement)) {
            self.be.trim();
        }
    }

    fn release_transformer(&mut self) {
        self.transformer.release_unless(|placement| is_offloaded(&self.be, placement));
    }

    /// Change the number format; networks in another one are released.
    ///
    /// # Panics
    /// If the backend computes in another dtype.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        assert_eq!(self.be.compute(), precision.compute(), "{precision} on this backend");
        self.precision = precision;
        self.text_encoder.release();
        self.transformer.release();
        self.decoder.release();
    }

    /// Change what stays loaded; the networks are released.
    pub(super) fn set_residency(&mut self, residency: Residency) {
        self.residency = residency;
        self.text_encoder.release();
        self.transformer.release();
        self.decoder.release();
        self.be.trim();
    }

    // ---- fallbacks: see `ladder` ----

    /// Free captured passes.
    pub(super) fn clear_captures(&mut self) {
        self.transformer.get_mut().map(FlowTransformer::clear_captures);
        self.decoder.get_mut().map(vae::Decoder::clear_captures);
    }

    /// Whether the decoder keeps its largest maps.
    pub(super) fn can_stream_decoder(&self) -> bool {
        !self.streams_decoder
    }

    /// Let the decoder compute its largest maps in bands from now on.
    pub(super) fn stream_decoder(&mut self) {
        self.streams_decoder = true;
    }

    /// Whether the text encoder's weights are in device memory, in its own stage or at all times.
    pub(super) fn can_offload_encoder(&self, is_its_stage: bool) -> bool {
        let is_resident = is_its_stage || self.residency == Residency::KeepAll;
        is_resident && self.placement(Part::TextEncoder) == Placement::Device
    }

    /// Offload the text encoder's weights from its next loading on.
    pub(super) fn offload_encoder(&mut self) {
        self.offloads_encoder = true;
        self.text_encoder.release();
    }

    /// Whether weights of the flow transformer's blocks are in device memory, in its own stage or at all times.
    pub(super) fn can_stream_blocks(&self, is_its_stage: bool) -> bool {
        let is_offloaded = is_offloaded(&self.be, self.placement(Part::Transformer));
        let is_resident = is_its_stage || !self.residency.releases() || is_offloaded;
        is_resident && self.residency.kept_blocks() != Some(0)
    }

    /// Offload the flow transformer's weights from its next loading on.
    pub(super) fn stream_blocks(&mut self) {
        self.residency = Residency::Blocks(0);
        self.transformer.release();
    }
}

/// Whether weights at `placement` take none of the memory that is short, so that their network need not be released.
fn is_offloaded<B: Backend>(be: &B, placement: Placement) -> bool {
    be.is_asynchronous() && placement == Placement::Host
}

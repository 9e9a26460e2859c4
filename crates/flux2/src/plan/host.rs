//! What the host holds during a run beside the tensors of a backend.

use flux2_backend::MemoryUse;

use super::{Order, StageMemory, StagePeaks, unlike};
use crate::Result;
use crate::canvas::{Placed, Source};
use crate::device::Device;
use crate::event::Phase;
use crate::request::{GenerateRequest, Reference, ResolvedRequest};
use crate::upscale::Tiling;
use crate::variant::Variant;

impl StagePeaks {
    /// Add what the host holds beside the backend's tensors: reference images and sources, the largest of them as f32
    /// while it is encoded, their tokens from then on, the finished pixels as f32, what is pasted. Images are read in their
    /// stage. With `decodes_previews`, the pixels of one of them as f32 and as bytes beside each step.
    pub(crate) fn add_host_memory(
        &mut self,
        variant: &'static Variant,
        requests: &[GenerateRequest],
        order: Order,
        decodes_previews: bool,
    ) -> Result<()> {
        let finished = if order == Order::Together { requests.len() } else { 1 };
        let [mut encoded, mut picture, mut enlarged, mut preview] = [0; 4];
        for request in unlike(requests) {
            let request = ResolvedRequest::new(request, variant)?;
            let channels = |[width, height]: [u32; 2]| 3 * width as usize * height as usize;
            let drawn = [request.width, request.height];
            let images = request.reference_px().chain(request.source.as_ref().map(|_| drawn));
            let largest = images.map(channels).max().unwrap_or_default();
            let working = request.source.as_ref().map_or(0, Placed::working_bytes);
            encoded = encoded.max(size_of::<f32>() * largest + working);
            let pasting = request.source.as_ref().map_or(0, |source| source.source().pasting_bytes());
            picture = picture.max(size_of::<f32>() * channels(drawn) * finished + pasting);
            if decodes_previews {
                preview = preview.max((size_of::<f32>() + 1) * channels(drawn) * finished);
            }
            if let Some(upscaling) = &request.upscale {
                let memory = upscaling.host_bytes(request.picture_px(), Tiling::usual(Device::Cpu))?;
                enlarged = enlarged.max(memory);
            }
        }
        let images = ReferenceImages::of(requests);
        for StageMemory { stage, memory } in &mut self.stages {
            memory.allocated += images.held;
            memory.allocated += match stage {
                Phase::References => encoded,
                Phase::Denoise => preview,
                Phase::Decode => picture,
                Phase::Upscale => enlarged,
                _ => 0,
            };
            // In its text stage the first request has no tokens yet.
            if *stage != Phase::Text || requests.len() > 1 {
                memory.allocated += self.reference_bytes;
            }
            if *stage == Phase::References && memory.total() < images.reading {
                *memory = MemoryUse { allocated: images.reading, mapped: 0 };
            }
        }
        Ok(())
    }
}

/// Host memory of the reference images of a run, in bytes.
#[derive(Default)]
struct ReferenceImages {
    /// Of all of them once they are read. Requests that share an image share its memory.
    held: usize,
    /// While they are read one after the other, at its peak.
    reading: usize,
}

impl ReferenceImages {
    fn of(requests: &[GenerateRequest]) -> Self {
        let mut images = Self::default();
        let mut known: Vec<&Reference> = Vec::new();
        for reference in requests.iter().flat_map(|request| &request.references) {
            if !known.iter().any(|known| known.is_clone_of(reference)) {
                known.push(reference);
                images.reading = images.reading.max(images.held + reference.reading_bytes());
                images.held += reference.image().pixels().len();
            }
        }
        let mut known: Vec<&Source> = Vec::new();
        for source in requests.iter().filter_map(|request| request.source.as_ref()) {
            if !known.iter().any(|known| known.is_clone_of(source)) {
                known.push(source);
                images.reading = images.reading.max(images.held + source.reading_bytes());
                images.held += source.held_bytes();
            }
        }
        images
    }
}

//! A model that is loaded on a device.

use std::cell::RefCell;
use std::collections::HashMap;

use flux2::weights::ModelFiles;
use flux2::{
    BatchMember, Batching, CancelToken, Engine, EngineOptions, Event, GenerateRequest, Observer, Residency, Result,
    engine, plan,
};

use crate::host::{Drawing, Drawn, LoadedModel};

/// A loaded model.
pub(super) struct EngineModel {
    pub engine: Box<dyn Engine>,
    pub files: ModelFiles,
    pub options: EngineOptions,
    pub bytes: usize,
    /// Bytes that a batch may take; `None` is not limited.
    pub limit: Option<usize>,
    /// See [`EngineHostOptions::useful_batches`].
    pub useful_batches: bool,
    /// The largest batch within the limit.
    pub batches: HashMap<BatchShape, usize>,
}

/// What the largest batch depends on.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct BatchShape {
    size: [Option<u32>; 2],
    steps: Option<u32>,
    is_guided: bool,
    /// Width and height of each reference.
    references: Vec<(u32, u32)>,
}

impl BatchShape {
    fn of(request: &GenerateRequest) -> Self {
        let references = request.references.iter().map(|reference| reference.image());
        BatchShape {
            size: [request.width, request.height],
            steps: request.steps,
            is_guided: request.guidance.is_some_and(|guidance| guidance > 1.0),
            references: references.map(|image| (image.width(), image.height())).collect(),
        }
    }
}

/// Sizes whose largest batch is remembered. Requests choose sizes, so their number must be bounded.
const MAX_BATCH_SIZES: usize = 256;

impl LoadedModel for EngineModel {
    fn memory(&self) -> usize {
        self.bytes
    }

    /// As many as the plan says; without a limit the engine draws fewer at a time when memory is short.
    fn largest_batch(&mut self, request: &GenerateRequest, most: usize) -> usize {
        let most = match self.useful_batches {
            true => most.min(engine::useful_batch(self.engine.place(), &self.files, request)),
            false => most,
        };
        let Some(limit) = self.limit.filter(|_| most > 1) else { return most };
        let shape = BatchShape::of(request);
        if let Some(known) = self.batches.get(&shape) {
            return most.min(*known);
        }
        let planned = plan::largest_batch(limit, &self.files, &self.options, request, most);
        if self.batches.len() >= MAX_BATCH_SIZES {
            self.batches.clear();
        }
        // A request that cannot be planned is drawn alone, and says why it fails.
        let largest = planned.unwrap_or(1).max(1);
        self.batches.insert(shape, largest);
        largest
    }

    fn encodes_ahead(&self) -> bool {
        self.options.residency != Residency::KeepAll
    }

    fn prepare_prompts(
        &mut self,
        prompts: &[&str],
        observer: &mut dyn FnMut(&Event),
        cancel: &CancelToken,
    ) -> Result<()> {
        self.engine.prepare_prompts(prompts, &mut |event: &Event| observer(event), cancel)
    }

    fn draw(&mut self, batch: &[Drawing], observer: &mut dyn FnMut(usize, &Event)) -> Vec<Result<Drawn>> {
        // All members share one observer, which is called for one of them at a time.
        let observer = RefCell::new(observer);
        let observe = |index: usize, event: &Event| (observer.borrow_mut())(index, event);
        let mut observers = Vec::new();
        for (index, one) in batch.iter().enumerate() {
            observers.push(OfPicture { index, observe: &observe, wants_previews: one.wants_previews });
        }
        let members = batch.iter().zip(&mut observers);
        let mut members: Vec<_> =
            members.map(|(one, observer)| BatchMember { request: one.request, observer, cancel: one.cancel }).collect();
        let drawn = self.engine.draw_batch(&mut members, Batching::SameBytes);
        drawn.into_iter().map(|drawn| drawn.map(|decoded| Box::new(|| decoded.convert()) as Drawn)).collect()
    }
}

/// The observer of one picture of a batch.
struct OfPicture<'a> {
    index: usize,
    observe: &'a dyn Fn(usize, &Event),
    wants_previews: &'a dyn Fn() -> bool,
}

impl Observer for OfPicture<'_> {
    fn on_event(&mut self, event: &Event) {
        (self.observe)(self.index, event);
    }

    fn wants_previews(&self) -> bool {
        (self.wants_previews)()
    }
}

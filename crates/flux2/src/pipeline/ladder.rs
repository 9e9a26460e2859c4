//! Fallbacks for a stage that runs out of memory: a ladder of [`Rung`]s, the cheapest first.
//!
//! A stage that fails with [`OutOfMemory`](flux2_backend::Error::OutOfMemory) takes the next rung and begins again. No
//! rung changes a picture; each costs time. Rungs stay taken, since memory will be as short for the next picture. A
//! batch is halved until it is a single picture before any other rung is taken.

use flux2_backend::Backend;

use super::Pipeline;
use crate::event::{Event, Observer, Phase, Rung, Warning};
use crate::{Error, Result};

/// A rung that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescue {
    /// The stage that ran out of memory.
    pub stage: Phase,
    /// The fallback it took.
    pub rung: Rung,
}

/// The rungs taken since the last picture, and how large a batch may be.
#[derive(Default)]
pub(super) struct Ladder {
    rescues: Vec<Rescue>,
    /// Pictures of the pass that is running, and the image and reference tokens of each.
    in_pass: (usize, usize),
    /// Most tokens of a pass, once memory was short.
    most_tokens: Option<usize>,
}

impl Ladder {
    /// The rungs taken since the last call.
    pub(super) fn take(&mut self) -> Vec<Rescue> {
        std::mem::take(&mut self.rescues)
    }

    /// How many of `pictures` with so many tokens each go into the next pass, which begins now.
    pub(super) fn begin_pass(&mut self, pictures: usize, tokens: usize) -> usize {
        let most = self.most_tokens.map_or(pictures, |most| (most / tokens.max(1)).clamp(1, pictures.max(1)));
        self.in_pass = (pictures.min(most), tokens);
        self.in_pass.0
    }
}

impl<B: Backend> Pipeline<B> {
    /// Run `work`, and again after every rung it takes.
    ///
    /// # Errors
    /// Those of `work`; [`Error::NoMemory`] if it still runs out of memory after the last rung.
    pub(super) fn with_fallbacks<T>(
        &mut self,
        stage: Phase,
        observer: &mut dyn Observer,
        mut work: impl FnMut(&mut Self, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let mut taken = Vec::new();
        loop {
            let bytes = match work(self, observer) {
                Err(Error::Backend(flux2_backend::Error::OutOfMemory { bytes })) => bytes,
                other => return other,
            };
            let is_left = |rung: &Rung| *rung == Rung::HalveBatch || !taken.contains(rung);
            let next = Rung::ALL.into_iter().find(|rung| is_left(rung) && self.can_take(*rung, stage));
            let Some(rung) = next else {
                self.ladder.rescues.clear();
                return Err(Error::NoMemory { stage, bytes });
            };
            taken.push(rung);
            self.take_rung(rung);
            self.ladder.rescues.push(Rescue { stage, rung });
            observer.on_event(&Event::Warning(Warning::MemoryShort { stage, rung }));
        }
    }

    /// Whether a rung would free memory in a stage.
    fn can_take(&self, rung: Rung, stage: Phase) -> bool {
        match rung {
            Rung::HalveBatch => stage == Phase::Denoise && self.ladder.in_pass.0 > 1,
            Rung::FreeCaches => true,
            Rung::StreamDecoder => stage == Phase::Decode && self.networks.can_stream_decoder(),
            Rung::OffloadEncoder => self.networks.can_offload_encoder(stage == Phase::Text),
            Rung::StreamBlocks => self.networks.can_stream_blocks(stage == Phase::Denoise),
        }
    }

    fn take_rung(&mut self, rung: Rung) {
        match rung {
            Rung::HalveBatch => {
                let (pictures, tokens) = self.ladder.in_pass;
                self.ladder.most_tokens = Some(pictures.div_ceil(2) * tokens);
                self.networks.clear_captures();
            }
            Rung::FreeCaches => {
                self.prompts.clear();
                // On a GPU they take none of the memory that is short.
                if !self.be.is_asynchronous() {
                    self.references.clear();
                }
                self.networks.clear_captures();
            }
            Rung::StreamDecoder => self.networks.stream_decoder(),
            Rung::OffloadEncoder => self.networks.offload_encoder(),
            Rung::StreamBlocks => self.networks.stream_blocks(),
        }
        self.be.trim();
    }
}

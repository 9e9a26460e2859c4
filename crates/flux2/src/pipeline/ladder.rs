//! Fallbacks for a stage that runs out of memory: a ladder of [`Rung`]s, the cheapest first.
//!
//! A stage that fails with [`OutOfMemory`](flux2_backend::Error::OutOfMemory) takes the next rung and begins again. No
//! rung changes a picture; each costs time. Rungs stay taken, since memory will be as short for the next picture.

use std::fmt;

use flux2_backend::Backend;

use super::Pipeline;
use crate::event::{Event, Observer, Phase, Warning};
use crate::{Error, Result};

/// A fallback, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Free caches: captured passes, text embeddings, pooled memory.
    FreeCaches,
    /// Compute the decoder's largest maps in bands where they are read, several times, instead of keeping them.
    StreamDecoder,
    /// Offload the text encoder's weights: they stay in host memory and are copied to the GPU for every use.
    OffloadEncoder,
    /// Offload the flow transformer's weights likewise.
    StreamBlocks,
}

impl Rung {
    const ALL: [Rung; 4] = [Rung::FreeCaches, Rung::StreamDecoder, Rung::OffloadEncoder, Rung::StreamBlocks];

    /// A short name for records, in kebab case.
    pub const fn name(self) -> &'static str {
        match self {
            Rung::FreeCaches => "free-caches",
            Rung::StreamDecoder => "stream-decoder",
            Rung::OffloadEncoder => "offload-encoder",
            Rung::StreamBlocks => "stream-blocks",
        }
    }
}

/// A clause for people.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::FreeCaches => "caches are freed",
            Rung::StreamDecoder => "the decoder computes its largest maps piece by piece",
            Rung::OffloadEncoder => "the text encoder's weights stay in host memory",
            Rung::StreamBlocks => "the transformer's weights stay in host memory",
        })
    }
}

/// A rung that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescue {
    /// The stage that ran out of memory.
    pub stage: Phase,
    /// The fallback it took.
    pub rung: Rung,
}

/// The rungs taken since the last picture.
#[derive(Default)]
pub(super) struct Ladder {
    rescues: Vec<Rescue>,
}

impl Ladder {
    /// The rungs taken since the last call.
    pub(super) fn take(&mut self) -> Vec<Rescue> {
        std::mem::take(&mut self.rescues)
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
            let next = Rung::ALL.into_iter().find(|rung| !taken.contains(rung) && self.can_take(*rung, stage));
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
            Rung::FreeCaches => true,
            Rung::StreamDecoder => stage == Phase::Decode && self.networks.can_stream_decoder(),
            Rung::OffloadEncoder => self.networks.can_offload_encoder(stage == Phase::Text),
            Rung::StreamBlocks => self.networks.can_stream_blocks(stage == Phase::Denoise),
        }
    }

    fn take_rung(&mut self, rung: Rung) {
        match rung {
            Rung::FreeCaches => {
                self.prompts.clear();
                // On a GPU they take none of the memory that is short.
                if !self.be.works_beside_host() {
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

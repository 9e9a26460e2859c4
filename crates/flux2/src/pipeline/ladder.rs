//! Where memory does not suffice: what is given up, one rung after the other, until a stage runs or there is nothing left.
//!
//! A stage that meets the end of memory is begun again, so no picture is other than it would have been; what it costs is time.
//! What was given up stays so: memory will be as short for the next picture.

use flux2_backend::{Backend, Placement};

use super::{Pipeline, Residency};
use crate::event::{Event, Observer, Phase, Rung, Warning};
use crate::models::vae::Decoder;
use crate::weights::Part;
use crate::{Error, Result};

/// Memory was short, and something was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescue {
    /// In which stage.
    pub stage: Phase,
    /// What.
    pub rung: Rung,
}

/// What has been given up.
#[derive(Default)]
pub(super) struct Ladder {
    pub(super) streams_decoder: bool,
    pub(super) offloads_encoder: bool,
    /// Since the last picture.
    rescues: Vec<Rescue>,
}

impl Ladder {
    /// What was given up since the last call.
    pub(super) fn take(&mut self) -> Vec<Rescue> {
        std::mem::take(&mut self.rescues)
    }
}

impl<B: Backend> Pipeline<B> {
    /// `work`, begun anew for every rung that it takes.
    ///
    /// # Errors
    /// Those of `work`; [`Error::NoMemory`] where nothing is left to give up.
    pub(super) fn in_memory<T>(
        &mut self,
        stage: Phase,
        observer: &mut dyn Observer,
        mut work: impl FnMut(&mut Self, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let mut climbed = Vec::new();
        loop {
            let bytes = match work(self, observer) {
                Err(Error::Backend(flux2_backend::Error::OutOfMemory { bytes })) => bytes,
                other => return other,
            };
            let next = Rung::ALL.into_iter().find(|rung| !climbed.contains(rung) && self.can_climb(*rung, stage));
            let Some(rung) = next else {
                self.ladder.rescues.clear();
                return Err(Error::NoMemory { stage, bytes });
            };
            climbed.push(rung);
            self.climb(rung);
            self.ladder.rescues.push(Rescue { stage, rung });
            observer.on_event(&Event::Warning(Warning::MemoryShort { stage, rung }));
        }
    }

    /// Whether a rung makes room for a stage.
    fn can_climb(&self, rung: Rung, stage: Phase) -> bool {
        match rung {
            Rung::FreeCaches => true,
            Rung::StreamDecoder => stage == Phase::Decode && !self.ladder.streams_decoder,
            Rung::OffloadEncoder => {
                let is_there = stage == Phase::Text || self.residency == Residency::KeepAll;
                is_there && self.placement(Part::TextEncoder) == Placement::Device
            }
            Rung::StreamBlocks => {
                let is_there = stage == Phase::Denoise || !self.residency.releases();
                is_there && self.placement(Part::Transformer) == Placement::Device
            }
        }
    }

    fn climb(&mut self, rung: Rung) {
        match rung {
            Rung::FreeCaches => {
                self.embeddings.clear();
                self.transformer.iter_mut().for_each(|(transformer, _)| transformer.forget_recordings());
                self.decoder.iter_mut().for_each(Decoder::forget_recordings);
            }
            Rung::StreamDecoder => self.ladder.streams_decoder = true,
            Rung::OffloadEncoder => {
                self.ladder.offloads_encoder = true;
                self.text_encoder = None;
            }
            Rung::StreamBlocks => {
                self.residency = Residency::Streamed;
                self.transformer = None;
            }
        }
        self.be.trim();
    }
}

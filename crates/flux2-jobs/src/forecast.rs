//! What a job would take: size, time and memory, before it is submitted.

use std::time::Duration;

use flux2::{GenerateRequest, Warning};

use crate::jobs::Jobs;
use crate::spec::JobSpec;
use crate::submission::{Draft, Refused};
use crate::submit::Resolved;

/// What a job would take.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// What would be drawn, every default filled in.
    pub spec: JobSpec,
    /// Width and height that each reference image is prepared to, in pixels.
    pub references: Vec<[u32; 2]>,
    /// Estimated seconds to draw all of its pictures.
    pub seconds: f64,
    /// Estimated time until it would start.
    pub wait: Duration,
    /// Bytes that a picture takes at most, with its model; `None` if the host does not know.
    pub memory: Option<usize>,
    /// Parts of the request that would be ignored or are probably not meant.
    pub warnings: Vec<Warning>,
}

impl Jobs {
    /// What a job of this draft would take. Nothing is submitted; reference images are decoded (may block on the disk).
    ///
    /// # Errors
    /// What [`submit`](Self::submit) refuses for the draft's own sake: a full queue is no error here.
    pub fn forecast(&self, draft: Draft) -> Result<Forecast, Refused> {
        let shared = self.shared();
        let Resolved { spec, work, warnings } = shared.resolve(draft)?;
        let references = shared.references.all(&spec.references, &shared.uploads)?;
        let sizes = references.iter().map(|one| [one.image().width(), one.image().height()]).collect();
        let source =
            spec.source.as_ref().map(|source| shared.references.source(source, &shared.uploads)).transpose()?;
        let own = |side: u32| source.is_none().then_some(side);
        let request = GenerateRequest {
            references,
            width: own(spec.width),
            height: own(spec.height),
            source,
            steps: Some(spec.steps),
            guidance: spec.guidance,
            ..GenerateRequest::default()
        };
        let memory = shared.host.memory(&spec.model, &request);
        let state = shared.lock();
        let (seconds, wait) = (state.estimates.seconds(&spec, work), state.wait());
        drop(state);
        Ok(Forecast { spec, references: sizes, seconds, wait, memory, warnings })
    }
}

//! A limit for the memory of the host, kept by planning pictures before they are drawn.

use super::EngineOptions;
use crate::Result;
use crate::pipeline::{BatchMember, Residency};
use crate::plan::DryRun;
use crate::request::{GenerateRequest, Reference};
use crate::weights::ModelFiles;

/// Most passes that are remembered. Requests choose sizes, so their number must be bounded.
const MAX_KNOWN: usize = 64;

/// The limit, and what is known to keep to it.
pub(super) struct HostLimit {
    bytes: usize,
    dry_run: DryRun,
    /// With the residency that the requests so far have needed.
    options: EngineOptions,
    /// Pictures that fit when they are drawn together, or alone: they are not planned again.
    known: Vec<Vec<Shape>>,
}

/// What the memory of a picture depends on.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    size: [Option<u32>; 2],
    steps: Option<u32>,
    guidance: Option<f32>,
    /// Width, height and memory to read of each reference.
    references: Vec<(u32, u32, usize)>,
}

impl Shape {
    fn of(request: &GenerateRequest) -> Self {
        let image = |r: &Reference| (r.image().width(), r.image().height(), r.reading_bytes());
        Shape {
            size: [request.width, request.height],
            steps: request.steps,
            guidance: request.guidance,
            references: request.references.iter().map(image).collect(),
        }
    }
}

impl HostLimit {
    /// A limit of so many bytes. Each of the requests `planned` keeps to it when it is drawn alone with `options`.
    pub(super) fn new(bytes: usize, dry_run: DryRun, options: EngineOptions, planned: &[GenerateRequest]) -> Self {
        let mut limit = HostLimit { bytes, dry_run, options, known: Vec::new() };
        for request in planned {
            limit.remember(vec![Shape::of(request)]);
        }
        limit
    }

    /// Keep within the limit with `request` too. Returns what may stay in memory for that, if it is less than before.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`](crate::Error::MemoryLimit) if nothing is little enough.
    pub(super) fn admit(&mut self, files: &ModelFiles, request: &GenerateRequest) -> Result<Option<Residency>> {
        let shape = vec![Shape::of(request)];
        if self.known.contains(&shape) {
            return Ok(None);
        }
        let (requests, before) = (std::slice::from_ref(request), self.options.residency);
        if self.dry_run.plan(files, &self.options, requests)?.peak_bytes() > self.bytes {
            (self.options, _) = self.dry_run.within(self.bytes, files, &self.options, requests, false)?;
        }
        self.remember(shape);
        Ok(Some(self.options.residency).filter(|residency| *residency != before))
    }

    /// Whether `members` keep within the limit when they are drawn together.
    pub(super) fn fit_together(&mut self, files: &ModelFiles, members: &[BatchMember]) -> bool {
        let shapes: Vec<Shape> = members.iter().map(|member| Shape::of(member.request)).collect();
        if self.known.contains(&shapes) {
            return true;
        }
        let requests: Vec<GenerateRequest> = members.iter().map(|member| member.request.clone()).collect();
        // What cannot be planned is drawn alone, for an error of its own.
        let plan = self.dry_run.plan_batch(files, &self.options, &requests);
        let fits = plan.is_ok_and(|plan| plan.peak_bytes() <= self.bytes);
        if fits {
            self.remember(shapes);
        }
        fits
    }

    fn remember(&mut self, shapes: Vec<Shape>) {
        if self.known.contains(&shapes) {
            return;
        }
        if self.known.len() == MAX_KNOWN {
            self.known.remove(0);
        }
        self.known.push(shapes);
    }
}

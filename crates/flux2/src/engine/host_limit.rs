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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::event::CancelToken;
    use crate::variant::Variant;

    fn request(side: u32, prompt: &str) -> GenerateRequest {
        GenerateRequest { prompt: prompt.into(), width: Some(side), height: Some(side), ..Default::default() }
    }

    #[test]
    fn what_was_planned_is_not_planned_again() {
        let files = ModelFiles::synthetic(Variant::by_name("klein-mini").unwrap()).unwrap();
        let limit = |bytes, planned: &[GenerateRequest]| {
            HostLimit::new(bytes, DryRun::Processor, EngineOptions::default(), planned)
        };
        // A limit that no plan keeps to shows what is planned.
        let mut none = limit(0, &[request(64, "a cat")]);
        assert!(none.admit(&files, &request(64, "a dog")).unwrap().is_none());
        assert!(matches!(none.admit(&files, &request(96, "a cat")), Err(Error::MemoryLimit { .. })));

        let (requests, cancel) = ([request(64, "a cat"), request(64, "a dog")], CancelToken::new());
        let fit_together = |limit: &mut HostLimit| {
            let mut observers = [|_: &crate::Event| {}; 2];
            let members = requests.iter().zip(&mut observers);
            let members = members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel });
            limit.fit_together(&files, &members.collect::<Vec<_>>())
        };
        let both = DryRun::Processor.plan_batch(&files, &EngineOptions::default(), &requests).unwrap().peak_bytes();
        assert!(fit_together(&mut limit(both, &[])));
        let mut less = limit(both - 1, &[]);
        assert!(!fit_together(&mut less));
        less.remember(requests.iter().map(Shape::of).collect());
        assert!(fit_together(&mut less), "as it is known to fit");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let planned: Vec<_> = (1..=MAX_KNOWN as u32 + 9).map(|side| request(16 * side, "a cat")).collect();
        let limit = HostLimit::new(0, DryRun::Processor, EngineOptions::default(), &planned);
        assert_eq!(limit.known.len(), MAX_KNOWN);
        assert!(limit.known.contains(&vec![Shape::of(planned.last().unwrap())]));
    }
}

//! How long the pictures of a run will take: said before the first step, learned from what they took.

use std::path::Path;

use flux2::bench::Cost;
use flux2::weights::ModelFiles;
use flux2::{Engine, GenerateRequest, Reference, ResolvedRequest, Timings};

use crate::outlook::Outlook;
use crate::report::Report;
use crate::settings::Settings;

/// Most pictures whose time is added up.
const MAX_PICTURES: u64 = 4096;

/// The speed of the run's first device, and what its pictures cost.
pub struct Costs {
    speed: Outlook,
    /// One for each picture, or one for all.
    costs: Vec<Cost>,
}

impl Costs {
    /// Says how long the pictures will take, if that is known.
    pub fn expect(
        settings: &Settings,
        first: &dyn Engine,
        workers: usize,
        files: &ModelFiles,
        references: &[Reference],
        report: &mut Report,
    ) -> Self {
        // Beside that of the previews.
        let folder = settings.options.previews.cache.as_deref().and_then(Path::parent);
        let speed = Outlook::open(folder, first.device(), &files.name);
        let (pictures, differ) = (settings.pictures(), !settings.cells.is_empty());
        let cost = |i: u64| {
            let request = GenerateRequest { references: settings.of_picture(i, references), ..settings.request(i) };
            // What is wrong with a request is said when it is handed in.
            ResolvedRequest::new(&request, files.variant).ok().map(|request| Cost::at_most(files, &request))
        };
        if pictures > MAX_PICTURES {
            return Costs { speed, costs: Vec::new() };
        }
        let costs: Vec<Cost> = (0..if differ { pictures } else { 1 }).map_while(cost).collect();
        let all = match costs.first() {
            Some(first) if !differ => vec![*first; pictures as usize],
            _ => costs.clone(),
        };
        if let Some(expected) = speed.expect(&all, first.place(), workers, &settings.options.for_model(files)) {
            report.expect(&expected, pictures, !differ);
        }
        Costs { speed, costs }
    }

    /// Learns from picture `i`, which was drawn on the first device, together with others.
    pub fn learn(&mut self, i: u64, batch: usize, timings: &Timings) {
        let place = if self.costs.len() == 1 { 0 } else { i as usize };
        if let Some(cost) = self.costs.get(place) {
            self.speed.learn(&cost.of_pictures(batch), &timings.steps);
        }
    }

    /// Keeps what was learned for the next run.
    pub fn keep(&self) {
        self.speed.keep();
    }
}

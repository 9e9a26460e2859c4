//! Colors, encoding and saving: on threads of their own, bounded, in order.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

use flux2::{CancelToken, Error, Event, GenerateRequest, GeneratedImage, ResolvedRequest, Result};
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::host::{Device, Drawing, Drawn, LoadedModel, ResolvedModel};
use flux2_jobs::{
    FailureClass, JobFailure, JobState, Jobs, ModelChoice, ModelHost, ModelInfo, ModelKey, Options, Refused,
};

use crate::common::{PATIENCE, ended, picture, wait_until};

/// Counts pictures whose drawing has begun, and lets the conversion of picture `n`, from 1, end once `n` + `ahead`
/// have begun, or the gate is open.
#[derive(Default)]
struct Gate {
    begun: Mutex<usize>,
    changed: Condvar,
    ahead: usize,
    is_open: AtomicBool,
    /// Picture whose values are not finite.
    not_finite: Option<usize>,
    /// Picture whose conversion panics.
    panics: Option<usize>,
}

impl Gate {
    fn begin(&self) -> usize {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        self.changed.notify_all();
        *begun
    }

    fn open(&self) {
        let _begun = self.begun.lock().unwrap();
        self.is_open.store(true, Relaxed);
        self.changed.notify_all();
    }

    fn begun(&self) -> usize {
        *self.begun.lock().unwrap()
    }

    /// Convert picture `number`, once enough others have begun.
    fn convert(&self, number: usize, drawn: Drawn) -> Result<GeneratedImage> {
        let begun = self.begun.lock().unwrap();
        let is_closed = |begun: &mut usize| *begun < number + self.ahead && !self.is_open.load(Relaxed);
        let wait = self.changed.wait_timeout_while(begun, PATIENCE, is_closed);
        assert!(!wait.unwrap().1.timed_out(), "the worker waited for picture {number}");
        assert!(self.panics != Some(number), "a panic on demand");
        if self.not_finite == Some(number) { Err(Error::NotFinite) } else { drawn() }
    }
}

/// The fake host, but the colors of a picture are converted when its gate lets it pass.
struct Slow(FakeHost, Arc<Gate>);

impl ModelHost for Slow {
    fn models(&self) -> Vec<ModelInfo> {
        self.0.models()
    }

    fn resolve(&self, choice: &ModelChoice) -> Result<ResolvedModel, Refused> {
        self.0.resolve(choice)
    }

    fn work(&self, model: &ModelKey, request: &ResolvedRequest) -> f64 {
        self.0.work(model, request)
    }

    fn devices(&self) -> Result<Vec<Box<dyn Device>>, JobFailure> {
        let slow = |device| Box::new(SlowDevice(device, Arc::clone(&self.1))) as Box<dyn Device>;
        Ok(self.0.devices()?.into_iter().map(slow).collect())
    }
}

struct SlowDevice(Box<dyn Device>, Arc<Gate>);

impl Device for SlowDevice {
    fn name(&self) -> String {
        self.0.name()
    }

    fn needs(&mut self, model: &ModelKey) -> Result<usize> {
        self.0.needs(model)
    }

    fn load(&mut self, model: &ModelKey) -> Result<Box<dyn LoadedModel>> {
        Ok(Box::new(SlowModel(self.0.load(model)?, Arc::clone(&self.1))))
    }
}

struct SlowModel(Box<dyn LoadedModel>, Arc<Gate>);

impl LoadedModel for SlowModel {
    fn memory(&self) -> usize {
        self.0.memory()
    }

    fn largest_batch(&mut self, request: &GenerateRequest, most: usize) -> usize {
        self.0.largest_batch(request, most)
    }

    fn encodes_ahead(&self) -> bool {
        false
    }

    fn prepare_prompts(&mut self, _: &[&str], _: &mut dyn FnMut(&Event), _: &CancelToken) -> Result<()> {
        Ok(())
    }

    fn draw(&mut self, batch: &[Drawing], observer: &mut dyn FnMut(usize, &Event)) -> Vec<Result<Drawn>> {
        let gate = &self.1;
        let number = gate.begin();
        let slow = |drawn: Drawn| {
            let gate = Arc::clone(gate);
            Box::new(move || gate.convert(number, drawn)) as Drawn
        };
        self.0.draw(batch, observer).into_iter().map(|drawn| drawn.map(slow)).collect()
    }
}

fn start(gate: &Arc<Gate>, savers: usize) -> Jobs {
    let host = Slow(FakeHost::new(FakeOptions::default()), Arc::clone(gate));
    Jobs::start(Options { savers, ..Options::default() }, Arc::new(host)).unwrap()
}

#[test]
fn the_next_picture_begins_before_the_colors_of_the_last_are_converted() {
    let gate = Arc::new(Gate { ahead: 1, ..Gate::default() });
    let jobs = start(&gate, 2);
    let ids: Vec<_> = (0..6).map(|number| jobs.submit(picture(&number.to_string())).unwrap().id).collect();
    let states: Vec<_> = ids[..5].iter().map(|id| ended(&jobs, *id).state).collect();
    assert_eq!(states, [JobState::Done; 5]);
    assert!(!jobs.get(ids[5]).unwrap().state.is_final(), "its colors wait for a seventh picture");
    let seventh = jobs.submit(picture("6")).unwrap().id;
    assert_eq!(ended(&jobs, ids[5]).state, JobState::Done);
    gate.begin();
    assert_eq!(ended(&jobs, seventh).state, JobState::Done);
}

#[test]
fn pictures_that_wait_to_be_saved_are_bounded() {
    let gate = Arc::new(Gate { ahead: 1000, ..Gate::default() });
    let savers = 2;
    let jobs = start(&gate, savers);
    let ids: Vec<_> = (0..20).map(|number| jobs.submit(picture(&number.to_string())).unwrap().id).collect();
    // One for each thread, as many that wait, and one that the worker holds.
    wait_until("the worker waits", || gate.begun() == 2 * savers + 1);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(gate.begun(), 2 * savers + 1);
    gate.open();
    assert!(ids.iter().all(|id| ended(&jobs, *id).state == JobState::Done));
}

#[test]
fn colors_that_cannot_be_converted_fail_their_job_only() {
    let gate = Arc::new(Gate { not_finite: Some(2), panics: Some(3), ..Gate::default() });
    let jobs = start(&gate, 1);
    let ids: Vec<_> = (0..4).map(|number| jobs.submit(picture(&number.to_string())).unwrap().id).collect();
    let classes: Vec<_> = ids.iter().map(|id| ended(&jobs, *id).failure.map(|failure| failure.class)).collect();
    assert_eq!(classes, [None, Some(FailureClass::NotFinite), Some(FailureClass::Internal), None]);
}

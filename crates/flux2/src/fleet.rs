//! Several engines at work on one queue: each takes the next job when it is done with its last, so a slow one takes fewer.
//!
//! In:  engines, jobs, and what is to be done for a job. Out: what workers say meanwhile, told to the calling thread.
//!
//! What a job is, is its caller's affair: a picture, or several in a row. Each engine has a thread of its own, and a single one
//! works on the calling thread. Nothing here knows a device.

use std::sync::{Mutex, mpsc};
use std::thread;

use crate::engine::Engine;
use crate::event::{CancelToken, Event};
use crate::pipeline::GeneratedImage;
use crate::request::GenerateRequest;
use crate::{Error, Result};

/// An engine at work, and its way to the thread that listens: whatever it says is an `M`.
pub struct Worker<'a, M> {
    engine: &'a mut dyn Engine,
    cancel: &'a CancelToken,
    say: &'a mut dyn FnMut(M),
}

impl<M> Worker<'_, M> {
    /// The engine, for what it is asked.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Tell the thread that listens.
    pub fn say(&mut self, message: M) {
        (self.say)(message);
    }

    /// Take jobs until there are none.
    fn work_off<J, E: From<Error>>(
        &mut self,
        mut next: impl FnMut() -> Option<J>,
        work: &impl Fn(&mut Self, J) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(job) = next() {
            self.cancel.check().map_err(Error::from)?;
            work(self, job)?;
        }
        Ok(())
    }
}

impl<M: From<Event>> Worker<'_, M> {
    /// See [`Engine::generate`]; events are said.
    ///
    /// # Errors
    /// [`Error::Cancelled`], also if another worker has failed; otherwise as there.
    pub fn generate(&mut self, request: &GenerateRequest) -> Result<GeneratedImage> {
        self.engine.generate(request, &mut |event: &Event| (self.say)(event.clone().into()), self.cancel)
    }

    /// See [`Engine::prepare_prompts`]; events are said.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn prepare_prompts(&mut self, prompts: &[&str]) -> Result<()> {
        self.engine.prepare_prompts(prompts, &mut |event: &Event| (self.say)(event.clone().into()), self.cancel)
    }
}

/// Do `work` for each of `jobs`, in their order, each on the engine that is free first. What workers say is handed to `hear` with
/// the number of the engine, on the calling thread, in the order in which it was said.
///
/// The first error ends the run: what is under way is cancelled, and what was done by then has been heard.
///
/// # Errors
/// The first of `work` and `hear`, or [`Error::Cancelled`] if `cancel` is cancelled and there are jobs left.
///
/// # Panics
/// Without an engine, or if `work` or `hear` does.
pub fn run<J: Send, M: Send, E: From<Error> + Send>(
    engines: &mut [Box<dyn Engine>],
    jobs: impl Iterator<Item = J> + Send,
    cancel: &CancelToken,
    work: impl Fn(&mut Worker<M>, J) -> Result<(), E> + Sync,
    mut hear: impl FnMut(usize, M) -> Result<(), E>,
) -> Result<(), E> {
    assert!(!engines.is_empty(), "a fleet has an engine or more");
    let (stop, mut jobs, mut failure) = (cancel.child(), jobs.fuse(), None);
    if let [engine] = engines {
        let mut say = |message| {
            if let Err(error) = hear(0, message) {
                failure.get_or_insert(error);
                stop.cancel();
            }
        };
        let mut worker = Worker { engine: &mut **engine, cancel: &stop, say: &mut say };
        let done = worker.work_off(|| jobs.next(), &work);
        return failure.map_or(done, Err);
    }

    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().expect("no panic while the next job is taken").next();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (number, engine) in engines.iter_mut().enumerate() {
            let (sender, stop, next, work) = (sender.clone(), &stop, &next, &work);
            scope.spawn(move || {
                // The thread that listens waits for the end of this one.
                let send = |sent| sender.send((number, sent)).expect("somebody listens");
                let mut say = |message| send(Sent::Said(message));
                let mut worker = Worker { engine: &mut **engine, cancel: stop, say: &mut say };
                if let Err(error) = worker.work_off(next, work) {
                    send(Sent::Failed(error));
                }
            });
        }
        drop(sender);
        for (number, sent) in receiver {
            let heard = match sent {
                Sent::Said(message) => hear(number, message),
                Sent::Failed(error) => Err(error),
            };
            if let Err(error) = heard {
                // Later ones come of the cancelling.
                failure.get_or_insert(error);
                stop.cancel();
            }
        }
    });
    failure.map_or(Ok(()), Err)
}

/// What a worker sends.
enum Sent<M, E> {
    Said(M),
    Failed(E),
}

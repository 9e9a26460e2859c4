//! Several engines working on one queue. Each takes the next job when its last is finished, so a slow one takes fewer.
//!
//! In:  engines, jobs, and the work to do for a job. Out: messages of the workers, received on the calling thread.
//!
//! The caller defines what a job is: a picture, or several in a row. Each engine has a worker thread; a single engine
//! works on the calling thread.

use std::sync::{Mutex, mpsc};
use std::thread;

use crate::engine::Engine;
use crate::event::{CancelToken, Event};
use crate::pipeline::GeneratedImage;
use crate::request::GenerateRequest;
use crate::{Error, Result};

/// An engine and the channel for its messages of type `M`.
pub struct Worker<'a, M> {
    engine: &'a mut dyn Engine,
    cancel: &'a CancelToken,
    send: &'a mut dyn FnMut(M),
}

impl<M> Worker<'_, M> {
    /// The engine, for questions such as its device.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Send a message to the calling thread of [`run`].
    pub fn send(&mut self, message: M) {
        (self.send)(message);
    }

    /// Take jobs until there are none left.
    fn run_jobs<J, E: From<Error>>(
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
    /// See [`Engine::generate_with`]; events are sent as messages.
    ///
    /// # Errors
    /// As there; [`Error::Cancelled`] also if another worker has failed.
    pub fn generate(&mut self, request: &GenerateRequest) -> Result<GeneratedImage> {
        self.engine.generate_with(request, &mut |event: &Event| (self.send)(event.clone().into()), self.cancel)
    }

    /// See [`Engine::prepare_prompts`]; events are sent as messages.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn prepare_prompts(&mut self, prompts: &[&str]) -> Result<()> {
        self.engine.prepare_prompts(prompts, &mut |event: &Event| (self.send)(event.clone().into()), self.cancel)
    }
}

/// Do `work` for each of `jobs`, in their order, each on the engine that is free first. `receive` is called on the
/// calling thread with every message and the number of the engine that sent it, in the order of sending.
///
/// The first error ends the run: jobs in progress are cancelled, and all messages sent by then are received.
///
/// # Errors
/// The first error of `work` or `receive`, or [`Error::Cancelled`] if `cancel` is cancelled while jobs are left.
///
/// # Panics
/// If there is no engine, or if `work` or `receive` panics.
pub fn run<J: Send, M: Send, E: From<Error> + Send>(
    engines: &mut [Box<dyn Engine>],
    jobs: impl Iterator<Item = J> + Send,
    cancel: &CancelToken,
    work: impl Fn(&mut Worker<M>, J) -> Result<(), E> + Sync,
    mut receive: impl FnMut(usize, M) -> Result<(), E>,
) -> Result<(), E> {
    assert!(!engines.is_empty(), "a fleet has an engine or more");
    let (stop, mut jobs, mut failure) = (cancel.child(), jobs.fuse(), None);
    if let [engine] = engines {
        let mut send = |message| {
            if let Err(error) = receive(0, message) {
                failure.get_or_insert(error);
                stop.cancel();
            }
        };
        let mut worker = Worker { engine: &mut **engine, cancel: &stop, send: &mut send };
        let done = worker.run_jobs(|| jobs.next(), &work);
        return failure.map_or(done, Err);
    }

    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().expect("no panic while the next job is taken").next();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (number, engine) in engines.iter_mut().enumerate() {
            let (sender, stop, next, work) = (sender.clone(), &stop, &next, &work);
            scope.spawn(move || {
                // The receiver lives until all senders are dropped.
                let send = |message| sender.send((number, message)).expect("the receiver lives");
                let mut send_message = |message| send(FromWorker::Message(message));
                let mut worker = Worker { engine: &mut **engine, cancel: stop, send: &mut send_message };
                if let Err(error) = worker.run_jobs(next, work) {
                    send(FromWorker::Failed(error));
                }
            });
        }
        drop(sender);
        for (number, sent) in receiver {
            let received = match sent {
                FromWorker::Message(message) => receive(number, message),
                FromWorker::Failed(error) => Err(error),
            };
            if let Err(error) = received {
                // Only the first: the cancellation makes the other workers fail too.
                failure.get_or_insert(error);
                stop.cancel();
            }
        }
    });
    failure.map_or(Ok(()), Err)
}

/// What a worker thread sends.
enum FromWorker<M, E> {
    Message(M),
    Failed(E),
}

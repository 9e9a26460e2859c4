//! A NATS server, workers with the fake engine, and front ends.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2_fleet::{Bus, DeadLetter, Front, FrontOptions, Place, QueueOptions, Record, Server, Worker, WorkerOptions};
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{
    Accepted, Draft, FailureClass, JobId, JobState, JobView, Next, Options, Queue as _, Readiness, Submission,
};
use tempfile::TempDir;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// A worker that is silent for this long loses its job to another one.
pub const LEASE: Duration = Duration::from_millis(1500);

/// A NATS server with a fleet.
pub struct Site {
    server: Option<Child>,
    pub port: u16,
    folder: TempDir,
    flags: Vec<String>,
    pub queue: QueueOptions,
    pub place: Place,
    pub runtime: tokio::runtime::Runtime,
}

impl Site {
    pub fn new() -> Site {
        Site::with(QueueOptions { lease: LEASE, ..QueueOptions::default() })
    }

    pub fn with(queue: QueueOptions) -> Site {
        Site::with_flags(queue, vec![])
    }

    /// A server with these flags.
    pub fn with_flags(queue: QueueOptions, flags: Vec<String>) -> Site {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut site = Site { server: None, port, folder, flags, queue, place: Place::Nats, runtime };
        site.start_server();
        site
    }

    pub fn start_server(&mut self) {
        let mut command = Command::new("nats-server");
        command
            .args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"])
            .arg(self.folder.path())
            .args(&self.flags);
        // Debian has it where the PATH of a user may not lead.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the tests need nats-server: apt-get install nats-server");
        self.server = Some(child);
        until("the NATS server listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// End the server as a crash would.
    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub fn server(&self) -> Server {
        Server { addresses: format!("nats://127.0.0.1:{}", self.port), ..Server::default() }
    }

    pub fn bus(&self) -> Bus {
        self.runtime.block_on(Bus::open(&self.server(), self.queue)).unwrap()
    }

    pub fn worker(&self, name: &str, fake: FakeOptions) -> Worker {
        self.worker_of_kind(name, "fake", fake)
    }

    pub fn worker_of_kind(&self, name: &str, kind: &str, fake: FakeOptions) -> Worker {
        let options = WorkerOptions {
            name: name.into(),
            kind: kind.into(),
            server: self.server(),
            queue: self.queue,
            place: self.place.clone(),
            jobs: Options::default(),
            max_input: 64 << 20,
            patience: Default::default(),
        };
        Worker::start(options, Arc::new(FakeHost::new(fake))).unwrap()
    }

    /// A front end that knows the models.
    pub fn front(&self) -> Front {
        self.front_with(|_| {})
    }

    pub fn front_with(&self, change: impl FnOnce(&mut FrontOptions)) -> Front {
        let mut options = FrontOptions {
            server: self.server(),
            queue: self.queue,
            place: self.place.clone(),
            jobs: Options::default(),
            same_device: None,
            max_input: 64 << 20,
        };
        change(&mut options);
        let front = Front::connect(options).unwrap();
        until("a worker has offered its model", || (front.readiness() == Readiness::Ready).then_some(()));
        front
    }

    pub fn dead_letters(&self, bus: &Bus) -> Vec<DeadLetter> {
        self.runtime.block_on(bus.dead_letters()).unwrap()
    }

    pub fn record(&self, bus: &Bus, id: JobId) -> Record {
        self.runtime.block_on(bus.get(id)).unwrap().expect("there is such a job").0
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Wait for something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A fake whose steps take so long.
pub fn steps_of(ms: u64) -> FakeOptions {
    FakeOptions { step: Duration::from_millis(ms), ..FakeOptions::default() }
}

/// A fake that fails where the prompt has this word.
pub fn failing(word: &str, class: FailureClass) -> FakeOptions {
    FakeOptions { failures: vec![(word.into(), class)], ..FakeOptions::default() }
}

pub fn order(prompt: &str) -> Submission {
    let draft = Draft { prompt: prompt.into(), seed: Some(7), width: Some(64), height: Some(64), ..Draft::default() };
    Submission { draft, owner: "me".into(), ..Submission::default() }
}

pub fn submit(front: &Front, prompt: &str) -> Accepted {
    front.submit(order(prompt)).unwrap()
}

/// The job when it is over, by its events.
pub fn end(front: &Front, id: JobId) -> JobView {
    let mut events = front.events(id, 0).expect("there is such a job");
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "the job does not end: {:?}", front.get(id));
        match events.next(Duration::from_secs(5)) {
            Next::End => break,
            Next::Event(_) | Next::Timeout => {}
        }
    }
    front.get(id).unwrap()
}

/// The job once it is in this state.
pub fn in_state(front: &Front, id: JobId, state: JobState) -> JobView {
    until(state.name(), || front.get(id).filter(|job| job.state == state))
}

//! The connection to NATS, and what it needs there: streams, buckets, consumers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::kv::Store;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, ServerAddr};
use flux2_jobs::Priority;

use crate::error::{FleetError, Result};
use crate::names::{self, Lane};

/// Time of a job in the queue after which the server drops it.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Time within which a job that is put into the queue again is known to be in it.
const DUPLICATES: Duration = Duration::from_secs(2 * 3600);
/// How long jobs and pictures are kept.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long dead letters are kept.
const DEAD_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a worker that says nothing counts as being there.
pub const WORKER_GONE: Duration = Duration::from_secs(30);
/// Largest message of a job: it only has the id.
const MAX_MESSAGE: i32 = 64 << 10;
/// Deliveries of a message before the server gives it up. Attempts are counted in the record; this is for messages
/// that kill workers before they are read.
const MAX_DELIVER: i64 = 20;
/// Longest wait for an answer of the server.
const REQUEST: Duration = Duration::from_secs(5);

/// Where the NATS server is, and how it knows this program.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// Addresses, as in `nats://host:4222` or `tls://host:4222`; those of a cluster with commas between them.
    pub addresses: String,
    /// File of credentials: a JWT and its key, as `nsc` writes them.
    pub credentials: Option<PathBuf>,
    /// Certificates that the server's is signed with, as PEM.
    pub authority: Option<PathBuf>,
    /// Certificate of this program and its private key, as PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Server {
    /// The addresses without a name and password in them.
    pub fn shown(&self) -> String {
        let hide = |address: &str| match address.rsplit_once('@') {
            Some((before, host)) => {
                let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
                format!("{scheme}{host}")
            }
            None => address.to_owned(),
        };
        self.addresses.split(',').map(|address| hide(address.trim())).collect::<Vec<_>>().join(",")
    }
}

/// How the queue of a fleet is kept. The first program that connects makes streams and consumers by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueOptions {
    /// Time without a sign of life after which a job of a worker is given to another.
    pub lease: Duration,
    /// Most jobs that wait or are drawn.
    pub max_jobs: usize,
    /// Copies of each stream in a cluster.
    pub replicas: usize,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions { lease: Duration::from_secs(30), max_jobs: 10_000, replicas: 1 }
    }
}

/// The connection, and the streams and buckets of a fleet.
#[derive(Clone)]
pub struct Bus {
    /// For what may be lost: progress, wishes.
    pub client: async_nats::Client,
    /// For what may not.
    pub jetstream: Context,
    /// The queue.
    pub jobs: Stream,
    /// Dead letters.
    pub dead: Stream,
    /// What the server says of jobs it gave up.
    pub advisories: Stream,
    /// All jobs.
    pub status: Store,
    /// Idempotency keys.
    pub keys: Store,
    /// Models that were ever offered.
    pub models: Store,
    /// Workers that are there.
    pub workers: Store,
    /// How the queue is kept.
    pub options: QueueOptions,
}

impl Bus {
    /// Connect, and make what is missing.
    ///
    /// # Errors
    /// [`FleetError`] if there is no server, or it refuses.
    pub async fn open(server: &Server, options: QueueOptions) -> Result<Bus> {
        let client = connect(server).await?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST);
        let stream = async |config: Config| {
            let name = config.name.clone();
            let config = Config { num_replicas: options.replicas, ..config };
            // Credentials that may not make streams may use those that are there.
            match jetstream.get_stream(&name).await {
                Ok(stream) => Ok(stream),
                Err(_) => {
                    jetstream.create_stream(config).await.map_err(|e| FleetError::refused(format!("stream {name}"), e))
                }
            }
        };
        let jobs = stream(jobs(options)).await?;
        let advisories = stream(advisories()).await?;
        let dead = stream(dead()).await?;
        let bucket = async |name: &str, max_age: Duration| {
            stream(bucket(name, max_age)).await?;
            let store = jetstream.get_key_value(name).await;
            store.map_err(|error| FleetError::refused(format!("bucket {name}"), error))
        };
        Ok(Bus {
            status: bucket(names::STATUS, KEPT).await?,
            keys: bucket(names::KEYS, KEPT).await?,
            models: bucket(names::MODELS, Duration::ZERO).await?,
            workers: bucket(names::WORKERS, WORKER_GONE).await?,
            client,
            jobs,
            dead,
            advisories,
            options,
            jetstream,
        })
    }

    /// The consumer of a lane's jobs of one priority; made if it is missing.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn consumer(&self, lane: &Lane, priority: Priority) -> Result<Consumer> {
        let name = lane.consumer(priority);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: lane.subject(priority),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.lease,
            max_deliver: MAX_DELIVER,
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        let made = self.jobs.get_or_create_consumer(&name, config).await;
        made.map_err(|error| FleetError::refused(format!("consumer {name}"), error))
    }
}

/// A consumer of jobs.
pub type Consumer = async_nats::jetstream::consumer::Consumer<pull::Config>;

async fn connect(server: &Server) -> Result<async_nats::Client> {
    let mut options = ConnectOptions::new().name("dj-flux2").request_timeout(Some(REQUEST));
    if let Some(path) = &server.credentials {
        let text = std::fs::read_to_string(path).map_err(|source| FleetError::File { path: path.clone(), source })?;
        let invalid = |source| FleetError::File { path: path.clone(), source };
        options = options.credentials(&text).map_err(invalid)?;
    }
    if let Some(path) = &server.authority {
        readable(path)?;
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &server.certificate {
        readable(certificate)?;
        readable(key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    let failed = |reason: String| FleetError::Connect { server: server.shown(), reason };
    let parsed = server.addresses.split(',').map(|address| address.trim().parse::<ServerAddr>());
    let addresses: Vec<ServerAddr> = parsed.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    // The client leaves the name and password of an address alone.
    let named = addresses.iter().find_map(|address| Some((address.username()?, address.password()?)));
    if let Some((user, password)) = named {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    options.connect(addresses).await.map_err(|error| failed(error.to_string()))
}

/// Whether a file is there: the client would only say that there is no connection.
fn readable(path: &Path) -> Result<()> {
    std::fs::File::open(path).map(drop).map_err(|source| FleetError::File { path: path.to_owned(), source })
}

fn jobs(options: QueueOptions) -> Config {
    Config {
        name: names::JOBS.into(),
        subjects: vec!["flux.job.*.*".into()],
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_messages: i64::try_from(options.max_jobs).unwrap_or(i64::MAX),
        max_message_size: MAX_MESSAGE,
        max_age: MAX_AGE,
        duplicate_window: DUPLICATES,
        ..Config::default()
    }
}

fn advisories() -> Config {
    Config {
        name: names::ADVISORIES.into(),
        subjects: vec![format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.*", names::JOBS)],
        max_age: KEPT,
        ..Config::default()
    }
}

fn dead() -> Config {
    let subjects = vec!["flux.dead.*".into()];
    Config { name: names::DEAD.into(), subjects, max_age: DEAD_KEPT, duplicate_window: DUPLICATES, ..Config::default() }
}

/// A bucket. The client's own way to make one asks for features that servers before 2.11 do not know.
fn bucket(name: &str, max_age: Duration) -> Config {
    Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        max_age,
        // Not longer than the age, as the server wants it.
        duplicate_window: if max_age.is_zero() {
            Duration::from_secs(120)
        } else {
            max_age.min(Duration::from_secs(120))
        },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let server = Server { addresses: "nats://me:secret@a:4222, tls://b".into(), ..Server::default() };
        assert_eq!(server.shown(), "nats://a:4222,tls://b");
    }
}

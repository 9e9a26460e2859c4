//! How a server is run.

use std::collections::BTreeMap;
use std::time::Duration;

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// What requests may ask for and take.
    pub limits: Limits,
    /// Names that lead to models, for clients with a fixed list of models.
    pub aliases: BTreeMap<String, String>,
    /// Origins whose pages may call the server, as in `https://example.com`. Its own pages always may.
    pub origins: Vec<String>,
    /// Names of this server that a `Host` header may have, besides `localhost` and addresses. With keys and without a
    /// list, every name is allowed.
    pub hosts: Vec<String>,
    /// Patience with clients and with running jobs.
    pub times: Times,
    /// Whether models are fakes, which responses then say.
    pub is_fake: bool,
}

/// What requests may ask for and take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of one image.
    pub image_bytes: usize,
    /// Parts of a multipart body.
    pub parts: usize,
    /// Pixels of a picture to draw.
    pub pixels: u64,
    /// Characters of a prompt.
    pub prompt_chars: usize,
    /// Pictures of a job.
    pub count: u32,
    /// Reference images of a job.
    pub references: usize,
    /// Connections at one time.
    pub connections: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 64 << 20,
            image_bytes: 50 << 20,
            parts: 64,
            pixels: 4 << 20,
            prompt_chars: 32_000,
            count: 10,
            references: 4,
            connections: 1024,
            headers: 64,
            head_bytes: 32 << 10,
        }
    }
}

/// Patience with clients and with running jobs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// From the first byte of a connection, or the end of a response, to the end of the next request's head.
    pub head: Duration,
    /// To receive a body.
    pub body: Duration,
    /// A write without progress, after which a reader counts as gone.
    pub stall: Duration,
    /// From the end of a connection to the cancelling of the job it waited for.
    pub hang_up: Duration,
    /// To finish running jobs when the server ends.
    pub drain: Duration,
    /// How long a link to a picture holds.
    pub link: Duration,
    /// Between comments on a stream of events that has none.
    pub keep_alive: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            head: Duration::from_secs(15),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            hang_up: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            link: Duration::from_secs(3600),
            keep_alive: Duration::from_secs(12),
        }
    }
}

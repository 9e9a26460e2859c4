//! Models from the Hugging Face hub: lists a repository, downloads its files into the shared cache, verifies them.
//!
//! In:  a repository's name and [`HubOptions`]. Out: the path of a folder with the files of a model.
//!
//! ```no_run
//! use flux2_base::{CancelToken, TransferEvent};
//! use flux2_hub::{Hub, HubOptions, RepoId};
//!
//! # fn main() -> flux2_hub::Result<()> {
//! let repo: RepoId = "black-forest-labs/FLUX.2-klein-4B".parse()?;
//! let hub = Hub::new(HubOptions::new("/home/a/.cache/huggingface/hub"))?;
//! let folder = match hub.cache().find(&repo)? {
//!     Some(folder) => folder,
//!     None => hub.download(&hub.plan(&repo)?, &mut |_: &TransferEvent| {}, &CancelToken::new())?,
//! };
//! # Ok(())
//! # }
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `cache` | the folder that all clients of the hub share: blobs, snapshots, refs |
//! | [`environment`] | where that folder is, from the variables of all clients |
//! | `snapshot` | which files a folder of the cache holds, and which a model in it lacks |
//! | `verify` | files compared with their hashes, wherever these are recorded |
//! | `error` | what can go wrong, and what would help |
//! | `listing` | the hub's list of a repository, checked; which of its files are needed |
//! | `http` | requests: redirects, token, proxies, meaning of a status |
//! | `download` | files of a plan: several at once, resumed, verified, locked |
//! | [`release`] | files of releases on GitHub, with hashes that are known beforehand |
//!
//! Of a model, this crate knows the names of its files only.

mod cache;
mod download;
pub mod environment;
mod error;
mod http;
mod listing;
pub mod release;
mod snapshot;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use cache::{Cache, Cached, State};
pub use error::{Error, Result};
pub use listing::{Plan, PlannedFile};
pub use verify::{Checked, Verdict, verify_folder};

/// A repository of models, `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    owner: String,
    name: String,
}

impl RepoId {
    /// The name without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both name the same repository: the hub ignores upper and lower case.
    pub fn is_same(&self, other: &RepoId) -> bool {
        self.owner.eq_ignore_ascii_case(&other.owner) && self.name.eq_ignore_ascii_case(&other.name)
    }

    /// Whether `text` is `owner/name`, both of letters, digits, `-`, `_` and `.`.
    pub fn is_valid(text: &str) -> bool {
        let is_part = |part: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            (1..=96).contains(&part.len())
                && part.bytes().all(fits)
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
        };
        text.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
    }
}

impl FromStr for RepoId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !RepoId::is_valid(text) {
            return Err(Error::RepoName { name: text.into() });
        }
        let (owner, name) = text.split_once('/').expect("a valid name has a slash");
        Ok(RepoId { owner: owner.into(), name: name.into() })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// How the hub is reached. The caller reads the environment; this crate does not.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// URL of the hub.
    pub endpoint: String,
    /// The cache folder, which holds `models--owner--name`.
    pub cache: PathBuf,
    /// Access token; needed for models whose license must be accepted.
    pub token: Option<Token>,
    /// Never use the network; downloads fail with [`Error::Offline`].
    pub offline: bool,
    /// Proxies, and hosts that are reached without one.
    pub proxies: Proxies,
    /// Files that are downloaded at the same time.
    pub files_at_once: usize,
    /// Timeouts and retries.
    pub patience: Patience,
    /// Name of a repository's license, for errors about access; the argument is `owner/name`.
    pub license_of: fn(&str) -> Option<&'static str>,
}

impl HubOptions {
    /// The public hub, without a token or proxies.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        HubOptions {
            endpoint: "https://huggingface.co".into(),
            cache: cache.into(),
            token: None,
            offline: false,
            proxies: Proxies::default(),
            files_at_once: 4,
            patience: Patience::default(),
            license_of: |_| None,
        }
    }
}

/// An access token. It is sent to the endpoint and to no other host, and never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// `None` if `text` is empty or has characters that an HTTP header cannot hold.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Token(text.into()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Proxies as `http://user:password@host:port`.
#[derive(Clone, Default)]
pub struct Proxies {
    /// Proxy for `https://`.
    pub https: Option<String>,
    /// Proxy for `http://`.
    pub http: Option<String>,
    /// Hosts that are reached without a proxy, separated by commas, each with its subdomains. `*` is every host.
    pub except: String,
}

/// Hides URLs, as they may hold passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxies { https, http, except } = self;
        write!(f, "Proxies {{ https: {}, http: {}, except: {except:?} }}", https.is_some(), http.is_some())
    }
}

/// Timeouts and retries.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time without a byte after which a connection counts as broken.
    pub silence: Duration,
    /// Attempts in a row that may receive nothing.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with each attempt.
    pub pause: Duration,
    /// Longest pause that a server may ask for.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            silence: Duration::from_secs(30),
            attempts: 6,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// A client of the hub.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    endpoint: http::Endpoint,
    cache: Cache,
}

impl Hub {
    /// A client with these options. Sends no request.
    ///
    /// # Errors
    /// [`Error::Url`] if the endpoint or a proxy is not a URL.
    pub fn new(options: HubOptions) -> Result<Self> {
        let endpoint = http::Endpoint::new(&options.endpoint)?;
        http::check_proxies(&options.proxies)?;
        Ok(Hub { cache: Cache::new(&options.cache), endpoint, options })
    }

    /// The cache on this disk.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_an_owner_and_a_name() {
        let repo: RepoId = "black-forest-labs/FLUX.2-klein-4B".parse().unwrap();
        assert_eq!((repo.name(), repo.to_string().as_str()), ("FLUX.2-klein-4B", "black-forest-labs/FLUX.2-klein-4B"));
        for wrong in ["", "klein-4b", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a b/c", "a/b\n", "./b", "a\\b/c"]
        {
            assert!(!RepoId::is_valid(wrong), "{wrong}");
            assert!(wrong.parse::<RepoId>().is_err());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = HubOptions {
            token: Token::new("hf_secret\n"),
            proxies: Proxies { https: Some("http://me:secret@proxy:1".into()), ..Default::default() },
            ..HubOptions::new("cache")
        };
        let shown = format!("{options:?}");
        assert!(!shown.contains("secret") && shown.contains("Token"), "{shown}");
        assert!(Token::new(" ").is_none() && Token::new("a\r\nHost: b").is_none());
    }
}

//! API keys: who may use the server, and how much.
//!
//! In:  the text of a key file, one key a line: `NAME SHA256 [jobs=N] [per-minute=N] [priority=high|normal|low]`.
//! Out: [`Keys`], which find a key's line by the key. Keys themselves are stored nowhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flux2_jobs::Priority;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A key's line: everything about it but the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name: the owner of its jobs.
    pub name: String,
    sha256: [u8; 32],
    /// Most jobs of it that wait or run.
    pub jobs: Option<usize>,
    /// Most requests for pictures in a minute.
    pub per_minute: Option<u32>,
    /// Highest priority of its jobs.
    pub priority: Priority,
}

/// Keys that are accepted.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Arc<Key>>);

/// A line of a key file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseKeysError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it. Does not repeat what may be a key.
    pub problem: String,
}

impl Key {
    /// A key without limits.
    pub fn new(name: impl Into<String>, secret: &str) -> Self {
        Key { name: name.into(), sha256: sha256(secret), jobs: None, per_minute: None, priority: Priority::High }
    }
}

impl Keys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        Keys(keys.into_iter().map(Arc::new).collect())
    }

    /// Parse a key file. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`ParseKeysError`] for the first line that cannot be read, or whose name or hash was there before.
    pub fn parse(text: &str) -> Result<Self, ParseKeysError> {
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !is_skipped(text)) {
            let problem = |problem: String| ParseKeysError { line, problem };
            let key = parse_line(text).map_err(problem)?;
            if keys.iter().any(|other| other.name == key.name || other.sha256 == key.sha256) {
                return Err(problem(format!("the name {:?} or its hash is there twice", key.name)));
            }
            keys.push(Arc::new(key));
        }
        Ok(Keys(keys))
    }

    /// These keys and one more, unless there is one of its name.
    pub fn with(mut self, key: Key) -> Self {
        if self.0.iter().all(|other| other.name != key.name) {
            self.0.push(Arc::new(key));
        }
        self
    }

    /// Whether there is none, so that nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The line of a key. Takes the same time for every key that is not here.
    pub fn find(&self, secret: &str) -> Option<Arc<Key>> {
        let hash = sha256(secret);
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.sha256.ct_eq(&hash)) {
                found = Some(Arc::clone(key));
            }
        }
        found
    }
}

fn is_skipped(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn parse_line(text: &str) -> Result<Key, String> {
    let mut words = text.split_whitespace();
    let (Some(name), Some(hash)) = (words.next(), words.next()) else {
        return Err("a line is a name and the SHA-256 of a key".into());
    };
    let sha256 = parse_hash(hash).ok_or_else(|| format!("{name}: a hash is 64 hexadecimal digits"))?;
    let mut key = Key { name: name.into(), sha256, jobs: None, per_minute: None, priority: Priority::High };
    for word in words {
        let number = |text: &str| text.parse().ok().filter(|n| *n > 0);
        let is_known = match word.split_once('=') {
            Some(("jobs", n)) => number(n).map(|n| key.jobs = Some(n as usize)),
            Some(("per-minute", n)) => number(n).map(|n| key.per_minute = Some(n)),
            Some(("priority", name)) => {
                Priority::ALL.into_iter().find(|known| known.name() == name).map(|known| key.priority = known)
            }
            _ => None,
        };
        is_known.ok_or_else(|| {
            format!("{name}: what follows the hash is jobs=N, per-minute=N or priority=high, normal or low")
        })?;
    }
    Ok(key)
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(16 * digit(pair[0])? + digit(pair[1])?).ok()?;
    }
    Some(hash)
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Counts requests of each key over the last minute.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Rates {
    /// Count a request of `name`, of which `per_minute` are allowed.
    ///
    /// # Errors
    /// The time until another one is allowed.
    pub fn count(&self, name: &str, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let most = f64::from(per_minute);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(name.to_owned()).or_insert(Bucket { tokens: most, filled: now });
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * most / 60.0;
        *bucket = Bucket { tokens: (bucket.tokens + gained).min(most), filled: now };
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) * 60.0 / most));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `secret`.
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn a_key_is_found_by_its_hash_and_has_its_limits() {
        let text = format!("# keys\n\nalice {HASH} jobs=4 per-minute=60 priority=normal\n");
        let keys = Keys::parse(&text).unwrap();
        let alice = keys.find("secret").unwrap();
        assert_eq!((alice.name.as_str(), alice.jobs, alice.per_minute), ("alice", Some(4), Some(60)));
        assert_eq!(alice.priority, Priority::Normal);
        for wrong in ["", "Secret", "secret ", HASH] {
            assert_eq!(keys.find(wrong), None);
        }
        assert_eq!(*Keys::new([Key::new("a", "secret")]).find("secret").unwrap(), Key::new("a", "secret"));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_without_its_key() {
        let error = |text: &str| Keys::parse(text).unwrap_err().to_string();
        assert_eq!(error("\nalice"), "line 2: a line is a name and the SHA-256 of a key");
        assert_eq!(error("alice secret"), "line 1: alice: a hash is 64 hexadecimal digits");
        let unknown = "line 1: alice: what follows the hash is jobs=N, per-minute=N or priority=high, normal or low";
        for word in ["jobs=0", "jobs=x", "priority=urgent", "speed=9", "jobs"] {
            assert_eq!(error(&format!("alice {HASH} {word}")), unknown, "{word}");
        }
        let twice = error(&format!("a {HASH}\nb {HASH}"));
        assert_eq!(twice, "line 2: the name \"b\" or its hash is there twice");
    }

    #[test]
    fn requests_of_a_minute_are_counted_for_each_key() {
        let (rates, start) = (Rates::default(), Instant::now());
        let count = |name, seconds| rates.count(name, 2, start + Duration::from_secs(seconds));
        assert_eq!((count("a", 0), count("a", 0)), (Ok(()), Ok(())));
        assert_eq!(count("a", 0), Err(Duration::from_secs(30)));
        assert_eq!((count("b", 0), count("a", 30)), (Ok(()), Ok(())));
        assert!(count("a", 31).is_err());
    }
}

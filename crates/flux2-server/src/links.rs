//! Links to pictures that hold for a time and need no key: their names cannot be guessed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flux2_jobs::JobId;
use uuid::Uuid;

/// Most links at one time; the oldest go first.
const MAX_LINKS: usize = 10_000;

/// The links that hold now.
#[derive(Debug)]
pub struct Links {
    lifetime: Duration,
    by_name: Mutex<HashMap<Uuid, Link>>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    job: JobId,
    index: u32,
    made: Instant,
}

impl Links {
    /// No links; each will hold for `lifetime`.
    pub fn new(lifetime: Duration) -> Self {
        Links { lifetime, by_name: Mutex::default() }
    }

    /// The name of a new link to picture `index` of `job`.
    pub fn add(&self, job: JobId, index: u32, now: Instant) -> String {
        let mut links = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= MAX_LINKS {
            links.retain(|_, link| now.saturating_duration_since(link.made) < self.lifetime);
        }
        if links.len() >= MAX_LINKS
            && let Some(oldest) = links.iter().min_by_key(|(_, link)| link.made).map(|(name, _)| *name)
        {
            links.remove(&oldest);
        }
        let name = Uuid::new_v4();
        links.insert(name, Link { job, index, made: now });
        name.simple().to_string()
    }

    /// Where a link leads that holds.
    pub fn find(&self, name: &str, now: Instant) -> Option<(JobId, u32)> {
        let links = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.get(&Uuid::try_parse(name).ok()?)?;
        (now.saturating_duration_since(link.made) < self.lifetime).then_some((link.job, link.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_holds_for_its_time_and_the_oldest_go_first() {
        let job: JobId = "01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10".parse().unwrap();
        let (links, start) = (Links::new(Duration::from_secs(60)), Instant::now());
        let name = links.add(job, 3, start);
        assert_eq!(links.find(&name, start + Duration::from_secs(59)), Some((job, 3)));
        assert_eq!(links.find(&name, start + Duration::from_secs(60)), None);
        assert_eq!(links.find("../../etc/passwd", start), None);
        let later = start + Duration::from_secs(1);
        let first_later = links.add(job, 0, later);
        for _ in 0..MAX_LINKS - 1 {
            links.add(job, 0, later);
        }
        assert_eq!(links.find(&name, later), None);
        assert!(links.find(&first_later, later).is_some());
    }
}

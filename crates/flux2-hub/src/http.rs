//! Requests to the hub: redirects, the token, proxies, and the meaning of a status.
//!
//! In:  a path below the endpoint, and the first byte wanted. Out: a response with a body, or [`RequestError`], which
//!      says
//!      whether and when to retry.

use std::io::Read as _;
use std::time::Duration;

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body, Proxy};

use crate::listing::PlannedFile;
use crate::{Error, Hub, Patience, Proxies, RepoId, Result, Token};

/// Longest list of files accepted, in bytes.
const MAX_LISTING_BYTES: u64 = 32 << 20;
const MAX_REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(15);

/// URL of a hub: scheme, host and an optional path.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Without a slash at the end.
    text: String,
    uri: Uri,
}

impl Endpoint {
    pub fn new(text: &str) -> Result<Self> {
        let wrong = || Error::Url { what: "endpoint of the hub" };
        let text = text.trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let fits = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none();
        if !fits {
            return Err(wrong());
        }
        Ok(Endpoint { text: text.into(), uri })
    }
}

/// Refuses proxies that are not URLs.
pub(crate) fn check_proxies(proxies: &Proxies) -> Result<()> {
    for url in [&proxies.https, &proxies.http].into_iter().flatten() {
        Proxy::new(url).map_err(|_| Error::Url { what: "proxy" })?;
    }
    Ok(())
}

/// Why a request failed, and whether another attempt makes sense.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// Another attempt may succeed.
    Retry {
        /// What happened, for people.
        reason: String,
        /// Pause that the server asks for.
        pause: Option<Duration>,
        /// The error if this was the last attempt; `None` leaves it to the caller.
        last: Option<Box<Error>>,
    },
    /// No attempt can succeed.
    Fatal(Error),
}

impl<E: Into<Error>> From<E> for RequestError {
    fn from(error: E) -> Self {
        RequestError::Fatal(error.into())
    }
}

impl RequestError {
    /// Retry; `last` is the error and the reason.
    fn retry(last: Error, pause: Option<Duration>) -> Self {
        RequestError::Retry { reason: last.to_string(), pause, last: Some(Box::new(last)) }
    }

    /// Retry after a broken connection.
    pub fn connection(reason: impl Into<String>) -> Self {
        RequestError::Retry { reason: reason.into(), pause: None, last: None }
    }
}

/// Sends requests about one repository.
pub(crate) struct Client<'a> {
    agent: Agent,
    endpoint: &'a Endpoint,
    token: Option<&'a Token>,
    proxies: &'a Proxies,
    patience: Patience,
    license_of: fn(&str) -> Option<&'static str>,
    repo: RepoId,
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub, repo: &RepoId) -> Result<Self> {
        if hub.options.offline {
            return Err(Error::Offline { repo: repo.clone() });
        }
        let patience = hub.options.patience;
        let config = Agent::config_builder()
            .user_agent(concat!("dj-flux2/", env!("CARGO_PKG_VERSION")))
            // Otherwise ureq reads proxies from the environment.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT.min(patience.silence)))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .build();
        Ok(Client {
            agent: config.into(),
            endpoint: &hub.endpoint,
            token: hub.options.token.as_ref(),
            proxies: &hub.options.proxies,
            patience,
            license_of: hub.options.license_of,
            repo: repo.clone(),
        })
    }

    /// Host of the hub, for errors.
    pub fn host(&self) -> String {
        host(&self.endpoint.uri)
    }

    /// Aborts running requests and refuses new ones.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
    }

    /// The hub's JSON about the repository's newest commit.
    pub fn listing(&self) -> Result<Vec<u8>> {
        let path = format!("/api/models/{}/revision/main?blobs=true", self.repo);
        let mut attempt = 1;
        loop {
            match self.text(&path) {
                Ok(text) => return Ok(text),
                Err(RequestError::Fatal(error)) => return Err(error),
                // No retry without a network.
                Err(RequestError::Retry { last: Some(last), .. }) if matches!(*last, Error::Unreachable { .. }) => {
                    return Err(*last);
                }
                Err(RequestError::Retry { reason, pause, last }) => {
                    let pause = pause.unwrap_or_else(|| self.patience.pause * 2u32.pow(attempt.min(8) - 1));
                    if attempt >= self.patience.attempts {
                        let unreachable = || Error::Unreachable { host: self.host(), reason };
                        return Err(last.map_or_else(unreachable, |last| *last));
                    }
                    std::thread::sleep(pause);
                }
            }
            attempt += 1;
        }
    }

    fn text(&self, path: &str) -> Result<Vec<u8>, RequestError> {
        let body = self.get(path, 0)?.into_body();
        let mut text = Vec::new();
        let read = body.into_reader().take(MAX_LISTING_BYTES + 1).read_to_end(&mut text);
        read.map_err(|e| RequestError::connection(describe(&ureq::Error::from(e))))?;
        if text.len() as u64 > MAX_LISTING_BYTES {
            let reason = format!("its list of files is over {MAX_LISTING_BYTES} bytes long");
            return Err(Error::Answer { host: self.host(), reason }.into());
        }
        Ok(text)
    }

    /// A file of a commit from byte `from` on. The status of the response is 200, 206 or 416.
    pub fn file(&self, commit: &str, file: &PlannedFile, from: u64) -> Result<Response<Body>, RequestError> {
        let usual = || format!("/{}/resolve/{commit}/{}", self.repo, escaped(&file.path));
        self.get(&file.address.clone().unwrap_or_else(usual), from)
    }

    /// Requests a path below the endpoint and follows redirects.
    fn get(&self, path: &str, from: u64) -> Result<Response<Body>, RequestError> {
        let answer = |reason: &str| Error::Answer { host: self.host(), reason: reason.into() };
        let mut uri: Uri =
            format!("{}{path}", self.endpoint.text).parse().map_err(|_| answer("a name makes no URL"))?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.one(&uri, from)?;
            if !response.status().is_redirection() {
                return self.judge(response, &uri);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| target(&uri, location));
            let next = next.ok_or_else(|| answer("a redirect leads nowhere"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(answer("a redirect leads out of https").into());
            }
            uri = next;
        }
        Err(answer("redirects do not end").into())
    }

    fn one(&self, uri: &Uri, from: u64) -> Result<Response<Body>, RequestError> {
        // Compressed bytes have neither the length nor the hash of the file.
        let mut request = self.agent.get(uri).header(ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(Token(token)) = self.token.filter(|_| same_origin(uri, &self.endpoint.uri)) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let proxy = proxy_for(self.proxies, uri).map(Proxy::new).transpose();
        let proxy = proxy.map_err(|_| Error::Url { what: "proxy" })?;
        request.config().proxy(proxy).build().call().map_err(|error| {
            let reason = describe(&error);
            let last = Error::Unreachable { host: host(uri), reason: reason.clone() };
            RequestError::Retry { reason, pause: None, last: Some(Box::new(last)) }
        })
    }

    fn judge(&self, response: Response<Body>, uri: &Uri) -> Result<Response<Body>, RequestError> {
        let host = host(uri);
        let by_hub = same_origin(uri, &self.endpoint.uri);
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                match header(CONTENT_ENCODING.as_str()) {
                    None | Some("identity") => Ok(response),
                    Some(_) => Err(Error::Answer { host, reason: "its bytes are compressed".into() }.into()),
                }
            }
            // The hub answers alike for hidden and missing repositories.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if by_hub => {
                let code = header("x-error-code");
                if status == StatusCode::NOT_FOUND || code == Some("RepoNotFound") {
                    return Err(Error::NotFound { repo: self.repo.clone(), host }.into());
                }
                let unknown = status == StatusCode::UNAUTHORIZED && code.is_none() && self.token.is_some();
                Err(if unknown { Error::Token { host } } else { self.no_access() }.into())
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let pause = header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
                let pause = pause.map(Duration::from_secs);
                let busy = Error::Busy { host, pause };
                match pause.is_some_and(|pause| pause > self.patience.longest_pause) {
                    true => Err(busy.into()),
                    false => Err(RequestError::retry(busy, pause)),
                }
            }
            // Signed URLs of other hosts expire: a retry gets a new one from the hub.
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT || !by_hub => {
                Err(RequestError::retry(Error::Status { host, status: status.as_u16() }, None))
            }
            _ => Err(Error::Status { host, status: status.as_u16() }.into()),
        }
    }

    fn no_access(&self) -> Error {
        let repo = self.repo.to_string();
        Error::Access {
            page: format!("{}/{repo}", self.endpoint.text),
            repo: self.repo.clone(),
            license: (self.license_of)(&repo),
            token: self.token.is_some(),
        }
    }
}

/// An error of the HTTP client in words.
pub(crate) fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "the connection was cut".into(),
        // Leave out the number of the system's error.
        ureq::Error::Io(e) => e.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::HostNotFound => "there is no host of that name".into(),
        other => other.to_string(),
    }
}

fn host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.into(),
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |uri: &Uri| uri.host().unwrap_or_default().to_ascii_lowercase();
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Target of a redirect: an absolute URL, or a path on the same host.
fn target(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let origin = format!("{}://{}", from.scheme_str()?, from.authority()?);
        return format!("{origin}{location}").parse().ok();
    }
    let uri: Uri = location.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).then_some(uri)
}

/// A path percent-encoded for a URL.
fn escaped(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut url, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(byte.into()),
            _ => url += &format!("%{byte:02X}"),
        }
        url
    })
}

/// The proxy for a request, if one applies.
fn proxy_for<'a>(proxies: &'a Proxies, uri: &Uri) -> Option<&'a str> {
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let covers = |entry: &str| {
        let entry = entry.trim().to_ascii_lowercase();
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse::<u16>().ok()),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let below = host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        entry == "*" || (!name.is_empty() && below && (port.is_none() || port == uri.port_u16()))
    };
    if proxies.except.split(',').any(covers) {
        return None;
    }
    match uri.scheme_str() {
        Some("https") => proxies.https.as_deref(),
        _ => proxies.http.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_belongs_to_scheme_host_and_port() {
        let hub = uri("https://huggingface.co");
        for same in ["https://huggingface.co/a", "https://HuggingFace.co:443/b"] {
            assert!(same_origin(&uri(same), &hub), "{same}");
        }
        for other in [
            "http://huggingface.co",
            "https://huggingface.co:8443",
            "https://huggingface.co.evil.org",
            "https://cdn.org",
        ] {
            assert!(!same_origin(&uri(other), &hub), "{other}");
        }
    }

    #[test]
    fn redirects_are_whole_or_on_the_same_host() {
        let from = uri("https://hub.org:8443/a/b");
        let lead = |location: &str| target(&from, location).map(|uri| uri.to_string());
        assert_eq!(lead("/api/c?d=e").as_deref(), Some("https://hub.org:8443/api/c?d=e"));
        assert_eq!(lead("https://cdn.org/x").as_deref(), Some("https://cdn.org/x"));
        for nowhere in ["", "b", "file:///etc/passwd", "//cdn.org/x", "ftp://cdn.org/x"] {
            assert_eq!(lead(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn proxies_are_chosen_by_scheme_and_left_out_for_some_hosts() {
        let proxies = Proxies {
            https: Some("http://secure:1".into()),
            http: Some("http://plain:2".into()),
            except: "localhost, .corp.org,example.com:8080".into(),
        };
        let chosen = |to: &str| proxy_for(&proxies, &uri(to));
        assert_eq!(chosen("https://huggingface.co"), Some("http://secure:1"));
        assert_eq!(chosen("http://huggingface.co"), Some("http://plain:2"));
        assert_eq!(chosen("http://notlocalhost"), Some("http://plain:2"));
        assert_eq!(chosen("http://example.com"), Some("http://plain:2"));
        for without in ["http://localhost:9", "https://hub.corp.org", "https://corp.org", "http://example.com:8080"] {
            assert_eq!(chosen(without), None, "{without}");
        }
        assert_eq!(proxy_for(&Proxies { except: "*".into(), ..proxies }, &uri("https://a.b")), None);
    }

    #[test]
    fn endpoints_are_urls() {
        assert_eq!(Endpoint::new("https://mirror.org/hf/").unwrap().text, "https://mirror.org/hf");
        for wrong in ["", "huggingface.co", "ftp://a.b", "https://", "https://a.b/?c=d"] {
            assert!(Endpoint::new(wrong).is_err(), "{wrong}");
        }
        assert!(check_proxies(&Proxies { http: Some("gopher://a".into()), ..Default::default() }).is_err());
        assert_eq!(escaped("vae/a b#ü.json"), "vae/a%20b%23%C3%BC.json");
    }
}

//! Who may come in: the `Host` and `Origin` of a request, and its API key.
//!
//! A page of another site can make a browser send requests to this server, under a name that it makes lead here (DNS
//! rebinding). So a name must be known, and pages of other origins must be listed.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::app::App;
use crate::error::{ApiError, Result};
use crate::keys::Key;
use crate::options::ServerOptions;

/// Owner of the jobs of those who need no key.
const NOBODY: &str = "local";

/// Routes that need no key: they tell nothing about anybody's work, or their names are secrets.
const OPEN: [&str; 7] =
    ["/", "/page/{version}/{*file}", "/health", "/ready", "/openapi.json", "/docs", "/v1/files/{name}"];

/// Header of the server's own page, which asks for a key itself. Told that a password would do, a browser would open a
/// window for one.
const PAGE: HeaderName = HeaderName::from_static("x-requested-with");

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The owner of its jobs.
    pub owner: String,
    /// Its key; none where none is needed.
    pub key: Option<Arc<Key>>,
}

/// How a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Whether it came over a Unix socket, which no browser opens.
    pub is_unix: bool,
    /// Whether it is encrypted.
    pub is_tls: bool,
}

/// Refuses names and origins that are not known.
pub async fn check_origin(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_unix = request.extensions().get::<Connection>().is_some_and(|connection| connection.is_unix);
    let has_keys = !app.keys().is_empty();
    let result = if is_unix { Ok(()) } else { may_come(request.headers(), &app.options, has_keys) };
    match result {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn may_come(headers: &HeaderMap, options: &ServerOptions, has_keys: bool) -> Result<()> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let host = text(header::HOST);
    if headers.get_all(header::HOST).iter().count() > 1 {
        let message = "the request names several hosts";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message).hint("send one Host header"));
    }
    let names_are_open = has_keys && options.hosts.is_empty();
    if let Some(host) = host.filter(|host| !names_are_open && !is_known_host(host, &options.hosts)) {
        let message = format!("this server is not called {host:?}");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message)
            .hint("use its address or localhost, or let the operator allow the name"));
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let own = origin.split_once("://").map(|(_, authority)| authority);
    let is_own = own.is_some_and(|own| host.is_some_and(|host| own.eq_ignore_ascii_case(host)));
    match is_own || options.origins.iter().any(|listed| listed == origin) {
        true => Ok(()),
        false => {
            let message = format!("pages of {origin:?} may not call this server");
            let error = ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message);
            Err(error.hint("let the operator allow the origin"))
        }
    }
}

/// Whether the value of a `Host` header is `localhost`, an address, or one of `listed`; the port does not matter.
fn is_known_host(host: &str, listed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_listed = listed.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host));
    let name = name.to_ascii_lowercase();
    is_listed || name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// Finds out who calls, and refuses those without a key where keys are needed.
pub async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let caller = match caller(&app, &request) {
        Ok(caller) => caller,
        Err(error) => {
            let mut response = error.into_response();
            if request.headers().contains_key(PAGE) {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return response;
        }
    };
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(caller);
    response
}

fn caller(app: &App, request: &Request) -> Result<Caller> {
    let keys = app.keys();
    let route = request.extensions().get::<axum::extract::MatchedPath>();
    if keys.is_empty() || route.is_some_and(|route| OPEN.contains(&route.as_str())) {
        return Ok(Caller { owner: NOBODY.into(), key: None });
    }
    let unauthorized = |message| ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
    let secret = secret(request.headers()).ok_or_else(|| {
        unauthorized("an API key is needed").hint("send it as `Authorization: Bearer KEY`, or as the password")
    })?;
    let key = keys.find(&secret).ok_or_else(|| unauthorized("the API key is not known"))?;
    Ok(Caller { owner: key.name.clone(), key: Some(key) })
}

/// The key of a request: a bearer token, or the password of basic authentication, or the user without a password.
fn secret(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(if password.is_empty() { user } else { password }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(headers: &[(&'static str, &str)], options: &ServerOptions, has_keys: bool) -> Option<&'static str> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        may_come(&headers, options, has_keys).err().map(|error| error.code)
    }

    #[test]
    fn a_name_must_be_local_an_address_or_listed() {
        let options = ServerOptions { hosts: vec!["draw.example".into()], ..Default::default() };
        let host = |host, has_keys| code(&[("host", host)], &options, has_keys);
        for known in ["localhost", "localhost:8190", "LOCALHOST", "a.localhost", "127.0.0.1:1", "[::1]:8190", "[::1]"] {
            assert_eq!(host(known, false), None, "{known}");
        }
        assert_eq!((host("draw.example:443", false), host("Draw.example", true)), (None, None));
        for other in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@localhost:b", "x:80:1"]
        {
            assert_eq!(host(other, false), Some("host_not_allowed"), "{other}");
            assert_eq!(host(other, true), Some("host_not_allowed"), "{other}");
        }
        // A page that leads a name here has no key.
        let no_list = ServerOptions::default();
        assert_eq!(code(&[("host", "draw.example")], &no_list, true), None);
        assert_eq!(code(&[("host", "draw.example")], &no_list, false), Some("host_not_allowed"));
        assert_eq!(code(&[], &no_list, false), None);
    }

    #[test]
    fn pages_of_other_origins_must_be_listed() {
        let options = ServerOptions { origins: vec!["https://app.example".into()], ..Default::default() };
        let origin = |origin| code(&[("host", "localhost:8190"), ("origin", origin)], &options, true);
        assert_eq!((origin("http://localhost:8190"), origin("https://app.example")), (None, None));
        for other in ["null", "http://localhost:3000", "https://app.example.evil", "http://app.example", ""] {
            assert_eq!(origin(other), Some("origin_not_allowed"), "{other}");
        }
    }

    #[test]
    fn a_key_is_a_bearer_token_or_a_password() {
        let secret = |value: &str| secret(&[(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect());
        assert_eq!(secret("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(secret("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(secret(&format!("Basic {}", BASE64_STANDARD.encode("user:abc:d"))).as_deref(), Some("abc:d"));
        assert_eq!(secret(&format!("Basic {}", BASE64_STANDARD.encode("abc:"))).as_deref(), Some("abc"));
        for wrong in ["abc", "Digest abc", "Basic !", "Basic YWJj"] {
            assert_eq!(secret(wrong), None, "{wrong}");
        }
    }
}

//! Keys, hosts, origins.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use flux2_server::{Key, Keys};
use serde_json::json;

use crate::site::{Answer, Site, base64, post, request};

fn get(site: &Site, path: &str, headers: &[(&str, &str)]) -> Answer {
    site.send(request(Method::GET, path, headers, Body::empty()))
}

fn with_keys() -> Site {
    Site::with(|setup| setup.keys = Keys::new([Key::new("alice", "a-key"), Key::new("bob", "b-key")]))
}

#[test]
fn without_a_key_nothing_but_the_open_routes_answers() {
    let site = with_keys();
    for open in ["/health", "/openapi.json", "/docs"] {
        assert_eq!(get(&site, open, &[]).status, 200, "{open}");
    }
    assert_eq!(get(&site, "/v1/files/x", &[]).status, 404);
    for closed in ["/v1/models", "/api/v1/jobs", "/metrics", "/models", "/queue", "/sdapi/v1/options", "/nowhere"] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic !")]] {
            let answer = get(&site, closed, headers);
            assert_eq!(answer.status, 401, "{closed}");
            assert_eq!(answer.headers.get_all("www-authenticate").iter().count(), 2, "{closed}");
        }
    }
    let basic = format!("Basic {}", base64(b"user:a-key"));
    for value in ["Bearer a-key", &basic] {
        assert_eq!(get(&site, "/v1/models", &[("authorization", value)]).status, 200, "{value}");
    }
}

#[test]
fn a_key_sees_its_own_jobs() {
    let site = with_keys();
    let job = json!({"prompt": "a", "size": "64x64"});
    let job = site.post_with("/api/v1/jobs", &[("authorization", "Bearer a-key")], job).expect(202);
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let token = job["id"].as_str().unwrap().replace('-', "");
    let bob = [("authorization", "Bearer b-key")];
    for path in [path.clone(), format!("{path}/events"), format!("{path}/images/0"), format!("/status/{token}")] {
        assert_eq!(get(&site, &path, &bob).status, 404, "{path}");
    }
    assert_eq!(site.send(request(Method::DELETE, &path, &bob, Body::empty())).status, 404);
    assert_eq!(get(&site, "/api/v1/jobs", &bob).expect(200)["jobs"], json!([]));
    assert_eq!(get(&site, &path, &[("authorization", "Bearer a-key")]).status, 200);
}

#[test]
fn keys_have_limits() {
    // SHA-256 of `secret`.
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let site = Site::with(|setup| {
        setup.keys = Keys::parse(&format!("alice {hash} jobs=1 per-minute=3 priority=low")).unwrap();
        setup.fake.step = Duration::from_secs(30);
    });
    let send = || {
        site.post_with(
            "/api/v1/jobs",
            &[("authorization", "Bearer secret")],
            json!({"prompt": "p", "priority": "high"}),
        )
    };
    assert_eq!(send().expect(202)["priority"], "low");
    assert_eq!(send().error().1, "too_many_jobs");
    assert_eq!(send().error().1, "too_many_jobs");
    let limited = send();
    assert_eq!(limited.error().1, "rate_limited");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() > 5);
}

#[test]
fn keys_are_replaced_while_the_server_runs() {
    let site = with_keys();
    site.app.replace_keys(Keys::new([Key::new("carol", "c-key")]));
    assert_eq!(get(&site, "/v1/models", &[("authorization", "Bearer a-key")]).status, 401);
    assert_eq!(get(&site, "/v1/models", &[("authorization", "Bearer c-key")]).status, 200);
}

#[test]
fn other_names_and_pages_of_other_origins_are_refused_everywhere() {
    let site = Site::with(|setup| setup.options.origins = vec!["https://app.example".into()]);
    for path in ["/health", "/v1/models", "/api/v1/jobs", "/docs", "/nowhere"] {
        let mut foreign = request(Method::GET, path, &[], Body::empty());
        foreign.headers_mut().insert("host", "evil.example".parse().unwrap());
        assert_eq!(site.send(foreign).error(), (403, "host_not_allowed".into(), String::new()), "{path}");
        let answer = get(&site, path, &[("origin", "https://evil.example")]);
        assert_eq!(answer.error().1, "origin_not_allowed", "{path}");
    }
    let allowed = get(&site, "/v1/models", &[("origin", "https://app.example")]);
    assert_eq!((allowed.status.as_u16(), allowed.header("access-control-allow-origin")), (200, "https://app.example"));
    let own = get(&site, "/v1/models", &[("origin", "http://localhost:8190")]);
    assert_eq!((own.status.as_u16(), own.header("access-control-allow-origin")), (200, ""));
}

#[test]
fn preflights_are_answered_for_listed_origins() {
    let site = Site::with(|setup| {
        setup.options.origins = vec!["https://app.example".into()];
        setup.keys = Keys::new([Key::new("alice", "a-key")]);
    });
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        site.send(request(Method::OPTIONS, "/v1/images/generations", &headers, Body::empty()))
    };
    let listed = preflight("https://app.example");
    assert_eq!((listed.status.as_u16(), listed.header("access-control-allow-origin")), (200, "https://app.example"));
    assert!(listed.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(preflight("https://evil.example").status, 403);
}

#[test]
fn every_answer_has_a_request_id() {
    let site = Site::new();
    let answer = get(&site, "/health", &[("x-request-id", "mine-1")]);
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert!(site.send(post("/nowhere", &[], json!({}))).header("x-request-id").starts_with("req_"));
}

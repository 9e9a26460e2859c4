//! Each route with each kind of bad input: an error that clients can read, and nothing lost.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::document::operations;
use crate::site::{Answer, FORM, Site, request};

/// Types and bodies that no route takes.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let json = "application/json";
    let deep = "[".repeat(100_000);
    let mut bodies: Vec<(&str, Vec<u8>)> = ["", "{", "null", "[]", "3", "\"x\"", "{\"prompt\":", "\u{0}", "nan"]
        .iter()
        .map(|text| (json, text.as_bytes().to_vec()))
        .collect();
    bodies.extend([
        (json, deep.into_bytes()),
        (json, b"\xff\xfe".to_vec()),
        (json, json!({"prompt": {"a": 1}, "image": 3, "sd_model_checkpoint": 5, "batch_size": "x"}).to_string().into()),
        (json, br#"{"prompt":"p","prompt":[],"image":1,"batch_size":[],"sd_model_checkpoint":[]}"#.to_vec()),
        (
            json,
            json!({"prompt": "p", "width": -1, "size": 4, "image": [], "seed": 1.5, "sd_model_checkpoint": "none"})
                .to_string()
                .into(),
        ),
        ("text/plain", b"{}".to_vec()),
        ("application/x-www-form-urlencoded", b"prompt=p".to_vec()),
        ("multipart/form-data", b"--XX\r\n".to_vec()),
        (FORM, b"".to_vec()),
        (FORM, b"--XX\r\n\r\n".to_vec()),
        (FORM, b"--XX\r\nContent-Disposition: form-data\r\n\r\nx".to_vec()),
        (FORM, b"--XX\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n\xff\r\n--XX--\r\n".to_vec()),
        ("\u{1}", b"{}".to_vec()),
    ]);
    bodies.retain(|(kind, _)| kind.parse::<axum::http::HeaderValue>().is_ok());
    bodies
}

/// Names in paths that lead to nothing.
const NAMES: [&str; 12] = [
    "x",
    "0",
    "-1",
    "%00",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%ff%fe",
    "a%0d%0aset-cookie:%20b",
    "%F0%9F%A6%8A",
    "01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10",
    "'%20or%201=1--",
    "$%7bjndi:ldap:%2f%2fx%7d",
];

/// The error of an answer is one of the two forms.
#[track_caller]
fn check(answer: &Answer, what: &str) {
    let status = answer.status.as_u16();
    assert!((400..500).contains(&status) || status == 501, "{what}: {status} {}", answer.text());
    let body = answer.json();
    match body.get("detail") {
        Some(detail) => assert!(detail.is_string() || detail[0]["msg"].is_string(), "{what}: {body}"),
        None => drop(answer.error()),
    }
    assert!(!answer.header("x-request-id").is_empty());
    assert!(answer.headers.get("set-cookie").is_none());
}

#[test]
fn every_route_refuses_bodies_that_are_none() {
    let site = Site::new();
    // This one takes none and ignores what is sent; the options are all optional.
    let ignores_body = ["/sdapi/v1/interrupt", "/cancel/{token}", "/v1/images/variations"];
    for (method, path) in operations().into_iter().filter(|(method, _)| *method == Method::POST) {
        for (kind, body) in bodies().into_iter().filter(|_| !ignores_body.contains(&path.as_str())) {
            let what = format!("{path} {kind} {:?}", String::from_utf8_lossy(&body[..body.len().min(40)]));
            let answer = site.send(request(method.clone(), &path, &[("content-type", kind)], Body::from(body)));
            check(&answer, &what);
        }
    }
    assert_eq!(site.get("/api/v1/jobs").expect(200)["jobs"], json!([]));
    assert_eq!(site.get("/health").status, 200);
}

#[test]
fn every_route_with_a_name_in_its_path_refuses_names_that_are_none() {
    let site = Site::new();
    for (method, path) in operations().into_iter().filter(|(_, path)| path.contains('{')) {
        for name in NAMES {
            let start = path.find('{').unwrap();
            let path = format!("{}{name}{}", &path[..start], &path[path.find('}').unwrap() + 1..]);
            let path = path.replace("{index}", name);
            let Ok(request) = Request::builder().method(&method).uri(&path).body(Body::empty()) else { continue };
            check(&site.send(request), &format!("{method} {path}"));
        }
    }
}

#[test]
fn paths_that_climb_lead_nowhere() {
    let site = Site::new();
    let mut tried = 0;
    for prefix in ["/", "/docs/", "/v1/files/", "/api/v1/uploads/", "/result/", "/api/v1/jobs/x/images/"] {
        for climb in ["../", "..%2f", "%2e%2e/", "..\\", "..%5c", "%252e%252e/", "....//", "..;/", "/%2e/"] {
            for target in ["etc/passwd", "etc%2fpasswd", "proc/self/environ", "root/.ssh/id_rsa%00.png"] {
                let path = format!("{prefix}{}{target}", climb.repeat(6));
                let Ok(request) = Request::builder().uri(&path).body(Body::empty()) else { continue };
                tried += 1;
                check(&site.send(request), &path);
            }
        }
    }
    assert!(tried > 150, "{tried}");
}

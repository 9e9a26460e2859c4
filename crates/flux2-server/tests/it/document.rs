//! The OpenAPI document and the routes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::Method;
use serde_json::Value;

use crate::site::{Site, request};

/// Routes that the document does not list: pages, the document, a WebSocket, JSON-RPC, and paths without `/v1`.
const OTHERS: [&str; 9] = [
    "/",
    "/page/{version}/{*file}",
    "/docs",
    "/openapi.json",
    "/ws/{token}",
    "/mcp",
    "/images/generations",
    "/images/edits",
    "/images/variations",
];

pub fn document() -> Value {
    serde_json::to_value(flux2_server::openapi()).unwrap()
}

/// Method and path of every operation of the document.
pub fn operations() -> Vec<(Method, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys().filter_map(|name| name.to_uppercase().parse().ok());
        methods.map(|method: Method| (method, path.clone())).collect::<Vec<_>>()
    };
    paths.flat_map(methods).collect()
}

#[test]
fn every_operation_has_a_route() {
    let site = Site::new();
    let operations = operations();
    assert!(operations.len() > 35, "{}", operations.len());
    for (method, path) in operations {
        let path = path.replace(['{', '}'], "x");
        let answer = site.send(request(method.clone(), &path, &[], Body::empty()));
        let code = answer.text().contains("\"not_found\"") || answer.status == 405;
        assert!(!code, "{method} {path}: {}", answer.text());
    }
}

#[test]
fn every_route_is_in_the_document_or_known_not_to_be() {
    let document = document();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let code = fs::read_to_string(&entry).unwrap();
                found.extend(code.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
    }
    let found: Vec<_> = found.iter().map(String::as_str).filter(|path| document["paths"].get(path).is_none()).collect();
    let mut others = OTHERS.to_vec();
    others.sort_unstable();
    assert_eq!(found, others);
}

#[test]
fn the_document_and_its_page_are_served() {
    let site = Site::new();
    assert_eq!(site.get("/openapi.json").json(), document());
    let page = site.get("/docs");
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    for (_, path) in operations() {
        assert!(page.text().contains(&format!(" {path}</code>")), "{path}");
    }
    assert!(!page.text().contains("<script"));
}

#[test]
fn every_operation_says_what_it_does_and_what_its_errors_are() {
    let document = document();
    for (method, path) in operations() {
        let operation = &document["paths"][&path][method.as_str().to_lowercase()];
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.') || text.ends_with(':')), "{path}");
        let is_open = ["/health", "/ready"].contains(&path.as_str());
        assert!(is_open || operation["responses"].get("default").is_some(), "{path}");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{path}");
    }
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
}

#[test]
fn the_reference_lists_every_path() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/http.md");
    let reference = fs::read_to_string(reference).unwrap();
    for (_, path) in operations() {
        assert!(reference.contains(&path), "{path}");
    }
}

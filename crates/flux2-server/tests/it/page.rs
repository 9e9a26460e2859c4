//! The page of the browser and its files.

use axum::body::Body;
use axum::http::Method;
use flux2_server::{Key, Keys};

use crate::site::{Site, request};

/// Addresses of the files that the HTML names.
fn files(html: &str) -> Vec<String> {
    let named = html.split('"').filter(|text| text.starts_with("/page/"));
    named.map(str::to_owned).collect()
}

#[test]
fn the_page_is_served_to_everybody_and_brings_its_own_policy() {
    // Who has no key gets the page, which asks for one.
    let site = Site::with(|setup| setup.keys = Keys::new([Key::new("alice", "a-key")]));
    let page = site.get("/");
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("require-trusted-types-for 'script'"));
    assert!(page.header("cache-control").starts_with("no-"), "the HTML is asked for every time");
    let files = files(page.text());
    assert!(files.len() > 25, "{files:?}");
    for path in &files {
        let file = site.get(path);
        assert_eq!(file.status, 200, "{path}");
        let kind = file.header("content-type");
        assert!(["text/javascript", "text/css", "image/svg+xml"].iter().any(|known| kind.starts_with(known)), "{path}");
    }
    // A browser that is told of passwords opens a window of its own for one.
    let headers = [("x-requested-with", "page")];
    let refused = site.send(request(Method::GET, "/api/v1/capabilities", &headers, Body::empty()));
    assert_eq!((refused.status.as_u16(), refused.header("www-authenticate")), (401, "Bearer"));
    assert_eq!(refused.headers.get_all("www-authenticate").iter().count(), 1);
}

#[test]
fn files_are_compressed_for_those_who_read_that() {
    let site = Site::new();
    let path = files(site.get("/").text()).into_iter().find(|path| path.ends_with(".css")).unwrap();
    let plain = site.get(&path);
    let headers = [("accept-encoding", "br, gzip;q=0.8")];
    let packed = site.send(request(Method::GET, &path, &headers, Body::empty()));
    assert_eq!((plain.header("content-encoding"), packed.header("content-encoding")), ("", "gzip"));
    assert!(packed.body.len() * 2 < plain.body.len());
    assert_eq!(packed.header("vary"), "accept-encoding");
}

#[test]
fn the_page_has_only_its_own_files() {
    let site = Site::new();
    let path = files(site.get("/").text()).remove(0);
    let folder = path.rsplit_once('/').unwrap().0;
    for name in
        ["../src/lib.rs", "..%2fsrc%2flib.rs", "%2e%2e/Cargo.toml", "panels", "panels/", "none.js", "main.js%00"]
    {
        assert_eq!(site.get(&format!("{folder}/{name}")).error().1, "not_found", "{name}");
    }
}

//! The page that a browser gets at `/`: files of the folder `page`, which are part of the program.
//!
//! The folder is served under a path with the digest of all of its files, so a browser may keep them for good: another
//! version has other paths. The HTML is asked for every time and names that path. A debug build reads the folder from
//! disk, and its browser keeps nothing, so a changed file is seen at once.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::error::ApiError;

/// The files of the page.
#[derive(RustEmbed)]
#[folder = "page"]
struct Files;

/// The file that is served at `/`.
const START: &str = "index.html";
/// Stands for the path of the other files in the HTML.
const BASE: &str = "{base}";
/// Stands for the modules in the HTML, which a browser then requests before it has read the first of them.
const MODULES: &str = "<!-- modules -->";
/// Folder of the texts by language; a browser requests the one that it shows.
const TEXTS: &str = "texts/";
/// What the page may load and do: files of this server, images that it makes itself, no code in attributes or texts.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A file as it is sent.
struct Asset {
    kind: &'static str,
    bytes: Bytes,
    /// The same, compressed.
    gzip: Bytes,
}

/// All files, read once.
struct Page {
    start: Asset,
    /// Files by their path in the folder.
    files: HashMap<String, Asset>,
    /// Digest of all files.
    version: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(Page::read);

/// The routes of the page.
pub fn routes() -> Router<App> {
    Router::new().route("/", get(start)).route("/page/{version}/{*file}", get(file))
}

/// The HTML with the names of all files, and their digest.
fn html() -> (String, String) {
    let mut names: Vec<_> = Files::iter().collect();
    names.sort();
    let mut hash = Sha256::new();
    for name in &names {
        hash.update(name.as_bytes());
        hash.update(Files::get(name).map(|content| content.data).unwrap_or_default());
    }
    let version: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let html = Files::get(START).map(|content| content.data).unwrap_or_default();
    let modules = names.iter().filter(|name| name.ends_with(".js") && !name.starts_with(TEXTS));
    let links: String = modules.map(|name| format!("<link rel=\"modulepreload\" href=\"{BASE}/{name}\">\n")).collect();
    let html = String::from_utf8_lossy(&html).replace(MODULES, &links).replace(BASE, &format!("/page/{version}"));
    (html, version)
}

impl Page {
    fn read() -> Page {
        let (html, version) = html();
        let asset = |name: &str| Some(Asset::new(kind(name), Files::get(name)?.data.to_vec()));
        let files = Files::iter().filter_map(|name| Some((name.to_string(), asset(&name)?))).collect();
        Page { start: Asset::new(kind(START), html.into_bytes()), files, version }
    }
}

impl Asset {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory does not fail.
        let gzip = encoder.write_all(&bytes).and_then(|()| encoder.finish()).unwrap_or_default();
        Asset { kind, bytes: bytes.into(), gzip: gzip.into() }
    }

    fn answer(&self, cache: &'static str, request: &HeaderMap) -> Response {
        let accepted = request.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
        let takes_gzip = accepted.is_some_and(|list| list.split(',').any(|one| one.trim().starts_with("gzip")));
        let headers = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, cache),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
        ];
        match takes_gzip {
            true => (headers, [(header::CONTENT_ENCODING, "gzip")], self.gzip.clone()).into_response(),
            false => (headers, self.bytes.clone()).into_response(),
        }
    }
}

async fn start(headers: HeaderMap) -> Response {
    match cfg!(debug_assertions) {
        true => Asset::new(kind(START), html().0.into_bytes()).answer("no-store", &headers),
        false => PAGE.start.answer("no-cache", &headers),
    }
}

async fn file(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    if cfg!(debug_assertions) {
        // Of any version: the folder changes while somebody works on it. Only names that are listed are read.
        let known = Files::iter().any(|known| known == name);
        let content = known.then(|| Files::get(&name)).flatten();
        return content.map_or_else(missing, |content| {
            Asset::new(kind(&name), content.data.to_vec()).answer("no-store", &headers)
        });
    }
    match PAGE.files.get(&name).filter(|_| version == PAGE.version) {
        Some(asset) => asset.answer("public, max-age=31536000, immutable", &headers),
        None => missing(),
    }
}

fn missing() -> Response {
    let error = ApiError::new(StatusCode::NOT_FOUND, "not_found", "the page has no such file");
    error.hint("load the page again: the program may be a newer one").into_response()
}

/// Media type by the end of a name.
fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser loads at first is small, also over a slow line.
    #[test]
    fn the_page_is_small() {
        let bytes: usize = PAGE.files.values().map(|asset| asset.gzip.len()).sum();
        assert!(bytes < 150_000, "{bytes} bytes compressed");
    }

    #[test]
    fn every_file_has_a_media_type_and_at_most_400_lines() {
        for (name, asset) in &PAGE.files {
            assert_ne!(asset.kind, "application/octet-stream", "{name}");
            let lines = String::from_utf8_lossy(&asset.bytes).lines().count();
            assert!(lines <= 400, "{name} has {lines} lines");
        }
    }

    /// Texts that users type are data, never markup: no module has a way to make elements from text.
    #[test]
    fn no_module_parses_markup_or_code() {
        let words =
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style=\""];
        for (name, asset) in &PAGE.files {
            let text = String::from_utf8_lossy(&asset.bytes);
            let found = words.iter().find(|word| text.contains(**word));
            assert_eq!(found, None, "{name}");
        }
    }

    #[test]
    fn the_html_names_the_version_and_all_modules() {
        let html = String::from_utf8_lossy(&PAGE.start.bytes);
        assert!(!html.contains(BASE) && !html.contains(MODULES), "{html}");
        for name in PAGE.files.keys().filter(|name| name.ends_with(".js") && !name.starts_with(TEXTS)) {
            assert!(html.contains(&format!("/page/{}/{name}", PAGE.version)), "{name}");
        }
    }
}

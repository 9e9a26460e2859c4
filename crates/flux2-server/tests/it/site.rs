//! A server without sockets, and requests to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use flux2::image::{self, Attached, ImageFormat, Quality, RgbImage, codec};
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{FailureClass, Jobs, Options};
use flux2_server::{App, Keys, ServerOptions, router};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Prompts with this text fail, since there is not enough memory.
pub const OUT_OF_MEMORY: &str = "[out of memory]";
/// Prompts with this text fail with infinities.
pub const NOT_FINITE: &str = "[not finite]";

/// How a test's server is run.
pub struct Setup {
    pub fake: FakeOptions,
    pub jobs: Options,
    pub keys: Keys,
    pub options: ServerOptions,
}

impl Default for Setup {
    fn default() -> Self {
        let failures =
            vec![(OUT_OF_MEMORY.into(), FailureClass::OutOfMemory), (NOT_FINITE.into(), FailureClass::NotFinite)];
        let models = vec!["klein-4b".into(), "klein-base-4b".into()];
        let mut options = ServerOptions { is_fake: true, ..Default::default() };
        options.times.hang_up = Duration::from_millis(20);
        options.aliases.insert("gpt-image-1".into(), "klein-4b".into());
        Setup {
            fake: FakeOptions { models, loras: vec!["style".into()], failures, ..FakeOptions::default() },
            jobs: Options::default(),
            keys: Keys::default(),
            options,
        }
    }
}

/// A server without sockets.
pub struct Site {
    pub jobs: Jobs,
    pub app: App,
    router: Router,
    pub runtime: Runtime,
}

/// An answer, received as a whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Status, `code` and `param` of an error that is complete.
    #[track_caller]
    pub fn error(&self) -> (u16, String, String) {
        let body = self.json();
        let error = &body["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{key} is missing: {body}");
        }
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text("code"), text("param"))
    }

    /// Name and data of each server-sent event, in order.
    pub fn events(&self) -> Vec<(String, Value)> {
        let field = |event: &str, name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
        };
        let events = self.text().split("\n\n").filter(|event| !event.trim().is_empty() && !event.starts_with(':'));
        let event = |event: &str| {
            let data = field(event, "data:").unwrap_or_default();
            (field(event, "event:").unwrap_or_default(), serde_json::from_str(&data).unwrap_or(Value::Null))
        };
        events.map(event).collect()
    }
}

impl Site {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let Setup { fake, jobs, keys, options } = setup;
        let jobs = Jobs::start(jobs, Arc::new(FakeHost::new(fake))).unwrap();
        let app = App::new(Arc::new(jobs.clone()), keys, options);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Site { jobs, router: router(app.clone()), app, runtime }
    }

    /// Send a request and wait for the whole answer.
    pub fn send(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(self.answer(request))
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let collected = tokio::time::timeout(Duration::from_secs(60), body.collect()).await.expect("the answer ends");
        Answer { status: parts.status, headers: parts.headers, body: collected.unwrap().to_bytes() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], Body::empty()))
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, &[], Body::empty()))
    }

    pub fn post(&self, path: &str, json: Value) -> Answer {
        self.post_with(path, &[], json)
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], json: Value) -> Answer {
        self.send(post(path, headers, json))
    }

    pub fn post_form(&self, path: &str, parts: &[Part]) -> Answer {
        self.send(request(Method::POST, path, &[("content-type", FORM)], form(parts).into()))
    }

    /// Wait until a job of the native API is over.
    pub fn wait(&self, id: &str) -> Value {
        for _ in 0..3000 {
            let job = self.get(&format!("/api/v1/jobs/{id}")).expect(200);
            if ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap()) {
                return job;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the job does not end");
    }
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost:8190");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub fn post(path: &str, headers: &[(&str, &str)], json: Value) -> Request<Body> {
    let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
    request(Method::POST, path, &headers, json.to_string().into())
}

/// A part of a form: name, file name, bytes.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

pub const FORM: &str = "multipart/form-data; boundary=XX";

/// A form as a body.
pub fn form(parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"\r\nContent-Type: image/png")).unwrap_or_default();
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    body
}

/// A PNG of this size in one color.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::new(width, height, vec![90; (width * height * 3) as usize]).unwrap();
    image::encode(&image, ImageFormat::Png, None).unwrap()
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

pub fn unbase64(value: &Value) -> Vec<u8> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// A mask that repaints a box: left, top, right, bottom. White on black, or transparent in an opaque image.
pub fn mask(size: [u32; 2], edges: [u32; 4], is_transparent: bool) -> Vec<u8> {
    let [left, top, right, bottom] = edges;
    let is_inside = |i: u32| (left..right).contains(&(i % size[0])) && (top..bottom).contains(&(i / size[0]));
    let all = 0..size[0] * size[1];
    let white = |i: u32| [if is_inside(i) && !is_transparent { 255 } else { 0 }; 3];
    let alpha = is_transparent.then(|| all.clone().map(|i| if is_inside(i) { 0 } else { 255 }).collect());
    let image = RgbImage::new(size[0], size[1], all.clone().flat_map(white).collect()).unwrap();
    image::encode_attached(&image, &Attached { alpha, profile: None }, ImageFormat::Png, &Quality::default(), None)
        .unwrap()
}

/// Whether the pixels of two images are the same inside of a box, and outside of it.
pub fn same(a: &[u8], b: &[u8], [left, top, right, bottom]: [u32; 4]) -> (bool, bool) {
    let [a, b] = [a, b].map(|bytes| codec::decode(bytes, "it").unwrap());
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    let pixels = (0..a.height()).flat_map(|y| (0..a.width()).map(move |x| (x, y)));
    let is_inside = |(x, y): &(u32, u32)| (left..right).contains(x) && (top..bottom).contains(y);
    let (inside, outside): (Vec<_>, Vec<_>) = pixels.partition(is_inside);
    let equal = |pixels: Vec<(u32, u32)>| pixels.into_iter().all(|(x, y)| a.pixel(x, y) == b.pixel(x, y));
    (equal(inside), equal(outside))
}

//! The studio on a server: the native API of `dj-flux2 serve` over HTTP.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::CancelToken;
use flux2::digest::sha256;
use flux2_jobs::{Draft, ImageInfo};
use flux2_session::studio::StudioError;
use flux2_session::{Drawn, Heard, Made, Studio};
use serde_json::{Value, json};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use crate::config::flags::Flags;
use crate::failure::{Failure, Result, code};

/// Longest time without a byte of an answer.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);
/// Pauses between two looks at a job: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// How often a request is sent where the server does not answer.
const ATTEMPTS: u32 = 5;
/// Most bytes of an answer: a picture in base64.
const MAX_BYTES: u64 = 512 << 20;
/// The variable that holds the key.
const VARIABLE: &str = "DJ_FLUX2_API_KEY";

/// A server.
#[derive(Clone)]
pub struct RemoteStudio {
    agent: Agent,
    /// Without a slash at the end.
    url: String,
    key: Option<String>,
}

type Answer<T> = std::result::Result<T, StudioError>;

impl RemoteStudio {
    /// A server at an address; whether one is there is asked now.
    pub fn connect(url: &str, key_file: Option<&Path>) -> Result<Self> {
        let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let text = text.trim_end_matches('/').to_owned();
        let uri: Option<Uri> = text.parse().ok();
        let is_url = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !uri.as_ref().is_some_and(is_url) {
            return Err(Failure::usage(
                format!("{url} is no address of a server"),
                "pass the one that `dj-flux2 serve` prints, as in --connect http://127.0.0.1:8190",
            ));
        }
        let config = Agent::config_builder()
            .user_agent(concat!("dj-flux2/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .build();
        let remote = RemoteStudio { agent: config.into(), url: text, key: key(key_file)? };
        remote.models()?;
        Ok(remote)
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Width and height of a picture if nobody says them; the first model's without a name.
    pub fn default_px(&self, model: Option<&str>) -> Result<Option<u32>> {
        let models = self.get("/api/v1/models")?;
        let is_meant = |known: &&Value| model.is_none_or(|name| known["name"].as_str() == Some(name));
        let found = models.as_array().and_then(|models| models.iter().find(is_meant));
        Ok(found.and_then(|model| model["default_px"].as_u64()).and_then(|px| px.try_into().ok()))
    }

    /// Refuses a model that is not served.
    pub fn check_model(&self, named: Option<&Path>) -> Result<()> {
        let Some(named) = named.map(|named| named.to_string_lossy().into_owned()) else { return Ok(()) };
        let models = self.get("/api/v1/models")?;
        let names = |model: &Value| -> Vec<String> {
            let aliases = model["aliases"].as_array().into_iter().flatten();
            [&model["name"]].into_iter().chain(aliases).filter_map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        let served: Vec<String> = models.as_array().into_iter().flatten().flat_map(names).collect();
        if served.iter().any(|name| name.eq_ignore_ascii_case(&named)) {
            return Ok(());
        }
        let hint = match Flags::nearest(&named, served.iter().map(String::as_str)) {
            Some(nearest) => format!("the nearest name is {nearest}"),
            None => format!("the server has {}", served.join(", ")),
        };
        Err(Failure::new(code::MODEL_MISSING, format!("{} serves no model {named}", self.url), hint))
    }

    fn get(&self, path: &str) -> Answer<Value> {
        json_of(&self.again(|| self.with_key(self.agent.get(self.address(path))).call())?)
    }

    /// Sends a body. The server takes one that comes twice with the same `key` for one.
    fn post(&self, path: &str, media_type: &str, key: Option<&str>, body: &[u8]) -> Answer<Value> {
        let send = || {
            let request = self.with_key(self.agent.post(self.address(path))).header(CONTENT_TYPE, media_type);
            match key {
                Some(key) => request.header("idempotency-key", key).send(body),
                None => request.send(body),
            }
        };
        json_of(&self.again(send)?)
    }

    /// The body of an answer. A request that is not answered is sent again a few times: the server may be starting
    /// again, and its jobs survive that.
    fn again(&self, send: impl Fn() -> std::result::Result<Response<Body>, ureq::Error>) -> Answer<Vec<u8>> {
        let mut attempt = 1;
        loop {
            match self.bytes(send()) {
                Err(StudioError::Remote { kind, .. }) if kind == UNREACHABLE && attempt < ATTEMPTS => {
                    thread::sleep(PAUSES[1]);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn with_key<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            None => request,
        }
    }

    /// The body of an answer, or the error that it is.
    fn bytes(&self, sent: std::result::Result<Response<Body>, ureq::Error>) -> Answer<Vec<u8>> {
        let unreachable = |reason: String| StudioError::Remote {
            message: format!("{} does not answer: {reason}", self.url),
            hint: Some("start a server there with `dj-flux2 serve`, or correct the address".into()),
            kind: UNREACHABLE.into(),
        };
        let answer = sent.map_err(|error| unreachable(error.to_string()))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        let read = answer.into_body().into_reader().take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| unreachable(error.to_string()))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(strange(format!("the answer of {} has more than {MAX_BYTES} bytes", self.url)));
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let error: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        // AUTOMATIC1111's API words errors in its own way.
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let detail = text(&error["error"]["message"]).or_else(|| text(&error["detail"]));
        let message = detail.unwrap_or_else(|| format!("{} answers with status {status}", self.url));
        let kind = text(&error["error"]["code"]).or_else(|| text(&error["error"])).unwrap_or_default();
        Err(StudioError::Remote { message, hint: text(&error["error"]["hint"]), kind })
    }

    /// Waits until a job is over, and stops it after `cancel`.
    fn wait(&self, id: &str, heard: &mut dyn FnMut(&Heard), cancel: &CancelToken) -> Answer<Value> {
        let path = format!("/api/v1/jobs/{id}");
        let (mut pause, mut is_cancelled, mut told) = (PAUSES[0], false, None);
        let mut is_started = false;
        let mut warned = 0;
        loop {
            if cancel.is_cancelled() && !is_cancelled {
                is_cancelled = true;
                self.bytes(self.with_key(self.agent.delete(self.address(&path))).call())?;
            }
            let job = self.get(&path)?;
            let warnings = job["warnings"].as_array().cloned().unwrap_or_default();
            for text in warnings.iter().skip(warned).filter_map(Value::as_str) {
                heard(&Heard::Warning { text: text.to_owned() });
            }
            warned = warnings.len();
            match job["state"].as_str().unwrap_or_default() {
                "done" => return Ok(job),
                "failed" => {
                    let text = |name: &str| job["error"][name].as_str().map(str::to_owned);
                    return Err(StudioError::Remote {
                        message: text("message").unwrap_or_else(|| "the job failed".into()),
                        hint: text("hint"),
                        kind: text("class").unwrap_or_default(),
                    });
                }
                "cancelled" => return Err(StudioError::Cancelled),
                "queued" => {
                    let position = number(&job["position"]).unwrap_or_default() as usize;
                    if told != Some(position) {
                        told = Some(position);
                        heard(&Heard::Queued { position });
                    }
                }
                _ => {
                    if !is_started {
                        is_started = true;
                        heard(&Heard::Started);
                    }
                    let at = |name: &str| number(&job["progress"][name]).unwrap_or_default();
                    if at("step") > 0 {
                        heard(&Heard::Step { picture: at("image"), step: at("step"), steps: at("steps") });
                    }
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSES[1]);
        }
    }
}

impl RemoteStudio {
    /// Lets the server enlarge a picture, and returns the file. Blocks until the server answers.
    fn enlarged(&self, file_before: &[u8], by: Option<f32>, upscaler: Option<&str>) -> Answer<Vec<u8>> {
        let capabilities = self.get("/api/v1/capabilities")?;
        let all = capabilities["upscalers"].as_array().cloned().unwrap_or_default();
        let is_meant = |known: &&Value| upscaler.is_none_or(|name| known["name"].as_str() == Some(name));
        let chosen = all.iter().find(is_meant);
        let by = by.or_else(|| chosen?["scale"].as_f64().map(|scale| scale as f32)).unwrap_or(2.0);
        let name = upscaler.or_else(|| chosen?["name"].as_str());
        let body = json!({"image": STANDARD.encode(file_before), "upscaling_resize": by, "upscaler_1": name});
        let answer =
            self.post("/sdapi/v1/extra-single-image", "application/json", None, body.to_string().as_bytes())?;
        let file = STANDARD.decode(answer["image"].as_str().unwrap_or_default());
        file.map_err(|error| strange(format!("the picture is no base64: {error}")))
    }
}

/// The kind of an error where a server does not answer.
const UNREACHABLE: &str = "unreachable";

/// A random number, from the random state of the standard library's hash maps.
fn fresh() -> u64 {
    RandomState::new().hash_one(())
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

/// An answer that is none of this API.
fn strange(message: String) -> StudioError {
    let hint = Some("check that a dj-flux2 of the same version is served there".into());
    StudioError::Remote { message, hint, kind: "strange".into() }
}

fn json_of(bytes: &[u8]) -> Answer<Value> {
    serde_json::from_slice(bytes).map_err(|error| strange(format!("the server's answer is no JSON: {error}")))
}

/// The key in a file, or in the environment.
fn key(file: Option<&Path>) -> Result<Option<String>> {
    let text = match file {
        Some(file) => Some(fs::read_to_string(file).map_err(|error| {
            Failure::new(
                code::FAILURE,
                format!("{}: {error}", file.display()),
                "pass the file that holds the key alone",
            )
        })?),
        None => std::env::var(VARIABLE).ok(),
    };
    let key = text.map(|text| text.trim().to_owned()).filter(|key| !key.is_empty());
    match key.as_ref().is_some_and(|key| key.contains(|c: char| c.is_whitespace() || c.is_control())) {
        true => Err(Failure::usage("the API key holds white space", "pass a file that holds the key alone")),
        false => Ok(key),
    }
}

/// A draft as the body of a request.
fn body_of(draft: Draft) -> Value {
    let Draft { model, prompt, references, source, width, height, steps, guidance, noise, seed, count, .. } = draft;
    let mut body = json!({
        "prompt": prompt,
        "model": model.name,
        "loras": model.loras.iter().map(|lora| json!({"name": lora.name, "scale": lora.scale})).collect::<Vec<_>>(),
        "precision": model.precision.map(|precision| precision.to_string()),
        "references": references,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "noise": noise.map(|noise| noise.to_string()),
        "seed": seed,
        "count": count,
        "format": draft.format.map(|format| format.name().to_ascii_lowercase()),
        "metadata": draft.metadata,
        "watermark": draft.watermark,
        "upscale": draft.upscale.as_ref().map(|upscale| upscale.by),
        "upscaler": draft.upscale.as_ref().and_then(|upscale| upscale.upscaler.clone()),
    });
    let source = source.and_then(|source| serde_json::to_value(source).ok());
    if let (Some(body), Some(Value::Object(source))) = (body.as_object_mut(), source) {
        // A source gives the size.
        body.remove("width");
        body.remove("height");
        body.extend(source);
    }
    body
}

impl Studio for RemoteStudio {
    fn models(&self) -> Answer<Vec<String>> {
        let models = self.get("/api/v1/models")?;
        let names =
            |models: &Vec<Value>| models.iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect();
        models.as_array().map(names).ok_or_else(|| strange(format!("{} lists no models", self.url)))
    }

    fn keep(&self, file: &[u8]) -> Answer<String> {
        let digest = sha256(file);
        let known = format!("/api/v1/uploads/{digest}");
        if self.bytes(self.with_key(self.agent.get(self.address(&known))).call()).is_err() {
            self.post("/api/v1/uploads", "application/octet-stream", None, file)?;
        }
        Ok(digest)
    }

    fn draw(&self, draft: Draft, heard: &mut dyn FnMut(&Heard), cancel: &CancelToken) -> Answer<Vec<Drawn>> {
        let body = body_of(draft).to_string();
        let key = format!("{:016x}{:016x}", fresh(), fresh());
        let accepted = self.post("/api/v1/jobs", "application/json", Some(&key), body.as_bytes())?;
        let id = accepted["id"].as_str().ok_or_else(|| strange("the server's answer has no id of a job".into()))?;
        // The id becomes part of an address.
        if id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            return Err(strange(format!("{id:?} is no id of a job")));
        }
        let job = self.wait(id, heard, cancel)?;
        let request = &job["request"];
        let drawn = |image: &Value| {
            let info: ImageInfo = serde_json::from_value(image.clone())
                .map_err(|error| strange(format!("the server describes a picture in another way: {error}")))?;
            let path = format!("/api/v1/jobs/{id}/images/{}", info.index);
            let bytes = self.again(|| self.with_key(self.agent.get(self.address(&path))).call())?;
            if sha256(&bytes) != info.sha256 {
                return Err(strange("the picture was changed on its way".into()));
            }
            let made = Made {
                prompt: request["prompt"].as_str().unwrap_or_default().to_owned(),
                negative_prompt: None,
                model: request["model"].as_str().unwrap_or_default().to_owned(),
                seed: info.seed,
                steps: number(&request["steps"]).unwrap_or_default(),
                guidance: request["guidance"].as_f64().map(|guidance| guidance as f32),
                width: info.width,
                height: info.height,
            };
            Ok(Drawn { bytes, made, info })
        };
        job["images"].as_array().into_iter().flatten().map(drawn).collect()
    }

    fn enlarge(&self, file: &[u8], by: Option<f32>, upscaler: Option<&str>, cancel: &CancelToken) -> Answer<Vec<u8>> {
        // The server enlarges in the time of one request, which cannot be called back: its answer is not waited for.
        let (send, receive) = mpsc::channel();
        let (remote, file, upscaler) = (self.clone(), file.to_owned(), upscaler.map(str::to_owned));
        thread::spawn(move || send.send(remote.enlarged(&file, by, upscaler.as_deref())));
        loop {
            match receive.recv_timeout(PAUSES[0]) {
                Ok(enlarged) => return enlarged,
                Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return Err(StudioError::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(strange("the request ended without an answer".into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flux2::image::ImageFormat;
    use flux2_jobs::{Painting, SourceSpec};

    use super::*;

    #[test]
    fn a_draft_has_the_fields_of_the_native_api() {
        let source = SourceSpec { source: "s".into(), mask: Some("m".into()), painting: Painting::default() };
        let draft = Draft { prompt: "a hat".into(), width: Some(64), seed: Some(7), ..Draft::default() };
        let body = body_of(draft.clone());
        assert_eq!(body_of(Draft { format: Some(ImageFormat::WebP), ..draft.clone() })["format"], "webp");
        assert_eq!((&body["width"], &body["seed"], &body["model"]), (&json!(64), &json!(7), &Value::Null));
        let body = body_of(Draft { source: Some(source), ..draft });
        assert_eq!((body.get("width"), &body["source"], &body["mask"]), (None, &json!("s"), &json!("m")));
        assert_eq!((&body["strength"], &body["outpaint_fill"]), (&json!(1.0), &json!("edge")));
    }

    #[test]
    fn an_address_may_lack_its_scheme_and_no_more() {
        for wrong in ["", "ftp://a", "http://", "a b"] {
            let failure = RemoteStudio::connect(wrong, None).err().unwrap();
            assert_eq!(failure.message, format!("{wrong} is no address of a server"));
        }
    }
}

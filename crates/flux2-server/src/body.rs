//! Bodies of requests: received within limits, and read as JSON or as a form.
//!
//! A form becomes the JSON object that says the same, so each API has one type for both, and its files.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::{StatusCode, header};
use flux2::foreign;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::error::{ApiError, Result};

/// Bytes of a text field of a form.
const MAX_TEXT: usize = 1 << 20;
/// Bytes of a body that does not count towards the budget of all bodies.
const SMALL: usize = 256 << 10;
/// Bytes that are received and dropped after a body turned out too long, so that its sender reads the answer.
const MAX_DROPPED: usize = 16 << 20;

/// A body as JSON, and the files that came with it.
pub struct Fields {
    /// The fields: an object, or what else the JSON is.
    pub json: Value,
    /// Files of a form, by the name of their field.
    pub files: Vec<File>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A file of a form.
pub struct File {
    /// Name of the field, without `[]` or `[0]`.
    pub field: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// The bytes of a body, and a part of the memory that bodies may take.
pub struct Received {
    /// The bytes.
    pub bytes: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

/// Receive a body of JSON.
///
/// # Errors
/// 415 for another type, 400 for broken JSON, 413 and 408 for one that is too long or too slow.
pub async fn json(app: &App, request: Request) -> Result<Fields> {
    match content_type(&request) {
        Some(kind) if is_json(&kind) => parse_json(receive(app, request).await?),
        kind => Err(unsupported(kind, "application/json")),
    }
}

/// Receive a body of JSON or a form.
///
/// # Errors
/// As [`json()`]; 400 for a broken form, one with too many parts, or one with a text that is too long.
pub async fn json_or_form(app: &App, request: Request) -> Result<Fields> {
    match content_type(&request) {
        Some(kind) if is_json(&kind) => parse_json(receive(app, request).await?),
        Some(kind) if kind == "multipart/form-data" => {
            let parts = request.headers().get(header::CONTENT_TYPE).cloned();
            let received = receive(app, request).await?;
            let mut request = Request::new(Body::from(received.bytes));
            request.headers_mut().extend(parts.map(|kind| (header::CONTENT_TYPE, kind)));
            parse_form(app, request, received.permit).await
        }
        kind => Err(unsupported(kind, "application/json or multipart/form-data")),
    }
}

/// Receive a body of any type.
///
/// # Errors
/// 413 for one that is too long, 408 for one that is too slow, 400 for one that breaks off.
pub async fn receive(app: &App, request: Request) -> Result<Received> {
    let (most, patience) = (app.options.limits.body_bytes, app.options.times.body);
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let permit = match length {
        Some(length) if length <= SMALL => None,
        _ => {
            let kib = length.unwrap_or(most).min(most).div_ceil(1024) as u32;
            app.bodies.clone().acquire_many_owned(kib).await.ok()
        }
    };
    let collected = tokio::time::timeout(patience, collect(request.into_body(), most, length)).await;
    let bytes = collected.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", patience.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message))
    })?;
    Ok(Received { bytes, permit })
}

async fn collect(mut body: Body, most: usize, length: Option<usize>) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(length.unwrap_or_default().min(most));
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "broken_body", format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len();
        if received <= most {
            bytes.extend_from_slice(&data);
        } else if received > most + MAX_DROPPED {
            break;
        }
    }
    match received <= most {
        true => Ok(bytes.into()),
        false => {
            let message = format!("the body is longer than {most} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message))
        }
    }
}

/// The type of a body in lower case, without its parameters.
fn content_type(request: &Request) -> Option<String> {
    let value = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

fn is_json(kind: &str) -> bool {
    kind == "application/json" || kind.strip_prefix("application/").is_some_and(|rest| rest.ends_with("+json"))
}

fn unsupported(found: Option<String>, expected: &str) -> ApiError {
    let message = match found {
        Some(found) => format!("the body is {found}"),
        None => "the body has no type".into(),
    };
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
        .hint(format!("send {expected} and say so in Content-Type"))
}

fn parse_json(received: Received) -> Result<Fields> {
    let json = serde_json::from_slice(&received.bytes).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {error}"))
    })?;
    Ok(Fields { json, files: Vec::new(), _permit: received.permit })
}

async fn parse_form(app: &App, request: Request, permit: Option<OwnedSemaphorePermit>) -> Result<Fields> {
    let broken = |error: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_form", format!("the form cannot be read: {error}"))
    };
    let limits = &app.options.limits;
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| broken(&error.body_text()))?;
    let (mut json, mut files) = (Map::new(), Vec::new());
    let mut parts = 0;
    while let Some(part) = form.next_field().await.map_err(|error| broken(&error.body_text()))? {
        parts += 1;
        if parts > limits.parts {
            return Err(broken(&format!("it has more than {} parts", limits.parts)));
        }
        let field = field_name(part.name().unwrap_or_default());
        let is_file = part.file_name().is_some();
        let bytes = part.bytes().await.map_err(|error| broken(&error.body_text()))?;
        if is_file {
            check_image_bytes(bytes.len(), limits.image_bytes, &field)?;
            files.push(File { field, bytes });
            continue;
        }
        if bytes.len() > MAX_TEXT {
            return Err(ApiError::invalid(&field, format!("a text of {} bytes; {MAX_TEXT} are read", bytes.len())));
        }
        let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::invalid(&field, "the text is not UTF-8"))?;
        add_text(&mut json, field, text);
    }
    Ok(Fields { json: json.into(), files, _permit: permit })
}

/// Refuse an image file of more bytes than are read.
///
/// # Errors
/// 413.
pub fn check_image_bytes(bytes: usize, most: usize, field: &str) -> Result<()> {
    match bytes <= most {
        true => Ok(()),
        false => {
            let message = format!("an image of {bytes} bytes; files of at most {most} bytes are read");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message).of(field))
        }
    }
}

/// `image` for `image`, `image[]` and `image[0]`.
fn field_name(name: &str) -> String {
    match name.split_once('[') {
        Some((name, index)) if index.strip_suffix(']').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) => name,
        _ => name,
    }
    .to_owned()
}

/// Add a text; a field that comes several times becomes a list.
fn add_text(json: &mut Map<String, Value>, field: String, text: String) {
    match json.get_mut(&field) {
        None => drop(json.insert(field, text.into())),
        Some(Value::Array(texts)) => texts.push(text.into()),
        Some(first) => *first = vec![first.take(), text.into()].into(),
    }
}

/// Fields as a type of an API, and the names of those that it does not have.
///
/// # Errors
/// `status` with the name of the field for a value that does not fit.
pub fn typed<T: DeserializeOwned>(json: Value, status: StatusCode) -> Result<(T, Vec<String>)> {
    if !json.is_object() {
        return Err(ApiError::new(status, "invalid_json", "the body is not a JSON object"));
    }
    let (mut track, mut unknown) = (serde_path_to_error::Track::new(), Vec::new());
    let reader = serde_path_to_error::Deserializer::new(json, &mut track);
    let result = serde_ignored::deserialize(reader, |path| unknown.push(path.to_string()));
    match result {
        Ok(value) => Ok((value, unknown)),
        Err(error) => {
            let path = track.path().to_string();
            let message = serde_json::Error::to_string(&error);
            let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            let error = match unknown.and_then(foreign::why) {
                Some(why) => ApiError::new(status, "invalid_value", why).hint(foreign::HINT),
                None => ApiError::new(status, "invalid_value", message),
            };
            Err(if path == "." { error } else { error.of(&path) })
        }
    }
}

/// A sentence for each field that was ignored.
pub fn unknown_fields(names: Vec<String>) -> impl Iterator<Item = String> {
    names.into_iter().map(|name| match foreign::why(&name) {
        Some(why) => format!("the field {name:?} was ignored: {why}"),
        None => format!("the field {name:?} is not known and was ignored"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_another_program_is_answered_with_the_reason() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let error = |json| typed::<Nothing>(json, StatusCode::BAD_REQUEST).unwrap_err().message;
        assert!(error(serde_json::json!({"sampler": "euler"})).contains("there is no sampler to choose"));
        assert!(error(serde_json::json!({"clip_skip": 2})).contains("there are no CLIP layers to skip"));
        assert!(error(serde_json::json!({"stpes": 2})).contains("unknown field `stpes`"));
        let ignored: Vec<String> = unknown_fields(vec!["scheduler".into(), "x".into()]).collect();
        assert!(ignored[0].contains("there is no scheduler to choose"), "{ignored:?}");
        assert_eq!(ignored[1], "the field \"x\" is not known and was ignored");
    }

    #[test]
    fn brackets_of_a_field_do_not_count() {
        for name in ["image", "image[]", "image[0]", "image[12]"] {
            assert_eq!(field_name(name), "image");
        }
        assert_eq!(field_name("image[a]"), "image[a]");
    }

    #[test]
    fn a_field_that_comes_again_is_a_list() {
        let mut json = Map::new();
        for (field, text) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")] {
            add_text(&mut json, field.into(), text.into());
        }
        assert_eq!(Value::from(json), serde_json::json!({ "a": ["1", "3", "4"], "b": "2" }));
    }
}

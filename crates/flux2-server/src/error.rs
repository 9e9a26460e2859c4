//! Why a request is not answered with what it asked for, as every API tells it.
//!
//! The native and the OpenAI API answer `{"error": {message, type, param, code}}`. The other APIs word the same error
//! in their own form: see [`as_detail`].

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flux2::{Error, ErrorKind};
use flux2_jobs::{FailureClass, JobFailure, Refused};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Result with an [`ApiError`].
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Tells OpenAI's clients whether to send the request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Status of a request whose job was cancelled, as proxies log it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// Time after which a client should ask again while the server is about to end or starts.
const RESTART: Duration = Duration::from_secs(5);

/// An error as a client sees it.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What happened, and the value.
    pub message: String,
    /// The field of the request that is to blame.
    pub param: Option<String>,
    /// A name for programs.
    pub code: &'static str,
    /// What to do about it.
    pub hint: Option<String>,
    /// When to ask again.
    retry_after: Option<Duration>,
    /// Whether the same request may succeed, where the status does not say so.
    should_retry: Option<bool>,
}

/// The body of every error of the native and the OpenAI API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// An error in the form of OpenAI's API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorObject {
    /// What happened, and the value.
    pub message: String,
    /// The kind of error: `invalid_request_error`, `permission_error`, `conflict`, `rate_limit_error`, `cancelled` or
    /// `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field of the request that is to blame.
    #[schema(required)]
    pub param: Option<String>,
    /// A name for programs, as in `invalid_size`.
    pub code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code,
            hint: None,
            retry_after: None,
            should_retry: None,
        }
    }

    /// 400: a value that is not allowed, in field `param`.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).of(param)
    }

    /// 404: a job that is not there, or belongs to somebody else.
    pub fn no_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "job_not_found", "there is no job of this id, or not any more")
    }

    /// 404: a model that is not served.
    pub fn no_model(name: &str, nearest: Option<&str>) -> Self {
        let error =
            Self::new(StatusCode::NOT_FOUND, "model_not_found", format!("there is no model {name:?}")).of("model");
        match nearest {
            Some(nearest) => error.hint(format!("use {nearest}")),
            None => error.hint("ask /v1/models for those that are served"),
        }
    }

    /// 503: no new work is taken.
    pub fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is about to end").retry_after(RESTART)
    }

    /// 499: the job was cancelled while its client waited.
    pub fn cancelled() -> Self {
        let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).expect("a status has three digits");
        Self::new(status, "cancelled", "the job was cancelled").should_retry(false)
    }

    /// 500: a bug or a failing disk.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The same error about field `param`.
    pub fn of(self, param: &str) -> Self {
        ApiError { param: Some(param.to_owned()), ..self }
    }

    /// The same error under another name.
    pub fn code(self, code: &'static str) -> Self {
        ApiError { code, ..self }
    }

    /// The same error with advice.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        ApiError { hint: Some(hint.into()), ..self }
    }

    /// The same error with the time to ask again.
    pub fn retry_after(self, time: Duration) -> Self {
        ApiError { retry_after: Some(time), ..self }
    }

    fn should_retry(self, retry: bool) -> Self {
        ApiError { should_retry: Some(retry), ..self }
    }

    /// The kind of error, in OpenAI's words.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            403 => "permission_error",
            409 => "conflict",
            429 => "rate_limit_error",
            CLIENT_CLOSED_REQUEST => "cancelled",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The error for the body of a response, or for an event of a stream.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                kind: self.kind().into(),
                param: self.param.clone(),
                code: self.code.into(),
                hint: self.hint.clone(),
            },
        }
    }

    /// The message, followed by what to do about it.
    pub fn sentence(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    fn headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(time) = self.retry_after {
            let seconds = time.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(retry) = self.should_retry {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(if retry { "true" } else { "false" }));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"dj-flux2\""));
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        self.headers(&mut response);
        // For APIs that word errors differently.
        response.extensions_mut().insert(self);
        response
    }
}

/// An error as FastAPI words it, which the origin's API and that of AUTOMATIC1111 are built on: `{"detail": …}`. Other
/// responses stay as they are.
pub async fn as_detail(response: Response) -> Response {
    let Some(error) = response.extensions().get::<ApiError>().cloned() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let sentence = error.sentence();
    let detail = match (error.status, &error.param) {
        // FastAPI lists what does not fit its types.
        (StatusCode::UNPROCESSABLE_ENTITY, param) => {
            let place: Vec<_> = std::iter::once("body").chain(param.as_deref()).collect();
            serde_json::json!([{ "loc": place, "msg": sentence, "type": "value_error" }])
        }
        _ => sentence.into(),
    };
    let body = serde_json::json!({ "detail": detail, "error": error.code });
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// The body of every error of the origin's API and of that of AUTOMATIC1111.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DetailBody {
    /// What happened, as a sentence; for status 422 a list of what does not fit.
    pub detail: serde_json::Value,
    /// A name for programs.
    pub error: String,
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let answer = match &error {
            Error::SizeGrid { axis, .. } | Error::SizeRange { axis, .. } => {
                Self::invalid(axis, message).code("invalid_size")
            }
            Error::Steps { .. } => Self::invalid("steps", message),
            Error::Guidance { .. } => Self::invalid("guidance", message),
            Error::ReferenceCount { .. } => Self::invalid("image", message),
            Error::UpscaleFactor { .. } => Self::invalid("upscale", message),
            Error::UpscaleSize { .. } => Self::invalid("upscale", message).code("invalid_size"),
            Error::SizeOfSource { axis, .. } => Self::invalid(axis, message).code("invalid_size"),
            Error::SourceTooSmall { .. } | Error::SourceProfile | Error::CanvasTooLarge { .. } => {
                Self::invalid("source", message).code("invalid_image")
            }
            Error::MaskSize { .. } | Error::NothingToRepaint | Error::NoTransparency | Error::MaskRange { .. } => {
                Self::invalid("mask", message)
            }
            Error::Strength { .. } => Self::invalid("strength", message),
            _ => match error.kind() {
                ErrorKind::Usage => Self::new(StatusCode::BAD_REQUEST, "invalid_value", message),
                ErrorKind::BadImage => Self::invalid("image", message).code("invalid_image"),
                ErrorKind::Access => Self::new(StatusCode::FORBIDDEN, "model_gated", message),
                _ => return JobFailure::from(error).into(),
            },
        };
        ApiError { hint: error.remedy().map(|remedy| remedy.to_string()), ..answer }
    }
}

impl From<JobFailure> for ApiError {
    fn from(failure: JobFailure) -> Self {
        let JobFailure { class, message, remedy } = failure;
        let (status, code) = match class {
            FailureClass::Invalid => (StatusCode::BAD_REQUEST, "invalid_value"),
            FailureClass::BadImage => (StatusCode::BAD_REQUEST, "invalid_image"),
            FailureClass::ModelUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "model_unavailable"),
            FailureClass::OutOfMemory => (StatusCode::SERVICE_UNAVAILABLE, "out_of_memory"),
            FailureClass::NotFinite => (StatusCode::INTERNAL_SERVER_ERROR, "nan_output"),
            FailureClass::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
            FailureClass::Storage => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let error = ApiError { hint: remedy.map(|remedy| remedy.to_string()), ..Self::new(status, code, message) };
        match class.may_retry() {
            true => error,
            false => error.should_retry(false),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Full { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message).retry_after(retry_after)
            }
            Refused::Draining => Self::draining(),
            Refused::Invalid(error) => error.into(),
            Refused::Count { .. } => Self::invalid("n", message),
            Refused::SeedRange { .. } => Self::invalid("seed", message).hint("use a smaller seed"),
            Refused::UnknownModel { name, nearest } => Self::no_model(&name, nearest.as_deref()),
            Refused::UnknownLora { nearest, .. } => {
                let error = Self::new(StatusCode::NOT_FOUND, "lora_not_found", message).of("loras");
                ApiError { hint: nearest.map(|nearest| format!("use {nearest}")), ..error }
            }
            Refused::UnknownUpscaler { nearest, .. } => {
                let error = Self::new(StatusCode::BAD_REQUEST, "upscaler_not_found", message).of("upscaler");
                ApiError { hint: nearest.map(|nearest| format!("use {nearest}")), ..error }
            }
            Refused::UnknownBlob { .. } => Self::new(StatusCode::NOT_FOUND, "upload_not_found", message)
                .of("references")
                .hint("send the image to /api/v1/uploads first"),
            Refused::Storage(failure) => failure.into(),
            _ => Self::internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_failure_has_a_status_and_says_whether_to_retry() {
        let answer = |class| {
            let response = ApiError::from(JobFailure::new(class, "m")).into_response();
            let retry = response.headers().get(SHOULD_RETRY).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), retry)
        };
        let no = Some("false".to_owned());
        let expected = [
            (400, no.clone()),
            (400, no.clone()),
            (503, no.clone()),
            (503, no.clone()),
            (500, no),
            (504, None),
            (500, None),
            (500, None),
            (500, None),
        ];
        assert_eq!(FailureClass::ALL.map(answer), expected);
    }

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let refused = Refused::Full { jobs: 9, wait: Duration::from_secs(3), retry_after: Duration::from_millis(2100) };
        let response = ApiError::from(refused).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (429, &"3".parse().unwrap())
        );
    }

    #[test]
    fn all_four_keys_are_there() {
        let body = serde_json::to_value(ApiError::no_job().body()).unwrap();
        let keys: Vec<_> = body["error"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
    }
}

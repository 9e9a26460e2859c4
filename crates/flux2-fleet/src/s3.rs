//! Pictures in an S3-compatible store: its settings, and HTTP for it by the client that the rest of the program uses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ObjectStore, prefix::PrefixStore};
use ureq::Agent;

/// Longest time of a request.
const REQUEST: Duration = Duration::from_secs(60);
/// Largest answer: a picture, or a list of errors.
const MAX_ANSWER: u64 = 256 << 20;

/// A bucket of an S3-compatible store, a folder in it, and how it is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct S3 {
    bucket: String,
    folder: String,
    settings: Vec<(AmazonS3ConfigKey, String)>,
}

/// Without the settings: there are secrets among them.
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.folder.as_str() {
            "" => write!(f, "s3://{}", self.bucket),
            folder => write!(f, "s3://{}/{folder}", self.bucket),
        }
    }
}

impl S3 {
    /// Read `BUCKET/FOLDER`; the folder may be missing.
    pub(crate) fn parse(text: &str) -> Option<S3> {
        let (bucket, folder) = text.split_once('/').unwrap_or((text, ""));
        let folder = folder.trim_end_matches('/').to_owned();
        (!bucket.is_empty()).then(|| S3 { bucket: bucket.into(), folder, settings: Vec::new() })
    }

    /// Take the variables that are settings of S3, as `AWS_ACCESS_KEY_ID`.
    pub(crate) fn with_variables(mut self, variables: impl Iterator<Item = (String, String)>) -> Self {
        let setting = |(name, value): (String, String)| {
            let name = name.strip_prefix("AWS_")?;
            Some((format!("aws_{}", name.to_lowercase()).parse().ok()?, value))
        };
        self.settings.extend(variables.filter_map(setting));
        self
    }

    pub(crate) fn open(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let builder = AmazonS3Builder::new().with_bucket_name(&self.bucket).with_http_connector(Connector);
        let set =
            |builder: AmazonS3Builder, (key, value): &(AmazonS3ConfigKey, String)| builder.with_config(*key, value);
        let store = self.settings.iter().fold(builder, set).build()?;
        Ok(match self.folder.as_str() {
            "" => Arc::new(store),
            folder => Arc::new(PrefixStore::new(store, folder)),
        })
    }
}

/// Connects by `ureq`, so that the program has one client for HTTP and TLS.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST));
        Ok(HttpClient::new(Service { agent: config.max_redirects(0).build().into() }))
    }
}

#[derive(Debug)]
struct Service {
    agent: Agent,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let agent = self.agent.clone();
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = http::Request::from_parts(parts, body.to_vec());
        let answer = tokio::task::spawn_blocking(move || {
            let (parts, mut body) = agent.run(request).map_err(failed)?.into_parts();
            let bytes = body.with_config().limit(MAX_ANSWER).read_to_vec().map_err(failed)?;
            Ok::<_, HttpError>((parts, Bytes::from(bytes)))
        });
        let (parts, bytes) = answer.await.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))??;
        let body = HttpResponseBody::new(Full::new(bytes).map_err(|never| match never {}));
        Ok(HttpResponse::from_parts(parts, body))
    }
}

fn failed(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

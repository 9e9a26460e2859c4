//! From an order of any API to a job, and to its end: what all APIs do alike.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use flux2::Source;
use flux2_jobs::{
    Accepted, Draft, Filter, Forecast, JobEvent, JobId, JobState, JobView, Painting, Picture, Priority, SourceSpec,
    Submission, UpscaleChoice,
};

use crate::access::Caller;
use crate::app::App;
use crate::body::check_image_bytes;
use crate::error::{ApiError, Result};
use crate::values::image_bytes;

/// Longest `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// How many times more pixels than an image that is drawn an enlarged one may have.
pub const MAX_GROWTH: u64 = 16;
/// Time after which a client whose limit of jobs is reached should ask again.
const BUSY: Duration = Duration::from_secs(2);

/// A job that somebody asks for.
#[derive(Debug, Default)]
pub struct Order {
    /// The pictures; its references are those below.
    pub draft: Draft,
    /// Reference images, in the order that the prompt counts them.
    pub images: Vec<Image>,
    /// The picture to paint into.
    pub source: Option<SourceOrder>,
    /// Its urgency.
    pub priority: Priority,
    /// Time from now after which it is no longer wanted.
    pub deadline: Option<Duration>,
    /// Names the order, so that sending it again asks for nothing new.
    pub idempotency_key: Option<String>,
    /// Whether previews are wanted from the first step on.
    pub previews: bool,
}

/// An image of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// The digest of an upload.
    Upload(String),
    /// It came with the request.
    Sent(Bytes),
}

impl Image {
    /// What a field names: an upload by its digest, or an image as base64 or a data URL.
    ///
    /// # Errors
    /// As [`image_bytes`].
    pub fn of_text(text: &str, field: &str) -> Result<Self> {
        match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Image::Upload(text.to_owned())),
            false => image_bytes(text, field).map(Image::Sent),
        }
    }
}

/// A picture to paint into.
#[derive(Debug)]
pub struct SourceOrder {
    /// The picture.
    pub source: Image,
    /// What of it is repainted.
    pub mask: Option<Image>,
    /// How it is painted into.
    pub painting: Painting,
}

/// How many times the pixels of an image that is drawn a source may have: most of a large one is not drawn.
const SOURCE_PIXELS: u64 = 8;

/// The value of `Idempotency-Key`.
///
/// # Errors
/// 400 if it is too long or no text.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::invalid("Idempotency-Key", format!("a key is 1 to {MAX_IDEMPOTENCY_KEY} ASCII characters"))),
    }
}

/// Hand an order to the engine.
///
/// # Errors
/// What the operator, the caller's key, the model or the engine does not allow.
pub async fn submit(app: &App, caller: &Caller, order: Order) -> Result<Accepted> {
    check(app, caller, &order)?;
    let caller = caller.clone();
    app.blocking(move |app| submit_blocking(app, &caller, order)).await?
}

/// Hand an order to the engine, for a client that waits for its end.
///
/// # Errors
/// As [`submit`].
pub async fn submit_and_wait(app: &App, caller: &Caller, order: Order) -> Result<Waiter> {
    check(app, caller, &order)?;
    let caller = caller.clone();
    // A client that is gone before the job is accepted drops the waiter all the same.
    app.blocking(move |app| Waiter::new(app, submit_blocking(app, &caller, order)?.id)).await?
}

/// As [`submit`], on a thread that may block.
///
/// # Errors
/// As there.
pub fn submit_now(app: &App, caller: &Caller, order: Order) -> Result<Accepted> {
    check(app, caller, &order)?;
    submit_blocking(app, caller, order)
}

/// What an order would take, on a thread that may block. Nothing is submitted.
///
/// # Errors
/// What the operator or the model does not allow.
pub fn forecast(app: &App, order: Order) -> Result<Forecast> {
    check_limits(app, &order)?;
    Ok(app.jobs.forecast(draft_of(app, order.draft, order.images, order.source)?)?)
}

/// Whether the server and the caller's key allow an order; counts it.
fn check(app: &App, caller: &Caller, order: &Order) -> Result<()> {
    check_open(app)?;
    check_limits(app, order)?;
    count(app, caller)
}

fn check_open(app: &App) -> Result<()> {
    if app.is_draining() { Err(ApiError::draining()) } else { Ok(()) }
}

/// Count a request for work of a caller.
///
/// # Errors
/// 503 if the server is about to end, 429 if the key has as many requests as it may.
pub fn count(app: &App, caller: &Caller) -> Result<()> {
    check_open(app)?;
    if let Some(key) = &caller.key
        && let Some(per_minute) = key.per_minute
    {
        app.rates.count(&key.name, per_minute, Instant::now()).map_err(|wait| {
            let message = format!("more than {per_minute} requests in a minute");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).retry_after(wait)
        })?;
    }
    Ok(())
}

/// What the server allows; the model's own limits are checked by the engine.
fn check_limits(app: &App, order: &Order) -> Result<()> {
    let (limits, draft) = (&app.options.limits, &order.draft);
    let chars = draft.prompt.chars().count();
    if chars > limits.prompt_chars {
        let message = format!("the prompt has {chars} characters; {} are allowed", limits.prompt_chars);
        return Err(ApiError::invalid("prompt", message).code("prompt_too_long"));
    }
    let count = draft.count.unwrap_or(1);
    if !(1..=limits.count).contains(&count) {
        return Err(ApiError::invalid("n", format!("{count} pictures: 1 to {} are allowed", limits.count)));
    }
    let references = order.images.len();
    if references > limits.references {
        let message = format!("{references} reference images; {} are allowed", limits.references);
        return Err(ApiError::invalid("image", message));
    }
    let of_source = order.source.iter().flat_map(|order| std::iter::once(&order.source).chain(&order.mask));
    for image in order.images.iter().chain(of_source) {
        if let Image::Sent(bytes) = image {
            check_image_bytes(bytes.len(), limits.image_bytes, "image")?;
        }
    }
    if let Some(UpscaleChoice { by, .. }) = &draft.upscale {
        let drawn = draft.width.zip(draft.height).map_or(1, |(width, height)| u64::from(width) * u64::from(height));
        let (pixels, most) = (drawn as f64 * f64::from(*by).powi(2), limits.pixels.saturating_mul(MAX_GROWTH));
        if pixels > most as f64 {
            let message = format!("{by} times as large is more than {most} pixels, the most that this server makes");
            return Err(ApiError::invalid("upscale", message).code("invalid_size"));
        }
    }
    if let (Some(width), Some(height)) = (draft.width, draft.height)
        && u64::from(width) * u64::from(height) > limits.pixels
    {
        let message =
            format!("{width}x{height} is more than {} pixels, the most that this server draws", limits.pixels);
        return Err(ApiError::invalid("size", message).code("invalid_size"));
    }
    Ok(())
}

fn submit_blocking(app: &App, caller: &Caller, order: Order) -> Result<Accepted> {
    let Order { draft, images, source, priority, deadline, idempotency_key, previews } = order;
    let draft = draft_of(app, draft, images, source)?;
    let most = caller.key.as_ref().and_then(|key| key.jobs);
    // Not let go before the job is counted by others.
    let counting = most.map(|_| app.counting.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    if let Some(most) = most {
        let states = vec![JobState::Queued, JobState::Running];
        let unfinished = Filter { owner: Some(caller.owner.clone()), states, ..Filter::default() };
        if app.jobs.list(&unfinished, None, most).jobs.len() >= most {
            let message = format!("this key has {most} jobs that wait or run, as many as it may have");
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_jobs", message);
            return Err(error.retry_after(BUSY));
        }
    }
    // Priorities are declared from the most urgent to the least.
    let priority = priority.max(caller.key.as_ref().map_or(Priority::High, |key| key.priority));
    let owner = caller.owner.clone();
    let submission = Submission { draft, owner, priority, deadline, idempotency_key, previews };
    let accepted = app.jobs.submit(submission)?;
    drop(counting);
    tracing::info!(job = %accepted.id, owner = caller.owner, repeat = accepted.is_repeat, "accepted");
    Ok(accepted)
}

/// The draft of an order, with its images.
fn draft_of(app: &App, mut draft: Draft, images: Vec<Image>, source: Option<SourceOrder>) -> Result<Draft> {
    for image in images {
        draft.references.push(digest_of(app, image)?);
    }
    draft.source = source.map(|source| source_spec(app, source)).transpose()?;
    draft.model.name = draft.model.name.map(|name| app.resolve_alias(&name));
    Ok(draft)
}

/// What a job says of a source, once that is kept.
///
/// # Errors
/// 400 if its canvas is too large, or it is no image.
pub fn source_spec(app: &App, SourceOrder { source, mask, painting }: SourceOrder) -> Result<SourceSpec> {
    check_source(app, &source, &painting)?;
    let mask = mask.map(|mask| digest_of(app, mask)).transpose()?;
    Ok(SourceSpec { source: digest_of(app, source)?, mask, painting })
}

/// The digest that names an image in a job.
fn digest_of(app: &App, image: Image) -> Result<String> {
    Ok(match image {
        Image::Upload(digest) => digest,
        Image::Sent(bytes) => app.jobs.put_blob(&bytes)?,
    })
}

/// Refuse a source whose canvas has more pixels than the server keeps, before it is decoded.
fn check_source(app: &App, source: &Image, painting: &Painting) -> Result<()> {
    let bytes: Arc<[u8]> = match source {
        Image::Sent(bytes) => Arc::from(&bytes[..]),
        Image::Upload(digest) => match app.jobs.blob(digest)? {
            Some(bytes) => bytes,
            // The engine says that there is none.
            None => return Ok(()),
        },
    };
    let [width, height] = Source::canvas_px_of(&bytes, "the source", &painting.options())?;
    let most = SOURCE_PIXELS * app.options.limits.pixels;
    match u64::from(width) * u64::from(height) <= most {
        true => Ok(()),
        false => {
            let message = format!("a canvas of {width}x{height} is more than {most} pixels, the most of a source");
            Err(ApiError::invalid("source", message).code("invalid_size"))
        }
    }
}

/// A job of `caller`.
///
/// # Errors
/// 404 if there is none of this id, or if it is somebody else's.
pub fn job_of(app: &App, caller: &Caller, id: JobId) -> Result<JobView> {
    app.jobs.get(id).filter(|job| job.owner == caller.owner).ok_or_else(ApiError::no_job)
}

/// A client that waits for the end of a job. When it is gone, and after a time nobody else waits, the job is cancelled.
pub struct Waiter {
    app: App,
    id: JobId,
    subscription: flux2_jobs::Subscription,
    is_over: bool,
}

impl Waiter {
    fn new(app: &App, id: JobId) -> Result<Self> {
        let subscription = app.jobs.events(id, 0).ok_or_else(ApiError::no_job)?;
        *app.waiting().entry(id).or_default() += 1;
        Ok(Waiter { app: app.clone(), id, subscription, is_over: false })
    }

    /// The job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// 503 if the server ends before the job does.
    pub async fn next(&mut self) -> Result<Option<Arc<JobEvent>>> {
        let event = tokio::select! {
            biased;
            event = poll_fn(|context| self.subscription.poll_next(context)) => event,
            () = self.app.drained() => {
                // The job waits for the next start of the server, so it is not to be cancelled.
                self.is_over = true;
                return Err(ApiError::draining());
            }
        };
        self.is_over |= event.as_ref().is_none_or(|event| event.kind.is_final());
        Ok(event)
    }

    /// The job when it is over.
    ///
    /// # Errors
    /// As [`next`](Self::next); 404 if it is not kept any more.
    pub async fn end(mut self) -> Result<JobView> {
        while self.next().await?.is_some() {}
        self.app.jobs.get(self.id).ok_or_else(ApiError::no_job)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.app.waiting();
        let left = waiting.get(&self.id).map_or(0, |count| count - 1);
        match left {
            0 => waiting.remove(&self.id),
            left => waiting.insert(self.id, left),
        };
        drop(waiting);
        if self.is_over || left > 0 {
            return;
        }
        let (app, id) = (self.app.clone(), self.id);
        // Without a runtime the server has ended, and with it its jobs.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(app.options.times.hang_up).await;
                let is_alone = !app.waiting().contains_key(&id);
                if is_alone && app.jobs.cancel(id).is_some() {
                    tracing::info!(job = %id, "cancelled: its client is gone");
                }
            });
        }
    }
}

/// All pictures of a job that is over.
///
/// # Errors
/// Why it has not all of them.
pub async fn pictures(app: &App, job: &JobView) -> Result<Vec<Picture>> {
    match (job.state, &job.failure) {
        (JobState::Done, _) => {}
        (JobState::Cancelled, _) => return Err(ApiError::cancelled()),
        (_, Some(failure)) => return Err(failure.clone().into()),
        (state, None) => return Err(ApiError::internal(format!("the job ended as {}", state.name()))),
    }
    saved_pictures(app, job).await
}

/// The pictures of a job that are saved.
///
/// # Errors
/// 404 if one is not kept any more, 500 if it cannot be read.
pub async fn saved_pictures(app: &App, job: &JobView) -> Result<Vec<Picture>> {
    let mut pictures = Vec::with_capacity(job.images.len());
    for image in &job.images {
        pictures.push(picture(app, job.id, image.index).await?);
    }
    Ok(pictures)
}

/// One saved picture of a job.
///
/// # Errors
/// 404 if it is not ready or not kept any more, 500 if it cannot be read.
pub async fn picture(app: &App, id: JobId, index: u32) -> Result<Picture> {
    let found = app.blocking(move |app| app.jobs.image(id, index)).await??;
    found.ok_or_else(|| {
        let message = format!("picture {index} of the job is not ready, or not kept any more");
        ApiError::new(StatusCode::NOT_FOUND, "image_not_found", message)
    })
}

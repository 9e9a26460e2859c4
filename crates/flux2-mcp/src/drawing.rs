//! Jobs of calls: handed in, waited for, and taken in when they are over.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use flux2_jobs::{Accepted, Draft, EventKind, JobEvent, JobId, JobView, Subscription};
use rmcp::model::{CallToolResult, ContentBlock};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::album::{Kept, Wanted};
use crate::call::{Call, QUIET};
use crate::content;
use crate::desk::{Result, ToolError};
use crate::input::Delivery;
use crate::record::{self, JobRecord};

/// Seconds that a call waits for its pictures, where it says nothing. Usual clients give up after 60.
const WAIT: u32 = 45;
/// Most seconds that a call waits.
const MAX_WAIT: u32 = 600;

/// How waiting for a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// The job is over.
    Over,
    /// The time is.
    Late,
    /// The client does not want the answer any more.
    Cancelled,
}

/// Draw what `draft` makes, and answer with the pictures, or with the job if it takes longer than the call waits.
///
/// # Errors
/// Why the job is refused or fails.
pub async fn draw(
    call: &Call,
    delivery: Delivery,
    draft: impl FnOnce(&Call) -> Result<(Draft, Option<u64>)> + Send + 'static,
) -> Result<CallToolResult> {
    let Delivery { name, output, show, wait_seconds } = delivery;
    let accepted = call.blocking(move |call| {
        let wanted = Wanted { name, output, parent: None };
        // What cannot be kept is not drawn.
        call.album.check(&wanted, None)?;
        let (mut draft, parent) = draft(call)?;
        call.album.check(&wanted, draft.format)?;
        if let Some(output) = &wanted.output {
            draft.format = Some(flux2::image::ImageFormat::from_path(output.as_ref())?);
        }
        let accepted = call.desk.submit(draft)?;
        call.album.expect(accepted.id, Wanted { parent, ..wanted });
        Ok(accepted)
    });
    let Accepted { id, .. } = accepted.await?;
    take_in_later(call, id);
    let seconds = wait_seconds.unwrap_or(WAIT).min(MAX_WAIT);
    match wait(call, id, seconds).await? {
        Waited::Cancelled => {
            call.blocking(move |call| Ok(call.desk.jobs().cancel(id))).await?;
            Err(ToolError("the call was cancelled, and with it its job".into()))
        }
        Waited::Over | Waited::Late => answer(call, id, show.unwrap_or(true)).await,
    }
}

/// Waits for the end of a job, and answers with it.
///
/// # Errors
/// If there is no such job.
pub async fn status(call: &Call, id: JobId, seconds: u32, show: bool) -> Result<CallToolResult> {
    job_of(call, id)?;
    wait(call, id, seconds.min(MAX_WAIT)).await?;
    answer(call, id, show).await
}

/// A job of the caller.
///
/// # Errors
/// If there is none of this id, or if it is somebody else's.
pub fn job_of(call: &Call, id: JobId) -> Result<JobView> {
    let job = call.desk.jobs().get(id).filter(|job| job.owner == call.desk.owner());
    let none =
        || ToolError::new(format!("there is no job {id}, or not any more"), "job_status without an id lists them");
    job.ok_or_else(none)
}

/// Takes in the pictures of a job when it is over, also if no call waits for it.
fn take_in_later(call: &Call, id: JobId) {
    let (desk, album) = (Arc::clone(&call.desk), Arc::clone(&call.album));
    let Some(mut events) = desk.jobs().events(id, 0) else { return };
    tokio::spawn(async move {
        while poll_fn(|context| events.poll_next(context)).await.is_some() {}
        let taken_in = tokio::task::spawn_blocking(move || {
            let Some(job) = desk.jobs().get(id) else { return };
            // The next call that asks for the job tells the error.
            let _ = album.take_in(desk.jobs(), &job);
            album.forget(&job);
        });
        let _ = taken_in.await;
    });
}

/// Waits for the end of a job, at most so many seconds, and tells how far it is.
async fn wait(call: &Call, id: JobId, seconds: u32) -> Result<Waited> {
    let gone = || ToolError(format!("there is no job {id} any more"));
    let mut events = call.desk.jobs().events(id, 0).ok_or_else(gone)?;
    let mut progress = call.progress();
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let job = call.desk.jobs().get(id).ok_or_else(gone)?;
    let (steps, count) = (f64::from(job.spec.steps), f64::from(job.spec.count));
    // The decoder counts as a step.
    let total = (steps + 1.0) * count;
    let mut done = 0.0;
    loop {
        let quiet = Instant::now() + QUIET;
        let next = tokio::select! {
            biased;
            () = call.context.ct.cancelled() => return Ok(Waited::Cancelled),
            next = timeout_at(quiet.min(end), next_event(&mut events)) => next,
        };
        let message = match next {
            Ok(None) => return Ok(Waited::Over),
            Ok(Some(event)) => match &event.kind {
                EventKind::Queued { position } => format!("position {position} in the queue"),
                EventKind::Started { .. } => "started".into(),
                EventKind::Step { picture, step, steps: of } => {
                    done = f64::from(*picture) * (steps + 1.0) + f64::from(*step);
                    match job.spec.count {
                        1 => format!("step {step} of {of}"),
                        count => format!("picture {} of {count}: step {step} of {of}", picture + 1),
                    }
                }
                EventKind::ImageReady { image } => {
                    done = f64::from(image.index + 1) * (steps + 1.0);
                    format!("picture {} of {count} is ready", image.index + 1)
                }
                _ => continue,
            },
            Err(_) if Instant::now() >= end => return Ok(Waited::Late),
            Err(_) => call.desk.jobs().get(id).as_ref().and_then(record::progress).unwrap_or_else(|| "at work".into()),
        };
        tokio::select! {
            biased;
            () = call.context.ct.cancelled() => return Ok(Waited::Cancelled),
            () = sleep_until(end) => return Ok(Waited::Late),
            () = progress.tell(done, total, message) => {}
        }
    }
}

async fn next_event(events: &mut Subscription) -> Option<Arc<JobEvent>> {
    poll_fn(|context| events.poll_next(context)).await
}

/// The answer about a job as it is now.
async fn answer(call: &Call, id: JobId, show: bool) -> Result<CallToolResult> {
    call.blocking(move |call| {
        let job = job_of(call, id)?;
        let kept = call.album.take_in(call.desk.jobs(), &job)?;
        call.album.forget(&job);
        let mut record = JobRecord::new(&job, &kept, &*call.desk, call.album.root().map(crate::root::Root::path));
        let mut content = Vec::new();
        if show && job.state.is_final() {
            for (at, image) in job.images.iter().enumerate() {
                let Some(bytes) = bytes_of(call, &job, at, &kept)? else { continue };
                let shown = content::show(&bytes, image.format, job.images.len())?;
                record.pictures[at].shown = Some(shown.note);
                content.push(shown.block);
            }
        }
        if !job.state.is_final() {
            record.next = Some("it goes on: call job_status with this id and wait_seconds, or cancel".into());
        }
        let is_failed = job.failure.is_some();
        content.insert(0, text(&record));
        Ok(if is_failed { CallToolResult::error(content) } else { CallToolResult::success(content) })
    })
    .await
}

/// The bytes of a picture of a job: from the engine, or from its file; `None` if neither has them any more.
fn bytes_of(call: &Call, job: &JobView, at: usize, kept: &[Kept]) -> Result<Option<Arc<[u8]>>> {
    if let Some(picture) = call.desk.jobs().image(job.id, job.images[at].index)? {
        return Ok(Some(picture.bytes));
    }
    let most = call.desk.limits().image_bytes;
    Ok(kept
        .get(at)
        .and_then(|kept| call.album.picture(&format!("${}", kept.number), most).ok())
        .map(|(bytes, _)| bytes))
}

/// A record as a block of text.
pub fn text(record: &impl serde::Serialize) -> ContentBlock {
    ContentBlock::text(serde_json::to_string_pretty(record).unwrap_or_default())
}

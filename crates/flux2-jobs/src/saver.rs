//! Threads that convert the colors of pictures, encode them and save them, so that no worker waits for that or a disk.
//!
//! Pictures are encoded side by side and saved in the order in which they were drawn. A worker waits only when as many
//! pictures as there are threads wait already.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use flux2::digest::sha256;
use flux2::image::{Embedded, encode_attached};
use flux2::marks::watermark;
use flux2::pipeline::GeneratedImage;

use crate::event::EventKind;
use crate::failure::{FailureClass, JobFailure};
use crate::host::Drawn;
use crate::id::JobId;
use crate::sink::PictureOf;
use crate::spec::JobSpec;
use crate::state::{End, Shared, picture_key};
use crate::stats;
use crate::view::{CacheHits, DrawingRecord, ImageInfo};

/// What a worker hands over.
pub(crate) enum Handover {
    Picture(Box<DrawnPicture>),
    /// There will be no further pictures of a job.
    End(JobId, End),
}

/// A picture that was drawn.
pub(crate) struct DrawnPicture {
    pub about: About,
    pub drawn: Drawn,
}

/// Which picture it is, and how it was drawn.
pub(crate) struct About {
    pub id: JobId,
    pub spec: Arc<JobSpec>,
    pub picture: u32,
    pub worker: usize,
    /// When it was begun.
    pub begun: Instant,
    /// Pictures that were drawn together with it.
    pub batch: usize,
    pub cache: CacheHits,
    /// Whether the job is done with it. It is no handover of its own: that would keep a thread waiting for this one.
    pub is_last: bool,
}

/// A picture with the bytes of its file.
struct Encoded {
    made: GeneratedImage,
    bytes: Vec<u8>,
    /// When it had its colors, and the encoder began.
    converted: Instant,
}

/// The order in which pictures are saved.
#[derive(Default)]
struct Turns {
    next: Mutex<u64>,
    changed: Condvar,
}

/// Start the threads. They end when all senders are dropped and everything is saved.
pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<(SyncSender<Handover>, Vec<JoinHandle<()>>)> {
    let count = shared.options.savers.max(1);
    let (sender, receiver) = sync_channel(count);
    let (receiver, turns) = (Arc::new(Mutex::new((0, receiver))), Arc::new(Turns::default()));
    let threads = (0..count).map(|i| {
        let (shared, receiver, turns) = (Arc::clone(shared), Arc::clone(&receiver), Arc::clone(&turns));
        thread::Builder::new().name(format!("saver {i}")).spawn(move || {
            while let Some((turn, handover)) = receive(&receiver) {
                save(&shared, handover, turn, &turns);
            }
        })
    });
    Ok((sender, threads.collect::<Result<_, _>>()?))
}

/// The next handover and its turn; `None` if there are no senders any more.
fn receive(receiver: &Mutex<(u64, Receiver<Handover>)>) -> Option<(u64, Handover)> {
    let mut receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
    let handover = receiver.1.recv().ok()?;
    receiver.0 += 1;
    Some((receiver.0 - 1, handover))
}

fn save(shared: &Shared, handover: Handover, turn: u64, turns: &Turns) {
    // What takes long is done before it is its turn.
    let (id, outcome) = match handover {
        Handover::Picture(picture) => {
            let DrawnPicture { about, drawn } = *picture;
            let encoded = encode(shared, &about.spec, drawn);
            (about.id, Ok((about, encoded)))
        }
        Handover::End(id, end) => (id, Err(end)),
    };
    let mut next = turns.next.lock().unwrap_or_else(PoisonError::into_inner);
    while *next < turn {
        next = turns.changed.wait(next).unwrap_or_else(PoisonError::into_inner);
    }
    drop(next);
    match outcome {
        Ok((about, encoded)) => {
            let is_last = about.is_last;
            match encoded.and_then(|encoded| keep(shared, about, encoded)) {
                Err(failure) => drop(shared.finish(id, End::Failed(failure))),
                Ok(()) if is_last => finish(shared, id, End::Done),
                Ok(()) => {}
            }
        }
        Err(end) => finish(shared, id, end),
    }
    *turns.next.lock().unwrap_or_else(PoisonError::into_inner) = turn + 1;
    turns.changed.notify_all();
}

/// The file of a picture: its colors are converted, then come its watermark, the format and the signature.
fn encode(shared: &Shared, spec: &JobSpec, drawn: Drawn) -> Result<Encoded, JobFailure> {
    let encode = || {
        let (made, converted) = (drawn()?, Instant::now());
        let embedded = spec.metadata.then_some(Embedded::Picture(&made.parameters));
        let marked = spec.watermark.then(|| watermark::embed(&made.image)).transpose()?;
        let image = marked.as_ref().unwrap_or(&made.image);
        let bytes = encode_attached(image, &made.attached, spec.format, &spec.quality, embedded)?;
        let upload = |digest: &str| Some(shared.uploads.get(digest).ok()??.to_vec());
        let bytes = match &shared.options.signer {
            Some(signer) => signer.sign(bytes, spec, &made.parameters, &upload)?,
            None => bytes,
        };
        Ok(Encoded { made, bytes, converted })
    };
    catch_unwind(AssertUnwindSafe(encode))
        .unwrap_or_else(|_| {
            let reason = "the encoder panicked".to_owned();
            Err(flux2::Error::ImageEncode { format: spec.format.name(), reason })
        })
        .map_err(JobFailure::from)
}

/// Save a picture, and say so.
fn keep(shared: &Shared, about: About, encoded: Encoded) -> Result<(), JobFailure> {
    let About { id, spec, picture: index, worker, begun, batch, cache, .. } = about;
    let Encoded { made, bytes, converted } = encoded;
    // Nobody wants the pictures of a job that is over, or about to be.
    if !shared.lock().jobs.get(&id).is_some_and(|job| !job.state.is_final() && !job.is_ending && !job.cancel_requested)
    {
        return Ok(());
    }
    let (width, height) = (made.image.width(), made.image.height());
    let length = bytes.len() as u64;
    let digest = match &shared.sink {
        Some(sink) => {
            let digest = sha256(&bytes);
            sink.save(PictureOf { id, spec: &spec, picture: index, worker, batch }, &made, bytes, begun.elapsed())?;
            digest
        }
        None => shared.pictures.put(&bytes).map_err(|error| {
            let message = format!("the picture could not be saved: {error}");
            JobFailure {
                remedy: flux2::Remedy::for_io(error.kind()),
                ..JobFailure::new(FailureClass::Storage, message)
            }
        })?,
    };
    let seed = made.parameters.seed;
    let image = ImageInfo {
        index,
        seed,
        sha256: digest,
        bytes: length,
        width,
        height,
        format: spec.format,
        is_favorite: false,
    };
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let timings = &made.timings;
    let record = DrawingRecord {
        text: seconds(timings.text),
        references: seconds(timings.references),
        steps: timings.steps.iter().copied().map(seconds).collect(),
        decode: seconds(timings.decode),
        upscale: seconds(timings.upscale),
        save: seconds(converted.elapsed()),
        batch: u32::try_from(batch).unwrap_or(u32::MAX),
        cache,
    };
    let mut state = shared.lock();
    if shared.options.reuse_pictures && shared.sink.is_none() {
        // The entries are small; when there are many, the oldest are as good as any to forget.
        if state.finished.len() >= shared.options.retention.jobs {
            state.finished.clear();
        }
        state.finished.insert(picture_key(&spec, index), image.clone());
    }
    let crate::state::State { jobs, stats: numbers, .. } = &mut *state;
    numbers.images += 1;
    stats::add_stages(numbers, &record);
    for rescue in &made.rescues {
        stats::count(&mut numbers.rescues, rescue.rung.name());
    }
    match jobs.get_mut(&id) {
        Some(job) if !job.state.is_final() => {
            job.outcome.images.push(image.clone());
            job.outcome.drawn.push(record);
            job.log.push_state(EventKind::ImageReady { image });
        }
        _ => {
            shared.pictures.release(&image.sha256);
            shared.pictures.remove_unheld(&image.sha256);
        }
    }
    Ok(())
}

/// End a job whose pictures were handed over. A cancellation that came in the meantime counts.
fn finish(shared: &Shared, id: JobId, end: End) {
    let is_cancelled = shared.lock().jobs.get(&id).is_some_and(|job| job.cancel_requested);
    shared.finish(id, if is_cancelled { End::Cancelled } else { end });
}

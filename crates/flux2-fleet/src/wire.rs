//! Messages that may be lost: how far a job is, and what front ends ask of the worker that draws it.

use bytes::Bytes;
use flux2::Phase;
use flux2::weights::Part;
use flux2_jobs::EventKind;
use serde::{Deserialize, Serialize};

use crate::record::Step;

/// Asks a worker to cancel a job.
pub const CANCEL: &[u8] = b"cancel";
/// Asks a worker for previews of a job.
pub const PREVIEWS: &[u8] = b"previews";
/// Largest preview that is sent.
pub const MAX_PREVIEW: usize = 256 << 10;

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Number of the event.
    pub seq: u64,
    /// What happened.
    pub what: What,
}

/// See [`Told`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A stage of a picture begins.
    Stage {
        /// The picture.
        picture: u32,
        /// The stage, as [`Phase::name`] calls it.
        name: String,
    },
    /// A denoising step is finished.
    Step(Step),
    /// What a picture looks like. The bytes of its file follow the line of this message.
    Preview(Step),
}

impl Told {
    /// The message: a line of JSON, and the bytes of a preview.
    pub fn bytes(&self, preview: &[u8]) -> Bytes {
        let mut bytes = serde_json::to_vec(self).expect("an event is JSON");
        bytes.push(b'\n');
        bytes.extend_from_slice(preview);
        bytes.into()
    }

    /// Read a message; `None` if it is not one.
    pub fn read(bytes: &[u8]) -> Option<(u64, EventKind)> {
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let Told { seq, what } = serde_json::from_slice(&bytes[..line]).ok()?;
        let kind = match what {
            What::Stage { picture, name } => EventKind::Stage { picture, name: stage(&name)? },
            What::Step(Step { picture, step, steps }) => EventKind::Step { picture, step, steps },
            What::Preview(Step { picture, step, .. }) => {
                EventKind::Preview { picture, step, bytes: bytes[line + 1..].into() }
            }
        };
        Some((seq, kind))
    }
}

/// The stage of this name.
fn stage(name: &str) -> Option<&'static str> {
    let parts = [Part::TextEncoder, Part::Transformer, Part::Vae].map(Phase::Load);
    let others = [Phase::Text, Phase::References, Phase::Denoise, Phase::Decode, Phase::Upscale];
    parts.into_iter().chain(others).map(Phase::name).find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read() {
        let read = |what, preview: &[u8]| Told::read(&Told { seq: 7, what }.bytes(preview));
        let stage = What::Stage { picture: 1, name: "load VAE".into() };
        assert_eq!(read(stage, b""), Some((7, EventKind::Stage { picture: 1, name: "load VAE" })));
        let at = Step { picture: 0, step: 2, steps: 4 };
        assert_eq!(read(What::Step(at), b""), Some((7, EventKind::Step { picture: 0, step: 2, steps: 4 })));
        let preview = EventKind::Preview { picture: 0, step: 2, bytes: b"a\nb".as_slice().into() };
        assert_eq!(read(What::Preview(at), b"a\nb"), Some((7, preview)));
        assert_eq!(read(What::Stage { picture: 0, name: "else".into() }, b""), None);
        assert_eq!(Told::read(b"\xff\n"), None);
    }
}

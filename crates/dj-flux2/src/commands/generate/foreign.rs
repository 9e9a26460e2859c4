//! Flags of other programs that have no meaning here: one sentence for each says why.

use flux2::foreign;

use crate::args::ForeignArgs;
use crate::failure::{Failure, Result};

/// Refuses flags that would do nothing.
pub fn check(args: &ForeignArgs) -> Result<()> {
    let ForeignArgs { sampler, scheduler, clip_skip, max_sequence_length } = args;
    let flags = [
        ("sampler", sampler),
        ("scheduler", scheduler),
        ("clip-skip", clip_skip),
        ("max-sequence-length", max_sequence_length),
    ];
    match flags.into_iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => {
            Err(Failure::usage(foreign::why(name).expect("every flag of this kind has a reason"), foreign::HINT))
        }
        None => Ok(()),
    }
}

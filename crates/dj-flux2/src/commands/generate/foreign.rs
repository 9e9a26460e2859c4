//! Flags of other programs that have no meaning here: one sentence for each says why.

use crate::args::ForeignArgs;
use crate::failure::{Failure, Result};

/// Refuses flags that would do nothing.
pub fn check(args: &ForeignArgs) -> Result<()> {
    let ForeignArgs { sampler, scheduler, clip_skip, max_sequence_length } = args;
    let refusals = [
        (sampler, "there is no sampler to choose: FLUX.2 [klein] is a flow model, drawn with Euler steps"),
        (scheduler, "there is no scheduler to choose: the noise levels of FLUX.2 follow from the size and the steps"),
        (clip_skip, "there are no CLIP layers to skip: FLUX.2 [klein] reads prompts with Qwen3"),
        (max_sequence_length, "the length of prompts is the model's own: FLUX.2 [klein] reads 512 tokens"),
    ];
    match refusals.iter().find(|(flag, _)| flag.is_some()) {
        Some((_, why)) => {
            Err(Failure::usage(*why, "leave the flag out; --steps and --seed are what changes a picture"))
        }
        None => Ok(()),
    }
}

//! The networks, generic over the backend that runs them.
//!
//! | file | network | in | out |
//! |---|---|---|---|
//! | `qwen3.rs` | text encoder | token ids `[n_txt]` | text embedding `[n_txt, taps * hidden]` |
//! | `flow_transformer.rs` | flow transformer | latents `[n_img, c]`, text, references, sigma | velocity `[n_img, c]` |
//! | `vae.rs` | autoencoder | picture `[h, w, 3]`, or tokens `[n, c]` | tokens, or picture |
//! | `tiny_decoder.rs` | decoder for previews | tokens `[n, c]` | picture `[h, w, 3]` |
//! | `upscaler.rs` | upscaler | picture `[h, w, 3]` | picture `[s * h, s * w, 3]` |
//!
//! A model knows its weights and the ops. It does not know files, devices, the clock or observers. The only thing it
//! gets from outside is a [`Pulse`], called after every block.

pub mod flow_transformer;
pub mod layers;
pub mod qwen3;
mod replay;
pub mod tiny_decoder;
pub mod upscaler;
pub mod vae;

use crate::Result;

/// Called after every block of a network; an error stops the pass and is returned.
pub type Pulse<'a> = dyn FnMut() -> Result<()> + 'a;

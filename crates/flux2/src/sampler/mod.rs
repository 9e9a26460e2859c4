//! Sampling: how noisy each step is ([`schedule`]) and where the noise comes from ([`mod@noise`]).
//!
//! Plain host arithmetic on floats. Nothing here knows a model or a device, so the same request starts from the same
//! latents everywhere.

pub mod noise;
pub mod schedule;

pub use noise::{NoiseKind, noise, noise_on};
pub use schedule::sigmas;

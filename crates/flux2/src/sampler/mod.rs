//! Sampling: the noise levels of the steps ([`schedule`]) and the noise they start from ([`mod@noise`]).
//!
//! Host arithmetic without models or devices, so the same request starts from the same latents everywhere.

pub mod noise;
pub mod schedule;

pub use noise::{NoiseKind, noise, noise_on};
pub use schedule::{Schedule, sigmas, sigmas_by};

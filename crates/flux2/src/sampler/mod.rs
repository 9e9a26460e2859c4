//! Sampling: the noise levels of the steps ([`schedule`]), the noise they start from ([`mod@noise`]), and tokens that
//! are held to a source ([`held`]).
//!
//! Host arithmetic without models or devices, so the same request starts from the same latents everywhere.

pub mod held;
pub mod noise;
pub mod schedule;

pub use held::{Held, Hold, with_noise};
pub use noise::{NoiseKind, noise, noise_on};
pub use schedule::{Schedule, sigmas, sigmas_by, sigmas_from};

//! What a program that makes pictures imports: `use flux2::prelude::*;`.
//!
//! [`Error`](crate::Error) and [`Result`](crate::Result) are left out, since other crates have types of these names.

pub use crate::{
    CancelToken, Device, Engine, EngineOptions, Event, GenerateRequest, GeneratedImage, Model, Phase, Precision,
    Reference, Residency, Warning,
};

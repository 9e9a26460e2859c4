//! In the place of `gpu.rs` in a build without GPUs: there are none.

use std::num::NonZeroUsize;

use flux2_backend::Format;

use super::{Devices, EngineOptions, GpuOptions, NoGpu, SystemLibrary};
use crate::Result;
use crate::plan::{MemoryPlan, Order};
use crate::request::GenerateRequest;
use crate::weights::{ModelFiles, UpscalerFile};

/// Describes a GPU; without values, since there are no GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuInfo {}

pub(super) fn open(_options: &EngineOptions, _most: NonZeroUsize) -> Result<Devices, NoGpu> {
    Err(no_gpu())
}

pub(crate) fn find(_options: &EngineOptions) -> Result<(GpuInfo, usize), NoGpu> {
    Err(no_gpu())
}

pub(crate) fn plan(
    gpu: &GpuInfo,
    _ordinal: usize,
    _files: &ModelFiles,
    _options: &EngineOptions,
    _requests: &[GenerateRequest],
    _order: Order,
) -> Result<MemoryPlan> {
    match *gpu {}
}

pub(crate) fn upscaler_peak(
    gpu: &GpuInfo,
    _file: &UpscalerFile,
    _options: &EngineOptions,
    _size: [usize; 2],
) -> Result<usize> {
    match *gpu {}
}

pub(crate) fn smaller_formats(gpu: &GpuInfo) -> &'static [Format] {
    match *gpu {}
}

pub(super) fn memory(gpu: &GpuInfo) -> usize {
    match *gpu {}
}

pub(super) fn list(_options: &GpuOptions) -> Vec<String> {
    Vec::new()
}

pub(super) fn libraries(_options: &GpuOptions) -> Vec<SystemLibrary> {
    Vec::new()
}

fn no_gpu() -> NoGpu {
    NoGpu { reason: "this program was built without GPUs".into(), remedy: None, has_driver: false }
}

//! How many pictures a device should draw in one pass.

use crate::bench::Cost;
use crate::device::Device;
use crate::request::{GenerateRequest, ResolvedRequest};
use crate::weights::ModelFiles;

/// The most that [`useful_batch`] says: more gain little and wait longer for the first picture.
pub const MAX_USEFUL_BATCH: usize = 8;
/// Most floating-point operations of a pass on a GPU: 0.4 s of an H200. A picture that takes half of it fills the GPU
/// alone.
const GPU_WORK: f64 = 250e12;
/// The same on a processor: half a second of two cores. Only where its products have few rows does a pass of several
/// pictures save the time to unpack weights.
const CPU_WORK: f64 = 60e9;

/// How many pictures like `request` are drawn soonest in one pass, as far as the model and the device go; at least 1.
/// [`plan::largest_batch`](crate::plan::largest_batch) says how many there is memory for.
///
/// Pictures of a pass come all at its end. So a pass is as long as it pays, and takes about half a second at most.
pub fn useful_batch(place: Device, files: &ModelFiles, request: &GenerateRequest) -> usize {
    let Ok(resolved) = ResolvedRequest::new(request, files.variant) else { return 1 };
    let work = Cost::at_most(files, &resolved).total().total();
    let most = if place == Device::Cpu { CPU_WORK } else { GPU_WORK };
    ((most / work.max(1.0)) as usize).clamp(1, MAX_USEFUL_BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variant::Variant;

    #[test]
    fn small_pictures_are_drawn_together() {
        let batch = |place, name, side| {
            let files = ModelFiles::synthetic(Variant::by_name(name).unwrap()).unwrap();
            let request = GenerateRequest { width: Some(side), height: Some(side), ..Default::default() };
            useful_batch(place, &files, &request)
        };
        let gpu = Device::Cuda(Some(0));
        assert!(batch(Device::Cpu, "klein-mini", 128) >= 4, "{}", batch(Device::Cpu, "klein-mini", 128));
        assert_eq!(batch(gpu, "klein-mini", 256), MAX_USEFUL_BATCH);
        assert_eq!((batch(Device::Cpu, "klein-4b", 64), batch(gpu, "klein-4b", 1024)), (1, 1));
        assert!((2..8).contains(&batch(gpu, "klein-4b", 512)), "{}", batch(gpu, "klein-4b", 512));
        assert_eq!(batch(gpu, "klein-4b", 100), 1, "no model draws this size");
    }
}

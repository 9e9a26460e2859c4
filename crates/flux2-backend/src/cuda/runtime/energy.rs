//! The energy a GPU has used, by NVML: the driver's library for monitoring, on which nothing else depends.

use std::ffi::{c_char, c_int, c_ulonglong, c_void};
use std::path::Path;
use std::sync::OnceLock;

use cudarc::driver::sys;

use super::driver::Device;
use super::libraries::{Handle, open_globally};

/// `NVML_SUCCESS`.
const SUCCESS: c_int = 0;

/// The functions that are used. A device of NVML is an opaque pointer.
struct Nvml {
    device_by_pci_bus: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
    total_millijoules: unsafe extern "C" fn(*mut c_void, *mut c_ulonglong) -> c_int,
}

impl Nvml {
    /// Loads and initializes the library, once for this process.
    fn get() -> Option<&'static Self> {
        static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
        NVML.get_or_init(Self::open).as_ref()
    }

    fn open() -> Option<Self> {
        let library = Handle(open_globally(Path::new("libnvidia-ml.so.1")).ok()?);
        // SAFETY: the signatures are the documented ones.
        let (init, device_by_pci_bus, total_millijoules) = unsafe {
            (
                library.function::<unsafe extern "C" fn() -> c_int>("nvmlInit_v2")?,
                library.function("nvmlDeviceGetHandleByPciBusId_v2")?,
                library.function("nvmlDeviceGetTotalEnergyConsumption")?,
            )
        };
        // SAFETY: takes no arguments.
        (unsafe { init() } == SUCCESS).then_some(Nvml { device_by_pci_bus, total_millijoules })
    }
}

/// Joules the GPU has used since its driver was loaded; `None` if NVML or the GPU does not say. The counter advances
/// every 20 to 100 ms.
pub(crate) fn total_joules(device: &Device) -> Option<f64> {
    if device.dry_run {
        return None;
    }
    let nvml = Nvml::get()?;
    let mut bus = [0 as c_char; 32];
    // SAFETY: the buffer is as long as is said, and stays terminated by zero.
    let found = unsafe { sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), bus.len() as c_int, device.ordinal) };
    found.result().ok()?;
    let mut handle = std::ptr::null_mut();
    let mut millijoules: c_ulonglong = 0;
    // SAFETY: the name of the bus ends in zero; both results outlive the calls, which are of an initialized library.
    let read = unsafe {
        (nvml.device_by_pci_bus)(bus.as_ptr(), &mut handle) == SUCCESS
            && (nvml.total_millijoules)(handle, &mut millijoules) == SUCCESS
    };
    read.then_some(millijoules as f64 / 1e3)
}

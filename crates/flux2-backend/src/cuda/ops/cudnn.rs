//! Attention through cuDNN's graph API: one node (SDPA), whose plan is built once for a shape and kept.
//!
//! If cuDNN is missing or has no plan, [`Cudnn::new`] or [`Cudnn::plan`] return `None` and `attention.cu` is used.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Attribute;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

use crate::cuda::runtime::driver::Device;
use crate::cuda::runtime::libraries::{self, Handle, Library, LibrarySearch};
use crate::cuda::runtime::memory::Pool;
use crate::{Error, Result};

/// A shape of attention without a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Number of queries.
    pub(crate) queries: usize,
    /// Number of keys.
    pub(crate) keys: usize,
    /// Heads of the queries, and of keys and values.
    pub(crate) heads: [usize; 2],
    /// Channels of a head.
    pub(crate) channels: usize,
    /// Elements from one token to the next in queries, keys, values and the result.
    pub(crate) strides: [usize; 4],
}

/// A cuDNN handle and its plans.
pub(crate) struct Cudnn {
    functions: Functions,
    state: Mutex<State>,
    /// The device of the handle.
    device: Arc<Device>,
}

struct State {
    handle: sys::cudnnHandle_t,
    plans: HashMap<Shape, Option<Arc<Plan>>>,
}

type Object = sys::cudnnBackendDescriptor_t;
type Status = sys::cudnnStatus_t;

/// Functions of the library that was found. The bindings would load one by name and might get another.
#[derive(Clone, Copy)]
struct Functions {
    create: unsafe extern "C" fn(*mut sys::cudnnHandle_t) -> Status,
    destroy: unsafe extern "C" fn(sys::cudnnHandle_t) -> Status,
    set_stream: unsafe extern "C" fn(sys::cudnnHandle_t, sys::cudaStream_t) -> Status,
    create_object: unsafe extern "C" fn(Kind, *mut Object) -> Status,
    destroy_object: unsafe extern "C" fn(Object) -> Status,
    set: unsafe extern "C" fn(Object, Attribute, Type, i64, *const c_void) -> Status,
    get: unsafe extern "C" fn(Object, Attribute, Type, i64, *mut i64, *mut c_void) -> Status,
    finalize: unsafe extern "C" fn(Object) -> Status,
    execute: unsafe extern "C" fn(sys::cudnnHandle_t, Object, Object) -> Status,
}

impl Functions {
    fn new(library: Handle) -> Option<Self> {
        // SAFETY: these are the documented signatures.
        unsafe {
            Some(Functions {
                create: library.function("cudnnCreate")?,
                destroy: library.function("cudnnDestroy")?,
                set_stream: library.function("cudnnSetStream")?,
                create_object: library.function("cudnnBackendCreateDescriptor")?,
                destroy_object: library.function("cudnnBackendDestroyDescriptor")?,
                set: library.function("cudnnBackendSetAttribute")?,
                get: library.function("cudnnBackendGetAttribute")?,
                finalize: library.function("cudnnBackendFinalize")?,
                execute: library.function("cudnnBackendExecute")?,
            })
        }
    }

    fn object(self, kind: Kind) -> Result<Descriptor> {
        let mut object = ptr::null_mut();
        // SAFETY: `object` outlives the call.
        check("cudnnBackendCreateDescriptor", unsafe { (self.create_object)(kind, &mut object) })?;
        let object = NonNull::new(object).expect("cuDNN created a descriptor");
        Ok(Descriptor { object, functions: self })
    }
}

// SAFETY: a handle may be used from any thread, one at a time.
unsafe impl Send for State {}

impl Cudnn {
    /// `None` if the library is missing or refuses.
    pub(crate) fn new(device: &Arc<Device>) -> Option<Self> {
        let found = libraries::load(&LibrarySearch::default()).iter().find(|found| found.library == Library::Cudnn)?;
        let functions = Functions::new(found.state.as_ref().ok()?.handle)?;
        device.bind().ok()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the library is loaded; `handle` outlives the call.
        check("cudnnCreate", unsafe { (functions.create)(&mut handle) }).ok()?;
        let state = Mutex::new(State { handle, plans: HashMap::new() });
        Some(Cudnn { functions, state, device: Arc::clone(device) })
    }

    /// The plan for attention of `shape`; `None` if cuDNN has none.
    pub(crate) fn plan(&self, device: &Device, shape: Shape) -> Option<Arc<Plan>> {
        device.bind().ok()?;
        let State { handle, plans } = &mut *self.state.lock().expect("no panic while the lock is held");
        let target = Target::Handle(*handle);
        plans.entry(shape).or_insert_with(|| Plan::new(self.functions, &target, shape).ok().map(Arc::new)).clone()
    }

    /// Enqueues attention. `addresses` are those of queries, keys, values and the result.
    ///
    /// # Safety
    /// The operands must be bf16 and as large as the plan's shape says.
    pub(crate) unsafe fn run(&self, pool: &Arc<Pool>, device: &Device, plan: &Plan, addresses: [u64; 4]) -> Result<()> {
        let scratch = pool.take(plan.workspace)?;
        device.bind()?;
        let state = self.state.lock().expect("no panic while the lock is held");
        let mut scale = plan.scale;
        let [q, k, v, y] = addresses.map(|address| address as *mut c_void);
        let pointers = [q, k, v, y, (&raw mut scale).cast()];
        let workspace = scratch.address() as *mut c_void;
        let pack = self.functions.object(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &IDS)?;
        pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &pointers)?;
        pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &[workspace])?;
        pack.finish()?;
        // SAFETY: handle and stream are alive.
        check("cudnnSetStream", unsafe { (self.functions.set_stream)(state.handle, device.stream().cast()) })?;
        // SAFETY: the caller vouches for the operands; handle, plan and pack are alive.
        check("cudnnBackendExecute", unsafe {
            (self.functions.execute)(state.handle, plan.plan.object.as_ptr(), pack.object.as_ptr())
        })
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let state = self.state.get_mut().expect("no panic while the lock was held");
        state.plans.clear();
        // This thread may have another GPU's context current.
        let _ = self.device.bind();
        // SAFETY: created in `new`, and no plan uses it any more. Errors cannot be handled here.
        let _ = unsafe { (self.functions.destroy)(state.handle) };
    }
}

/// Tensor ids of queries, keys, values, result and scale.
const IDS: [i64; 5] = [1, 2, 3, 4, 5];

/// The GPU that a plan is for.
enum Target {
    /// The GPU of a handle.
    Handle(sys::cudnnHandle_t),
    /// A described GPU that need not be present.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests build plans without a GPU"))]
    Described(Descriptor),
}

impl Target {
    /// Sets the GPU of `object`: a cuDNN handle or a described device, by the attribute for either, where there is one.
    fn set_on(&self, object: &Descriptor, handle: Option<Attribute>, description: Option<Attribute>) -> Result<()> {
        match (self, handle, description) {
            (Target::Handle(value), Some(attribute), _) => object.set(attribute, Type::CUDNN_TYPE_HANDLE, &[*value]),
            (Target::Described(value), _, Some(attribute)) => {
                object.set(attribute, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[value.object.as_ptr()])
            }
            _ => Ok(()),
        }
    }
}

/// An execution plan for attention of one shape.
pub(crate) struct Plan {
    plan: Descriptor,
    /// Descriptors that the plan refers to.
    _parts: Vec<Descriptor>,
    workspace: usize,
    scale: f32,
}

// SAFETY: plans are immutable.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Plan {
    fn new(functions: Functions, target: &Target, shape: Shape) -> Result<Self> {
        let Shape { queries, keys, heads: [heads, kv_heads], channels, strides } = shape;
        let sizes = [[heads, queries], [kv_heads, keys], [kv_heads, keys], [heads, queries]];
        let mut parts = Vec::new();
        for ((id, [heads, tokens]), stride) in IDS.into_iter().zip(sizes).zip(strides) {
            let of_batch = tokens * stride;
            let layout = Layout { id, dims: [1, heads, tokens, channels], strides: [of_batch, channels, stride, 1] };
            parts.push(layout.tensor(functions, sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, false)?);
        }
        let scalar = Layout { id: IDS[4], dims: [1; 4], strides: [1; 4] };
        parts.push(scalar.tensor(functions, sys::cudnnDataType_t::CUDNN_DATA_FLOAT, true)?);

        let attention = functions.object(Kind::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?;
        let names = [
            Attribute::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC,
            Attribute::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
            Attribute::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
            Attribute::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
            Attribute::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC,
        ];
        for (name, tensor) in names.into_iter().zip(&parts) {
            attention.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[tensor.object.as_ptr()])?;
        }
        attention.finish()?;
        let graph = functions.object(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        target.set_on(&graph, Some(Attribute::CUDNN_ATTR_OPERATIONGRAPH_HANDLE), None)?;
        let operations = [attention.object.as_ptr()];
        graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_OPS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &operations)?;
        graph.finish()?;
        let [heuristic, engine] = Self::engine(functions, target, &graph)?;
        let plan = functions.object(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        let [of_handle, of_description] =
            [Attribute::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Attribute::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP];
        target.set_on(&plan, Some(of_handle), Some(of_description))?;
        let configuration = [engine.object.as_ptr()];
        plan.set(
            Attribute::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &configuration,
        )?;
        plan.finish()?;
        let mut workspace = [0i64];
        plan.get(Attribute::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Type::CUDNN_TYPE_INT64, &mut workspace)?;
        parts.extend([attention, graph, heuristic, engine]);
        let scale = 1.0 / (channels as f32).sqrt();
        Ok(Plan { plan, _parts: parts, workspace: workspace[0].max(0) as usize, scale })
    }

    /// The engine that cuDNN's heuristic recommends for `graph`, and the heuristic.
    fn engine(functions: Functions, target: &Target, graph: &Descriptor) -> Result<[Descriptor; 2]> {
        let heuristic = functions.object(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        let of_graph = [graph.object.as_ptr()];
        heuristic.set(
            Attribute::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &of_graph,
        )?;
        let mode = [sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A];
        heuristic.set(Attribute::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &mode)?;
        target.set_on(&heuristic, None, Some(Attribute::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP))?;
        heuristic.finish()?;
        let engine = functions.object(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        let found = heuristic.get(
            Attribute::CUDNN_ATTR_ENGINEHEUR_RESULTS,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &mut [engine.object.as_ptr()],
        )?;
        if found == 0 {
            return Err(Error::Device { call: "cudnnBackendGetAttribute", reason: "no engine for this shape".into() });
        }
        Ok([heuristic, engine])
    }
}

/// Layout of a tensor with four axes.
struct Layout {
    id: i64,
    dims: [usize; 4],
    strides: [usize; 4],
}

impl Layout {
    /// Its descriptor; `by_value` for a scalar on the host.
    fn tensor(&self, functions: Functions, data_type: sys::cudnnDataType_t, by_value: bool) -> Result<Descriptor> {
        let (dims, strides) = (self.dims.map(|n| n as i64), self.strides.map(|n| n as i64));
        let tensor = functions.object(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[data_type])?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_DIMENSIONS, Type::CUDNN_TYPE_INT64, &dims)?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_STRIDES, Type::CUDNN_TYPE_INT64, &strides)?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[self.id])?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Type::CUDNN_TYPE_INT64, &[16i64])?;
        tensor.set(Attribute::CUDNN_ATTR_TENSOR_IS_BY_VALUE, Type::CUDNN_TYPE_BOOLEAN, &[by_value])?;
        tensor.finish()?;
        Ok(tensor)
    }
}

/// A cuDNN backend descriptor.
struct Descriptor {
    object: NonNull<c_void>,
    functions: Functions,
}

impl Descriptor {
    fn set<T>(&self, attribute: Attribute, of: Type, values: &[T]) -> Result<()> {
        // SAFETY: `values` has the length and type passed.
        let status = unsafe {
            (self.functions.set)(self.object.as_ptr(), attribute, of, values.len() as i64, values.as_ptr().cast())
        };
        check("cudnnBackendSetAttribute", status)
    }

    /// Fills `values`; returns how many were written.
    fn get<T>(&self, attribute: Attribute, of: Type, values: &mut [T]) -> Result<i64> {
        let mut count = 0;
        let (room, to) = (values.len() as i64, values.as_mut_ptr().cast());
        // SAFETY: `values` has the length and type passed.
        let status = unsafe { (self.functions.get)(self.object.as_ptr(), attribute, of, room, &mut count, to) };
        check("cudnnBackendGetAttribute", status)?;
        Ok(count)
    }

    fn finish(&self) -> Result<()> {
        // SAFETY: the descriptor is alive.
        check("cudnnBackendFinalize", unsafe { (self.functions.finalize)(self.object.as_ptr()) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `object`. Errors cannot be handled here.
        let _ = unsafe { (self.functions.destroy_object)(self.object.as_ptr()) };
    }
}

fn check(call: &'static str, status: sys::cudnnStatus_t) -> Result<()> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    Err(Error::Device { call, reason: format!("{status:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU as cuDNN describes it to itself.
    struct Gpu {
        capability: u32,
        multiprocessors: u32,
        /// Shared memory of a block in bytes, at most.
        block_bytes: u32,
        /// Threads of a multiprocessor, at most.
        threads: u32,
        l2_bytes: u32,
    }

    const A100: Gpu =
        Gpu { capability: 80, multiprocessors: 108, block_bytes: 166_912, threads: 2048, l2_bytes: 40 << 20 };
    const RTX_3090: Gpu =
        Gpu { capability: 86, multiprocessors: 82, block_bytes: 101_376, threads: 1536, l2_bytes: 6 << 20 };
    const RTX_4090: Gpu =
        Gpu { capability: 89, multiprocessors: 128, block_bytes: 101_376, threads: 1536, l2_bytes: 72 << 20 };
    const H100: Gpu =
        Gpu { capability: 90, multiprocessors: 132, block_bytes: 232_448, threads: 2048, l2_bytes: 50 << 20 };
    const B200: Gpu =
        Gpu { capability: 100, multiprocessors: 148, block_bytes: 232_448, threads: 2048, l2_bytes: 126 << 20 };
    const RTX_5090: Gpu =
        Gpu { capability: 120, multiprocessors: 170, block_bytes: 101_376, threads: 1536, l2_bytes: 96 << 20 };

    /// cuDNN, if the driver is the stand-in that `.ci/cuda` builds: a real driver would fail to load code compiled for
    /// another GPU.
    fn cudnn_without_gpu() -> Option<Functions> {
        let found = crate::cuda::tests::libraries();
        let loaded = |library| found.iter().find(|found| found.library == library)?.state.as_ref().ok();
        // SAFETY: the name is that of a function, which is not called.
        unsafe { loaded(Library::Driver)?.handle.function::<unsafe extern "C" fn()>("dj_flux2_stands_in") }?;
        Functions::new(loaded(Library::Cudnn)?.handle)
    }

    fn describe(functions: Functions, gpu: &Gpu) -> Target {
        let Gpu { capability, multiprocessors, block_bytes, threads, l2_bytes } = gpu;
        // Values that do not matter are those of an H100. `deviceVer` is 900 for 9.0.
        let json = format!(
            r#"{{"deviceVer":{},"multiProcessorCount":{multiprocessors},"warpSize":32,"maxSharedMemoryPerBlock":49152,
            "maxSharedMemoryPerBlockOptin":{block_bytes},"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,
            "maxCtasPerSM":16,"maxThreadsPerBlock":1024,"maxThreadsPerSM":{threads},"regsPerBlock":65536,
            "totalGlobalMem":25769803776,"smClockRateKHz":1980000,"l2CacheSize":{l2_bytes},
            "maxBlockSize":[1024,1024,64],"memClockRateKHz":2619000,
            "maxGridSize":[2147483647,65535,65535],"supportCoopLaunch":1,"pciDeviceId":0,
            "isTccDriver":0,"cudaDeviceId":0,"driverVer":13000,"deviceName":"described"}}"#,
            10 * capability
        );
        let description = functions.object(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR).unwrap();
        let attribute = Attribute::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION;
        description.set(attribute, Type::CUDNN_TYPE_CHAR, json.as_bytes()).unwrap();
        description.finish().unwrap();
        Target::Described(description)
    }

    /// Attention of klein-4b, with values that are columns of a wider row as in its single blocks.
    fn klein_4b(queries: usize, keys: usize) -> Shape {
        Shape { queries, keys, heads: [24, 24], channels: 128, strides: [3072, 3072, 27_648, 3072] }
    }

    /// Needs cuDNN and no GPU; `.ci/cuda` brings it, and a driver that loads nothing.
    #[test]
    fn plans_build_for_every_architecture_from_its_description() {
        let Some(functions) = cudnn_without_gpu() else {
            #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
            return eprintln!("skipped: no cuDNN with the driver that .ci/cuda builds");
        };
        // 512x512, 1024x1024, and 1024x1024 with the cached keys of a reference.
        let shapes = [klein_4b(1536, 1536), klein_4b(4608, 4608), klein_4b(4608, 8704)];
        for gpu in [A100, RTX_3090, RTX_4090, H100, B200, RTX_5090] {
            let target = describe(functions, &gpu);
            for shape in shapes {
                if let Err(error) = Plan::new(functions, &target, shape) {
                    panic!("capability {}, {shape:?}: {error}", gpu.capability);
                }
            }
        }
        // cuDNN reads the description: it has no attention for Pascal.
        let pascal = describe(functions, &Gpu { capability: 61, ..RTX_3090 });
        assert!(Plan::new(functions, &pascal, shapes[0]).is_err());
    }
}

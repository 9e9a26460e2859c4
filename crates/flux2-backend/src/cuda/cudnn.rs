//! Attention through cuDNN's graphs: one node, whose plan is built once for a shape and kept.
//!
//! Where cuDNN is missing or has no plan, [`Cudnn::plan`] says so once and the kernels of `attention.cu` do the work.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Attribute;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::driver::Device;
use super::libraries::{self, Handle, Library, LibrarySearch};
use super::memory::Pool;
use crate::{Error, Result};

/// Attention of `queries` with `keys`, heads of `channels`, no mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Of queries, and of keys and values.
    pub(super) heads: [usize; 2],
    pub(super) channels: usize,
    /// Elements from one token to the next in queries, keys, values and the result.
    pub(super) strides: [usize; 4],
}

/// A handle of cuDNN and its plans.
pub(super) struct Cudnn {
    functions: Functions,
    state: Mutex<State>,
    /// That of the handle.
    device: Arc<Device>,
}

struct State {
    handle: sys::cudnnHandle_t,
    plans: HashMap<Shape, Option<Arc<Plan>>>,
}

type Object = sys::cudnnBackendDescriptor_t;
type Status = sys::cudnnStatus_t;

/// What is called of the library that was found. The bindings would ask the system for one by name and may get another.
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
        // SAFETY: these are the functions' documented signatures.
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
        let object = NonNull::new(object).expect("a descriptor that was made");
        Ok(Descriptor { object, functions: self })
    }
}

// SAFETY: a handle may be used from any thread, one at a time.
unsafe impl Send for State {}

impl Cudnn {
    /// `None` if the library is missing or refuses.
    pub(super) fn new(device: &Arc<Device>) -> Option<Self> {
        let found = libraries::load(&LibrarySearch::default()).iter().find(|found| found.library == Library::Cudnn)?;
        let functions = Functions::new(found.state.as_ref().ok()?.handle)?;
        device.bind().ok()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the library is loaded; `handle` outlives the call.
        check("cudnnCreate", unsafe { (functions.create)(&mut handle) }).ok()?;
        let state = Mutex::new(State { handle, plans: HashMap::new() });
        Some(Cudnn { functions, state, device: Arc::clone(device) })
    }

    /// How to compute attention of this shape, unless cuDNN cannot.
    pub(super) fn plan(&self, device: &Device, shape: Shape) -> Option<Arc<Plan>> {
        device.bind().ok()?;
        let State { handle, plans } = &mut *self.state.lock().expect("no panic while the lock is held");
        plans.entry(shape).or_insert_with(|| Plan::new(self.functions, *handle, shape).ok().map(Arc::new)).clone()
    }

    /// Queue attention: the addresses are those of queries, keys, values and the result.
    ///
    /// # Safety
    /// The operands must be bf16 and as large as the plan's shape says.
    pub(super) unsafe fn run(&self, pool: &Arc<Pool>, device: &Device, plan: &Plan, addresses: [u64; 4]) -> Result<()> {
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
        // Perhaps another thread's than the one that used it, and that one's GPU another.
        let _ = self.device.bind();
        // SAFETY: made in `new`, and no plan uses it any more. Nothing can be done about an error here.
        let _ = unsafe { (self.functions.destroy)(state.handle) };
    }
}

/// Queries, keys, values, result, scale.
const IDS: [i64; 5] = [1, 2, 3, 4, 5];

/// How cuDNN computes attention of one shape.
pub(super) struct Plan {
    plan: Descriptor,
    /// What the plan was made from.
    _parts: Vec<Descriptor>,
    workspace: usize,
    scale: f32,
}

// SAFETY: plans are not changed once they are made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Plan {
    fn new(functions: Functions, handle: sys::cudnnHandle_t, shape: Shape) -> Result<Self> {
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
        graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
        let operations = [attention.object.as_ptr()];
        graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_OPS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &operations)?;
        graph.finish()?;
        let heuristic = functions.object(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        let of_graph = [graph.object.as_ptr()];
        heuristic.set(
            Attribute::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &of_graph,
        )?;
        let mode = [sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A];
        heuristic.set(Attribute::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &mode)?;
        heuristic.finish()?;
        let engine = functions.object(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        let found = heuristic.get(
            Attribute::CUDNN_ATTR_ENGINEHEUR_RESULTS,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            &mut [engine.object.as_ptr()],
        )?;
        if found == 0 {
            return Err(Error::Device { call: "cudnnBackendGetAttribute", reason: format!("no engine for {shape:?}") });
        }
        let plan = functions.object(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.set(Attribute::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
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
}

/// A tensor of four axes.
struct Layout {
    id: i64,
    dims: [usize; 4],
    strides: [usize; 4],
}

impl Layout {
    /// Its description; a scalar on the host if it goes `by_value`.
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

/// An object of cuDNN's.
struct Descriptor {
    object: NonNull<c_void>,
    functions: Functions,
}

impl Descriptor {
    fn set<T>(&self, attribute: Attribute, of: Type, values: &[T]) -> Result<()> {
        // SAFETY: as many values of the type that the callers say.
        let status = unsafe {
            (self.functions.set)(self.object.as_ptr(), attribute, of, values.len() as i64, values.as_ptr().cast())
        };
        check("cudnnBackendSetAttribute", status)
    }

    /// How many of `values` were written.
    fn get<T>(&self, attribute: Attribute, of: Type, values: &mut [T]) -> Result<i64> {
        let mut count = 0;
        let (room, to) = (values.len() as i64, values.as_mut_ptr().cast());
        // SAFETY: room for as many values of the type that the callers say.
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
        // SAFETY: made in `object`. Nothing can be done about an error here.
        let _ = unsafe { (self.functions.destroy_object)(self.object.as_ptr()) };
    }
}

fn check(call: &'static str, status: sys::cudnnStatus_t) -> Result<()> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    Err(Error::Device { call, reason: format!("{status:?}") })
}

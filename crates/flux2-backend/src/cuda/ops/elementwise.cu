// Elementwise ops: cast, silu, guide, euler_step, prelu, add_scaled. Contracts: ops/NAME.rs
//   [rows, cols] with a row stride for each operand, results contiguous; a thread has N consecutive values of a row
//   memory bound: every operand is read once, the result written once

template <typename S, typename T, int N> __device__ void cast_to(i64 n, int cols, const S *x, i64 stride, T *y) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    float v[N];
    load(x + i / cols * stride + i % cols, v);
    store(y + i, v);
}

#define ARGUMENTS i64 n, int cols

#define CAST(name, S, T, N)                                                                     \
    extern "C" __global__ void name(ARGUMENTS, const S *x, i64 stride, T *y) {                  \
        cast_to<S, T, N>(n, cols, x, stride, y);                                                \
    }
CAST(cast_from_f32, float, compute, 1)
CAST(cast_from_f32_wide, float, compute, 4)
CAST(cast_to_f32, compute, float, 1)
CAST(cast_to_f32_wide, compute, float, 4)

extern "C" __global__ void silu_f32(ARGUMENTS, const float *x, i64 stride, compute *y) {
    i64 i = thread_index();
    if (i < n) y[i] = from_float<compute>(silu(x[i / cols * stride + i % cols]));
}

extern "C" __global__ void guide(ARGUMENTS, const float *uncond, i64 uncond_stride, const float *cond, i64 cond_stride,
                                 float guidance, float *y) {
    i64 i = thread_index();
    if (i >= n) return;
    float u = uncond[i / cols * uncond_stride + i % cols], c = cond[i / cols * cond_stride + i % cols];
    y[i] = u + guidance * (c - u);
}

extern "C" __global__ void euler_step(ARGUMENTS, float *x, const float *velocity, i64 stride, float dt) {
    i64 i = thread_index();
    if (i < n) x[i] += dt * velocity[i / cols * stride + i % cols];
}

// One slope for each column.
template <int N> __device__ void prelu_of(i64 n, int cols, compute *x, const float *slope) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    float v[N], slopes[N];
    load(x + i, v);
    load(slope + i % cols, slopes);
#pragma unroll
    for (int j = 0; j < N; j++) v[j] = v[j] < 0.0f ? v[j] * slopes[j] : v[j];
    store(x + i, v);
}

template <int N> __device__ void add_scaled_of(i64 n, int cols, compute *x, const compute *y, i64 stride, float scale) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    float v[N], w[N];
    load(x + i, v);
    load(y + i / cols * stride + i % cols, w);
#pragma unroll
    for (int j = 0; j < N; j++) v[j] += scale * w[j];
    store(x + i, v);
}

#define UPSCALER(suffix, N)                                                                                         \
    extern "C" __global__ void prelu##suffix(ARGUMENTS, compute *x, const float *slope) {                           \
        prelu_of<N>(n, cols, x, slope);                                                                             \
    }                                                                                                               \
    extern "C" __global__ void add_scaled##suffix(ARGUMENTS, compute *x, const compute *y, i64 stride, float scale) { \
        add_scaled_of<N>(n, cols, x, y, stride, scale);                                                             \
    }
UPSCALER(, 1)
UPSCALER(_wide, 4)

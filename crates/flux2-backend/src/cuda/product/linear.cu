// Epilogues that follow cuBLASLt as a pass: bias, gated add, SwiGLU.
//   Contracts: ops/linear.rs, ops/linear_add.rs, ops/linear_swiglu.rs
//   products f32 [rows, stride]; a thread has N consecutive values of a row
//   memory bound: every operand is read once, the result written once

// y = product + bias
template <typename T, int N>
__device__ void biased(i64 n, int cols, const float *product, i64 stride, const float *bias, T *y) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    int col = i % cols;
    float v[N];
    load(product + i / cols * stride + col, v);
    if (bias) {
        float b[N];
        load(bias + col, b);
        for (int j = 0; j < N; j++) v[j] += b[j];
    }
    store(y + i, v);
}

// x += gate * product, x contiguous
template <int N> __device__ void gated(i64 n, int cols, float *x, const float *gate, const float *product, i64 stride) {
    u32 item = blockIdx.x * blockDim.x + threadIdx.x, lanes = (u32)cols / N, row = item / lanes;
    i64 i = (i64)item * N;
    if (i >= n) return;
    int col = (item - row * lanes) * N;
    float v[N], p[N];
    load(x + i, v);
    load(product + row * stride + col, p);
    if (gate) {
        float g[N];
        load(gate + col, g);
        for (int j = 0; j < N; j++) v[j] += g[j] * p[j];
    } else {
        for (int j = 0; j < N; j++) v[j] += p[j];
    }
    store(x + i, v);
}

// y = silu(gate) * up, side by side: up begins `offset` behind gate
template <int N> __device__ void swiglu(i64 n, int cols, const float *product, i64 stride, i64 offset, compute *y) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    product += i / cols * stride + i % cols;
    float g[N], u[N];
    load(product, g);
    load(product + offset, u);
    for (int j = 0; j < N; j++) g[j] = silu(g[j]) * u[j];
    store(y + i, g);
}

#define BIAS(name, T, N)                                                                                            \
    extern "C" __global__ void name(i64 n, int cols, const float *product, i64 stride, const float *bias, T *y) {   \
        biased<T, N>(n, cols, product, stride, bias, y);                                                            \
    }
BIAS(bias_f32, float, 1)
BIAS(bias_f32_wide, float, 4)
BIAS(bias_compute, compute, 1)
BIAS(bias_compute_wide, compute, 4)

#define GATED(name, N)                                                                                              \
    extern "C" __global__ void name(i64 n, int cols, float *x, const float *gate, const float *product, i64 stride) { \
        gated<N>(n, cols, x, gate, product, stride);                                                                \
    }
GATED(gated_add, 1)
GATED(gated_add_wide, 4)

#define SWIGLU(name, N)                                                                                             \
    extern "C" __global__ void name(i64 n, int cols, const float *product, i64 stride, i64 offset, compute *y) {    \
        swiglu<N>(n, cols, product, stride, offset, y);                                                             \
    }
SWIGLU(swiglu_join, 1)
SWIGLU(swiglu_join_wide, 4)

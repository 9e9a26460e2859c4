// Norms of rows: rms_norm, modulated_layer_norm. Contracts: ops/rms_norm.rs, ops/modulated_layer_norm.rs
//   x [rows, d] f32 with a row stride; weight, shift, scale [d] f32; y [rows, d] contiguous; sums in f32
//   one block a row; the row is read from memory once, then from L1
//   memory bound: rows * d * (4 + size of y) bytes

template <int N, typename F> __device__ void each(int d, F f) {
    for (int i = threadIdx.x * N; i < d; i += blockDim.x * N) f(i);
}

template <int N> __device__ void rms(int d, const float *x, i64 stride, const float *weight, float eps, compute *y) {
    x += blockIdx.x * stride;
    y += (i64)blockIdx.x * d;
    float sum = 0;
    each<N>(d, [&](int i) {
        float v[N];
        load(x + i, v);
        for (int j = 0; j < N; j++) sum += v[j] * v[j];
    });
    float scale = 1.0f / sqrtf(block_sum(sum) / d + eps);
    each<N>(d, [&](int i) {
        float v[N], w[N];
        load(x + i, v);
        load(weight + i, w);
        for (int j = 0; j < N; j++) v[j] *= scale * w[j];
        store(y + i, v);
    });
}

extern "C" __global__ void rms_norm(int d, const float *x, i64 stride, const float *weight, float eps, compute *y) {
    rms<1>(d, x, stride, weight, eps, y);
}
extern "C" __global__ void rms_norm_wide(int d, const float *x, i64 stride, const float *weight, float eps,
                                         compute *y) {
    rms<4>(d, x, stride, weight, eps, y);
}

template <int N>
__device__ void layer_norm(int d, const float *x, i64 stride, const float *shift, const float *scale, float eps,
                           compute *y) {
    x += blockIdx.x * stride;
    y += (i64)blockIdx.x * d;
    float sum = 0;
    each<N>(d, [&](int i) {
        float v[N];
        load(x + i, v);
        for (int j = 0; j < N; j++) sum += v[j];
    });
    float mean = block_sum(sum) / d, squares = 0;
    each<N>(d, [&](int i) {
        float v[N];
        load(x + i, v);
        for (int j = 0; j < N; j++) squares += (v[j] - mean) * (v[j] - mean);
    });
    float inverse = 1.0f / sqrtf(block_sum(squares) / d + eps);
    each<N>(d, [&](int i) {
        float v[N], a[N], b[N];
        load(x + i, v);
        load(scale + i, a);
        load(shift + i, b);
        for (int j = 0; j < N; j++) v[j] = (1.0f + a[j]) * ((v[j] - mean) * inverse) + b[j];
        store(y + i, v);
    });
}

extern "C" __global__ void modulated_layer_norm(int d, const float *x, i64 stride, const float *shift,
                                                const float *scale, float eps, compute *y) {
    layer_norm<1>(d, x, stride, shift, scale, eps, y);
}
extern "C" __global__ void modulated_layer_norm_wide(int d, const float *x, i64 stride, const float *shift,
                                                     const float *scale, float eps, compute *y) {
    layer_norm<4>(d, x, stride, shift, scale, eps, y);
}

#if defined(COMPUTE_BF16) && defined(HAS_E4M3)
// The same, and the rows, after rounding to bf16, quantized to e4m3: see quant/fp8.rs. d is a multiple of 16 and at
// most ROUNDS * 4 * blockDim.x; a thread keeps its values in registers.
constexpr int ROUNDS = 4;
extern "C" __global__ void modulated_layer_norm_e4m3(int d, const float *x, i64 stride, const float *shift,
                                                     const float *scale, float eps, bf16 *y, u16 *q, float *scales) {
    x += blockIdx.x * stride;
    y += (i64)blockIdx.x * d;
    q += (i64)blockIdx.x * (d / 2);
    float v[ROUNDS][4], sum = 0, squares = 0;
    u32 largest = 0;
    auto each_own = [&](auto f) {
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
            int i = (r * blockDim.x + threadIdx.x) * 4;
            if (i < d) f(i, v[r]);
        }
    };
    each_own([&](int i, float (&v)[4]) {
        load(x + i, v);
        for (int j = 0; j < 4; j++) sum += v[j];
    });
    float mean = block_sum(sum) / d;
    each_own([&](int, float (&v)[4]) {
        for (int j = 0; j < 4; j++) squares += (v[j] - mean) * (v[j] - mean);
    });
    float inverse = 1.0f / sqrtf(block_sum(squares) / d + eps);
    each_own([&](int i, float (&v)[4]) {
        float a[4], b[4];
        load(scale + i, a);
        load(shift + i, b);
        for (int j = 0; j < 4; j++) {
            v[j] = to_float(from_float<bf16>((1.0f + a[j]) * ((v[j] - mean) * inverse) + b[j]));
            largest = max(largest, magnitude(v[j]));
        }
        store(y + i, v);
    });
    float of_row = e4m3_scale(block_max(largest), inverse);
    each_own([&](int i, float (&v)[4]) {
        *(Vec<u16, 2> *)(q + i / 2) = {to_e4m3(v[0] * inverse, v[1] * inverse),
                                       to_e4m3(v[2] * inverse, v[3] * inverse)};
    });
    if (threadIdx.x == 0) scales[blockIdx.x] = of_row;
}
#endif

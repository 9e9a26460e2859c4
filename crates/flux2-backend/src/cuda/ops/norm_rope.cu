// RMS norm of each head, then rotary position embedding. Contract: ops/norm_rope.rs
//   x [n, heads * d] compute with a row stride; weight [d], cos and sin [n, d / 2] f32; y [n, heads * d] contiguous
//   one warp a head of a token; a lane has pairs of channels, two at a time with 128 channels; sums in f32
//   memory bound: n * heads * d * (2 * size of compute) bytes; the tables stay in L2

template <typename T> __device__ inline void pair_of(const T *x, int pair, int d, bool halves, float &a, float &b) {
    if (halves) {
        a = to_float(x[pair]);
        b = to_float(x[pair + d / 2]);
    } else {
        a = to_float(x[2 * pair]);
        b = to_float(x[2 * pair + 1]);
    }
}

extern "C" __global__ void norm_rope(i64 items, int heads, int d, const compute *x, i64 stride, const float *weight,
                                     const float *cos, i64 cos_stride, const float *sin, i64 sin_stride, int halves,
                                     float eps, compute *y) {
    i64 item = thread_index() / 32;
    int lane = threadIdx.x % 32;
    if (item >= items) return;
    i64 token = item / heads;
    x += token * stride + item % heads * d;
    y += item * d;
    cos += token * cos_stride;
    sin += token * sin_stride;
    float sum = 0;
    for (int pair = lane; pair < d / 2; pair += 32) {
        float a, b;
        pair_of(x, pair, d, halves, a, b);
        sum += a * a + b * b;
    }
    float scale = 1.0f / sqrtf(warp_sum(sum) / d + eps);
    for (int pair = lane; pair < d / 2; pair += 32) {
        float a, b, wa, wb;
        pair_of(x, pair, d, halves, a, b);
        pair_of(weight, pair, d, halves, wa, wb);
        a *= scale * wa;
        b *= scale * wb;
        int first = halves ? pair : 2 * pair, second = halves ? pair + d / 2 : 2 * pair + 1;
        y[first] = from_float<compute>(a * cos[pair] - b * sin[pair]);
        y[second] = from_float<compute>(b * cos[pair] + a * sin[pair]);
    }
}

// The same for heads of 128 channels: a lane has four, loaded and stored as vectors.
template <bool HALVES>
__device__ void of_128(i64 items, int heads, const compute *x, i64 stride, const float *weight, const float *cos,
                       i64 cos_stride, const float *sin, i64 sin_stride, float eps, compute *y) {
    // 32-bit indices: 64-bit divisions would take longer than the memory accesses.
    u32 item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, token = item / (u32)heads;
    int lane = threadIdx.x % 32;
    if (item >= items) return;
    x += token * stride + (item - token * heads) * 128;
    y += (i64)item * 128;
    // Pairs 2 * lane and the next: of neighboring channels, or of channels half a head apart.
    int first = HALVES ? 2 * lane : 4 * lane, second = HALVES ? first + 64 : first + 2;
    float a[2], b[2], wa[2], wb[2], c[2], s[2];
    load(x + first, a);
    load(x + second, b);
    load(weight + first, wa);
    load(weight + second, wb);
    load(cos + token * cos_stride + 2 * lane, c);
    load(sin + token * sin_stride + 2 * lane, s);
    float scale = 1.0f / sqrtf(warp_sum(a[0] * a[0] + a[1] * a[1] + b[0] * b[0] + b[1] * b[1]) / 128 + eps);
    for (int i = 0; i < 2; i++) {
        a[i] *= scale * wa[i];
        b[i] *= scale * wb[i];
    }
    if (HALVES) {
        float u[2] = {a[0] * c[0] - b[0] * s[0], a[1] * c[1] - b[1] * s[1]};
        float v[2] = {b[0] * c[0] + a[0] * s[0], b[1] * c[1] + a[1] * s[1]};
        store(y + first, u);
        store(y + second, v);
    } else {
        float u[4] = {a[0] * c[0] - a[1] * s[0], a[1] * c[0] + a[0] * s[0],
                      b[0] * c[1] - b[1] * s[1], b[1] * c[1] + b[0] * s[1]};
        store(y + first, u);
    }
}

#define OF_128(name, HALVES)                                                                                         \
    extern "C" __global__ void name(i64 items, int heads, const compute *x, i64 stride, const float *weight,         \
                                    const float *cos, i64 cos_stride, const float *sin, i64 sin_stride, float eps,   \
                                    compute *y) {                                                                    \
        of_128<HALVES>(items, heads, x, stride, weight, cos, cos_stride, sin, sin_stride, eps, y);                   \
    }
OF_128(norm_rope_128, false)
OF_128(norm_rope_128_halves, true)

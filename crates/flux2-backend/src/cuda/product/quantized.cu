// Quantizing rows and weights to int8 and e4m3, and the epilogues of their products.
//   Contracts: quant/fp8.rs, quant/int8.rs, ops/linear.rs, ops/linear_add.rs, ops/linear_swiglu.rs
//   memory bound: every operand is read once (rows a second time, from the cache), the result written once

#define THREADS 256

// A row of one matrix, or of two side by side.
template <typename T> struct Row {
    const T *first, *second;
    int first_k;
    __device__ float operator[](int i) const { return to_float(i < first_k ? first[i] : second[i - first_k]); }
};

template <typename T>
__device__ inline Row<T> row_of(const T *first, i64 first_stride, int first_k, const T *second, i64 second_stride) {
    return {first + blockIdx.x * first_stride, second + blockIdx.x * second_stride, first_k};
}

// The minimum and maximum of a row and 0; `poison` is NaN if a value is not finite.
template <typename T>
__device__ inline void range(const Row<T> &x, int k, float &smallest, float &largest, float &poison) {
    smallest = largest = poison = 0.0f;
    for (int i = threadIdx.x; i < k; i += THREADS) {
        float v = x[i];
        smallest = fminf(smallest, v);
        largest = fmaxf(largest, v);
        poison += v * 0.0f;
    }
    smallest = -block_max(-smallest);
    largest = block_max(largest);
    poison = block_sum(poison);
}

// The nearest integer, ties to even.
__device__ inline int nearest(float x) { return __float2int_rn(x); }

// Activations as u8 minus 128, hence signed: x = scale * (q - zero). Zeros up to `stride`.
template <typename T>
__device__ void int8_rows(const Row<T> &x, int k, i64 stride, signed char *q, float *scales, int *zeros) {
    float smallest, largest, poison;
    range(x, k, smallest, largest, poison);
    float scale = (largest - smallest) / 255.0f + poison;
    int zero = scale > 0.0f ? min(max(nearest(-smallest / scale), 0), 255) : 0;
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    q += blockIdx.x * stride;
    for (int i = threadIdx.x; i < stride; i += THREADS)
        q[i] = i < k ? (signed char)(min(max(nearest(x[i] * inverse) + zero, 0), 255) - 128) : 0;
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
        zeros[blockIdx.x] = zero - 128;
    }
}

// Weights as signed bytes: w = scale * q.
template <typename T> __device__ void int8_weights(const Row<T> &x, int k, i64 stride, signed char *q, float *scales) {
    float smallest, largest, poison;
    range(x, k, smallest, largest, poison);
    float scale = fmaxf(-smallest, largest) / 127.0f + poison;
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    q += blockIdx.x * stride;
    for (int i = threadIdx.x; i < stride; i += THREADS)
        q[i] = i < k ? (signed char)min(max(nearest(x[i] * inverse), -127), 127) : 0;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

#ifdef HAS_E4M3
// x = scale * q. `stride` is a multiple of 2.
template <typename T> __device__ void e4m3_rows(const Row<T> &x, int k, i64 stride, u16 *q, float *scales) {
    u32 largest = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) largest = max(largest, magnitude(x[i]));
    float inverse, scale = e4m3_scale(block_max(largest), inverse);
    q += blockIdx.x * (stride / 2);
    for (int i = threadIdx.x; i < stride / 2; i += THREADS) {
        float low = 2 * i < k ? x[2 * i] * inverse : 0.0f, high = 2 * i + 1 < k ? x[2 * i + 1] * inverse : 0.0f;
        q[i] = to_e4m3(low, high);
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

#define E4M3_ROWS(name, T)                                                                                          \
    extern "C" __global__ void name(int k, int first_k, const T *first, i64 first_stride, const T *second,          \
                                    i64 second_stride, i64 stride, u16 *q, float *scales) {                         \
        e4m3_rows(row_of(first, first_stride, first_k, second, second_stride), k, stride, q, scales);               \
    }
E4M3_ROWS(e4m3_rows_compute, compute)
E4M3_ROWS(e4m3_rows_f32, float)

#ifdef COMPUTE_BF16
// The same for rows of up to VECTORS * 8 * THREADS values, all lengths and strides multiples of 8: read once, kept in
// registers.
constexpr int VECTORS = 8;
extern "C" __global__ void e4m3_rows_wide(int k, int first_k, const bf16 *first, i64 first_stride, const bf16 *second,
                                          i64 second_stride, i64 stride, u16 *q, float *scales) {
    first += blockIdx.x * first_stride;
    second += blockIdx.x * second_stride;
    Vec<bf16, 8> x[VECTORS];
    u32 largest = 0;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int i = (v * THREADS + threadIdx.x) * 8;
        if (i < k) x[v] = *(const Vec<bf16, 8> *)(i < first_k ? first + i : second + i - first_k);
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        if ((v * THREADS + threadIdx.x) * 8 >= k) break;
#pragma unroll
        for (int j = 0; j < 8; j++) largest = max(largest, (u32)(x[v].of[j].bits & 0x7fff) << 16);
    }
    float inverse, scale = e4m3_scale(block_max(largest), inverse);
    q += blockIdx.x * (stride / 2);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int i = (v * THREADS + threadIdx.x) * 8;
        if (i >= stride) break;
        Vec<u16, 4> pairs = {};
        if (i < k) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                pairs.of[j] = to_e4m3(to_float(x[v].of[2 * j]) * inverse, to_float(x[v].of[2 * j + 1]) * inverse);
        }
        *(Vec<u16, 4> *)(q + i / 2) = pairs;
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}
#endif
#endif

extern "C" __global__ void int8_rows_compute(int k, int first_k, const compute *first, i64 first_stride,
                                             const compute *second, i64 second_stride, i64 stride, signed char *q,
                                             float *scales, int *zeros) {
    int8_rows(row_of(first, first_stride, first_k, second, second_stride), k, stride, q, scales, zeros);
}

extern "C" __global__ void int8_weights_f32(int k, const float *x, i64 stride, signed char *q, float *scales) {
    int8_weights(row_of(x, (i64)k, k, x, (i64)0), k, stride, q, scales);
}

// The sum of each row's elements.
extern "C" __global__ void sums_of_bytes(int k, const signed char *q, i64 stride, int *sums) {
    q += blockIdx.x * stride;
    int sum = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) sum += q[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// A quantized product: sums [rows, stride] (f32 of e4m3, i32 of int8), scales of rows and columns, and for int8 the
// zero points of the rows and the sums of the columns' elements.
__device__ inline float without_zero(float sum, const int *, const int *, i64, int) { return sum; }
__device__ inline float without_zero(int sum, const int *row_zero, const int *column_sum, i64 row, int col) {
    return (float)(sum - row_zero[row] * column_sum[col]);
}

template <typename P> struct Product {
    const P *sums;
    i64 stride;
    const float *row_scale;
    const int *row_zero;
    const float *scale;
    const int *column_sum;
    __device__ float at(i64 row, int col) const {
        float sum = without_zero(sums[row * stride + col], row_zero, column_sum, row, col);
        return sum * (row_scale[row] * scale[col]);
    }
};

// y = product + bias
template <typename P, typename T>
__device__ void scaled(i64 n, int cols, const Product<P> &product, const float *bias, T *y) {
    i64 i = thread_index();
    if (i >= n) return;
    int col = i % cols;
    float v = product.at(i / cols, col);
    y[i] = from_float<T>(bias ? v + bias[col] : v);
}

#define ARGUMENTS(P)                                                                                                 \
    i64 n, int cols, const P *sums, i64 stride, const float *row_scale, const int *row_zero, const float *scale,     \
        const int *column_sum
#define PRODUCT(P) (Product<P>{sums, stride, row_scale, row_zero, scale, column_sum})

#define EPILOGUE(name, P)                                                                                              \
    extern "C" __global__ void name##_f32(ARGUMENTS(P), const float *bias, float *y) {                               \
        scaled(n, cols, PRODUCT(P), bias, y);                                                                       \
    }                                                                                                               \
    extern "C" __global__ void name##_compute(ARGUMENTS(P), const float *bias, compute *y) {                         \
        scaled(n, cols, PRODUCT(P), bias, y);                                                                       \
    }                                                                                                               \
    /* x += gate * product */                                                                                       \
    extern "C" __global__ void name##_add(ARGUMENTS(P), const float *gate, float *x) {                               \
        i64 i = thread_index();                                                                                     \
        if (i >= n) return;                                                                                         \
        int col = i % cols;                                                                                         \
        float v = PRODUCT(P).at(i / cols, col);                                                                     \
        x[i] += gate ? gate[col] * v : v;                                                                           \
    }                                                                                                               \
    /* y = silu(product) * up */                                                                                    \
    extern "C" __global__ void name##_swiglu(ARGUMENTS(P), const P *up_sums, const float *up_scale,                  \
                                             const int *up_column_sum, compute *y) {                                \
        i64 i = thread_index();                                                                                     \
        if (i >= n) return;                                                                                         \
        int col = i % cols;                                                                                         \
        Product<P> up{up_sums, stride, row_scale, row_zero, up_scale, up_column_sum};                               \
        y[i] = from_float<compute>(silu(PRODUCT(P).at(i / cols, col)) * up.at(i / cols, col));                      \
    }
EPILOGUE(e4m3, float)
EPILOGUE(int8, int)

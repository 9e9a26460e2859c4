// Shared by all kernels: number formats, vector loads, reductions over a warp and a block. Prepended to every .cu file.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define INF __int_as_float(0x7f800000)

struct bf16 {
    u16 bits;
};

#ifdef COMPUTE_F32
typedef float compute;
#else
typedef bf16 compute;
#endif

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
// Rounds to nearest, ties to even.
template <> __device__ inline bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// N elements loaded and stored as one vector. The address must be a multiple of the size.
template <typename T, int N> struct alignas(sizeof(T) * N) Vec {
    T of[N];
};

template <typename T, int N> __device__ inline void load(const T *from, float (&to)[N]) {
    Vec<T, N> v = *reinterpret_cast<const Vec<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_float(v.of[i]);
}

template <typename T, int N> __device__ inline void store(T *to, const float (&from)[N]) {
    Vec<T, N> v;
#pragma unroll
    for (int i = 0; i < N; i++) v.of[i] = from_float<T>(from[i]);
    *reinterpret_cast<Vec<T, N> *>(to) = v;
}

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
// A few ULP of f32 off, in a third of the instructions: for results that are rounded to bf16.
__device__ inline float fast_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

template <typename T> __device__ inline T warp_sum(T x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline u32 larger(u32 a, u32 b) { return max(a, b); }

template <typename T> __device__ inline T warp_max(T x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

// The sum over all threads of a block (at most 1024), returned in every thread.
template <typename T> __device__ inline T block_sum(T x) {
    __shared__ T sums[32];
    x = warp_sum(x);
    __syncthreads(); // an earlier sum has been read
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    T total = 0;
    for (int i = 0; i < (blockDim.x + 31) / 32; i++) total += sums[i];
    return total;
}

template <typename T> __device__ inline T block_max(T x) {
    __shared__ T largest[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = x;
    __syncthreads();
    T total = largest[0];
    for (int i = 1; i < (blockDim.x + 31) / 32; i++) total = larger(total, largest[i]);
    return total;
}

__device__ inline i64 thread_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define HAS_E4M3

// Two floats as e4m3, rounded to nearest (ties to even), saturating.
__device__ inline u16 to_e4m3(float low, float high) {
    u16 both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
    return both;
}

// The scale of a row in e4m3, from the bits of its largest magnitude: as integers, bits of magnitudes compare as the
// floats do, and infinities and NaN are the largest.
__device__ inline float e4m3_scale(u32 largest, float &inverse) {
    float scale = largest < 0x7f800000 ? __uint_as_float(largest) / 448.0f : __int_as_float(0x7fffffff);
    inverse = scale >= 1.17549435e-38f ? 1.0f / scale : 0.0f;
    return scale;
}
__device__ inline u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffff; }
#endif

// What all kernels share: number formats, wide loads, sums over a warp and a block. Stands in front of every .cu file.

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
// To nearest, even at halves.
template <> __device__ inline bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// N neighbours that are loaded and stored at once. Their address must be a multiple of their size.
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

template <typename T> __device__ inline T warp_sum(T x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

// The sum over all threads, in all of them; the block has at most 1024.
template <typename T> __device__ inline T block_sum(T x) {
    __shared__ T sums[32];
    x = warp_sum(x);
    __syncthreads(); // a sum before this one was read
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    T total = 0;
    for (int i = 0; i < (blockDim.x + 31) / 32; i++) total += sums[i];
    return total;
}

__device__ inline float block_max(float x) {
    __shared__ float largest[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = x;
    __syncthreads();
    float total = largest[0];
    for (int i = 1; i < (blockDim.x + 31) / 32; i++) total = fmaxf(total, largest[i]);
    return total;
}

__device__ inline i64 thread_index() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// Attention for any head size and number format, and the softmax of scores from a product. Contract: ops/attention.rs
//   q [n, heads * d], k and v [m, kv_heads * d] compute with row strides; y [n, heads * d] contiguous; sums in f32
//   tiles also take a batch [b, n, ..] and [b, m, ..], an item for each blockIdx.z

// One warp a head of a query: keys one after the other, with an online softmax. For tests, small models and f32; bound
// by arithmetic at a small part of the peak.
//   D: registers of a lane for a head, so d <= 32 * D
template <int D>
__device__ void rows(i64 items, int heads, int repeat, int d, int m, int causal, int valid, float scale,
                     const compute *q, i64 q_stride, const compute *k, i64 k_stride, const compute *v, i64 v_stride,
                     compute *y) {
    i64 item = thread_index() / 32;
    int lane = threadIdx.x % 32;
    if (item >= items) return;
    i64 query = item / heads;
    int head = item % heads;
    q += query * q_stride + (i64)head * d;
    k += (i64)(head / repeat) * d;
    v += (i64)(head / repeat) * d;
    float own[D], sum[D] = {};
    for (int i = 0; i < D; i++) own[i] = lane + 32 * i < d ? to_float(q[lane + 32 * i]) * scale : 0.0f;
    float largest = -INF, total = 0;
    i64 visible = causal ? min((i64)valid, query + 1) : m;
    for (i64 key = 0; key < visible; key++) {
        float dot = 0;
        for (int i = 0; i < D; i++)
            if (lane + 32 * i < d) dot += own[i] * to_float(k[key * k_stride + lane + 32 * i]);
        dot = warp_sum(dot);
        float most = fmaxf(largest, dot), shrink = expf(largest - most), weight = expf(dot - most);
        largest = most;
        total = total * shrink + weight;
        for (int i = 0; i < D; i++)
            if (lane + 32 * i < d) sum[i] = sum[i] * shrink + weight * to_float(v[key * v_stride + lane + 32 * i]);
    }
    y += item * d;
    for (int i = 0; i < D; i++)
        if (lane + 32 * i < d) y[lane + 32 * i] = from_float<compute>(sum[i] / total);
}

#define ROWS(name, D)                                                                                                \
    extern "C" __global__ void name(i64 items, int heads, int repeat, int d, int m, int causal, int valid, float scale,\
                                    const compute *q, i64 q_stride, const compute *k, i64 k_stride, const compute *v, \
                                    i64 v_stride, compute *y) {                                                      \
        rows<D>(items, heads, repeat, d, m, causal, valid, scale, q, q_stride, k, k_stride, v, v_stride, y);         \
    }
ROWS(attention_rows_128, 4)
ROWS(attention_rows_512, 16)

// Softmax of scores [rows, m] f32 -> weights [rows, m] compute; one block a row.
extern "C" __global__ void softmax(int m, const float *scores, float scale, compute *weights) {
    scores += (i64)blockIdx.x * m;
    weights += (i64)blockIdx.x * m;
    float largest = -INF, total = 0;
    for (int i = threadIdx.x; i < m; i += blockDim.x) largest = fmaxf(largest, scores[i]);
    largest = block_max(largest);
    for (int i = threadIdx.x; i < m; i += blockDim.x) total += expf((scores[i] - largest) * scale);
    float inverse = 1.0f / block_sum(total);
    for (int i = threadIdx.x; i < m; i += blockDim.x)
        weights[i] = from_float<compute>(expf((scores[i] - largest) * scale) * inverse);
}

// The same for rows of up to VECTORS * 4 * blockDim.x scores, a multiple of 4: read once, kept in registers.
constexpr int VECTORS = 8;
extern "C" __global__ void __launch_bounds__(512)
    softmax_wide(int m, const float *scores, float scale, compute *weights) {
    scores += (i64)blockIdx.x * m;
    weights += (i64)blockIdx.x * m;
    float x[VECTORS][4], largest = -INF, total = 0;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int i = (v * blockDim.x + threadIdx.x) * 4;
        if (i < m) load(scores + i, x[v]);
        for (int j = 0; j < 4; j++) {
            if (i >= m) x[v][j] = -INF;
            largest = fmaxf(largest, x[v][j]);
        }
    }
    largest = block_max(largest);
#pragma unroll
    for (int v = 0; v < VECTORS; v++)
        for (int j = 0; j < 4; j++) total += x[v][j] = expf((x[v][j] - largest) * scale);
    float inverse = 1.0f / block_sum(total);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int i = (v * blockDim.x + threadIdx.x) * 4;
        for (int j = 0; j < 4; j++) x[v][j] *= inverse;
        if (i < m) store(weights + i, x[v]);
    }
}

#ifdef COMPUTE_BF16
// Tiles of 64 queries and 64 keys on the tensor cores (mma), with an online softmax in registers.
//   four warps of 16 queries of a head each; heads of up to D channels, padded with zeros; rows 16-byte aligned
//   keys and values are loaded while the previous tile is multiplied (cp.async); rows are swizzled by 16 bytes
//   bound by the tensor cores, at about half of what wgmma reaches on Hopper

constexpr int TILE = 64;

__device__ inline u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// Byte offset of 16-byte chunk `chunk` in row `row` of a tile.
template <int D> __device__ inline int swizzled(int row, int chunk) {
    return row * D * 2 + ((chunk ^ row % (D / 8 < 8 ? D / 8 : 8)) * 16);
}

// Loads rows `first..first + TILE` of a head; zeros from row `rows` and channel `d` on.
template <int D> __device__ inline void fetch(u32 to, const bf16 *from, i64 stride, int first, int rows, int d) {
    for (int i = threadIdx.x; i < TILE * D / 8; i += 128) {
        int row = i / (D / 8), chunk = i % (D / 8);
        bool there = first + row < rows && chunk * 8 < d;
        const bf16 *at = there ? from + (i64)(first + row) * stride + chunk * 8 : from;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + swizzled<D>(row, chunk)), "l"(at),
                     "r"(there ? 16 : 0) : "memory");
    }
}

__device__ inline void load_matrices(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ inline void load_transposed(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// d [16, 8] += a [16, 16] * b [8, 16]^T
__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

template <int D>
__device__ void tiles(int n, int m, int repeat, int d, int causal, int valid, float scale, const bf16 *q, i64 q_stride,
                      const bf16 *k, i64 k_stride, const bf16 *v, i64 v_stride, bf16 *y, i64 y_stride) {
    extern __shared__ __align__(128) u8 memory[];
    constexpr int BYTES = TILE * D * 2;
    u32 queries = shared_address(memory), keys = queries + BYTES, values = keys + 2 * BYTES;
    int head = blockIdx.y, first = blockIdx.x * TILE, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    q += (i64)blockIdx.z * n * q_stride + (i64)head * d;
    k += (i64)blockIdx.z * m * k_stride + (i64)(head / repeat) * d;
    v += (i64)blockIdx.z * m * v_stride + (i64)(head / repeat) * d;
    y += (i64)blockIdx.z * n * y_stride;
    int visible = causal ? min(valid, first + TILE) : m;
    int steps = (visible + TILE - 1) / TILE;
    fetch<D>(queries, q, q_stride, first, n, d);
    fetch<D>(keys, k, k_stride, 0, m, d);
    fetch<D>(values, v, v_stride, 0, m, d);
    asm volatile("cp.async.commit_group;" ::: "memory");

    u32 own[D / 16][4];
    float sum[D / 8][4] = {}, largest[2] = {-INF, -INF}, total[2] = {};
    float scale_2 = scale * 1.4426950408889634f; // exp(x) = exp2(x * log2(e))
    for (int step = 0; step < steps; step++) {
        u32 keys_now = keys + step % 2 * BYTES, values_now = values + step % 2 * BYTES;
        if (step + 1 < steps) {
            fetch<D>(keys + (step + 1) % 2 * BYTES, k, k_stride, (step + 1) * TILE, m, d);
            fetch<D>(values + (step + 1) % 2 * BYTES, v, v_stride, (step + 1) * TILE, m, d);
        }
        asm volatile("cp.async.commit_group;\ncp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        if (step == 0) {
#pragma unroll
            for (int i = 0; i < D / 16; i++)
                load_matrices(own[i], queries + swizzled<D>(warp * 16 + lane % 16, 2 * i + lane / 16));
        }
        float s[TILE / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
#pragma unroll
            for (int j = 0; j < TILE / 16; j++) {
                u32 b[4];
                load_matrices(b, keys_now + swizzled<D>(j * 16 + lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
                mma(s[2 * j], own[i], b[0], b[1]);
                mma(s[2 * j + 1], own[i], b[2], b[3]);
            }
        }
        // A lane has columns 8j + 2 * (lane % 4) and the next of rows lane / 4 and lane / 4 + 8.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = first + warp * 16 + lane / 4 + 8 * half;
            int limit = (causal ? min(valid, query + 1) : m) - step * TILE - lane % 4 * 2;
            float most = largest[half];
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &x = s[j][2 * half + i];
                    if (8 * j + i >= limit) x = -INF;
                    most = fmaxf(most, x);
                }
            }
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            float shrink = exp2f((largest[half] - most) * scale_2), of_tile = 0;
            largest[half] = most;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &x = s[j][2 * half + i];
                    x = exp2f((x - most) * scale_2);
                    of_tile += x;
                }
            }
            total[half] = total[half] * shrink + of_tile;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                sum[j][2 * half] *= shrink;
                sum[j][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int i = 0; i < TILE / 16; i++) {
            u32 weights[4] = {pack(s[2 * i][0], s[2 * i][1]), pack(s[2 * i][2], s[2 * i][3]),
                              pack(s[2 * i + 1][0], s[2 * i + 1][1]), pack(s[2 * i + 1][2], s[2 * i + 1][3])};
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                u32 b[4];
                load_transposed(b, values_now + swizzled<D>(i * 16 + lane / 8 % 2 * 8 + lane % 8, 2 * j + lane / 16));
                mma(sum[2 * j], weights, b[0], b[1]);
                mma(sum[2 * j + 1], weights, b[2], b[3]);
            }
        }
        __syncthreads(); // before the tile is overwritten
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float all = total[half];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        i64 query = first + warp * 16 + lane / 4 + 8 * half;
        if (query >= n) continue;
        bf16 *out = y + query * y_stride + (i64)head * d + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            if (8 * j < d) *(u32 *)(out + 8 * j) = pack(sum[j][2 * half] / all, sum[j][2 * half + 1] / all);
    }
}

#define TILES(name, D)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                                \
        name(int n, int m, int repeat, int d, int causal, int valid, float scale, const bf16 *q, i64 q_stride,       \
             const bf16 *k, i64 k_stride, const bf16 *v, i64 v_stride, bf16 *y, i64 y_stride) {                      \
        tiles<D>(n, m, repeat, d, causal, valid, scale, q, q_stride, k, k_stride, v, v_stride, y, y_stride);         \
    }
TILES(attention_tiles_32, 32)
TILES(attention_tiles_64, 64)
TILES(attention_tiles_128, 128)
#endif

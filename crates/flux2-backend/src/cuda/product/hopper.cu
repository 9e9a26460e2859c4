// Products with fused epilogues on Hopper (sm_90a): matrices and 3x3 convolutions, sums in f32.
//   Contracts: ops/linear.rs, ops/linear_add.rs, ops/linear_swiglu.rs, ops/conv2d.rs; e4m3: quant/fp8.rs
//
//   - A [rows, k] (or a map [h, w, c], read shifted for each tap), B [cols, k], both with k innermost, bf16 or e4m3.
//   - TMA (bulk tensor copies) loads tiles of 128 bytes of k into a ring of stages, swizzled by 128 bytes. Elements
//     outside are zero, which is the padding of a convolution.
//   - Warp specialization: one producer warpgroup issues the loads; CONSUMERS warpgroups multiply (wgmma), each
//     M_TILES * 64 rows by BN columns.
//   - Clusters of two blocks with neighboring rows and the same columns: each loads half of B and multicasts it to
//     both.
//   - Persistent: a cluster computes one tile after the other, so loads of the next tile overlap the epilogue of this
//     one.
//   - Values of the columns (bias, gate, scale) are loaded before the product and kept in shared memory.
//   - Bound by the tensor cores for long k, by L2 bandwidth for small M_TILES * BN.

typedef unsigned long long u64;

struct alignas(64) TensorMap {
    u64 words[16];
};

// STORE: `product + bias + add`, rounded to T. SWIGLU: `silu(gate) * up`, side by side in a tile. GATED_ADD:
// `out += gate * product`, f32.
enum Epilogue { STORE, SWIGLU, GATED_ADD };

// An operand element of one byte.
struct e4m3 {
    u8 bits;
};

// The arguments of a launch; the same struct is in hopper.rs.
struct Task {
    int rows, cols, iterations, m_tiles, n_tiles;
    // Convolutions: height, width and channels of the map, and tiles of TILE_W pixels in a row.
    int height, width, channels, tiles_across;
    int stride;         // row stride of `out` in elements
    // A may be two matrices side by side: iterations and columns of the first.
    int first_iterations, first_k;
    // One value for each column, or null.
    const float *bias, *gate;
    // e4m3: scales of the rows of A, of the columns, and of the columns of the second product.
    const float *row_scale, *scale, *second_scale;
    const void *add;    // added before rounding, with the layout of `out`; or null
    void *out;
};

constexpr int TILE_BYTES = 128, TILE_W = 16;

__device__ inline u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
__device__ inline void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(u32 barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// Arrives at the barrier at this address in block `rank` of the cluster. The release has block scope: with cluster
// scope it is a fence that takes longer than a stage, and it is not needed, since only TMA writes the stage next and
// waits for this barrier.
__device__ inline void barrier_arrive(u32 barrier, int rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier), "r"(rank) : "memory");
}
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline int cluster_rank() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ inline void load_tile(u32 to, const TensorMap &map, u32 barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
        ::"r"(to), "l"(&map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
__device__ inline void load_tile(u32 to, const TensorMap &map, u32 barrier, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(to), "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory");
}
// Multicast to the same address in both blocks of the cluster.
__device__ inline void load_to_both(u32 to, const TensorMap &map, u32 barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"((u16)3) : "memory");
}

// wgmma descriptor of a tile with rows of 128 bytes, swizzled by 128 bytes; groups of 8 rows are 1024 bytes apart.
__device__ inline u64 tile_descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)64 << 32 | (u64)1 << 62;
}

#define REGISTERS_8(d) \
    "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]), "+f"((d)[4]), "+f"((d)[5]), "+f"((d)[6]), "+f"((d)[7])
#define REGISTERS_32(d) REGISTERS_8(d), REGISTERS_8((d) + 8), REGISTERS_8((d) + 16), REGISTERS_8((d) + 24)
#define REGISTERS_64(d) REGISTERS_32(d), REGISTERS_32((d) + 32)
#define REGISTERS_96(d) REGISTERS_64(d), REGISTERS_32((d) + 64)
#define REGISTERS_128(d) REGISTERS_64(d), REGISTERS_64((d) + 64)
#define NAMES_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_96 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d [64, N] (+)= a [64, 32 bytes] * b [N, 32 bytes]^T
template <typename IN, int N> __device__ inline void wgmma(float *d, u64 a, u64 b, int accumulate);
#define WGMMA(IN, N, KIND, END, NAMES, REGISTERS, A, B, ACCUMULATE)                                                  \
    template <> __device__ inline void wgmma<IN, N>(float *d, u64 a, u64 b, int accumulate) {                         \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\n"                                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N KIND " {" NAMES "}, " A ", " B ", p, 1, 1" END ";\n}"     \
                     : REGISTERS(d)                                                                                   \
                     : "l"(a), "l"(b), "r"(accumulate));                                                              \
    }
#define WGMMA_BF16(N, NAMES, REGISTERS, A, B, P) \
    WGMMA(bf16, N, "k16.f32.bf16.bf16", ", 0, 0", NAMES, REGISTERS, A, B, P)
#define WGMMA_E4M3(N, NAMES, REGISTERS, A, B, P) WGMMA(e4m3, N, "k32.f32.e4m3.e4m3", "", NAMES, REGISTERS, A, B, P)
WGMMA_BF16(128, NAMES_64, REGISTERS_64, "%64", "%65", "%66")
WGMMA_BF16(192, NAMES_96, REGISTERS_96, "%96", "%97", "%98")
WGMMA_BF16(256, NAMES_128, REGISTERS_128, "%128", "%129", "%130")
WGMMA_E4M3(192, NAMES_96, REGISTERS_96, "%96", "%97", "%98")
WGMMA_E4M3(256, NAMES_128, REGISTERS_128, "%128", "%129", "%130")

__device__ inline u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// Reduced in L2, no round trip. One writer per element, so the order of sums is fixed.
__device__ inline void add_to(float *to, float first, float second) {
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(first), "f"(second) : "memory");
}

// TMA store of a tile in shared memory, which must not change before `store_read`. Elements outside the result are
// dropped.
__device__ inline void store_tile(const TensorMap &map, u32 from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];"
                 ::"l"(&map), "r"(x), "r"(y), "r"(from) : "memory");
}
__device__ inline void store_tile(const TensorMap &map, u32 from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];"
                 ::"l"(&map), "r"(x), "r"(y), "r"(z), "r"(from) : "memory");
}
__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until all but the last PENDING groups of this thread have been read from shared memory.
template <int PENDING> __device__ inline void store_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Stores four 8x8 matrices: lane i has the address of row i % 8 of matrix i / 8.
__device__ inline void store_matrices(u32 to, const u32 (&words)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

// Writes one row of a 64 x BN tile in f32, starting at column `n0` of the result. This thread has columns 8j + 2 *
// (lane % 4) and the next in d[4j] and d[4j + 1].
//   columns: a value for each column of the tile, see `column_value`
template <typename IN, int BN, Epilogue EPILOGUE>
__device__ inline void epilogue_row(const Task &task, const float *d, const float *columns, i64 row, bool valid,
                                    int n0) {
    int own = threadIdx.x % 4;
    float *out = (float *)task.out + row * task.stride + n0;
    if (!valid) return;
    float scale = sizeof(IN) == 1 ? task.row_scale[row] : 1.0f;
#pragma unroll
    for (int j = 0; j < BN / 8; j++) {
        int col = 8 * j + 2 * own;
        float2 column = *(const float2 *)(columns + col);
        if constexpr (EPILOGUE == GATED_ADD) {
            if (n0 + col < task.cols) add_to(out + col, column.x * scale * d[4 * j], column.y * scale * d[4 * j + 1]);
        } else {
            // Not as a vector: a picture has three columns.
            if (n0 + col < task.cols) out[col] = d[4 * j] + column.x;
            if (n0 + col + 1 < task.cols) out[col + 1] = d[4 * j + 1] + column.y;
        }
    }
}

// Columns of a TMA store: a row of them is swizzled as a whole.
template <int BN, Epilogue EPILOGUE> constexpr int stored_columns() {
    return (EPILOGUE == SWIGLU ? BN / 2 : BN) % 64 ? 32 : 64;
}

// The epilogue of columns 8j..8j + 8 of the two rows that a thread has in a 64 x BN tile: a pair of bf16 for each row.
template <typename IN, int BN, Epilogue EPILOGUE>
__device__ inline void epilogue_columns(const Task &task, const float *d, const float *columns,
                                        const float (&scales)[2], const bf16 *const (&add)[2], int n0, int j,
                                        u32 *words) {
    constexpr bool SCALED = sizeof(IN) == 1;
    int own = threadIdx.x % 4;
    auto column = [&](int j) { return *(const float2 *)(columns + 8 * j + 2 * own); };
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float low = d[4 * j + 2 * half], high = d[4 * j + 2 * half + 1];
        if constexpr (EPILOGUE == SWIGLU) {
            float up_low = d[4 * j + 2 * half + BN / 4], up_high = d[4 * j + 2 * half + 1 + BN / 4];
            if constexpr (SCALED) {
                float2 gate = column(j), up = column(j + BN / 16);
                low *= scales[half] * gate.x;
                high *= scales[half] * gate.y;
                up_low *= scales[half] * up.x;
                up_high *= scales[half] * up.y;
            }
            low = fast_silu(low) * up_low;
            high = fast_silu(high) * up_high;
        } else if constexpr (SCALED) {
            low *= scales[half] * column(j).x;
            high *= scales[half] * column(j).y;
        } else {
            u32 added = add[half] && n0 + 8 * j < task.cols ? *(const u32 *)(add[half] + 8 * j + 2 * own) : 0;
            low += column(j).x + __uint_as_float(added << 16);
            high += column(j).y + __uint_as_float(added & 0xffff0000u);
        }
        words[half] = pack(low, high);
    }
}

// Prefetches into L2 what the epilogue will read of this row or add to.
template <int BN, Epilogue EPILOGUE> __device__ inline void expect_row(const Task &task, i64 row, bool valid, int n0) {
    const void *from = EPILOGUE == GATED_ADD ? task.out : task.add;
    constexpr int SIZE = EPILOGUE == GATED_ADD ? 4 : 2, LINE = 128 / SIZE;
    if (!from || !valid) return;
#pragma unroll
    for (int i = 0; i < BN / LINE; i += 4) {
        int column = (i + threadIdx.x % 4) * LINE;
        if (column < BN && n0 + column < task.cols)
            asm volatile("prefetch.global.L2 [%0];"
                         ::"l"((const char *)from + (row * task.stride + n0 + column) * SIZE));
    }
}

// The value (bias, gate, scale) of column `i` of a tile that starts at column `n0` of the result.
template <typename IN, int BN, Epilogue EPILOGUE>
__device__ inline float column_value(const Task &task, int i, int n0) {
    constexpr bool SCALED = sizeof(IN) == 1;
    bool second = EPILOGUE == SWIGLU && i >= BN / 2;
    int col = n0 + (second ? i - BN / 2 : i);
    if (col >= task.cols) return 0.0f;
    if constexpr (EPILOGUE == SWIGLU) return SCALED ? (second ? task.second_scale : task.scale)[col] : 1.0f;
    float scale = SCALED ? task.scale[col] : 1.0f;
    if constexpr (EPILOGUE == GATED_ADD) return task.gate ? task.gate[col] * scale : scale;
    return SCALED ? scale : task.bias[col];
}

// Tile order: all columns of TOGETHER pairs of rows, then the next, so that the rows stay in L2.
__device__ inline void place(int tile, int pairs, int n_tiles, int &m, int &n) {
    constexpr int TOGETHER = 6;
    int group = tile / (TOGETHER * n_tiles), first = group * TOGETHER, size = min(TOGETHER, pairs - first);
    int within = tile - first * n_tiles;
    m = first + within % size;
    n = within / size;
}

template <typename IN, int CONSUMERS, int M_TILES, int BN, int STAGES, Epilogue EPILOGUE, bool CONV, typename T>
__device__ void multiply(const TensorMap &a, const TensorMap &second_a, const TensorMap &b, const TensorMap &second_b,
                         const TensorMap &result, const Task &task) {
    constexpr int TILE_K = TILE_BYTES / sizeof(IN);
    constexpr int BM = M_TILES * 64 * CONSUMERS, A_BYTES = BM * TILE_BYTES, B_BYTES = BN * TILE_BYTES;
    constexpr int N_STEP = EPILOGUE == SWIGLU ? BN / 2 : BN;
    extern __shared__ u8 memory[];
    __shared__ alignas(8) u64 full_barriers[STAGES], empty_barriers[STAGES];
    __shared__ alignas(8) float columns[BN];
    u32 tiles = (shared_address(memory) + 1023) & ~1023u;
    u32 full = shared_address(full_barriers), empty = shared_address(empty_barriers);
    int rank = cluster_rank(), group = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 2 * CONSUMERS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    int pairs = (task.m_tiles + 1) / 2, clusters = gridDim.x / 2;
    int stage = 0, parity = 0;
    if (group == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == CONSUMERS * 128) {
            for (int tile = blockIdx.x / 2; tile < pairs * task.n_tiles; tile += clusters) {
                int m, n;
                place(tile, pairs, task.n_tiles, m, n);
                m = 2 * m + rank;
                int b_row = n * N_STEP + (EPILOGUE == SWIGLU ? 0 : rank * (BN / 2));
                int chunks = (task.channels + TILE_K - 1) / TILE_K;
                int x0 = CONV ? m % task.tiles_across * TILE_W : 0;
                int y0 = CONV ? m / task.tiles_across * (BM / TILE_W) : 0;
                for (int i = 0; i < task.iterations; i++) {
                    u32 a_tile = tiles + stage * (A_BYTES + B_BYTES), b_tile = a_tile + A_BYTES;
                    u32 barrier = full + 8 * stage;
                    barrier_wait(empty + 8 * stage, parity ^ 1);
                    barrier_expect(barrier, A_BYTES + B_BYTES);
                    int b_column;
                    if constexpr (CONV) {
                        int tap = i / chunks, channel = i % chunks * TILE_K;
                        b_column = tap * task.channels + channel;
                        load_tile(a_tile, a, barrier, channel, x0 + tap % 3 - 1, y0 + tap / 3 - 1);
                    } else {
                        bool second = i >= task.first_iterations;
                        int column = (second ? i - task.first_iterations : i) * TILE_K;
                        b_column = second ? task.first_k + column : column;
                        load_tile(a_tile, second ? second_a : a, barrier, column, m * BM);
                    }
                    load_to_both(b_tile + rank * (B_BYTES / 2), rank ? second_b : b, barrier, b_column, b_row);
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
            }
        }
    } else {
        if constexpr (CONSUMERS == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        if constexpr (CONSUMERS == 3) asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
        int thread = threadIdx.x % 128;
        for (int tile = blockIdx.x / 2; tile < pairs * task.n_tiles; tile += clusters) {
            int m, n;
            place(tile, pairs, task.n_tiles, m, n);
            m = 2 * m + rank;
            float of_column = threadIdx.x < BN ? column_value<IN, BN, EPILOGUE>(task, threadIdx.x, n * N_STEP) : 0.0f;
            // The row of the result in `half` (0 or 1) of the 64 rows `t`: a thread has two of them.
            auto own_row = [&](int t, int half, bool &valid) -> i64 {
                int row = (group * M_TILES + t) * 64 + thread / 32 * 16 + thread % 32 / 4 + 8 * half;
                if constexpr (CONV) {
                    int x = m % task.tiles_across * TILE_W + row % TILE_W;
                    int y = m / task.tiles_across * (BM / TILE_W) + row / TILE_W;
                    valid = x < task.width && y < task.height;
                    return (i64)y * task.width + x;
                }
                valid = m * BM + row < task.rows;
                return (i64)m * BM + row;
            };
            if constexpr (EPILOGUE != SWIGLU) {
                for (int i = 0; i < 2 * M_TILES; i++) {
                    bool valid;
                    i64 row = own_row(i / 2, i % 2, valid);
                    expect_row<BN, EPILOGUE>(task, row, valid, n * N_STEP);
                }
            }
            float d[M_TILES][BN / 2];
            int last = 0;
            for (int i = 0; i < task.iterations; i++) {
                barrier_wait(full + 8 * stage, parity);
                u32 a_tile = tiles + stage * (A_BYTES + B_BYTES);
                u64 b_tile = tile_descriptor(a_tile + A_BYTES);
                u64 own = tile_descriptor(a_tile + group * M_TILES * 64 * TILE_BYTES);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int k = 0; k < TILE_BYTES / 32; k++) {
#pragma unroll
                    for (int t = 0; t < M_TILES; t++)
                        wgmma<IN, BN>(d[t], own + t * 512 + 2 * k, b_tile + 2 * k, i + k > 0);
                }
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                // The previous stage has been read.
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (i > 0 && thread < 2) barrier_arrive(empty + 8 * last, thread);
                last = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (thread < 2) barrier_arrive(empty + 8 * last, thread);
            // Slower warps have read `columns` of the previous tile.
            asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * 128) : "memory");
            if (threadIdx.x < BN) columns[threadIdx.x] = of_column;
            asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * 128) : "memory");
#pragma unroll
            for (int t = 0; t < M_TILES; t++) {
                i64 rows[2];
                bool valid[2];
                for (int half = 0; half < 2; half++) rows[half] = own_row(t, half, valid[half]);
                if constexpr (sizeof(T) == 4) {
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        epilogue_row<IN, BN, EPILOGUE>(task, d[t] + 2 * half, columns, rows[half], valid[half],
                                                        n * N_STEP);
                } else {
                    // Staged in shared memory, so that the TMA store overlaps the next tile.
                    constexpr int WIDTH = stored_columns<BN, EPILOGUE>(), COLUMNS = EPILOGUE == SWIGLU ? BN / 2 : BN;
                    constexpr int BUFFERS = CONSUMERS == 2 ? 2 : 1, ROW = 2 * WIDTH, BUFFER = 64 * ROW;
                    float scales[2] = {1.0f, 1.0f};
                    const bf16 *add[2] = {};
                    for (int half = 0; half < 2; half++) {
                        if (sizeof(IN) == 1 && valid[half]) scales[half] = task.row_scale[rows[half]];
                        if (task.add && valid[half])
                            add[half] = (const bf16 *)task.add + rows[half] * task.stride + n * N_STEP;
                    }
                    int lane = thread % 32, in_tile = thread / 32 * 16 + lane / 8 % 2 * 8 + lane % 8;
                    int turns = WIDTH == 64 ? in_tile % 8 : in_tile / 2 % 4;
#pragma unroll
                    for (int round = 0; round < COLUMNS / WIDTH; round++) {
                        u32 buffer = tiles + STAGES * (A_BYTES + B_BYTES) +
                                     (group * BUFFERS + round % BUFFERS) * BUFFER;
                        u32 words[WIDTH / 8][2];
#pragma unroll
                        for (int j = 0; j < WIDTH / 8; j++)
                            epilogue_columns<IN, BN, EPILOGUE>(task, d[t], columns, scales, add, n * N_STEP,
                                                                round * WIDTH / 8 + j, words[j]);
                        if (thread == 0) store_read<BUFFERS - 1>();
                        asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
#pragma unroll
                        for (int j = 0; j < WIDTH / 8; j += 2) {
                            int chunk = (j + lane / 16) ^ turns;
                            u32 four[4] = {words[j][0], words[j][1], words[j + 1][0], words[j + 1][1]};
                            store_matrices(buffer + in_tile * ROW + chunk * 16, four);
                        }
                        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                        asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
                        if (thread == 0) {
                            int column = n * N_STEP + round * WIDTH, row = (group * M_TILES + t) * 64;
                            if constexpr (CONV) {
                                int x = m % task.tiles_across * TILE_W;
                                int y = m / task.tiles_across * (BM / TILE_W) + row / TILE_W;
                                store_tile(result, buffer, column, x, y);
                            } else {
                                store_tile(result, buffer, column, m * BM + row);
                            }
                            store_commit();
                        }
                    }
                }
            }
        }
        if (thread == 0) store_read<0>();
    }
    // A block must not exit while the other may still write to its shared memory.
    cluster_sync();
}

#define MULTIPLY(name, IN, CONSUMERS, M_TILES, BN, EPILOGUE, CONV, T)                                                  \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(128 * (CONSUMERS + 1), 1)                 \
        name(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap second_a,                       \
             const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap second_b,                       \
             const __grid_constant__ TensorMap result, const __grid_constant__ Task task) {                         \
        multiply<IN, CONSUMERS, M_TILES, BN, 4, EPILOGUE, CONV, T>(a, second_a, b, second_b, result, task);            \
    }
// Tiles: 128 x 256 by default, 192 x 192 for `square`, 256 x 128 for `narrow` and f32.
MULTIPLY(product_bf16, bf16, 2, 1, 256, STORE, false, bf16)
MULTIPLY(product_bf16_narrow, bf16, 2, 2, 128, STORE, false, bf16)
MULTIPLY(product_swiglu, bf16, 2, 1, 256, SWIGLU, false, bf16)
MULTIPLY(product_swiglu_square, bf16, 3, 1, 192, SWIGLU, false, bf16)
MULTIPLY(product_add, bf16, 2, 1, 256, GATED_ADD, false, float)
MULTIPLY(product_add_square, bf16, 3, 1, 192, GATED_ADD, false, float)
MULTIPLY(product_e4m3, e4m3, 2, 1, 256, STORE, false, bf16)
MULTIPLY(product_e4m3_square, e4m3, 3, 1, 192, STORE, false, bf16)
MULTIPLY(product_swiglu_e4m3, e4m3, 2, 1, 256, SWIGLU, false, bf16)
MULTIPLY(product_swiglu_e4m3_square, e4m3, 3, 1, 192, SWIGLU, false, bf16)
MULTIPLY(product_add_e4m3, e4m3, 2, 1, 256, GATED_ADD, false, float)
MULTIPLY(product_add_e4m3_square, e4m3, 3, 1, 192, GATED_ADD, false, float)
MULTIPLY(convolution_bf16, bf16, 2, 1, 256, STORE, true, bf16)
MULTIPLY(convolution_bf16_narrow, bf16, 2, 2, 128, STORE, true, bf16)
MULTIPLY(convolution_f32, bf16, 2, 2, 128, STORE, true, float)

// Group norm over a map of pixels: statistics in two passes over blocks, then the norm. Contract: ops/group_norm.rs
//   x [pixels, c] compute with a pixel stride; statistics [3, c] f32: mean, scale, bias
//   memory bound: the map is read once for the statistics, read and written once for the norm

// Sums over a block's pixels for each group: deviations from the group's first value in the map, and their squares. x
// may be a band of the map. Shifting by that value avoids cancellation however far from zero the map lies. f32 over a
// few dozen values, then f64.
//   threads: a team has one for each N channels of a pixel; teams add in a fixed order
//   partial [blocks, groups, 2]
template <int N>
__device__ void moments(i64 pixels, int pixels_a_block, int c, int groups, const compute *x, i64 stride,
                        const compute *first_pixel, double *partial) {
    extern __shared__ float sums[]; // [c, 2]
    int width = c / groups, lanes = c / N, team_size = min(lanes, (int)blockDim.x);
    int teams = blockDim.x / team_size, team = threadIdx.x / team_size;
    i64 first = (i64)blockIdx.x * pixels_a_block, last = min(pixels, first + pixels_a_block);
    for (int i = threadIdx.x; i < 2 * c; i += blockDim.x) sums[i] = 0;
    for (int base = 0; base < lanes; base += team_size) {
        int channel = (base + threadIdx.x % team_size) * N;
        bool busy = team < teams && channel < c;
        float sum[N] = {}, square[N] = {};
        if (busy) {
            float shift[N], v[N];
            for (int j = 0; j < N; j++) shift[j] = to_float(first_pixel[(channel + j) / width * width]);
            for (i64 pixel = first + team; pixel < last; pixel += teams) {
                load(x + pixel * stride + channel, v);
                for (int j = 0; j < N; j++) {
                    v[j] -= shift[j];
                    sum[j] += v[j];
                    square[j] += v[j] * v[j];
                }
            }
        }
        for (int turn = 0; turn < teams; turn++) {
            __syncthreads();
            if (busy && team == turn) {
                for (int j = 0; j < N; j++) {
                    sums[2 * (channel + j)] += sum[j];
                    sums[2 * (channel + j) + 1] += square[j];
                }
            }
        }
    }
    __syncthreads();
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        double sum = 0, square = 0;
        for (int i = group * width; i < (group + 1) * width; i++) {
            sum += sums[2 * i];
            square += sums[2 * i + 1];
        }
        double *of_group = partial + ((i64)blockIdx.x * groups + group) * 2;
        of_group[0] = sum;
        of_group[1] = square;
    }
}

#define MOMENTS(name, N)                                                                                            \
    extern "C" __global__ void name(i64 pixels, int pixels_a_block, int c, int groups, const compute *x, i64 stride, \
                                    const compute *first_pixel, double *partial) {                                  \
        moments<N>(pixels, pixels_a_block, c, groups, x, stride, first_pixel, partial);                             \
    }
MOMENTS(group_moments, 1)
MOMENTS(group_moments_wide, 8)

// One block a group.
extern "C" __global__ void group_statistics(i64 pixels, int blocks, int c, int groups, const compute *first_pixel,
                                            const double *partial, const float *weight, const float *bias, float eps,
                                            float *statistics) {
    int group = blockIdx.x, width = c / groups;
    double sum = 0, square = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
        sum += partial[((i64)i * groups + group) * 2];
        square += partial[((i64)i * groups + group) * 2 + 1];
    }
    double n = (double)pixels * width;
    double deviation = block_sum(sum) / n;
    double variance = fmax(block_sum(square) / n - deviation * deviation, 0.0);
    double mean = to_float(first_pixel[group * width]) + deviation, inverse = 1.0 / sqrt(variance + eps);
    for (int i = group * width + threadIdx.x; i < (group + 1) * width; i += blockDim.x) {
        double scale = inverse * weight[i];
        statistics[i] = (float)mean;
        statistics[c + i] = (float)scale;
        // The rounding error of the mean goes into the bias: it matters where the mean dwarfs the deviation.
        statistics[2 * c + i] = (float)(bias[i] - (mean - (float)mean) * scale);
    }
}

// 32-bit indices: 64-bit divisions would take longer than the memory accesses.
template <int N, bool SILU>
__device__ void normalise(i64 n, int c, const compute *x, i64 stride, const float *statistics, compute *y) {
    u32 item = blockIdx.x * blockDim.x + threadIdx.x, lanes = (u32)c / N;
    i64 i = (i64)item * N;
    if (i >= n) return;
    u32 pixel = item / lanes, channel = (item - pixel * lanes) * N;
    float v[N], mean[N], scale[N], bias[N];
    load(x + pixel * stride + channel, v);
    load(statistics + channel, mean);
    load(statistics + c + channel, scale);
    load(statistics + 2 * c + channel, bias);
    for (int j = 0; j < N; j++) {
        v[j] = (v[j] - mean[j]) * scale[j] + bias[j];
        if (SILU) v[j] = sizeof(compute) == 2 ? fast_silu(v[j]) : silu(v[j]);
    }
    store(y + i, v);
}

#define NORMALISE(name, N, SILU)                                                                                    \
    extern "C" __global__ void name(i64 n, int c, const compute *x, i64 stride, const float *statistics, compute *y) { \
        normalise<N, SILU>(n, c, x, stride, statistics, y);                                                         \
    }
NORMALISE(group_norm, 1, false)
NORMALISE(group_norm_wide, 8, false)
NORMALISE(group_norm_silu, 1, true)
NORMALISE(group_norm_silu_wide, 8, true)

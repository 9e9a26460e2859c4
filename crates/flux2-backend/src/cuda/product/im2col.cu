// im2col: the window of each output pixel as a row, for a convolution as a product. Contract: ops/conv2d.rs
//   x [h, w, c] compute with a pixel stride; rows [pixels, wide] compute: kernel * kernel * c values, then zeros
//   a thread has N consecutive values of a row; memory bound: writes nine times the map for 3x3

// Rows of output pixels `first..first + n / wide`. `up` is 2 if the map is doubled first, `before` the padding above
// and on the left.
template <int N>
__device__ void im2col(i64 n, int wide, i64 first, int kernel, int stride, int up, int before, int h, int w, int c,
                       int out_w, const compute *x, i64 pixel_stride, compute *y) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    i64 pixel = first + i / wide;
    int from = i % wide, tap = from / c, channel = from % c;
    i64 row = pixel / out_w * stride + tap / kernel - before;
    i64 column = pixel % out_w * stride + tap % kernel - before;
    float v[N] = {};
    if (tap < kernel * kernel && row >= 0 && row < (i64)h * up && column >= 0 && column < (i64)w * up)
        load(x + (row / up * w + column / up) * pixel_stride + channel, v);
    store(y + i, v);
}

#define IM2COL(name, N)                                                                                             \
    extern "C" __global__ void name(i64 n, int wide, i64 first, int kernel, int stride, int up, int before, int h,  \
                                    int w, int c, int out_w, const compute *x, i64 pixel_stride, compute *y) {      \
        im2col<N>(n, wide, first, kernel, stride, up, before, h, w, c, out_w, x, pixel_stride, y);                 \
    }
IM2COL(im2col, 1)
IM2COL(im2col_wide, 8)

// Nearest-neighbor upsampling by 2: y [2h, 2w, c]. Memory bound: 5 * h * w * c values.
template <int N> __device__ void doubled(i64 n, int w, int c, const compute *x, i64 stride, compute *y) {
    u32 item = blockIdx.x * blockDim.x + threadIdx.x, lanes = (u32)c / N, pixel = item / lanes;
    i64 i = (i64)item * N;
    if (i >= n) return;
    u32 row = pixel / (2 * w), column = pixel - row * (2 * w);
    float v[N];
    load(x + ((i64)(row / 2) * w + column / 2) * stride + (item - pixel * lanes) * N, v);
    store(y + i, v);
}
extern "C" __global__ void double_map(i64 n, int w, int c, const compute *x, i64 stride, compute *y) {
    doubled<1>(n, w, c, x, stride, y);
}
extern "C" __global__ void double_map_wide(i64 n, int w, int c, const compute *x, i64 stride, compute *y) {
    doubled<8>(n, w, c, x, stride, y);
}

// y = product + bias (+ residual, unless null), rounded once.
template <typename T, int N>
__device__ void epilogue(i64 n, int cols, const float *product, i64 stride, const float *bias,
                         const compute *residual, T *y) {
    i64 i = thread_index() * N;
    if (i >= n) return;
    int col = i % cols;
    float v[N], b[N];
    load(product + i / cols * stride + col, v);
    load(bias + col, b);
    for (int j = 0; j < N; j++) v[j] += b[j];
    if (residual) {
        load(residual + i, b);
        for (int j = 0; j < N; j++) v[j] += b[j];
    }
    store(y + i, v);
}

#define EPILOGUE(name, T, N)                                                                                          \
    extern "C" __global__ void name(i64 n, int cols, const float *product, i64 stride, const float *bias,           \
                                    const compute *residual, T *y) {                                                \
        epilogue<T, N>(n, cols, product, stride, bias, residual, y);                                                  \
    }
EPILOGUE(conv_epilogue_f32, float, 1)
EPILOGUE(conv_epilogue_f32_wide, float, 4)
EPILOGUE(conv_epilogue_compute, compute, 1)
EPILOGUE(conv_epilogue_compute_wide, compute, 4)

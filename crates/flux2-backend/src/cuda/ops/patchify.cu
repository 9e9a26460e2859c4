// 2x2 pixels to one normalized token, and back. Contract: ops/patchify.rs
//   map [2h, 2w, c] with a pixel stride; tokens [h * w, 4c] f32; mean and std [4c] f32; one thread a value
//   memory bound: every value is read and written once

template <typename T>
__device__ void to_tokens(i64 n, int w, int c, const T *x, i64 stride, const float *mean, const float *std, float *y) {
    i64 i = thread_index();
    if (i >= n) return;
    i64 token = i / (4 * c);
    int to = i % (4 * c), channel = to / 4, py = to % 4 / 2, px = to % 2;
    i64 pixel = (token / w * 2 + py) * 2 * w + token % w * 2 + px;
    y[i] = (to_float(x[pixel * stride + channel]) - mean[to]) / std[to];
}

extern "C" __global__ void patchify_f32(i64 n, int w, int c, const float *x, i64 stride, const float *mean,
                                        const float *std, float *y) {
    to_tokens(n, w, c, x, stride, mean, std, y);
}
extern "C" __global__ void patchify_compute(i64 n, int w, int c, const compute *x, i64 stride, const float *mean,
                                            const float *std, float *y) {
    to_tokens(n, w, c, x, stride, mean, std, y);
}

extern "C" __global__ void unpatchify(i64 n, int w, int c, const float *tokens, i64 stride, const float *mean,
                                      const float *std, compute *y) {
    i64 i = thread_index();
    if (i >= n) return;
    i64 pixel = i / c, row = pixel / (2 * w);
    int column = pixel % (2 * w);
    int from = i % c * 4 + row % 2 * 2 + column % 2;
    i64 token = row / 2 * w + column / 2;
    y[i] = from_float<compute>(tokens[token * stride + from] * std[from] + mean[from]);
}

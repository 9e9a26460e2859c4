// Channels to pixels, added to a map enlarged by repeating its pixels. Contract: ops/pixel_shuffle.rs
//   x [h, w, c * s * s] and base [h, w, c], each with a pixel stride; y [h * s, w * s, c]; all f32; one thread a value
//   memory bound: every value of x is read once, every value of y written once

extern "C" __global__ void pixel_shuffle(i64 n, int w, int c, int s, const float *x, i64 stride, const float *base,
                                         i64 base_stride, float *y) {
    i64 i = thread_index();
    if (i >= n) return;
    int channel = i % c, column = i / c % (w * s);
    i64 row = i / c / (w * s);
    i64 from = row / s * w + column / s;
    int place = row % s * s + column % s;
    y[i] = x[from * stride + channel * s * s + place] + base[from * base_stride + channel];
}

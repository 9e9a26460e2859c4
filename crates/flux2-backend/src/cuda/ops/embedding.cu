// Gathers rows of a table. Contract: ops/embedding.rs
//   table [v, stride] compute; ids [n]; y [n, d] f32
//   one block a row; memory bound: n * d * (size of compute + 4) bytes

extern "C" __global__ void embedding(int d, const compute *table, i64 stride, const u32 *ids, float *y) {
    table += ids[blockIdx.x] * stride;
    y += (i64)blockIdx.x * d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) y[i] = to_float(table[i]);
}

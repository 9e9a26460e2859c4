//! `torch-cpu`: PyTorch's CPU generator, bit for bit (PyTorch 2.15, x86-64 with AVX2).
//!
//! Sources: `DistributionTemplates.h` and `MT19937RNGEngine.h` of PyTorch; the Cephes single precision `logf` and
//! `sincosf`.

use std::f64::consts::TAU;

/// Values that PyTorch's vectorized `normal_fill` makes at a time: 8 radii and 8 angles.
const BLOCK: usize = 16;

/// Kind `torch-cpu`: `normal_fill` draws all uniforms first, then turns them into normals block by block.
pub(super) fn torch_cpu(seed: u64, n: usize) -> Vec<f32> {
    if n < BLOCK {
        return torch_cpu_few(seed, n);
    }
    let mut generator = Mt19937::new(seed as u32);
    let mut values: Vec<f32> = (0..n).map(|_| generator.uniform_f32()).collect();
    for block in values.as_chunks_mut().0 {
        box_muller(block);
    }
    // For a remainder, the last 16 values are overwritten by a block of new draws.
    if !n.is_multiple_of(BLOCK) {
        let mut last = [0.0; BLOCK];
        last.fill_with(|| generator.uniform_f32());
        box_muller(&mut last);
        values[n - BLOCK..].copy_from_slice(&last);
    }
    values
}

/// Turn 8 uniforms for the radius and 8 for the angle into 8 cosines and 8 sines, scaled by the radii.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * cephes_ln(1.0 - *a)).sqrt();
        let (sin, cos) = cephes_sin_cos(std::f32::consts::TAU * *b);
        // PyTorch multiplies by std and adds mean. Adding 0 turns a negative zero into a positive one.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

/// `log256_ps` of avx_mathfun.h for a positive normal number. The bits depend on where the compiler contracted products
/// and sums into fused multiply-adds, which is reproduced below.
fn cephes_ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut x = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000); // [0.5, 1)
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        x = x - 1.0 + x;
    } else {
        x -= 1.0;
    }
    let exponent = exponent as f32;
    let z = x * x;
    let mut y = 0.070_376_836_f32;
    for coefficient in [
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_14,
        -0.249_999_94,
        0.333_333_3,
    ] {
        y = y.mul_add(x, coefficient);
    }
    y *= x;
    y = y.mul_add(z, exponent * -0.000_212_194_44);
    y = (-z).mul_add(0.5, y);
    exponent.mul_add(355.0 / 512.0, x + y)
}

/// `sincos256_ps` of avx_mathfun.h for an angle from 0 to 2 pi, contracted likewise.
fn cephes_sin_cos(angle: f32) -> (f32, f32) {
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let turns = octant as f32;
    let mut x = turns.mul_add(-0.785_156_25, angle);
    x = turns.mul_add(-0.000_241_875_65, x);
    x = turns.mul_add(-3.774_895e-8, x);
    let z = x * x;

    let mut cos = 2.443_315_7e-5_f32;
    cos = cos.mul_add(z, -0.001_388_731_6);
    cos = cos.mul_add(z, 0.041_666_646);
    cos *= z;
    cos = cos.mul_add(z, -(z * 0.5)) + 1.0;

    let mut sin = -0.000_195_152_96_f32;
    sin = sin.mul_add(z, 0.008_332_161);
    sin = sin.mul_add(z, -0.166_666_55);
    sin *= z;
    sin = sin.mul_add(x, x);

    match octant & 6 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Fewer elements than a block: PyTorch draws in f64, two normals from two uniforms of 53 bits.
///
/// No image is this small; it makes `n` of any size right. Uses the platform's logarithm and sine.
fn torch_cpu_few(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed as u32);
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let (turn, u) = (generator.uniform_f64(), generator.uniform_f64());
        let radius = (-2.0 * (-u).ln_1p()).sqrt();
        let (sin, cos) = (TAU * turn).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(n);
    values
}

/// The Mersenne Twister with 19937 bits of state.
struct Mt19937 {
    state: [u32; Self::LEN],
    next: usize,
}

impl Mt19937 {
    const LEN: usize = 624;
    const MIDDLE: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::LEN];
        for i in 1..Self::LEN {
            let before = state[i - 1];
            state[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: Self::LEN }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::LEN {
            self.regenerate();
        }
        let mut x = self.state[self.next];
        self.next += 1;
        x ^= x >> 11;
        x ^= x << 7 & 0x9D2C_5680;
        x ^= x << 15 & 0xEFC6_0000;
        x ^ x >> 18
    }

    fn regenerate(&mut self) {
        for i in 0..Self::LEN {
            let joined = self.state[i] & 0x8000_0000 | self.state[(i + 1) % Self::LEN] & 0x7FFF_FFFF;
            let twist = if joined & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + Self::MIDDLE) % Self::LEN] ^ joined >> 1 ^ twist;
        }
        self.next = 0;
    }

    /// 24 bits, in `0.0..1.0`.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    /// 53 bits, in `0.0..1.0`; the first draw is the high half.
    fn uniform_f64(&mut self) -> f64 {
        let bits = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_of_one_is_zero() {
        assert_eq!(cephes_ln(1.0), 0.0);
    }

    /// Knuth's generator in the C++ standard: the 10000th value for seed 5489.
    #[test]
    fn mersenne_twister_passes_the_standard_check() {
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}

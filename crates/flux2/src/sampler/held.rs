//! Tokens that are held to a source image while the others are denoised.
//!
//! In:  noise and tokens of the source, `[n, c]` each. Out: latents in which the held tokens are those of the source
//!      with as much noise as the step leaves.

/// What is held, and how long.
pub struct Held {
    /// Noise of the seed, `[n, c]`.
    noise: Vec<f32>,
    /// Tokens of the source, `[n, c]`.
    source: Vec<f32>,
    hold: Hold,
}

/// How tokens are held.
pub enum Hold {
    /// So many steps for each token; then it is free.
    Steps(Vec<u32>),
    /// At every step, to the part that this weight of each token leaves: 0 holds all of it, 1 nothing.
    Mixed(Vec<f32>),
}

impl Held {
    /// Hold tokens to `source`; nothing if none is ever held.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn new(noise: Vec<f32>, source: Vec<f32>, hold: Hold) -> Option<Self> {
        let tokens = match &hold {
            Hold::Steps(steps) => steps.len(),
            Hold::Mixed(weights) => weights.len(),
        };
        assert_eq!(noise.len(), source.len(), "Held: noise and source");
        assert!(tokens > 0 && noise.len().is_multiple_of(tokens), "Held: {} values in {tokens} tokens", noise.len());
        let held = Held { noise, source, hold };
        held.holds_after(0).then_some(held)
    }

    /// Whether tokens are held after step `step`, counted from 0.
    pub fn holds_after(&self, step: usize) -> bool {
        match &self.hold {
            Hold::Steps(steps) => steps.iter().any(|&held| held as usize > step),
            Hold::Mixed(weights) => weights.iter().any(|&weight| weight < 1.0),
        }
    }

    /// Set the held tokens of `latents` `[n, c]` after step `step`, counted from 0, which leaves noise of level `sigma`.
    pub fn apply(&self, latents: &mut [f32], step: usize, sigma: f32) {
        let tokens = match &self.hold {
            Hold::Steps(steps) => steps.len(),
            Hold::Mixed(weights) => weights.len(),
        };
        let c = self.noise.len() / tokens;
        let rows = latents.chunks_exact_mut(c).zip(self.noise.chunks_exact(c)).zip(self.source.chunks_exact(c));
        for (token, ((row, noise), source)) in rows.enumerate() {
            let weight = match &self.hold {
                Hold::Steps(steps) if steps[token] as usize > step => 0.0,
                Hold::Steps(_) => continue,
                Hold::Mixed(weights) => weights[token],
            };
            for ((value, noise), source) in row.iter_mut().zip(noise).zip(source) {
                let known = with_noise(*source, *noise, sigma);
                // A product with 0 would keep infinities of what is thrown away.
                *value = if weight == 0.0 { known } else { (1.0 - weight) * known + weight * *value };
            }
        }
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.noise[..]) + size_of_val(&self.source[..])
    }
}

/// A value of an image with noise of level `sigma`.
pub fn with_noise(source: f32, noise: f32, sigma: f32) -> f32 {
    sigma * noise + (1.0 - sigma) * source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_held_for_its_steps_and_free_then() {
        let held = Held::new(vec![1.0; 4], vec![3.0; 4], Hold::Steps(vec![2, 0])).unwrap();
        for (step, sigma, expected) in [(0, 0.5, 2.0), (1, 0.0, 3.0), (2, 0.0, 9.0)] {
            let mut latents = vec![9.0; 4];
            held.apply(&mut latents, step, sigma);
            assert_eq!(latents, [expected, expected, 9.0, 9.0], "step {step}");
        }
        assert!(held.holds_after(1) && !held.holds_after(2));
        assert!(Held::new(vec![1.0; 4], vec![3.0; 4], Hold::Steps(vec![0, 0])).is_none());
    }

    #[test]
    fn mixed_tokens_are_mixed_at_every_step() {
        let held = Held::new(vec![1.0; 3], vec![3.0; 3], Hold::Mixed(vec![0.0, 0.25, 1.0])).unwrap();
        let mut latents = vec![f32::INFINITY, 6.0, 6.0];
        held.apply(&mut latents, 7, 0.5);
        assert_eq!(latents, [2.0, 3.0, 6.0]);
    }
}

//! Choices by a seed: SplitMix64, whose numbers must never change, as pictures are made again from their seed.
//!
//! Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.

/// A sequence of choices.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0; each is as likely as the others, but for a part in 2^44 at most.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// `count` different numbers below `n`, in rising order; each set of them is as likely as the others.
    pub fn some_of(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut left = count;
        let mut chosen = Vec::with_capacity(count);
        for i in 0..n {
            if self.below(n - i) < left {
                chosen.push(i);
                left -= 1;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first numbers of seed 1234567, as in the test of the reference implementation.
        let mut random = Random::new(1_234_567);
        let numbers = [random.next(), random.next(), random.next()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_set_is_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        let mut random = Random::new(7);
        (0..6000).for_each(|_| *counts.entry(random.some_of(4, 2)).or_insert(0) += 1);
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}

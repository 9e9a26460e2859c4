//! Norms and distances, summed in f64.

use serde::Serialize;

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

impl Spread {
    /// That of `values`; zeros if there are none.
    pub fn of(values: &[f32]) -> Self {
        let Some(first) = values.first() else { return Spread { mean: 0.0, deviation: 0.0, min: 0.0, max: 0.0 } };
        let count = values.len() as f64;
        let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
        let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let (min, max) = values.iter().fold((*first, *first), |(min, max), value| (min.min(*value), max.max(*value)));
        Spread { mean, deviation: variance.sqrt(), min, max }
    }
}

/// L2 norm.
pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// L2 norm of the difference between `values` and `others`.
pub(crate) fn distance(values: &[f32], others: impl Iterator<Item = f64>) -> f64 {
    values.iter().zip(others).map(|(value, other)| (f64::from(*value) - other).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_spreads_of_a_few_values() {
        assert_eq!(norm(&[3.0, -4.0]), 5.0);
        assert_eq!(distance(&[3.0, 1.0], [0.0, 5.0].into_iter()), 5.0);
        assert_eq!(Spread::of(&[1.0, 3.0]), Spread { mean: 2.0, deviation: 1.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[]).deviation, 0.0);
    }
}

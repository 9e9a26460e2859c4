//! The schedule: values of the reference, and its invariants.

use flux2::Error;
use flux2::latents::timestep_embedding;
use flux2::sampler::schedule::{MAX_STEPS, empirical_mu};
use flux2::sampler::sigmas;
use proptest::prelude::*;

/// Half a ulp of f32 near 1 is 6e-8; the reference computes in f32 and is off by a few of those.
const SIGMA_TOLERANCE: f64 = 2e-7;

/// Values of diffusers and BFL for 4 steps: image tokens, mu, the sigmas between 1 and 0.
const FOUR_STEPS: [(usize, f64, [f64; 3]); 7] = [
    (256, 1.965567161, [0.955390751, 0.877134264, 0.704111695]),
    (1024, 2.030689708, [0.958085358, 0.883981884, 0.717496574]),
    (2304, 2.139227286, [0.962233722, 0.894657791, 0.738968670]),
    (4080, 2.289823174, [0.967341185, 0.908030689, 0.766957581]),
    (4096, 2.291179894, [0.967384040, 0.908143938, 0.767199934]),
    (9216, 2.016658980, [0.957518280, 0.882535040, 0.714643896]),
    (16384, 3.229986340, [0.986985564, 0.961947262, 0.893915355]),
];

#[test]
fn four_steps_match_the_reference() {
    for (tokens, mu, between) in FOUR_STEPS {
        assert!((empirical_mu(tokens, 4) - mu).abs() < 1e-8, "mu of {tokens}: {}", empirical_mu(tokens, 4));
        let got = sigmas(4, tokens).unwrap();
        let expected = [1.0, between[0], between[1], between[2], 0.0];
        assert_eq!(got.len(), expected.len());
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let difference = (f64::from(*got) - expected).abs();
            assert!(difference <= SIGMA_TOLERANCE, "{tokens} tokens, sigma {i}: {got}, expected {expected}");
        }
    }
}

#[test]
fn mu_depends_on_the_number_of_steps() {
    for (tokens, steps, mu) in
        [(4096, 50, 2.023351157), (1024, 50, 1.701956207), (4096, 20, 2.198022073), (1024, 8, 2.002104186)]
    {
        let got = empirical_mu(tokens, steps);
        assert!((got - mu).abs() < 1e-8, "mu of {tokens} tokens, {steps} steps: {got}, expected {mu}");
    }
}

#[test]
fn mu_jumps_above_4300_tokens_as_in_the_reference() {
    assert!((empirical_mu(4300, 4) - 2.308478).abs() < 1e-6);
    assert!((empirical_mu(4301, 4) - 1.184697).abs() < 1e-6);
    assert_eq!(empirical_mu(4301, 4), empirical_mu(4301, 50));
}

#[test]
fn schedule_is_shifted_not_linear() {
    let got = sigmas(4, 1024).unwrap();
    for (sigma, linear) in got[1..4].iter().zip([0.75, 0.5, 0.25]) {
        assert!(sigma - linear > 0.2, "{got:?}");
    }
}

#[test]
fn one_step_goes_from_noise_to_image() {
    assert_eq!(sigmas(1, 1024).unwrap(), [1.0, 0.0]);
}

#[test]
fn no_steps_and_too_many_steps_are_refused() {
    for steps in [0, MAX_STEPS + 1, u32::MAX] {
        assert!(matches!(sigmas(steps, 1024), Err(Error::Steps { steps: s, max: MAX_STEPS }) if s == steps));
    }
    assert_eq!(sigmas(MAX_STEPS, 1024).unwrap().len(), 1001);
}

proptest! {
    /// Up to 2048 x 2048 pixels, which is 16384 tokens; far beyond, adjacent sigmas near 1 are equal in f32.
    #[test]
    fn sigmas_fall_from_one_to_zero(steps in 1..=MAX_STEPS, tokens in 1usize..=16384) {
        let sigmas = sigmas(steps, tokens).unwrap();
        prop_assert_eq!(sigmas.len(), steps as usize + 1);
        prop_assert_eq!((sigmas[0], sigmas[steps as usize]), (1.0, 0.0));
        prop_assert!(sigmas.is_sorted_by(|a, b| a > b), "{:?}", sigmas);
    }

    #[test]
    fn sigmas_of_any_size_stay_between_one_and_zero(steps in 1..=MAX_STEPS, tokens: usize) {
        let sigmas = sigmas(steps, tokens % (1 << 24)).unwrap();
        prop_assert!(sigmas.is_sorted_by(|a, b| a >= b) && sigmas[0] == 1.0 && sigmas[steps as usize] == 0.0);
    }
}

/// Values of diffusers: element, value.
fn check_embedding(sigma: f32, expected: &[(usize, f32)]) {
    let got = timestep_embedding(sigma, 256);
    assert_eq!(got.len(), 256);
    for (i, expected) in expected {
        // The values have seven decimals; an error of one ulp in a frequency changes them by up to 6e-5.
        assert!((got[*i] - expected).abs() <= 2e-6, "sigma {sigma}, element {i}: {}, expected {expected}", got[*i]);
    }
}

#[test]
fn timestep_embedding_matches_the_reference() {
    check_embedding(
        1.0,
        &[
            (0, 0.5623791),
            (1, 0.7896267),
            (2, 0.4399279),
            (3, -0.0236452),
            (127, 0.9942316),
            (128, 0.8268796),
            (129, 0.6135876),
            (130, -0.8980331),
            (131, 0.9997204),
            (255, 0.1072541),
        ],
    );
    check_embedding(
        0.717_496_6,
        &[
            (0, 0.3497829),
            (1, -0.0936745),
            (2, 0.7590593),
            (3, 0.9907693),
            (128, 0.9368308),
            (129, 0.9956028),
            (130, -0.6510215),
            (131, 0.135_559),
        ],
    );
}

#[test]
fn timestep_embedding_of_a_clean_image_is_ones_then_zeros() {
    let got = timestep_embedding(0.0, 256);
    assert!(got[..128].iter().all(|v| *v == 1.0) && got[128..].iter().all(|v| *v == 0.0));
}

#[test]
fn every_level_is_the_schedulers_to_the_bit() {
    let table = std::fs::read(crate::golden::fixture("golden/schedule.json")).unwrap();
    let table: Vec<serde_json::Value> = serde_json::from_slice(&table).unwrap();
    assert!(table.len() > 20);
    for row in table {
        let (tokens, steps) = (row["image_tokens"].as_u64().unwrap(), row["steps"].as_u64().unwrap());
        let expected: Vec<f32> = row["sigmas"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap() as f32).collect();
        assert_eq!(sigmas(steps as u32, tokens as usize).unwrap(), expected, "{tokens} tokens, {steps} steps");
    }
}

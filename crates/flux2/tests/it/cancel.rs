//! Cancellation: a run stops at its next unit of work, in any stage, and the next run is not affected.

use flux2::image::RgbImage;
use flux2::weights::Part;
use flux2::{CancelToken, EngineOptions, Error, Event, GenerateRequest, ModelPaths, Phase, Reference, engine};
use flux2_backend::testing::repository;

fn model() -> ModelPaths {
    ModelPaths { model: repository("fixtures/tiny/klein").into(), ..Default::default() }
}

fn request() -> GenerateRequest {
    let image = RgbImage::new(64, 64, vec![128; 64 * 64 * 3]).unwrap();
    let references = vec![Reference::from_image(image)];
    GenerateRequest { prompt: "a red fox".into(), references, steps: Some(2), ..Default::default() }
}

/// The events after the `n`-th start of `phase`, at which the run is cancelled.
fn after_stopping_at(phase: Phase, n: usize) -> Vec<Event> {
    let mut engine = engine::load(&model(), &EngineOptions::default()).unwrap();
    let cancel = CancelToken::new();
    let (mut starts, mut after) = (0, vec![]);
    let mut observer = |event: &Event| {
        if cancel.is_cancelled() {
            after.push(event.clone());
        }
        if matches!(event, Event::PhaseStarted { phase: p, .. } if *p == phase) {
            starts += 1;
            if starts == n {
                cancel.cancel();
            }
        }
    };
    let result = engine.generate_with(&request(), &mut observer, &cancel);
    assert!(matches!(result, Err(Error::Cancelled)), "{phase:?}: {result:?}");

    let picture = |engine: &mut dyn engine::Engine| engine.generate(&request()).unwrap().image;
    let mut fresh = engine::load(&model(), &EngineOptions::default()).unwrap();
    assert!(picture(&mut *engine) == picture(&mut *fresh), "{phase:?}: the next picture is another");
    after
}

#[test]
fn every_stage_stops_at_its_next_unit() {
    for phase in [Phase::Text, Phase::References, Phase::Denoise, Phase::Decode] {
        let after = after_stopping_at(phase, 1);
        assert!(matches!(after.as_slice(), [] | [Event::Progress { done: 1, .. }]), "{phase:?}: {after:?}");
    }
}

#[test]
fn loading_stops_between_tensors() {
    // The VAE is loaded twice: as encoder and as decoder.
    for (part, n) in [(Part::TextEncoder, 1), (Part::Vae, 1), (Part::Transformer, 1), (Part::Vae, 2)] {
        assert_eq!(after_stopping_at(Phase::Load(part), n), []);
    }
}

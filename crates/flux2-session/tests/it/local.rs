//! The engine behind a session, with the host that draws no model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2::CancelToken;
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{Draft, FailureClass, Options, Refused};
use flux2_session::studio::StudioError;
use flux2_session::{Drawn, Heard, LocalStudio, Studio};

fn studio(options: FakeOptions) -> LocalStudio {
    LocalStudio::start(Arc::new(FakeHost::new(options)), Options::default()).unwrap()
}

fn draft(prompt: &str) -> Draft {
    Draft { prompt: prompt.into(), width: Some(64), height: Some(64), seed: Some(7), ..Draft::default() }
}

fn draw(studio: &LocalStudio, draft: Draft) -> Result<Vec<Drawn>, StudioError> {
    studio.draw(draft, &mut |_| {}, &CancelToken::new())
}

#[test]
fn pictures_come_with_what_made_them_and_steps_are_heard() {
    let studio = studio(FakeOptions::default());
    studio.preload().unwrap();
    let mut heard = Vec::new();
    let mut hear = |it: &Heard| heard.push(it.clone());
    let drawn = studio.draw(Draft { count: Some(3), ..draft("a fox") }, &mut hear, &CancelToken::new()).unwrap();
    let seeds: Vec<u64> = drawn.iter().map(|drawn| drawn.made.seed).collect();
    assert_eq!((seeds, drawn[0].made.prompt.as_str(), drawn[0].made.width), (vec![7, 8, 9], "a fox", 64));
    assert!(heard.contains(&Heard::Started) && heard.contains(&Heard::Queued { position: 1 }), "{heard:?}");
    assert_eq!(studio.models().unwrap(), ["klein-4b"]);
}

#[test]
fn a_picture_is_a_reference_of_the_next() {
    let studio = studio(FakeOptions::default());
    let first = draw(&studio, draft("a fox")).unwrap().remove(0);
    let digest = studio.keep(&first.bytes).unwrap();
    assert_eq!(digest, first.info.sha256);
    let second = draw(&studio, Draft { references: vec![digest], ..draft("make it blue") }).unwrap().remove(0);
    assert_ne!(second.info.sha256, first.info.sha256);
    let go_on = CancelToken::new();
    let larger = studio.enlarge(&first.bytes, Some(2.0), Some("lanczos"), &go_on).unwrap();
    let image = flux2::image::decode(&larger, "it").unwrap();
    assert_eq!((image.width(), image.height()), (128, 128));
    assert!(studio.enlarge(b"no picture", None, None, &go_on).is_err());
}

#[test]
fn a_cancelled_picture_ends_and_the_next_is_drawn() {
    let studio = studio(FakeOptions { step: Duration::from_secs(600), ..FakeOptions::default() });
    let (cancel, began) = (CancelToken::new(), Instant::now());
    let mut hear = |heard: &Heard| {
        if *heard == Heard::Started {
            cancel.cancel();
        }
    };
    let result = studio.draw(draft("a fox"), &mut hear, &cancel);
    assert!(matches!(result, Err(StudioError::Cancelled)), "{result:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
    let pixels = flux2::image::RgbImage::new(16, 16, vec![0; 768]).unwrap();
    let file = flux2::image::encode(&pixels, flux2::image::ImageFormat::Png, None).unwrap();
    let enlarged = studio.enlarge(&file, None, Some("lanczos"), &cancel);
    assert!(matches!(enlarged, Err(StudioError::Cancelled)), "{enlarged:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
    let studio = self::studio(FakeOptions::default());
    assert_eq!(draw(&studio, draft("a fox")).unwrap().len(), 1);
}

#[test]
fn what_cannot_be_drawn_says_why() {
    let failures = vec![("bad".to_owned(), FailureClass::OutOfMemory)];
    let studio = studio(FakeOptions { failures, ..FakeOptions::default() });
    let result = draw(&studio, draft("bad"));
    assert!(matches!(&result, Err(StudioError::Failed(failure)) if failure.class == FailureClass::OutOfMemory));
    let result = draw(&studio, Draft { width: Some(63), ..draft("a fox") });
    assert!(matches!(result, Err(StudioError::Refused(Refused::Invalid(_)))), "{result:?}");
    let result = draw(&studio, Draft { references: vec!["0".repeat(64)], ..draft("a fox") });
    assert!(matches!(result, Err(StudioError::Refused(Refused::UnknownBlob { .. }))), "{result:?}");
}

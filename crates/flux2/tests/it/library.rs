//! The short way from a model's name to a picture in a file: `Model`, `Engine::generate`, `GeneratedImage::save`.

use std::fs;

use flux2::image::{ImageFormat, metadata};
use flux2::prelude::*;
use flux2::weights::ModelPaths;
use flux2::{Error, engine, plan};
use tempfile::TempDir;

use crate::golden::fixture;

fn tiny() -> Model {
    Model::from(ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() })
}

fn options() -> EngineOptions {
    EngineOptions { device: Device::Cpu, ..Default::default() }
}

fn request() -> GenerateRequest {
    GenerateRequest { width: Some(64), height: Some(64), seed: 3, ..GenerateRequest::new("a red fox") }
}

#[test]
fn a_picture_is_saved_with_its_parameters_in_the_format_of_its_name() {
    let made = tiny().load(&options()).unwrap().generate(&request()).unwrap();
    let folder = TempDir::new().unwrap();
    for name in ["fox.png", "fox.JPG", "fox.webp"] {
        let path = folder.path().join(name);
        // The second time replaces the first.
        made.save(&path).unwrap();
        made.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(ImageFormat::of(&bytes), Some(ImageFormat::from_path(&path).unwrap()), "{name}");
        let read = metadata::read(&bytes).unwrap().expect("parameters are stored");
        assert_eq!((read.prompt.as_str(), read.seed), ("a red fox", 3), "{name}");
    }
    assert!(matches!(made.save(folder.path().join("fox")), Err(Error::UnknownExtension { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

/// The other way, with an observer and a token, gives the same picture.
#[test]
fn observer_and_token_change_nothing() {
    let mut engine = tiny().load(&options()).unwrap();
    let mut steps = 0;
    let mut count = |event: &Event| steps += usize::from(matches!(event, Event::Step { .. }));
    let with = engine.generate_with(&request(), &mut count, &CancelToken::new()).unwrap();
    assert!(steps > 0 && engine.generate(&request()).unwrap().image == with.image);
}

#[cfg(feature = "hub")]
#[test]
fn a_published_model_is_found_by_name_in_a_cache() {
    use flux2::find::{FindError, ModelFinder};

    let cache = TempDir::new().unwrap();
    let finder = ModelFinder::with_cache(cache.path());
    let found = || Model::found_by(&finder, "klein-4b");
    assert!(matches!(found(), Err(FindError::NotDownloaded { is_partial: false, .. })));
    let repository = cache.path().join("models--black-forest-labs--FLUX.2-klein-4B");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    copy(&fixture("tiny/klein"), &repository.join("snapshots").join(commit));
    fs::create_dir(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let by_name = found().unwrap().load(&options()).unwrap().generate(&request()).unwrap();
    assert!(by_name.image == tiny().load(&options()).unwrap().generate(&request()).unwrap().image);
}

#[cfg(feature = "hub")]
fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        match entry.is_dir() {
            true => copy(&entry, &to),
            false => _ = fs::copy(&entry, &to).unwrap(),
        }
    }
}

#[test]
fn a_memory_limit_holds_for_each_picture_of_an_engine() {
    let files = engine_files();
    let peak = |residency, request| {
        plan::of(&files, &EngineOptions { residency, ..options() }, &[request]).unwrap().peak_bytes()
    };
    let free = engine::open(files.clone(), &options()).unwrap().generate(&request()).unwrap();
    let limit = peak(Residency::OneAtATime, request()) - 1;
    assert!(peak(Residency::Smallest, request()) <= limit);
    let limited = EngineOptions { max_memory: Some(limit), residency: Residency::KeepAll, ..options() };
    let mut engine = engine::open(files.clone(), &limited).unwrap();
    assert!(engine.generate(&request()).unwrap().image == free.image);
    let large = || GenerateRequest { width: Some(512), height: Some(512), ..request() };
    assert!(peak(Residency::Smallest, large()) > limit);
    assert!(matches!(engine.generate(&large()), Err(Error::MemoryLimit { limit: told, .. }) if told == limit));
    assert!(engine.generate(&request()).unwrap().image == free.image);
}

fn engine_files() -> flux2::weights::ModelFiles {
    let paths = ModelPaths { model: fixture("tiny/klein").into(), ..Default::default() };
    flux2::weights::ModelFiles::open(&paths).unwrap()
}

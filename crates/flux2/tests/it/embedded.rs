//! An embedded model equals the model in the folder that it was embedded from.

use std::path::Path;

use flux2::pipeline::{GeneratedImage, Pipeline, Residency};
use flux2::weights::{EmbeddedFile, Error, FileProblem, Location, ModelFiles, ModelPaths};
use flux2::{CancelToken, Event, GenerateRequest};

use crate::golden::f32_backend;
use crate::layouts::{assert_same, folder, open, tiny};

/// All files below `folder` as a leaked table of embedded files, each at an odd address.
fn table(folder: &Path) -> Vec<EmbeddedFile> {
    let (mut files, mut folders) = (vec![], vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = [&[0], std::fs::read(&path).unwrap().as_slice()].concat().leak();
            let odd = 1 - bytes.as_ptr().addr() % 2;
            if odd == 0 {
                bytes.rotate_left(1);
            }
            let bytes = &bytes[odd..][..bytes.len() - 1];
            let inside = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            files.push((&*inside.leak(), bytes));
        }
    }
    files
}

fn embedded(files: Vec<EmbeddedFile>) -> ModelPaths {
    ModelPaths { model: Location::embedded("table", files.leak()), ..Default::default() }
}

fn draw(paths: &ModelPaths) -> GeneratedImage {
    let mut pipeline = Pipeline::load(f32_backend(), paths, Residency::OneAtATime).unwrap();
    let request = GenerateRequest { width: Some(64), height: Some(64), steps: Some(1), ..Default::default() };
    pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
}

#[test]
fn unaligned_bytes_draw_the_picture_of_the_folder() {
    // The text encoder is sharded.
    let (paths, disk) = (embedded(table(&tiny("klein"))), folder());
    assert!(draw(&paths).image == draw(&disk).image);
    let (files, disk) = (open(&paths), open(&disk));
    assert_eq!((files.name.as_str(), files.variant), ("table", disk.variant));
    assert_same(&files.transformer, &disk.transformer, true);
    assert_same(&files.text_encoder, &disk.text_encoder, true);
    assert_same(&files.vae, &disk.vae, true);
}

/// Embedded files have no modification time, so only their bytes identify an encoder.
#[test]
fn a_fingerprint_is_of_samples_of_every_tensor() {
    let print = |change: &dyn Fn(&mut [u8])| {
        let mut files = table(&tiny("klein"));
        let (_, bytes) = files.iter_mut().find(|(path, _)| path.ends_with("00001-of-00002.safetensors")).unwrap();
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.leak();
        open(&embedded(files)).text_encoder.fingerprint().unwrap()
    };
    let data = |bytes: &[u8]| 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let same = print(&|_| {});
    // Matrices up to 4 KiB are hashed as a whole; this is the last byte of one.
    assert_ne!(print(&|bytes| *bytes.last_mut().unwrap() ^= 1), same);
    // The embedding, 28 KiB, comes first and is sampled: its middle is hashed, bytes between samples are not.
    assert_ne!(print(&|bytes| bytes[data(bytes) + 14 * 1024] ^= 1), same);
    assert_eq!(print(&|bytes| bytes[data(bytes)] ^= 1), same);
}

#[test]
fn a_part_on_disk_goes_with_an_embedded_model() {
    let paths = ModelPaths { vae: Some(tiny("vae_small_decoder").into()), ..embedded(table(&tiny("klein"))) };
    assert_eq!(open(&paths).vae.config.decoder_channels, [8, 8, 16, 16]);
}

#[test]
fn a_table_is_checked_as_a_folder_is() {
    let error = |change: &dyn Fn(&mut Vec<EmbeddedFile>)| {
        let mut files = table(&tiny("klein"));
        change(&mut files);
        ModelFiles::open(&embedded(files)).unwrap_err()
    };
    let without = |name: &'static str| error(&|files| files.retain(|(path, _)| !path.starts_with(name)));
    assert!(matches!(without(""), Error::ModelMissing { path } if path == Path::new("table")));
    assert!(matches!(without("model_index.json"), Error::NoModelIndex { .. }));
    assert!(matches!(without("vae/"), Error::PartMissing { what: "VAE", .. }));
    assert!(matches!(without("vae/diffusion"), Error::NoWeights { path } if path == Path::new("table/vae")));
    let shard = without("text_encoder/model-00002");
    assert!(matches!(&shard, Error::PartMissing { what: "shard", .. }), "{shard}");
    let cut = error(&|files| {
        let (_, bytes) = files.iter_mut().find(|(path, _)| path.starts_with("vae/diffusion")).unwrap();
        *bytes = &bytes[..bytes.len() - 1];
    });
    assert_eq!(cut.to_string().split(':').next(), Some("table/vae/diffusion_pytorch_model.safetensors"));
    assert!(matches!(cut, Error::Checkpoint { problem: FileProblem::BeyondFile { .. }, .. }));
    let no_json = error(&|files| files.iter_mut().for_each(|(_, bytes)| *bytes = b"["));
    assert!(no_json.to_string().starts_with("table/model_index.json: not valid"), "{no_json}");
}

#[cfg(feature = "mini")]
#[test]
fn the_built_in_model_is_the_one_in_the_sources() {
    let disk = ModelPaths { model: flux2_backend::testing::repository("assets/mini").into(), ..Default::default() };
    let builtin = ModelPaths { model: Location::builtin().unwrap(), ..Default::default() };
    for paths in [&disk, &builtin] {
        let files = open(paths);
        assert_eq!((files.variant.name, files.name.as_str()), ("klein-mini", "klein-mini"));
        assert!(files.tokenizer.is_some());
    }
    let prompt = "a cat on a blue background".to_owned();
    let request = GenerateRequest { prompt, seed: 7, ..Default::default() };
    let [a, b] = [&disk, &builtin].map(|paths| {
        let mut pipeline = Pipeline::load(f32_backend(), paths, Residency::OneAtATime).unwrap();
        pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new()).unwrap()
    });
    assert_eq!((a.image.width(), a.image.height(), a.parameters.steps), (128, 128, 4));
    assert!(a.image == b.image);
    assert_eq!(a.parameters, b.parameters);
}

#[cfg(not(feature = "mini"))]
#[test]
fn without_its_feature_there_is_no_built_in_model() {
    assert!(Location::builtin().is_none());
}

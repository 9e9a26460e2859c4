//! The examples, run with klein-mini: their pictures show what was asked for.

use std::path::PathBuf;

use flux2::image;
use tempfile::TempDir;

use crate::evaluation::judge::Judge;
use crate::evaluation::world::{Layout, Picture};

#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/custom_sampler.rs"]
mod custom_sampler;
#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/edit.rs"]
mod edit;
#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/events.rs"]
mod events;
#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/inpaint.rs"]
mod inpaint;
#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/text_to_image.rs"]
mod text_to_image;

const CAT: &str = "a large cat in the center on a blue background";

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// What the judge should see: something large in the middle.
fn expected(judge: &Judge, color: &str, subject: &str) -> Picture {
    let color = judge.world.colors.iter().position(|known| known.name == color).unwrap();
    let subject = judge.world.subjects.iter().position(|known| known.name == subject).unwrap();
    Picture { color, pattern: 0, subject, layout: Some(Layout { size: 2, count: 1, place: 4 }) }
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn assert_shows(judge: &Judge, file: &str, expected: &Picture) {
    let image = image::codec::open(file.as_ref()).unwrap();
    assert_eq!(judge.look(&image, expected), *expected, "{file}");
}

#[test]
fn a_picture_is_drawn_and_edited() {
    let (judge, folder) = (Judge::load(), TempDir::new().unwrap());
    let [cat, red] = ["cat.png", "red.png"].map(|name| path(&folder, name));
    text_to_image::run(&args(&[CAT, &cat])).unwrap();
    assert_shows(&judge, &cat, &expected(&judge, "blue", "cat"));
    edit::run(&args(&["klein-mini", "make the background red", &red, &cat])).unwrap();
    assert_shows(&judge, &red, &expected(&judge, "red", "cat"));
    assert!(text_to_image::run(&args(&[CAT])).unwrap_err().to_string().starts_with("usage: "));
}

#[test]
fn a_loop_of_ones_own_draws_what_was_asked_for() {
    let (judge, folder) = (Judge::load(), TempDir::new().unwrap());
    let cat = path(&folder, "cat.png");
    custom_sampler::run(&args(&[CAT, &cat])).unwrap();
    assert_shows(&judge, &cat, &expected(&judge, "blue", "cat"));
}

#[test]
fn a_masked_part_is_repainted_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let [cat, mask, dog] = ["cat.png", "mask.png", "dog.png"].map(|name| path(&folder, name));
    text_to_image::run(&args(&[CAT, &cat])).unwrap();
    let is_inside = |i: usize| (8..120).contains(&(i % 128)) && (8..120).contains(&(i / 128));
    let white = (0..128 * 128).flat_map(|i| [if is_inside(i) { 255 } else { 0 }; 3]).collect();
    let white = image::RgbImage::new(128, 128, white).unwrap();
    let png = image::encode(&white, image::ImageFormat::Png, None).unwrap();
    std::fs::write(&mask, png).unwrap();
    inpaint::run(&args(&["klein-mini", "a large dog in the center on a blue background", &dog, &cat, &mask])).unwrap();
    let [before, after] = [&cat, &dog].map(|file| image::codec::open(file.as_ref()).unwrap());
    let pixels = before.pixels().chunks_exact(3).zip(after.pixels().chunks_exact(3)).enumerate();
    let changed: Vec<bool> = pixels.filter(|(_, (a, b))| a != b).map(|(i, _)| is_inside(i)).collect();
    assert!(changed.iter().all(|inside| *inside), "pixels outside of the mask changed");
    assert!(changed.len() > 2000, "{} pixels changed", changed.len());
    let judge = Judge::load();
    let dog_there = expected(&judge, "blue", "dog");
    assert_eq!(judge.look(&after, &dog_there).subject, dog_there.subject);
}

#[test]
fn events_are_told_and_a_run_is_stopped() {
    let told = |seconds: &str| {
        let mut out = Vec::new();
        events::run(&args(&["klein-mini", seconds]), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let all = told("600");
    assert!(all.contains("step 4 of 4 took ") && all.contains("128"), "{all}");
    let stopped = told("0");
    assert!(stopped.ends_with("stopped after 0 s\n"), "{stopped}");
}

#[test]
fn examples_of_the_guide_are_short() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let of_library = ["custom_sampler", "edit", "events", "inpaint", "text_to_image"];
    let files = of_library.map(|name| crates.join(format!("flux2/examples/{name}.rs")));
    for file in files.into_iter().chain([crates.join("dj-flux2/examples/server_client.rs")]) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines < 60, "{} has {lines} lines", file.display());
    }
}

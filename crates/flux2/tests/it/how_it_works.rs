//! The pictures of docs/how-it-works.md are those that `just explain` makes.

use std::collections::BTreeSet;
use std::fs;

use flux2::image::{ImageFormat, codec};
use flux2_backend::testing::repository;

use crate::evaluation::psnr;

#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/how_it_works/main.rs"]
mod chapters;

/// Most bytes of all files.
const MAX_BYTES: usize = 1_500_000;
/// Least PSNR against the file, in dB. Processors add in different orders.
const SAME: f64 = 35.0;

fn made(name: &str) -> Vec<u8> {
    let (_, make) = chapters::FILES.iter().find(|(known, _)| *known == name).unwrap();
    make().unwrap()
}

#[test]
fn every_picture_is_there_and_shown() {
    let folder = repository("docs/images/how-it-works");
    let text = fs::read_to_string(repository("docs/how-it-works.md")).unwrap();
    let names: BTreeSet<String> = chapters::FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
    let found = entries.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(names, found, "run `just explain`, and remove what it does not write");
    let bytes: u64 = entries.iter().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(bytes as usize <= MAX_BYTES, "{bytes} bytes");
    for name in names {
        assert!(text.contains(&format!("](images/how-it-works/{name})")), "docs/how-it-works.md does not show {name}");
    }
}

#[test]
fn plots_of_figures_are_current() {
    for name in ["schedule.svg", "time.svg"] {
        let file = fs::read_to_string(repository("docs/images/how-it-works").join(name)).unwrap();
        assert_eq!(String::from_utf8(made(name)).unwrap(), file, "{name}: run `just explain`");
    }
}

#[test]
fn pictures_of_mistakes_are_current() {
    for name in ["schedule.png", "statistics.png", "taps.png", "tiles.png"] {
        let file = codec::open(&repository("docs/images/how-it-works").join(name)).unwrap();
        let bytes = made(name);
        assert_eq!(ImageFormat::of(&bytes), Some(ImageFormat::Png));
        let drawn = codec::decode(&bytes, name).unwrap();
        assert_eq!([drawn.width(), drawn.height()], [file.width(), file.height()], "{name}: run `just explain`");
        let same = psnr(&drawn, &file);
        assert!(same >= SAME, "{name}: {same:.1} dB; look at it, then run `just explain`");
    }
}

//! The loss of the autoencoder alone: pictures encoded, decoded and compared, in f32.
//!
//! In:  a folder of true pictures, drawn from the font by `tools/train/fixture.py --pictures DIR` and named by their
//!      class (`small-7.png`). Neither font nor glyphs are in the repository. Pictures made from their thumbnails would
//!      be smoother and easier to reconstruct, so without the folder there is no result.
//! Out: the mean peak signal-to-noise ratio, of all pictures and of each class.

use std::num::NonZeroUsize;
use std::path::Path;

use flux2::image;
use flux2::models::vae;
use flux2::weights::ModelFiles;
use flux2::{ModelPaths, Result};
use flux2_backend::{Compute, CpuBackend, CpuOptions, Runtime};

use crate::evaluation::psnr;

/// A line of the table.
pub struct Line {
    /// Which pictures it is about.
    pub what: String,
    /// The value to reach, for people.
    pub bar: &'static str,
    /// Mean over pictures, in dB.
    pub psnr: f64,
    /// Number of pictures.
    pub n: usize,
}

/// The mean and each class in `folder`.
///
/// # Errors
/// If a picture or the model cannot be read.
pub fn lines(model: &ModelPaths, folder: &Path) -> Result<Vec<Line>> {
    let be = CpuBackend::new(CpuOptions { compute: Compute::F32, ..Default::default() })?;
    let part = ModelFiles::open(model)?.vae;
    let weights = part.map()?;
    let encoder = vae::Encoder::load(&be, &part.config, &weights)?;
    let decoder = vae::Decoder::load(&be, &part.config, &weights)?;

    let io = |source| flux2::Error::Io { path: folder.into(), source };
    let mut measured = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let picture = image::open(&path)?;
        let size = [picture.height() as usize, picture.width() as usize];
        let tokens = encoder.forward(&image::to_model_input(&picture), size, &mut || Ok(()))?;
        let grid = size.map(|px| px / 16);
        let n = grid[0] * grid[1];
        let tokens = be.upload(&[n, tokens.len() / n], &tokens)?;
        let pixels = decoder.forward(&tokens, grid, &mut || Ok(()))?;
        let again = image::from_model_output(&pixels, picture.width(), picture.height(), NonZeroUsize::MIN)?;
        let class = path.file_stem().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        measured.push((class.split('-').next().unwrap_or_default().to_owned(), psnr(&again, &picture)));
    }
    let mut classes: Vec<&str> = measured.iter().map(|(class, _)| class.as_str()).collect();
    classes.sort_unstable();
    classes.dedup();
    let line = |what: String, bar, class: Option<&str>| {
        let of: Vec<f64> = measured.iter().filter(|(c, _)| class.is_none_or(|class| c == class)).map(|m| m.1).collect();
        Line { what, bar, psnr: of.iter().sum::<f64>() / of.len() as f64, n: of.len() }
    };
    let all = line("reconstruction PSNR, mean".into(), "31 dB", None);
    let each = classes.iter().map(|class| line(format!("... {class}"), "30 dB", Some(class)));
    Ok(std::iter::once(all).chain(each).collect())
}

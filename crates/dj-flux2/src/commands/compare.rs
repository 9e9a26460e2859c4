//! `dj-flux2 compare`: how two pictures differ, in their pixels and in what made them.

use std::path::Path;

use flux2::image::resize::resize_lanczos;
use flux2::image::{self, RgbImage, Stored, metadata};
use flux2::sheet::compare::{Difference, difference_picture, wipe};
use flux2::sheet::{Sheet, SheetSpec};
use serde::Serialize;

use crate::args::CompareArgs;
use crate::failure::{Failure, Result};
use crate::output::{Existing, Output};
use crate::report::{Report, json, print, shown};
use crate::settings::Detail;
use crate::sheets::settings_of;
use crate::typed_paths::{name_of, read_picture};

/// A picture that is compared.
struct Compared {
    name: String,
    image: RgbImage,
    stored: Option<Stored>,
}

/// A setting in which two pictures differ; none where one of them does not have it.
#[derive(Serialize)]
struct SettingRecord {
    setting: &'static str,
    a: Option<String>,
    b: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record {
    /// Settings that differ; none if a picture does not say what made it.
    settings: Option<Vec<SettingRecord>>,
    /// Sizes of both pictures in pixels. If they differ, the second was scaled to the first.
    sizes: [[u32; 2]; 2],
    /// Pixels that are not equal.
    pixels: u64,
    /// Largest difference of a channel, of 255.
    max: u8,
    /// Mean difference of all channels, of 255.
    mean: f64,
    /// In dB; null if all pixels are equal.
    psnr: Option<f64>,
}

/// Compares the pictures of `args`.
pub fn run(args: &CompareArgs) -> Result<()> {
    if args.a == args.b && args.a.as_path() == Path::new("-") {
        return Err(Failure::usage("standard input can be read once", "pass a file in place of one of the dashes"));
    }
    let output = args.output.as_deref().map(|path| {
        let existing = if args.force { Existing::ReplaceReadOnly } else { Existing::Replace };
        let output = Output::new(Some(path), 1, existing, Path::is_dir)?;
        output.check(output.path(1, 0).into_iter(), &[args.a.clone(), args.b.clone()])?;
        Ok::<_, Failure>(output)
    });
    let output = output.transpose()?;
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let size = |picture: &Compared| [picture.image.width(), picture.image.height()];
    let sizes = [size(&a), size(&b)];
    let scaled = match sizes[0] == sizes[1] {
        true => b.image.clone(),
        false => resize_lanczos(&b.image, sizes[0][0], sizes[0][1])?,
    };
    let difference = Difference::between(&a.image, &scaled)?;
    let settings = differing(&a, &b);
    let picture_is_wanted = output.is_some() || args.show;
    let picture = match picture_is_wanted {
        true => Some(drawn(args, [&a, &b], &scaled, &difference)?),
        false => None,
    };
    if let (Some(output), Some(picture)) = (&output, &picture) {
        let bytes = image::encode(picture, output.format(), None)?;
        output.write(output.path(1, 0).as_deref(), &bytes)?;
        // The numbers would be part of the picture.
        if *output == Output::Stdout {
            return Ok(());
        }
    }
    if let Some(picture) = picture.filter(|_| args.show) {
        let mut report = Report::new(Detail::Normal, args.json);
        report.show_pictures(true);
        report.show_finished(0, &picture);
    }
    if args.json {
        let Difference { pixels, max, mean, psnr } = difference;
        return print(&json(&Record { settings, sizes, pixels, max, mean, psnr }));
    }
    describe([&a, &b], settings.as_deref(), sizes, &difference)?;
    if picture_is_wanted || difference.pixels == 0 {
        return Ok(());
    }
    Report::new(Detail::Normal, false)
        .note("-o difference.png writes a picture of the difference, --show shows it here");
    Ok(())
}

fn open(path: &Path) -> Result<Compared> {
    let (bytes, name) = (read_picture(path)?, name_of(path));
    let image = image::decode(&bytes, &name).map_err(Failure::image)?;
    Ok(Compared { name, image, stored: metadata::read_any(&bytes).ok().flatten() })
}

/// The settings that only one of two pictures has, or that have another value in each.
fn differing(a: &Compared, b: &Compared) -> Option<Vec<SettingRecord>> {
    let (a, b) = (settings_of(a.stored.as_ref()?), settings_of(b.stored.as_ref()?));
    let only = |of: &[(&'static str, String)], other: &[(&'static str, String)]| -> Vec<(&'static str, String)> {
        of.iter().filter(|setting| !other.contains(setting)).cloned().collect()
    };
    let (mut left, mut records) = (only(&b, &a), Vec::new());
    for (setting, value) in only(&a, &b) {
        let other = left.iter().position(|(name, _)| *name == setting).map(|at| left.remove(at).1);
        records.push(SettingRecord { setting, a: Some(value), b: other });
    }
    records.extend(left.into_iter().map(|(setting, value)| SettingRecord { setting, a: None, b: Some(value) }));
    Some(records)
}

fn describe(
    [a, b]: [&Compared; 2],
    settings: Option<&[SettingRecord]>,
    [first, second]: [[u32; 2]; 2],
    difference: &Difference,
) -> Result<()> {
    let row = |name: &str, value: String| print(&format!("{name:<11} {value}"));
    let nothing = "-";
    match settings {
        None => {
            let silent = [a, b].into_iter().filter(|picture| picture.stored.is_none());
            let names: Vec<String> = silent.map(|picture| shown(&picture.name)).collect();
            row("parameters", format!("not compared: none stored in {}", names.join(" and ")))?;
        }
        Some([]) => row("parameters", "equal".into())?,
        Some(records) => records.iter().try_for_each(|SettingRecord { setting, a, b }| {
            let value = |value: &Option<String>| shown(value.as_deref().unwrap_or(nothing));
            row(setting, format!("{} -> {}", value(a), value(b)))
        })?,
    }
    if first != second {
        let text = format!("{}x{} -> {}x{}, scaled to compare", first[0], first[1], second[0], second[1]);
        row("pixels", text)?;
    }
    let all = u64::from(first[0]) * u64::from(first[1]);
    if difference.pixels == 0 {
        return row("difference", format!("none: all {all} pixels are equal"));
    }
    let percent = 100.0 * difference.pixels as f64 / all as f64;
    row("difference", format!("{} of {all} pixels, {percent:.1} %", difference.pixels))?;
    row("largest", format!("{} of 255", difference.max))?;
    row("mean", format!("{:.3} of 255", difference.mean))?;
    row("PSNR", psnr(difference))
}

fn psnr(difference: &Difference) -> String {
    difference.psnr.map_or_else(|| "infinite".into(), |psnr| format!("{psnr:.2} dB"))
}

/// The picture that was asked for, with what it shows below.
fn drawn(args: &CompareArgs, pictures: [&Compared; 2], scaled: &RgbImage, difference: &Difference) -> Result<RgbImage> {
    let [a, b] = pictures;
    let cell_px = [a.image.width(), a.image.height()];
    let name = |picture: &Compared| {
        Path::new(&picture.name).file_name().map_or_else(|| picture.name.clone(), |it| it.to_string_lossy().into())
    };
    let (shown, labels) = match (args.wipe, args.side_by_side) {
        (true, _) => (vec![wipe(&a.image, scaled)?], vec![vec![format!("{} | {}", name(a), name(b))]]),
        (_, true) => (vec![a.image.clone(), scaled.clone()], vec![vec![name(a)], vec![name(b)]]),
        _ => {
            let max = format!("largest {}", difference.max);
            let parts = vec![max, format!("mean {:.3}", difference.mean), format!("PSNR {}", psnr(difference))];
            (vec![difference_picture(&a.image, scaled)?], vec![parts])
        }
    };
    let spec = SheetSpec { cells: shown.len(), cell_px, labels, dark: args.dark, ..SheetSpec::default() };
    let mut sheet = Sheet::new(&spec)?;
    shown.iter().enumerate().try_for_each(|(cell, picture)| sheet.picture(cell, picture))?;
    Ok(sheet.finish()?)
}

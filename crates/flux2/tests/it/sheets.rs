//! Sheets: where pictures are, what is drawn beside them, and the parameters inside.

use flux2::image::codec::encode_sheet;
use flux2::image::metadata::{SheetCell, SheetParameters, read, read_any, read_sheet};
use flux2::image::{ImageFormat, Parameters, RgbImage, decode};
use flux2::sheet::{Axis, MAX_PIXELS, MAX_SIDE, Sheet, SheetSpec};

fn plain(width: u32, height: u32, color: [u8; 3]) -> RgbImage {
    RgbImage::new(width, height, color.repeat((width * height) as usize)).unwrap()
}

fn axis(name: &str, values: &[&str]) -> Axis {
    Axis { name: name.into(), values: values.iter().map(|value| (*value).into()).collect() }
}

/// Pixels of a rectangle that are not of `background`.
fn ink(image: &RgbImage, [x, y]: [u32; 2], [width, height]: [u32; 2], background: [u8; 3]) -> usize {
    (y..y + height)
        .flat_map(|y| (x..x + width).map(move |x| (x, y)))
        .filter(|&(x, y)| image.pixel(x, y) != background)
        .count()
}

const WHITE: [u8; 3] = [255; 3];

#[test]
fn pictures_are_in_their_cells_pixel_by_pixel() {
    let mut sheet = Sheet::new(&SheetSpec { cells: 5, cell_px: [64, 48], ..SheetSpec::default() }).unwrap();
    assert_eq!((sheet.columns(), sheet.scale()), (3, 1.0));
    let rough: Vec<u8> = (0..64 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let rough = RgbImage::new(64, 48, rough).unwrap();
    let small = plain(32, 48, [9, 99, 199]);
    for cell in [0, 1, 2, 4] {
        sheet.picture(cell, if cell == 4 { &small } else { &rough }).unwrap();
    }
    let corners: Vec<[u32; 2]> = (0..5).map(|cell| sheet.cell(cell).0).collect();
    assert_eq!(corners, [[4, 4], [72, 4], [140, 4], [4, 56], [72, 56]], "gaps and border of 4");
    let size = sheet.size();
    let image = sheet.finish().unwrap();
    assert_eq!(([image.width(), image.height()], size), ([208, 108], [208, 108]));
    for (x, y) in [(0, 0), (63, 47), (17, 31)] {
        assert_eq!(image.pixel(72 + x, 4 + y), rough.pixel(x, y));
    }
    // A smaller one is centered, and what no picture covers is background.
    assert_eq!((image.pixel(72 + 15, 60), image.pixel(72 + 16, 60)), (WHITE, [9, 99, 199]));
    assert_eq!(ink(&image, [4, 56], [64, 48], WHITE), 0, "cell 3 was left empty");
    assert_eq!(ink(&image, [0, 0], [208, 4], WHITE), 0, "the border");
}

#[test]
fn larger_pictures_are_shrunk_into_their_cells() {
    let mut sheet = Sheet::new(&SheetSpec { cells: 1, cell_px: [64, 64], ..SheetSpec::default() }).unwrap();
    sheet.picture(0, &plain(400, 100, [200, 0, 0])).unwrap();
    let ([x, y], _) = sheet.cell(0);
    let image = sheet.finish().unwrap();
    assert_eq!(ink(&image, [x, y], [64, 64], WHITE), 64 * 16);
}

#[test]
fn axes_have_names_above_and_beside_and_a_value_for_each_cell() {
    let spec = SheetSpec {
        cells: 6,
        cell_px: [96, 64],
        header: vec!["a red fox".into(), "klein-mini, 64x64".into()],
        x: Some(axis("steps", &["2", "4", "8"])),
        y: Some(axis("seed", &["1", "77777"])),
        ..SheetSpec::default()
    };
    let sheet = Sheet::new(&spec).unwrap();
    assert_eq!(sheet.columns(), 3);
    let places: Vec<_> = (0..6).map(|cell| sheet.cell(cell)).collect();
    let image = sheet.finish().unwrap();
    let ([left, top], [width, height]) = places[0];
    assert!(left > 40, "there is room for the values of the Y axis: {left}");
    // The header, the names, a value above each column and one beside each row.
    assert!(ink(&image, [0, 0], [image.width(), 15], WHITE) > 50);
    for ([x, y], _) in &places[..3] {
        assert!(ink(&image, [*x, y - 19], [width, 15], WHITE) > 5, "above column at {x}");
    }
    for cell in [0, 3] {
        let [_, y] = places[cell].0;
        assert!(ink(&image, [0, y], [left, height], WHITE) > 5, "beside row at {y}");
    }
    assert!(ink(&image, [0, top - 19], [left - 4, 15], WHITE) > 20, "the name of the Y axis");
    // Without texts and axes the same cells need less room.
    let bare = Sheet::new(&SheetSpec { header: vec![], y: None, cells: 3, ..spec }).unwrap();
    assert!(bare.cell(0).0[0] < left && bare.cell(0).0[1] < top);
}

#[test]
fn repeated_labels_are_gray_and_the_background_may_be_dark() {
    let labels = vec![vec!["seed 7".to_owned()], vec!["seed 7".to_owned()]];
    for (dark, background) in [(false, WHITE), (true, [24; 3])] {
        let spec = SheetSpec { cells: 2, cell_px: [64, 64], labels: labels.clone(), dark, ..SheetSpec::default() };
        let sheet = Sheet::new(&spec).unwrap();
        let places = [sheet.cell(0).0, sheet.cell(1).0];
        let image = sheet.finish().unwrap();
        assert_eq!(image.pixel(0, 0), background);
        let extreme = |[x, y]: [u32; 2]| {
            let pixels = (y + 64..y + 79).flat_map(|y| (x..x + 60).map(move |x| (x, y)));
            let levels = pixels.map(|(x, y)| image.pixel(x, y)[0]);
            if dark { levels.max().unwrap() } else { levels.min().unwrap() }
        };
        let [first, second] = places.map(extreme);
        assert!(if dark { first > 200 && second < 140 } else { first < 60 && second > 110 }, "{first} {second}");
    }
}

#[test]
fn missing_pictures_are_gray_with_the_first_line_of_the_reason() {
    let mut sheet = Sheet::new(&SheetSpec { cells: 2, cell_px: [128, 64], ..SheetSpec::default() }).unwrap();
    sheet.missing(0, "out of memory on the GPU\nand more that is not shown");
    sheet.missing(1, "");
    let places = [sheet.cell(0).0, sheet.cell(1).0];
    let image = sheet.finish().unwrap();
    let gray = image.pixel(places[1][0] + 1, places[1][1] + 1);
    assert!(gray[0] == gray[1] && gray[1] == gray[2] && gray[0] < 200);
    assert_eq!(ink(&image, places[1], [128, 64], gray), 0);
    assert!(ink(&image, places[0], [128, 64], gray) > 50);
}

#[test]
fn a_sheet_keeps_to_its_limits_and_says_by_how_much_it_shrinks() {
    let spec = SheetSpec { cells: 36, cell_px: [2048, 2048], ..SheetSpec::default() };
    let sheet = Sheet::new(&spec).unwrap();
    let [width, height] = sheet.size();
    assert!(width <= MAX_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS);
    assert!((0.5..0.66).contains(&sheet.scale()), "{}", sheet.scale());
}

fn parameters(prompt: &str, seed: u64) -> Parameters {
    let json = format!(
        r#"{{"prompt": {prompt:?}, "seed": {seed}, "noise": "philox", "model": "klein-mini", "dtype": "bf16",
            "steps": 4, "width": 128, "height": 128, "software": "dj-flux2", "version": "0.1.0"}}"#
    );
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_sheet_carries_the_parameters_of_its_cells_in_every_format() {
    let cell = |column, row, seed| SheetCell { column, row, parameters: parameters("ein Füchslein 🦊", seed) };
    let sheet = SheetParameters {
        columns: 2,
        cells: vec![cell(1, 1, 7), cell(2, 1, 8), cell(2, 2, 9)],
        software: "dj-flux2".into(),
        version: "0.1.0".into(),
    };
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let bytes = encode_sheet(&plain(40, 40, WHITE), format, Some(&sheet)).unwrap();
        assert_eq!(read_sheet(&bytes).unwrap().as_ref(), Some(&sheet), "{format:?}");
        assert_eq!(sheet.at(2, 2).unwrap().parameters.seed, 9);
        assert!(sheet.at(1, 2).is_none());
        // It is no picture that can be made again as a whole.
        assert_eq!((read(&bytes).unwrap(), read_any(&bytes).unwrap()), (None, None), "{format:?}");
        assert!(decode(&bytes, "x").is_ok());
        let without = encode_sheet(&plain(40, 40, WHITE), format, None).unwrap();
        assert_eq!(read_sheet(&without).unwrap(), None);
    }
    // A picture is no sheet.
    let picture = flux2::image::encode(&plain(40, 40, WHITE), ImageFormat::Jpeg, Some(&parameters("x", 1))).unwrap();
    assert_eq!(read_sheet(&picture).unwrap(), None);
    // A JPEG has room for 64 kB.
    let many = SheetParameters { cells: (0..600).map(|row| cell(1, row, 1)).collect(), ..sheet };
    assert!(encode_sheet(&plain(8, 8, WHITE), ImageFormat::Jpeg, Some(&many)).is_err());
    assert!(encode_sheet(&plain(8, 8, WHITE), ImageFormat::Png, Some(&many)).is_ok());
}

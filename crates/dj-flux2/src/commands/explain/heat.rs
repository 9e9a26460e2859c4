//! Attention as pictures: a gray level for each image token.

use flux2::explain::{Attended, Attention, Text};
use flux2::image::RgbImage;

/// Most steps whose maps are shown.
const MAX_STEPS: usize = 6;

/// What attention is shown of.
pub struct Shown {
    /// The word, or what stands for an image.
    pub name: String,
    /// Its place among those that are attended to.
    pub column: usize,
}

/// What attention is shown of: tokens of the prompt that are words, and images.
pub fn shown(attention: &Attention, text: &Text) -> Vec<Shown> {
    let of = |(column, attended): (usize, &Attended)| {
        let name = match attended {
            Attended::Token(i) => {
                let token = &text.tokens[*i];
                Some(token.text.trim()).filter(|text| token.is_prompt && !text.is_empty())?.to_owned()
            }
            Attended::Image(number) => format!("image {number}"),
            Attended::Padding | Attended::Picture => return None,
        };
        Some(Shown { name, column })
    };
    attention.attended.iter().enumerate().filter_map(of).collect()
}

/// The steps whose maps are shown, from 0: all if they are few, else evenly spaced ones with the first and the last.
pub fn steps(count: usize) -> Vec<usize> {
    match count <= MAX_STEPS {
        true => (0..count).collect(),
        false => (0..MAX_STEPS).map(|i| i * (count - 1) / (MAX_STEPS - 1)).collect(),
    }
}

/// A map of attention, a pixel for each token, where the most is white.
pub fn map(attention: &Attention, step: usize, column: usize) -> RgbImage {
    let [rows, columns] = attention.grid;
    let values = &attention.steps[step].maps[column];
    let most = values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let pixels = values.iter().flat_map(|value| [(255.0 * value / most).round() as u8; 3]).collect();
    RgbImage::new(columns as u32, rows as u32, pixels).expect("a picture has tokens, and each has a weight")
}

/// A picture where all but what is attended to is dark.
pub fn over(picture: &RgbImage, map: &RgbImage) -> RgbImage {
    let (width, height) = (picture.width(), picture.height());
    // Between the middles of tokens, weights change evenly.
    let sample = |x: u32, y: u32| -> f32 {
        let place = |at: u32, pixels: u32, tokens: u32| {
            let at = (at as f32 + 0.5) / pixels as f32 * tokens as f32 - 0.5;
            let low = at.clamp(0.0, (tokens - 1) as f32);
            (low.floor() as u32, (low.floor() as u32 + 1).min(tokens - 1), low.fract())
        };
        let (left, right, across) = place(x, width, map.width());
        let (above, below, down) = place(y, height, map.height());
        let at = |x, y| f32::from(map.pixel(x, y)[0]) / 255.0;
        let row = |y| at(left, y) * (1.0 - across) + at(right, y) * across;
        row(above) * (1.0 - down) + row(below) * down
    };
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        let light = 0.15 + 0.85 * sample(x, y);
        picture.pixel(x, y).map(|color| (f32::from(color) * light).round() as u8)
    };
    let pixels = (0..width * height).flat_map(pixel).collect();
    RgbImage::new(width, height, pixels).expect("it is as large as the picture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_all_or_six_with_both_ends() {
        assert_eq!(steps(4), [0, 1, 2, 3]);
        assert_eq!(steps(50), [0, 9, 19, 29, 39, 49]);
    }

    #[test]
    fn what_is_attended_to_stays_light() {
        let picture = RgbImage::new(4, 1, vec![200; 12]).unwrap();
        let map = RgbImage::new(2, 1, vec![0, 0, 0, 255, 255, 255]).unwrap();
        let over = over(&picture, &map);
        let row: Vec<u8> = (0..4).map(|x| over.pixel(x, 0)[0]).collect();
        assert!(row[0] == 30 && row[3] == 200 && row[0] < row[1] && row[1] < row[2], "{row:?}");
    }
}

//! The size of pictures from width, height, shape and number of pixels, each of which may come from another source.

use flux2::request::{GRID_PX, MAX_PX, MIN_PX};

use crate::args::{Area, Aspect};
use crate::choices::{Choice, Choices};
use crate::failure::{Failure, Result};

/// What is known of a size before the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    width: Option<u32>,
    height: Option<u32>,
    aspect: Option<Aspect>,
    area: Option<Area>,
    /// Width and height in place of those that are usual for the model and the references.
    usual: Option<[u32; 2]>,
}

impl Size {
    /// What the choices say. Of two that contradict each other, the one of the higher source counts; sides below a
    /// shape or a number of pixels are what these start from.
    pub fn of(choices: &Choices) -> Result<Self> {
        let Choices { width, height, aspect, area, .. } = choices;
        let [w, h] = [rank(width), rank(height)];
        let [shape, pixels] = [rank(aspect), rank(area)];
        let [mut width, mut height] = [width, height].map(|side| side.as_ref().map(|side| side.value));
        let (mut aspect, mut area) = (aspect.as_ref().map(|it| it.value), area.as_ref().map(|it| it.value));
        let mut usual = None;
        let strongest = shape.min(pixels);
        if let Some(sides) = width.zip(height) {
            if w == shape && h == shape {
                let message = "a shape is given, and both width and height";
                return Err(Failure::usage(message, "leave --aspect out, or one of -W and -H"));
            }
            match (w <= strongest, h <= strongest) {
                (true, true) => (aspect, area) = (None, None),
                (true, false) => height = None,
                (false, true) => width = None,
                (false, false) => {
                    (usual, width, height) = (Some(sides.into()), None, None);
                    aspect = aspect.filter(|_| shape < w.min(h));
                    area = area.filter(|_| pixels < w.min(h));
                }
            }
        }
        if width.is_some() != height.is_some() {
            let side = if width.is_some() { w } else { h };
            match pixels < side {
                true => (width, height) = (None, None),
                false => area = None,
            }
        }
        Ok(Size { width, height, aspect, area, usual })
    }

    /// Width and height, where they do not depend on the model.
    pub fn sides(&self) -> (Option<u32>, Option<u32>) {
        let Size { width, height, aspect, .. } = *self;
        let ratio = aspect.map(|aspect| aspect.width / aspect.height);
        match (width, height, ratio) {
            (Some(width), None, Some(ratio)) => (Some(width), Some(on_grid(f64::from(width) / ratio))),
            (None, Some(height), Some(ratio)) => (Some(on_grid(f64::from(height) * ratio)), Some(height)),
            _ => (width, height),
        }
    }

    /// Width and height of a picture that would be `usual` without a shape and a number of pixels. Sides are multiples
    /// of 16 within the limits, so that both may be a little different.
    pub fn fitted(&self, usual: [u32; 2]) -> (Option<u32>, Option<u32>) {
        let (width, height) = self.sides();
        if width.is_some() || height.is_some() || (self.aspect.is_none() && self.area.is_none()) {
            return (width, height);
        }
        let [usual_width, usual_height] = self.usual.unwrap_or(usual).map(f64::from);
        let ratio = self.aspect.map_or(usual_width / usual_height, |aspect| aspect.width / aspect.height);
        let pixels = match self.area {
            Some(Area::Pixels(pixels)) => pixels as f64,
            Some(Area::Times(factor)) => factor * usual_width * usual_height,
            None => usual_width * usual_height,
        };
        let within = |side: f64| on_grid(side).clamp(MIN_PX, MAX_PX);
        (Some(within((pixels * ratio).sqrt())), Some(within((pixels / ratio).sqrt())))
    }
}

/// How strong the source of a choice is; the strongest is 0.
fn rank<T>(choice: &Choice<T>) -> usize {
    choice.as_ref().map_or(usize::MAX, |choice| choice.origin.rank())
}

/// The nearest multiple of 16 that is not 0.
fn on_grid(side: f64) -> u32 {
    let grid = f64::from(GRID_PX);
    ((side / grid).round().max(1.0) * grid) as u32
}

/// Refuses a size both sides of which are no multiples of 16, and offers the nearest two.
pub fn check(width: Option<u32>, height: Option<u32>) -> Result<()> {
    let (Some(width), Some(height)) = (width, height) else { return Ok(()) };
    let possible = |side: u32| (MIN_PX..=MAX_PX).contains(&side);
    let is_off = |side: u32| !side.is_multiple_of(GRID_PX) && possible(side);
    if !is_off(width) || !is_off(height) {
        return Ok(());
    }
    let low = [width, height].map(|side| side / GRID_PX * GRID_PX);
    let high = low.map(|side| side + GRID_PX);
    let sizes = [low, high].into_iter().filter(|sides| sides.iter().all(|side| possible(*side)));
    let offers: Vec<String> = sizes.map(|[width, height]| format!("--size {width}x{height}")).collect();
    let message = format!("{width}x{height}: sides are multiples of {GRID_PX}");
    Err(Failure::usage(message, format!("use {}", offers.join(" or "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Origin;

    const WIDE: Aspect = Aspect { width: 16.0, height: 9.0 };

    fn sides(origin: Origin, width: Option<u32>, height: Option<u32>) -> Choices {
        let of = |side: Option<u32>| side.map(|side| origin.of(side));
        Choices { width: of(width), height: of(height), ..Choices::default() }
    }

    fn shape(origin: Origin, aspect: Option<Aspect>, area: Option<Area>) -> Choices {
        Choices { aspect: aspect.map(|it| origin.of(it)), area: area.map(|it| origin.of(it)), ..Choices::default() }
    }

    fn fitted(choices: Choices, usual: u32) -> (Option<u32>, Option<u32>) {
        Size::of(&choices).unwrap().fitted([usual, usual])
    }

    #[test]
    fn a_shape_keeps_the_usual_number_of_pixels() {
        let of = |width: f64, height: f64, area| fitted(shape(Origin::Flag, Some(Aspect { width, height }), area), 512);
        assert_eq!(of(16.0, 9.0, None), (Some(688), Some(384)));
        assert_eq!(of(9.0, 16.0, None), (Some(384), Some(688)));
        assert_eq!(of(1.0, 1.0, Some(Area::Times(4.0))), (Some(1024), Some(1024)));
        assert_eq!(of(1.0, 1.0, Some(Area::Pixels(768 * 768))), (Some(768), Some(768)));
        // As near as the limits allow.
        assert_eq!(of(64.0, 1.0, None), (Some(4096), Some(64)));
        assert_eq!(fitted(shape(Origin::Flag, None, Some(Area::Times(0.25))), 128), (Some(64), Some(64)));
        assert_eq!(fitted(Choices::default(), 512), (None, None));
    }

    #[test]
    fn one_side_and_a_shape_give_the_other_side() {
        for (upper, lower) in [(Origin::Flag, Origin::User("c".into())), (Origin::User("c".into()), Origin::Flag)] {
            let choices = sides(upper, Some(1024), None).or(shape(lower, Some(WIDE), None));
            assert_eq!(fitted(choices, 512), (Some(1024), Some(576)));
        }
        let choices = sides(Origin::Flag, None, Some(576)).or(shape(Origin::Flag, Some(WIDE), None));
        assert_eq!(fitted(choices, 512), (Some(1024), Some(576)));
        // A side alone leaves the other one to the model.
        let choices =
            sides(Origin::Flag, Some(256), None).or(shape(Origin::User("c".into()), None, Some(Area::Times(4.0))));
        assert_eq!(fitted(choices, 512), (Some(256), None));
    }

    #[test]
    fn the_higher_source_counts() {
        let user = || Origin::User("c".into());
        let preset = shape(user(), Some(WIDE), Some(Area::Times(4.0)));
        let typed = sides(Origin::Flag, Some(512), Some(640)).or(preset);
        assert_eq!(fitted(typed, 128), (Some(512), Some(640)));
        // The sides of a file give the number of pixels for a shape above them.
        let shaped = shape(Origin::Flag, Some(WIDE), None).or(sides(user(), Some(1024), Some(1024)));
        assert_eq!(fitted(shaped, 128), (Some(1360), Some(768)));
        let grown = shape(Origin::Flag, None, Some(Area::Times(4.0))).or(sides(user(), Some(512), Some(256)));
        assert_eq!(fitted(grown, 128), (Some(1024), Some(512)));
        let mixed = sides(Origin::Flag, Some(512), None)
            .or(shape(Origin::Preset("wide".into()), Some(WIDE), None))
            .or(sides(user(), None, Some(512)));
        assert_eq!(fitted(mixed, 128), (Some(512), Some(288)));
    }

    #[test]
    fn a_shape_and_both_sides_of_one_source_contradict_each_other() {
        let choices = sides(Origin::Flag, Some(512), Some(512)).or(shape(Origin::Flag, Some(WIDE), None));
        assert!(Size::of(&choices).is_err());
    }

    #[test]
    fn the_nearest_two_sizes_are_offered() {
        let hint = |width, height| check(Some(width), Some(height)).err().and_then(|failure| failure.hint);
        assert_eq!(hint(1000, 1000).unwrap(), "use --size 992x992 or --size 1008x1008");
        assert_eq!(hint(70, 4095).unwrap(), "use --size 64x4080 or --size 80x4096");
        assert_eq!(hint(1000, 512), None);
        assert_eq!(hint(8000, 1000), None);
    }
}

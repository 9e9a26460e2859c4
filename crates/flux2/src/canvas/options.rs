//! How a source is painted into.

use super::mask::MAX_GROW;
use super::outpaint::Outpaint;
use super::paste::MAX_FEATHER;
use super::region::CONTEXT_PX;
use crate::image::Transparency;
use crate::{Error, Result};

/// How a source is painted into.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceOptions {
    /// Repaint where the source is transparent, instead of a mask from a file.
    pub mask_from_alpha: bool,
    /// Repaint what the mask keeps, and keep the rest.
    pub mask_invert: bool,
    /// Pixels by which the repainted part grows, at most [`MAX_GROW`].
    pub mask_grow: u32,
    /// A larger canvas.
    pub outpaint: Option<Outpaint>,
    /// How far the source is replaced: 1 starts from noise, less from the source with as much less noise; over 0.
    pub strength: f64,
    /// Width in pixels of the transition inside the mask, at most [`MAX_FEATHER`]; by default [`FEATHER_PX`](super::FEATHER_PX).
    pub feather: Option<u32>,
    /// Whether the model sees the source as its first reference image.
    pub as_reference: bool,
    /// What the model sees where the source is transparent.
    pub transparency: Transparency,
    /// Whose rules are kept.
    pub rule: Rule,
    /// About the most pixels that are drawn at once; by default as many as the model draws well.
    pub area: Option<u64>,
    /// Least width of the surroundings that are drawn with the repainted part of a large canvas, in pixels.
    pub context: u32,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions {
            mask_from_alpha: false,
            mask_invert: false,
            mask_grow: 0,
            outpaint: None,
            strength: 1.0,
            feather: None,
            as_reference: true,
            transparency: Transparency::default(),
            rule: Rule::Own,
            area: None,
            context: CONTEXT_PX,
        }
    }
}

/// Whose rules a source is painted into by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Those of this module.
    #[default]
    Own,
    /// Those of diffusers' `Flux2KleinInpaintPipeline`: the source is squeezed to multiples of 16, a mask has two
    /// values, strength skips steps, and nothing is pasted back.
    Diffusers,
}

impl SourceOptions {
    /// Check what depends on no image.
    ///
    /// # Errors
    /// [`Error::Strength`], [`Error::MaskRange`], [`Error::NotInDiffusers`].
    pub fn check(&self) -> Result<()> {
        if !(self.strength > 0.0 && self.strength <= 1.0) {
            return Err(Error::Strength { strength: self.strength });
        }
        let feather = self.feather.unwrap_or_default();
        for (what, pixels, max) in [("mask growth", self.mask_grow, MAX_GROW), ("feather", feather, MAX_FEATHER)] {
            if pixels > max {
                return Err(Error::MaskRange { what, pixels, max });
            }
        }
        let others = [
            ("mask from transparency", self.mask_from_alpha),
            ("growing of masks", self.mask_grow > 0),
            ("larger canvas", self.outpaint.is_some()),
            ("feather", self.feather.is_some()),
        ];
        match others.into_iter().find(|(_, is_asked)| *is_asked && self.rule == Rule::Diffusers) {
            Some((what, _)) => Err(Error::NotInDiffusers { what }),
            None => Ok(()),
        }
    }
}

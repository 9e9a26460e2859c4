//! Flags of `generate` and `plan` for a picture that is painted into.

use std::path::PathBuf;

use flux2::canvas::{Fill, Side};

use super::values::{parse_fill, parse_sides, parse_strength};

/// Flags for a picture that is painted into.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Source")]
pub struct CanvasArgs {
    /// Picture to paint into; the result has its size, and its pixels where --mask keeps them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["width", "height", "size", "aspect", "area"])]
    pub source: Option<PathBuf>,

    /// What of --source is repainted: where this file is white; or where it is transparent, if it is anywhere
    #[arg(long, value_name = "FILE", requires = "source")]
    pub mask: Option<PathBuf>,

    /// Repaint where --source is transparent
    #[arg(long, requires = "source", conflicts_with = "mask")]
    pub mask_from_alpha: bool,

    /// Repaint what the mask keeps, and keep the rest
    #[arg(long, requires = "source")]
    pub mask_invert: bool,

    /// Pixels by which the repainted part grows, up to 128
    #[arg(long, value_name = "PX", requires = "source")]
    pub mask_grow: Option<u32>,

    /// Width of the transition inside the mask in pixels, up to 256 [default: 8]
    #[arg(long, value_name = "PX", requires = "source")]
    pub feather: Option<u32>,

    /// Do not show --source to the model beside what it paints: to replace or remove something
    #[arg(long, requires = "source")]
    pub no_source_reference: bool,

    /// Enlarge the canvas at its left, top, right and bottom, in pixels or percent, as in 64,0,25%,0
    #[arg(long, value_name = "L,T,R,B", value_parser = parse_sides, requires = "source")]
    pub outpaint: Option<[Side; 4]>,

    /// Color of the enlarged part before it is painted: `edge` repeats the nearest pixel, or a CSS name or #RRGGBB
    /// [default: edge]
    #[arg(long, value_name = "COLOR", value_parser = parse_fill, requires = "outpaint")]
    pub outpaint_fill: Option<Fill>,

    /// How far --source is replaced, over 0 to 1: 1 starts from noise, less from the picture [default: 1]
    #[arg(long, value_name = "STRENGTH", value_parser = parse_strength, requires = "source")]
    pub strength: Option<f64>,
}

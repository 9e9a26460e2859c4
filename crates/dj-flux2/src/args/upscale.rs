//! Flags of `upscale`, and those of `generate` for pictures that are enlarged once they are drawn.

use std::path::PathBuf;

use clap::builder::ValueParser;
use flux2::upscale::MAX_FACTOR;
use flux2::{Device, UpscaleSize};

use super::values::{Dtype, parse_memory, parse_size, thread_count};

/// Flags of `generate`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct UpscaleFlags {
    /// Enlarge finished pictures so many times, as in 2; in width and height, at most 16
    #[arg(long, value_name = "FACTOR", value_parser = factor(), help_heading = "Picture")]
    pub upscale: Option<f32>,

    /// What enlarges it: `lanczos`, a downloaded upscaler, or a Real-ESRGAN file, .safetensors or .pth [default: the
    /// built-in upscaler]
    #[arg(long, value_name = "NAME", help_heading = "Picture")]
    pub upscaler: Option<PathBuf>,
}

/// Flags of `upscale`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct UpscaleArgs {
    /// Picture, in a format that -i of `generate` reads; several if -o is a folder
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Output file, .png, .jpg or .webp, or a folder [default: the name of FILE with -upscaled, beside it]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// So many times as wide and high, as in 2 or 4; at most 16 [default: what the upscaler was made for; 2 by Lanczos]
    #[arg(long, value_name = "FACTOR", value_parser = factor(), conflicts_with = "to")]
    pub by: Option<f32>,

    /// To this size in pixels: 4096x is a width, x4096 a height, 4096x3072 both
    #[arg(long, value_name = "WxH", value_parser = parse_sides)]
    pub to: Option<UpscaleSize>,

    /// `lanczos`, a downloaded upscaler, or a Real-ESRGAN file, .safetensors or .pth [default: the built-in upscaler]
    #[arg(long, value_name = "NAME")]
    pub upscaler: Option<PathBuf>,

    /// Fail instead of replacing an existing file
    #[arg(long)]
    pub no_clobber: bool,

    /// Replace a read-only file too
    #[arg(long, conflicts_with = "no_clobber")]
    pub force: bool,

    /// Do not store parameters in the picture
    #[arg(long)]
    pub no_metadata: bool,

    /// Show the finished pictures in the terminal, as sharp as it can
    #[arg(long)]
    pub show: bool,

    /// Print one JSON object per picture on standard output
    #[arg(long)]
    pub json: bool,

    /// Print only errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Also print the device, how a picture was enlarged, and the time it took
    #[arg(short, long)]
    pub verbose: bool,

    /// Number format of the computation, f32 or bf16 [default: bf16]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,

    /// Device: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,

    /// CPU threads [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = thread_count())]
    pub threads: Option<u16>,

    /// Memory limit, as in 1GiB, for the GPU, or for the process if it runs on the CPU: smaller parts of a picture are
    /// computed at a time, or it is refused [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub max_memory: Option<usize>,
}

/// Parses a factor.
fn factor() -> ValueParser {
    ValueParser::new(|text: &str| match text.parse::<f32>() {
        Ok(factor) if (1.0..=MAX_FACTOR).contains(&factor) => Ok(factor),
        _ => Err(format!("a factor is a number from 1 to {MAX_FACTOR}, as in 2 or 4")),
    })
}

/// Parses `4096x`, `x4096` or `4096x3072`.
fn parse_sides(text: &str) -> Result<UpscaleSize, &'static str> {
    let wrong = "a size is 4096x for a width, x4096 for a height, or 4096x3072 for both";
    let side = |text: &str| text.parse::<u32>().map(Some).map_err(|_| wrong);
    match text.split_once(['x', 'X']) {
        Some(("", height)) => Ok(UpscaleSize::To { width: None, height: side(height)? }),
        Some((width, "")) => Ok(UpscaleSize::To { width: side(width)?, height: None }),
        _ => parse_size(text).map_err(|_| wrong).map(|(w, h)| UpscaleSize::To { width: Some(w), height: Some(h) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_may_leave_one_side_open() {
        let to = |width, height| Ok(UpscaleSize::To { width, height });
        assert_eq!(parse_sides("4096x"), to(Some(4096), None));
        assert_eq!(parse_sides("x96"), to(None, Some(96)));
        assert_eq!(parse_sides("40x30"), to(Some(40), Some(30)));
        for wrong in ["4096", "x", "", "ax", "4x4x4", "-1x", "1.5x"] {
            assert!(parse_sides(wrong).is_err(), "{wrong}");
        }
    }
}

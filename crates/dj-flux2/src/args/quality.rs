//! Flags of `generate` for lossy formats.

use flux2::image::{Chroma, Percent, Quality};

/// Quality of lossy formats.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct QualityFlags {
    /// Quality of a JPEG, 1 to 100 [default: 95]
    #[arg(long, value_name = "N", value_parser = parse_percent, help_heading = "Output")]
    pub jpeg_quality: Option<Percent>,

    /// Colors of a JPEG: 444, of all pixels, or 420, one for each 2x2, in a smaller file [default: 444]
    #[arg(long, value_name = "CHROMA", value_parser = parse_chroma, help_heading = "Output")]
    pub jpeg_chroma: Option<Chroma>,

    /// Quality of a WebP, 1 to 100, with loss [default: without loss]
    #[arg(long, value_name = "N", value_parser = parse_percent, help_heading = "Output")]
    pub webp_quality: Option<Percent>,
}

impl QualityFlags {
    /// The quality that was chosen, with the usual one for what was not.
    pub fn chosen(&self) -> Quality {
        let usual = Quality::default();
        Quality {
            jpeg: self.jpeg_quality.unwrap_or(usual.jpeg),
            chroma: self.jpeg_chroma.unwrap_or(usual.chroma),
            webp: self.webp_quality.or(usual.webp),
        }
    }
}

fn parse_percent(text: &str) -> Result<Percent, &'static str> {
    text.parse().ok().and_then(Percent::new).ok_or("a quality is a number from 1 to 100")
}

fn parse_chroma(text: &str) -> Result<Chroma, &'static str> {
    text.parse()
}

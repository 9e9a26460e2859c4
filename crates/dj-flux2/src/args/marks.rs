//! Flags of `generate` and `serve` for marks by which machines can tell that a picture was drawn by a model, and of
//! `generate` for previews.

use std::path::PathBuf;

/// Marks of the pictures.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkArgs {
    /// Put an invisible watermark into the pixels, which says that a FLUX model drew them; 256x256 pixels at least
    #[arg(long, help_heading = "Marks")]
    pub watermark: bool,

    /// Sign the pictures with Content Credentials (C2PA): the private key, as PEM
    #[arg(long, value_name = "FILE", requires = "c2pa_cert", help_heading = "Marks")]
    pub c2pa_key: Option<PathBuf>,

    /// Certificate of --c2pa-key, as PEM, followed by those it is signed with
    #[arg(long, value_name = "FILE", requires = "c2pa_key", help_heading = "Marks")]
    pub c2pa_cert: Option<PathBuf>,
}

/// Previews of the pictures.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct PreviewArgs {
    /// Write what the picture looks like after each step, an eighth of its size, to this .png or .jpg; it is replaced
    /// as a whole, so that a viewer can watch it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub preview: Option<PathBuf>,

    /// Decoder of the previews, which then have the picture's size: taef2_decoder.pth or taef2.safetensors for FLUX.2
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub preview_decoder: Option<PathBuf>,
}

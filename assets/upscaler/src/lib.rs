//! compact-x4: the weights of a small network that enlarges pictures four times, embedded in the program.
//!
//! The README beside it documents the origin and the license of the weights.

#![forbid(unsafe_code)]

/// Path relative to the folder and contents of a file.
pub type File = (&'static str, &'static [u8]);

/// All files of the upscaler: the weights, an SRVGGNetCompact in f16. The upscaler is called as the file without its
/// extension.
pub static FILES: &[File] = &[("compact-x4.safetensors", include_bytes!("../compact-x4.safetensors"))];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_small() {
        let [(name, bytes)] = FILES else { panic!("one file") };
        assert!(name.ends_with(".safetensors"));
        assert!((1..=1_300_000).contains(&bytes.len()), "{} bytes", bytes.len());
    }
}

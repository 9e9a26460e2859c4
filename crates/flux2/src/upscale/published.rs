//! Upscalers that are published as files of a release on GitHub.
//!
//! Lengths and hashes are those of the files at their addresses; several public lists of models name the same ones.

use crate::hub::release::ReleaseFile;

/// A published upscaler.
#[derive(Clone, Copy, Debug)]
pub struct PublishedUpscaler {
    /// Its name in lower case, with hyphens.
    pub name: &'static str,
    /// How many times as wide and high it makes a picture.
    pub scale: u32,
    /// What it is for, as part of a sentence.
    pub about: &'static str,
    /// Where it is.
    pub file: ReleaseFile,
}

/// License of all of them.
pub const LICENSE: &str = "BSD-3-Clause";

/// All that can be downloaded by name.
pub const PUBLISHED: [PublishedUpscaler; 6] = [
    PublishedUpscaler {
        name: "realesr-general-x4v3",
        scale: 4,
        about: "photographs, small and fast",
        file: of(
            "v0.2.5.0",
            "realesr-general-x4v3.pth",
            4_885_111,
            "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        ),
    },
    PublishedUpscaler {
        name: "realesr-animevideov3",
        scale: 4,
        about: "drawings, small and fast",
        file: of(
            "v0.2.5.0",
            "realesr-animevideov3.pth",
            2_504_012,
            "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        ),
    },
    PublishedUpscaler {
        name: "realesrgan-x4plus",
        scale: 4,
        about: "photographs, large",
        file: of(
            "v0.1.0",
            "RealESRGAN_x4plus.pth",
            67_040_989,
            "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        ),
    },
    PublishedUpscaler {
        name: "realesrgan-x2plus",
        scale: 2,
        about: "photographs, large",
        file: of(
            "v0.2.1",
            "RealESRGAN_x2plus.pth",
            67_061_725,
            "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        ),
    },
    PublishedUpscaler {
        name: "realesrgan-x4plus-anime-6b",
        scale: 4,
        about: "drawings",
        file: of(
            "v0.2.2.4",
            "RealESRGAN_x4plus_anime_6B.pth",
            17_938_799,
            "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        ),
    },
    PublishedUpscaler {
        name: "realesrnet-x4plus",
        scale: 4,
        about: "photographs, smoother and true to the original",
        file: of(
            "v0.1.1",
            "RealESRNet_x4plus.pth",
            67_040_989,
            "a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
        ),
    },
];

const fn of(tag: &'static str, file: &'static str, bytes: u64, sha256: &'static str) -> ReleaseFile {
    ReleaseFile { repository: "xinntao/Real-ESRGAN", tag, file, bytes, sha256 }
}

/// The published upscaler of a name: `RealESRGAN_x4plus` is `realesrgan-x4plus`, with or without `.pth`.
pub fn by_name(name: &str) -> Option<&'static PublishedUpscaler> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let name = name.strip_suffix(".pth").unwrap_or(&name);
    let name = if name == "realesrgan-x4plus-anime" { "realesrgan-x4plus-anime-6b" } else { name };
    PUBLISHED.iter().find(|published| published.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        for published in &PUBLISHED {
            let found = by_name(published.file.file).map(|found| found.name);
            assert_eq!(found, Some(published.name));
            let digits = published.file.sha256;
            assert!(digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        }
        assert!(by_name("RealESRGAN_x4plus_anime").is_some() && by_name("klein-4b").is_none());
    }
}

//! Settings of other programs that mean nothing for FLUX.2 \[klein\], each with the reason.

/// Names of a setting, and why there is none of its kind.
const SETTINGS: [(&[&str], &str); 4] = [
    (
        &["sampler", "sampling-method", "sampler-name", "sampler-index"],
        "there is no sampler to choose: FLUX.2 [klein] is a flow model, drawn with Euler steps",
    ),
    (&["scheduler"], "there is no scheduler to choose: the noise levels of FLUX.2 follow from the size and the steps"),
    (&["clip-skip"], "there are no CLIP layers to skip: FLUX.2 [klein] reads prompts with Qwen3"),
    (&["max-sequence-length"], "the length of prompts is the model's own: FLUX.2 [klein] reads 512 tokens"),
];

/// What to do about such a setting.
pub const HINT: &str = "leave it out; steps and seed are what changes a picture";

/// Why a setting of other programs does not exist here; `None` if `name` is no such setting. Upper and lower case,
/// dashes and underscores are the same.
pub fn why(name: &str) -> Option<&'static str> {
    let name = name.replace('_', "-").to_ascii_lowercase();
    SETTINGS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_programs_write_them() {
        for name in ["sampler", "sampler_name", "Sampling-Method", "clip_skip", "max_sequence_length"] {
            assert!(why(name).is_some(), "{name}");
        }
        assert_eq!(why("steps"), None);
    }
}

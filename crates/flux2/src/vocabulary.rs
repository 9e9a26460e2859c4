//! What a small model knows, from the `vocabulary.json` beside its weights: klein-mini has one.
//!
//! In:  the file, and a prompt. Out: words that it was never trained on, with the nearest it knows; the lists for people.

use std::collections::BTreeSet;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::weights::Location;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most words of a prompt that are looked at; the model reads fewer.
const MAX_WORDS: usize = 256;
/// Most subjects that a warning names.
const MAX_NEAREST: usize = 3;

/// The words and sizes that a model was trained on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Vocabulary {
    /// Subjects, each with its plural and other names.
    pub subjects: Vec<Vec<String>>,
    /// Shapes, each with its plural.
    pub shapes: Vec<Vec<String>>,
    /// Colors of shapes.
    pub shape_colors: Vec<String>,
    /// Colors of backgrounds.
    pub colors: Vec<String>,
    /// Patterns of backgrounds.
    pub patterns: Vec<String>,
    /// Sizes of a subject, each with its other names.
    pub sizes: Vec<Vec<String>>,
    /// Places of a subject.
    pub places: Vec<String>,
    /// How many of a subject.
    pub counts: Vec<String>,
    /// Examples of edits of a reference image.
    pub edits: Vec<String>,
    /// Examples of prompts for two reference images.
    pub two_references: Vec<String>,
    /// Sizes of pictures.
    pub pictures: PictureSizes,
    /// Every word of its captions, in lower case.
    #[serde(skip_serializing)]
    words: BTreeSet<String>,
}

/// Sizes of pictures that a model was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct PictureSizes {
    /// Shortest side in pixels.
    pub smallest: u32,
    /// Longest side in pixels.
    pub largest: u32,
    /// Largest ratio of the two sides; 1 if all were square.
    pub longest_by_shortest: f32,
}

impl PictureSizes {
    /// Whether a picture has such a size.
    pub fn contains(&self, width: u32, height: u32) -> bool {
        let range = self.smallest..=self.largest;
        let ratio = width.max(height) as f32 / width.min(height) as f32;
        range.contains(&width) && range.contains(&height) && ratio <= self.longest_by_shortest
    }
}

impl std::fmt::Display for PictureSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PictureSizes { smallest, largest, longest_by_shortest: ratio } = self;
        match *ratio > 1.0 {
            true => write!(f, "sides of {smallest} to {largest} pixels, one at most {ratio} times the other"),
            false => write!(f, "squares of {smallest} to {largest} pixels a side"),
        }
    }
}

/// What a model does not know of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWords {
    /// Whether the prompt names a subject that the model knows, or need not name one.
    pub names_subject: bool,
    /// Words that it does not know.
    pub words: Vec<String>,
    /// Subjects that it knows and that resemble a word of the prompt.
    pub nearest: Vec<String>,
}

impl Vocabulary {
    /// Read a file; `None` if it is not such a file.
    pub fn read(file: &Location) -> Option<Self> {
        let mut json = vec![];
        file.reader().ok()?.take(MAX_FILE_BYTES).read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// That of the built-in model, if there is one.
    pub fn builtin() -> Option<Self> {
        Self::read(&Location::builtin()?.join("vocabulary.json"))
    }

    /// What is unknown of a prompt that names no subject, or of which most words are unknown. An edit of a reference
    /// image may name no subject.
    pub fn unknown_words(&self, prompt: &str, is_edit: bool) -> Option<UnknownWords> {
        let words = words_of(prompt);
        let unknown: BTreeSet<&str> = words.iter().map(String::as_str).filter(|word| !self.knows(word)).collect();
        let text = format!(" {} ", words.join(" "));
        let is_named =
            |names: &Vec<String>| names.iter().any(|name| text.contains(&format!(" {} ", words_of(name).join(" "))));
        let names_subject = self.subjects.iter().chain(&self.shapes).any(is_named);
        let is_clear = names_subject || is_edit || words.is_empty();
        let mostly_unknown = 2 * words.iter().filter(|word| unknown.contains(word.as_str())).count() > words.len();
        if is_clear && !mostly_unknown {
            return None;
        }
        let words_unknown = unknown.into_iter().map(str::to_owned).collect();
        Some(UnknownWords { names_subject: is_clear, words: words_unknown, nearest: self.nearest(&words) })
    }

    fn knows(&self, word: &str) -> bool {
        self.words.contains(word) || word.chars().all(|c| c.is_ascii_digit())
    }

    /// The subjects whose names resemble one of `words`, best first.
    fn nearest(&self, words: &[String]) -> Vec<String> {
        let score = |names: &Vec<String>| {
            let of_subject: Vec<String> = words_of(&names.join(" "));
            let pairs = words.iter().flat_map(|word| of_subject.iter().map(move |name| likeness(word, name)));
            pairs.fold(0.0, f64::max)
        };
        let mut scored: Vec<_> = self.subjects.iter().chain(&self.shapes).map(|names| (score(names), names)).collect();
        scored.retain(|(score, _)| *score > 0.0);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.iter().take(MAX_NEAREST).filter_map(|(_, names)| names.first().cloned()).collect()
    }
}

/// How much a word of a prompt resembles one of a subject's name: 1 if they are one, 0 if they have nothing in common.
fn likeness(word: &str, name: &str) -> f64 {
    const LONGEST: usize = 40;
    if word.len() < 3 || name.len() < 3 || word.len() > LONGEST {
        return 0.0;
    }
    let is_part = (name.len() > 3 && word.contains(name)) || (word.len() > 3 && name.contains(word));
    let similar = strsim::normalized_damerau_levenshtein(word, name);
    // Nearly all typing errors leave the first letter as it is.
    let is_typing_error = similar >= 0.7 && word.chars().next() == name.chars().next();
    // The end of a compound says what it is: a lighthouse is a house.
    let is_head = word.ends_with(name) || name.ends_with(word);
    match (is_part, is_typing_error) {
        (_, true) => similar,
        (true, false) => 0.5 + similar / 10.0 + if is_head { 0.1 } else { 0.0 },
        (false, false) => 0.0,
    }
}

/// The words of a text in lower case.
fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.take(MAX_WORDS).map(str::to_lowercase).collect()
}

#[cfg(all(test, feature = "mini"))]
mod tests {
    use super::*;

    /// Unknown words and nearest subjects of the warning about a prompt, and whether it names a subject.
    fn warned(prompt: &str, is_edit: bool) -> Option<(Vec<String>, Vec<String>, bool)> {
        let UnknownWords { words, nearest, names_subject } =
            Vocabulary::builtin().unwrap().unknown_words(prompt, is_edit)?;
        Some((words, nearest, names_subject))
    }

    fn nearest(prompt: &str) -> Vec<String> {
        warned(prompt, false).unwrap_or_else(|| panic!("{prompt:?} is known")).1
    }

    #[test]
    fn a_prompt_without_a_subject_it_knows_is_pointed_out() {
        assert_eq!(nearest("coffee"), ["cup of coffee"]);
        assert_eq!(nearest("a lighthouse")[0], "house");
        assert_eq!(nearest("a pengiun on a blue background"), ["penguin"]);
        let (words, _, names_subject) = warned("Ein Leuchtturm am Meer", false).unwrap();
        assert_eq!((words.join(" ").as_str(), names_subject), ("am ein leuchtturm meer", false));
        assert!(warned("富士山", false).is_some() && warned("a blue background", false).is_some());
    }

    #[test]
    fn a_prompt_of_which_most_words_are_unknown_is_too() {
        let (words, _, names_subject) =
            warned("photorealistic portrait of a majestic lion roaring ferociously", false).unwrap();
        assert_eq!((words.len(), names_subject), (5, true));
        assert!(warned("mach den Hintergrund rot", true).is_some());
    }

    #[test]
    fn what_it_was_trained_on_is_not() {
        for prompt in [
            "",
            "a cat on a blue background",
            "TWO MICE, green stripes!",
            "a drawing of a tiny red circle in the upper left corner",
            "there is a fox and everything behind it is green",
            "cup of coffee",
        ] {
            assert_eq!(warned(prompt, false), None, "{prompt:?}");
        }
        for prompt in
            ["make it bigger", "the subject of image 1 on the background of image 2", "make it a bit fluffier"]
        {
            assert_eq!(warned(prompt, true), None, "{prompt:?}");
        }
    }

    #[test]
    fn sizes_are_squares_for_now_and_may_be_a_range() {
        let sizes = Vocabulary::builtin().unwrap().pictures;
        assert!(sizes.contains(128, 128) && sizes.contains(sizes.largest, sizes.largest));
        assert!(!sizes.contains(64, 64) && !sizes.contains(1024, 1024));
        let square = PictureSizes { smallest: 128, largest: 256, longest_by_shortest: 1.0 };
        assert!(square.contains(192, 192) && !square.contains(192, 128));
        assert_eq!(square.to_string(), "squares of 128 to 256 pixels a side");
        let wide = PictureSizes { longest_by_shortest: 2.0, ..square };
        assert!(wide.contains(128, 256) && !wide.contains(112, 256));
        assert_eq!(wide.to_string(), "sides of 128 to 256 pixels, one at most 2 times the other");
    }
}

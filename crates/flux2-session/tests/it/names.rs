//! References in text.

use flux2_session::names::{Piece, is_name, pieces};
use flux2_session::{Reference, resolve};
use proptest::prelude::*;

use crate::history_of;

#[test]
fn references_become_reference_images() {
    let history = history_of(3);
    for (text, before, expected, numbers) in [
        ("a red fox", 0, "a red fox", vec![]),
        ("$1 make it blue", 0, "make it blue", vec![1]),
        ("$cat: make it blue", 0, "make it blue", vec![2]),
        ("$1, $-1 put them side by side", 0, "put them side by side", vec![1, 3]),
        ("put the hat of $-1 on $cat", 0, "put the hat of image 1 on image 2", vec![3, 2]),
        ("$1 like $1 and $2", 0, "like image 1 and image 2", vec![1, 2]),
        ("in the style of $1", 2, "in the style of image 3", vec![1]),
        ("$cat's hat", 0, "'s hat", vec![2]),
        ("a hat for $cat.", 0, "a hat for image 1.", vec![2]),
        ("$-1", 0, "", vec![3]),
        ("$$5 and $ 5 and a $", 0, "$5 and $ 5 and a $", vec![]),
        ("$-cat and $(1)", 0, "$-cat and $(1)", vec![]),
    ] {
        let resolved = resolve(text, &history, before).unwrap();
        assert_eq!((resolved.text.as_str(), resolved.numbers), (expected, numbers), "{text}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let mut history = history_of(4);
    history.forget(3).unwrap();
    for (text, message) in [
        ("$9", "there is no picture 9: there are 1, 2, 4"),
        ("$0", "there is no picture 0: there are 1, 2, 4"),
        ("$99999999999999999999999", "there is no picture 18446744073709551615: there are 1, 2, 4"),
        ("$-4", "there is no picture -4: there are 1, 2, 4"),
        ("$-0", "there is no picture -0: there are 1, 2, 4"),
        ("$cta", "no picture is called cta: the nearest name is cat"),
        ("$zebra", "no picture is called zebra: there is cat"),
        ("$1st", "$1st is neither a number nor a name: names begin with a letter, and $$ stands for a dollar sign"),
    ] {
        assert_eq!(resolve(text, &history, 0).unwrap_err().to_string(), message, "{text}");
    }
    let none = resolve("$1", &history_of(0), 0).unwrap_err();
    assert_eq!(none.to_string(), "there is no picture 1: there is none yet");
    let none = resolve("$fox", &history_of(1), 0).unwrap_err();
    assert_eq!(none.to_string(), "no picture is called fox: no picture has a name yet");
}

#[test]
fn names_are_words() {
    for name in ["cat", "_", "Füchse2", &"x".repeat(40)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "1", "1st", "a b", "a-b", "$a", "a.png", &"x".repeat(41)] {
        assert!(!is_name(name), "{name}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|[$!\\-a1_ ]){0,60}", before in 0usize..4) {
        let _ = resolve(&text, &history_of(3), before);
        let _ = Reference::parse(&text);
    }

    #[test]
    fn text_without_dollars_stays(text in "[^$]{1,60}") {
        prop_assert_eq!(pieces(&text).unwrap(), [Piece::Text(text)]);
    }

    #[test]
    fn doubled_dollars_are_text(text in "\\PC{0,60}") {
        let doubled = text.replace('$', "$$");
        let expected = if text.is_empty() { vec![] } else { vec![Piece::Text(text)] };
        prop_assert_eq!(pieces(&doubled).unwrap(), expected);
    }
}

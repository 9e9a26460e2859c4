//! Templates of prompts: what they stand for, and that none of them panics or grows without bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use flux2::template::{Context, MAX_BYTES, MAX_DEPTH, Template, TemplateError, escaped, looks_like_template};
use proptest::prelude::*;

/// Wildcards of the tests: `animal`, `nested`, which uses it, and `circle`, which uses itself.
fn wildcard(name: &str) -> Option<Arc<[String]>> {
    let lines: &[&str] = match name {
        "animal" => &["cat", "dog", "fox"],
        "nested" => &["a __animal__", "two {cats|dogs}"],
        "circle" => &["x__circle__x"],
        "double" => &["__double__ __double__"],
        "empty" => &[],
        _ => return None,
    };
    Some(lines.iter().map(|line| (*line).to_owned()).collect())
}

fn with<T>(variables: &[(&str, &str)], f: impl FnOnce(&Context) -> T) -> T {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    f(&Context { variables: &variables, wildcard: &wildcard })
}

fn all(text: &str) -> Result<Vec<String>, TemplateError> {
    with(&[("subject", "a {fox}")], |context| Template::parse(text)?.all_prompts(context, 1000))
}

fn one(text: &str, seed: u64) -> Result<String, TemplateError> {
    with(&[("subject", "a {fox}")], |context| Template::parse(text)?.prompt(context, seed))
}

#[test]
fn a_template_stands_for_its_combinations() {
    for (text, prompts) in [
        ("plain", &["plain"][..]),
        ("", &[""]),
        ("{a|b} {c|d}", &["a c", "a d", "b c", "b d"]),
        ("{a|{b|c}}", &["a", "b", "c"]),
        ("{a|a}", &["a"]),
        ("{|very }large", &["large", "very large"]),
        ("{2$$a|b|c}", &["a, b", "a, c", "b, c"]),
        ("{1-2$$ and $$a|b}", &["a", "b", "a and b"]),
        ("{2-1$$a|b}", &["a", "b", "a, b"]),
        ("{0-1$$a}", &["", "a"]),
        ("{2$$$$a|b}", &["ab"]),
        ("__animal__!", &["cat!", "dog!", "fox!"]),
        ("__nested__", &["a cat", "a dog", "a fox", "two cats", "two dogs"]),
        // Values are taken as they are.
        ("{subject}, {light=day|night}", &[]),
        ("{subject}, {light=warm light}", &["a {fox}, warm light"]),
        ("{light={day|night}}", &["day", "night"]),
        (r"\{a\|b\} \$5 \__animal\__ \\ \n", &[r"{a|b} $5 __animal__ \ \n"]),
        ("snake_case __ __x y__ a__b", &["snake_case __ __x y__ a__b"]),
        ("a | b", &["a | b"]),
        ("5$ 2$$", &["5$ 2$$"]),
    ] {
        match all(text) {
            Ok(found) => assert_eq!(found, prompts, "{text}"),
            Err(error) => assert!(prompts.is_empty(), "{text}: {error}"),
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_prompt() {
    let text = "{red|green|blue} __animal__, {2$$sun|rain|snow|fog}";
    // These may never change: pictures are made again from their seed and their template.
    let prompts: Vec<String> = (0..4).map(|seed| one(text, seed).unwrap()).collect();
    let expected = ["green cat, sun, snow", "blue dog, rain, snow", "blue cat, snow, fog", "blue cat, sun, snow"];
    assert_eq!(prompts, expected);
    let different: std::collections::BTreeSet<_> = (0..300).map(|seed| one(text, seed).unwrap()).collect();
    assert_eq!(different.len(), 3 * 3 * 6, "each combination is drawn by some seed");
}

#[test]
fn what_is_wrong_is_named() {
    let error = |text: &str| one(text, 0).unwrap_err();
    assert_eq!(error("a {b|c"), TemplateError::Unclosed { at: 3 });
    assert_eq!(error("a }"), TemplateError::Unclosed { at: 3 });
    assert_eq!(error("{a=b"), TemplateError::Unclosed { at: 1 });
    assert_eq!(error("{two words}"), TemplateError::NoChoice { text: "two words".into(), at: 1 });
    assert_eq!(error("{}"), TemplateError::NoChoice { text: String::new(), at: 1 });
    assert_eq!(error("{3$$a|b}"), TemplateError::Count { count: 3, options: 2, at: 1 });
    assert_eq!(error("{light}"), TemplateError::Variable { name: "light".into() });
    assert_eq!(error("__plant__"), TemplateError::Wildcard { name: "plant".into() });
    assert_eq!(error("__empty__"), TemplateError::Wildcard { name: "empty".into() });
    assert_eq!(error("__circle__"), TemplateError::TooDeep);
    assert_eq!(error("__double__"), TemplateError::TooDeep);
    assert_eq!(error(&"{a|".repeat(MAX_DEPTH + 1)), TemplateError::TooDeep);
    assert_eq!(error(&"x".repeat(MAX_BYTES + 1)), TemplateError::TooLong);
    assert_eq!(all("{a|b}".repeat(10).as_str()).unwrap_err(), TemplateError::TooMany { max: 1000 });
}

#[test]
fn json_is_no_template() {
    for text in ["{\"subject\": \"a fox\", \"colors\": [\"#fff\"]}", "a {b}", "a_b", "{subject}", "plain", "a|b"] {
        assert!(!looks_like_template(text), "{text}");
    }
    for text in ["a {red|green} fox", "an __animal__"] {
        assert!(looks_like_template(text), "{text}");
    }
}

#[test]
fn a_prompt_is_put_into_a_template() {
    let frame = Template::parse("{a drawing of {subject}|{subject}, drawn}").unwrap();
    let of = |inner: &Template| with(&[], |context| frame.with("subject", inner).all_prompts(context, 10).unwrap());
    assert_eq!(of(&Template::literal("{x|y}")), ["a drawing of {x|y}", "{x|y}, drawn"]);
    let inner = Template::parse("a {cat|dog}").unwrap();
    assert_eq!(of(&inner).len(), 4);
    // What is stored with a picture is a template of the same prompts.
    let stored = frame.with("subject", &Template::literal("{x|y}")).to_string();
    assert_eq!(with(&[], |context| Template::parse(&stored).unwrap().all_prompts(context, 10).unwrap()).len(), 2);
}

/// Templates that would become very large, or take very long.
#[test]
fn expansion_is_bounded() {
    let began = Instant::now();
    let long = "x".repeat(60_000);
    let large = "{1-1000$$".to_owned() + &vec!["a"; 1000].join("|") + "}";
    for text in [
        "{a|b}".repeat(13_000),
        format!("{{{long}|b}}{{{long}|b}}"),
        large.clone(),
        format!("{large}{large}"),
        "_".repeat(65_000),
        "__a".repeat(20_000),
        "{a=".repeat(20_000),
        "__nested__".repeat(6_000),
        "{10$$".to_owned() + &vec!["__nested__"; 50].join("|") + "}",
    ] {
        for seed in 0..3 {
            if let Ok(prompt) = one(&text, seed) {
                assert!(prompt.len() <= MAX_BYTES);
            }
        }
        if let Ok(prompts) = all(&text) {
            assert!(prompts.len() <= 1000);
        }
    }
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in "([{}|$_\\\\=a1-]|\\PC|__animal__|__circle__|\\{2\\$\\$){0,60}", seed: u64) {
        if let Ok(prompt) = one(&text, seed) {
            prop_assert!(prompt.len() <= MAX_BYTES);
            prop_assert_eq!(&one(&text, seed).unwrap(), &prompt);
        }
        if let Ok(prompts) = all(&text) {
            prop_assert!(prompts.len() <= 1000);
        }
        looks_like_template(&text);
    }

    /// One prompt is always among all of them.
    #[test]
    fn every_prompt_is_a_combination(text in "([{}|_a ]|\\{a\\|b\\}|\\{1-2\\$\\$c\\|d\\}|__nested__){0,20}", seed: u64) {
        if let (Ok(prompt), Ok(prompts)) = (one(&text, seed), all(&text)) {
            prop_assert!(prompts.contains(&prompt), "{}", prompt);
        }
    }

    #[test]
    fn an_escaped_text_stands_for_itself(text in "\\PC{0,60}") {
        prop_assert_eq!(one(&escaped(&text), 0).unwrap(), text);
    }

    /// What a template prints reads back as the same template.
    #[test]
    fn a_template_reads_back(text in "([{}|$_\\\\=a1-]|\\{a\\|b\\}|\\{1-2\\$\\$c\\|d\\}|\\{n=x\\}|__nested__){0,30}") {
        if let Ok(template) = Template::parse(&text) {
            prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
        }
    }
}

//! What a line asks for.

use flux2_session::line::{COMMANDS, Line, LineError, numbers};
use flux2_session::{Command, Reference};
use proptest::prelude::*;

fn parse(text: &str) -> Line {
    Line::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn command(text: &str) -> Command {
    match parse(text) {
        Line::Command(command) => command,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_line_is_a_prompt_a_command_or_nothing() {
    for nothing in ["", "  \t", "# a comment", "#"] {
        assert_eq!(parse(nothing), Line::Nothing);
    }
    for (text, prompt) in [(" a red fox ", "a red fox"), ("\\!wow", "!wow"), ("\\# 1", "# 1"), ("wow!", "wow!")] {
        assert_eq!(parse(text), Line::Prompt(prompt.into()));
    }
}

#[test]
fn commands_take_what_their_usage_says() {
    let text = |text: &str| Some(text.to_owned());
    let cat = || Some(Reference::Name("cat".into()));
    for (line, expected) in [
        ("!size", Command::Size(None)),
        ("!size 128x64", Command::Size(text("128x64"))),
        ("!seed random", Command::Seed(text("random"))),
        ("!explore", Command::Explore { count: 4, prompt: None }),
        ("!explore 6", Command::Explore { count: 6, prompt: None }),
        ("!explore 2 two cats", Command::Explore { count: 2, prompt: text("two cats") }),
        ("!explore two cats", Command::Explore { count: 4, prompt: text("two cats") }),
        ("!pick 1, 3", Command::Pick(vec![1, 3])),
        ("!edit make it blue", Command::Edit("make it blue".into())),
        ("!mask m.png a hat", Command::Mask { mask: "m.png".into(), prompt: "a hat".into() }),
        ("!mask 'my m.png' $1 a hat", Command::Mask { mask: "my m.png".into(), prompt: "$1 a hat".into() }),
        ("!upscale", Command::Upscale { by: None, of: None }),
        ("!upscale $cat", Command::Upscale { by: None, of: cat() }),
        ("!upscale 2x $-1", Command::Upscale { by: Some(2.0), of: Some(Reference::FromEnd(1)) }),
        ("!save my cat.png $cat", Command::Save { path: "my cat.png".into(), of: cat() }),
        ("!save \"a $1.png\"", Command::Save { path: "a $1.png".into(), of: None }),
        ("!name $cat", Command::Name { name: "cat".into(), of: None }),
        ("!name cat $2", Command::Name { name: "cat".into(), of: Some(Reference::Number(2)) }),
        ("!history 3", Command::History(Some(3))),
        ("!set", Command::Set { name: None, value: None }),
        ("!set --steps", Command::Set { name: text("steps"), value: None }),
        ("!set steps=4", Command::Set { name: text("steps"), value: text("4") }),
        ("!set negative-prompt a, b = c", Command::Set { name: text("negative-prompt"), value: text("a, b = c") }),
        ("!unset steps", Command::Unset("steps".into())),
        ("!show", Command::Show(None)),
        ("!help !seed", Command::Help(text("seed"))),
        ("!undo", Command::Undo),
        ("!quit", Command::Quit),
    ] {
        assert_eq!(command(line), expected, "{line}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let error = |text: &str| Line::parse(text).unwrap_err();
    let nearest = |text| match error(text) {
        LineError::Unknown { nearest, .. } => nearest,
        other => panic!("{other}"),
    };
    assert_eq!(
        (nearest("!udno"), nearest("!sede 1"), nearest("!xyzzy"), nearest("!")),
        (Some("undo"), Some("seed"), None, None)
    );
    for (line, message) in [
        ("!explore 1", "1 pictures on a sheet: 2 to 16 are possible"),
        ("!explore 99", "99 pictures on a sheet: 2 to 16 are possible"),
        ("!pick", "!pick needs the number of a picture on the sheet"),
        ("!pick one", "\"one\" is no list of numbers"),
        ("!edit", "!edit needs a prompt"),
        ("!mask m.png", "!mask needs a prompt behind the file of the mask"),
        ("!upscale much", "\"much\" is no factor, as in 2 or 4"),
        ("!upscale 2 cat", "\"cat\" is no picture: write $1, $-1 or a name as in $cat"),
        ("!save", "!save needs the name of a file"),
        ("!undo it", "!undo does not take \"it\""),
        ("!history all", "\"all\" is no number"),
        (
            "!show $1 2",
            "$1 2 is neither a number nor a name: names begin with a letter, and $$ stands for a dollar sign",
        ),
    ] {
        assert_eq!(error(line).to_string(), message, "{line}");
    }
}

#[test]
fn numbers_alone_are_found() {
    assert_eq!((numbers("2"), numbers("1, 3 4")), (Some(vec![2]), Some(vec![1, 3, 4])));
    for text in ["", " , ", "2 cats", "-1", "1.5", "99999999999"] {
        assert_eq!(numbers(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_line_panics(text in "\\PC{0,80}") {
        let _ = Line::parse(&text);
        let _ = numbers(&text);
    }

    #[test]
    fn no_arguments_panic(which in 0..COMMANDS.len(), rest in "([ \t\"'$=,.\\-x0-9a-z]|\\PC){0,40}") {
        let _ = Line::parse(&format!("!{} {rest}", COMMANDS[which].name));
    }
}

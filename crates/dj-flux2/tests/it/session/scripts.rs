//! Scripts that are drawn by the engine in the process.

use super::{lines, script};
use crate::cli::{Cli, shown};

#[test]
fn pictures_are_those_of_generate() {
    let cli = Cli::with_tiny_model();
    let found = lines(&cli, &[], "a red fox\n!name fox\n$fox make it blue\na hat for $fox and $-1\n!history\n");
    assert_eq!(
        found,
        [
            "$1 output.png (64x64, seed 7)",
            "$1 is $fox",
            "$2 output-2.png (64x64, seed 7)",
            "$3 output-3.png (64x64, seed 7)",
            "$1 $fox output.png (64x64, seed 7) a red fox",
            "$2 output-2.png (64x64, seed 7, from $1) make it blue",
            "$3 output-3.png (64x64, seed 7, from $1) a hat for image 1 and image 2",
        ]
    );
    assert!(cli.fox("fox.png", &[]) == cli.read("output.png"));
    let sizes = ["-W", "64", "-H", "64", "-s", "1", "-S", "7"];
    cli.stdout(["make it blue", "-i", "fox.png", "-o", "blue.png"].iter().chain(&sizes));
    assert!(cli.read("blue.png") == cli.read("output-2.png"));
    let both = ["a hat for image 1 and image 2", "-i", "fox.png", "-i", "blue.png", "-o", "both.png"];
    cli.stdout(both.iter().chain(&sizes));
    assert!(cli.read("both.png") == cli.read("output-3.png"));
}

#[test]
fn settings_are_those_of_generate() {
    let cli = Cli::with_tiny_model();
    let text = "!size 64x128\n!size\n!seed 8\n!set no-metadata on\n!set\n!set output out/{seed}.jpg\na red fox\n\
                !size off\n!size\n!seed random\n!seed\n!unset steps\n!unset steps\n!set watermark\n";
    let found = lines(&cli, &[], text);
    assert_eq!(
        found,
        [
            "size 64x128",
            "steps 1",
            "size 64x128",
            "seed 8",
            "no-metadata on",
            "$1 out/8.jpg (64x128, seed 8)",
            "the size is that of the model, or of the first reference image",
            "nothing is chosen for seed",
            "nothing was chosen for steps",
            "nothing is chosen for watermark",
        ]
    );
    let args = ["a red fox", "--size", "64x128", "-s", "1", "-S", "8", "--no-metadata", "-o", "same.jpg"];
    cli.stdout(args);
    assert!(cli.read("same.jpg") == cli.read("out/8.jpg"));
    cli.write("config.toml", "steps = 2\n");
    let found = lines(&cli, &["--config", "config.toml"], "!unset steps\n!set steps\n");
    assert_eq!(found, ["steps 2, from config.toml:1"]);
}

#[test]
fn a_name_without_a_placeholder_gets_the_number() {
    let cli = Cli::with_tiny_model();
    lines(&cli, &["-o", "fox.png"], "a red fox\na red fox\n");
    assert_eq!(cli.files(), ["fox-1.png", "fox-2.png"]);
}

#[test]
fn seeds_are_explored_on_a_sheet_and_picked() {
    let cli = Cli::with_tiny_model();
    let found = lines(&cli, &[], "!explore 3 a red fox\n2\n!pick 1 3\na blue fox\n!explore 2\n");
    assert_eq!(
        found,
        [
            "sheet sheet.png",
            "$1 output.png (64x64, seed 8)",
            "$2 output-2.png (64x64, seed 7)",
            "$3 output-3.png (64x64, seed 9)",
            "$4 output-4.png (64x64, seed 7)",
            "sheet sheet-2.png",
        ]
    );
    cli.stdout(["a red fox", "-W", "64", "-H", "64", "-s", "1", "-S", "8", "-o", "eight.png"]);
    assert!(cli.read("eight.png") == cli.read("output.png"));
    // The sheet holds the pictures with texts beside and below them.
    let info = cli.stdout(["compare", "sheet.png", "sheet.png"]);
    assert!(!info.is_empty());
    let none = script(&cli, &[], "!pick 1\n");
    assert!(shown(&none).contains("there is no sheet to pick from"), "{}", shown(&none));
    let wrong = script(&cli, &[], "!explore 2 a red fox\n3\n");
    assert!(shown(&wrong).contains("the sheet has no picture 3"), "{}", shown(&wrong));
}

#[test]
fn a_picture_is_edited_painted_into_and_enlarged() {
    let cli = Cli::with_tiny_model();
    // Where the fox is painted: the left half.
    let mask = flux2_mask();
    cli.write("mask.png", mask);
    let text = "a red fox\n!edit make it blue\n!set feather 0\n!mask mask.png $1 a hat\n!upscale 2 $1\n!undo\n\
                !save copy.png\n!save \"a copy.jpg\" $1\n$1\n";
    let found = lines(&cli, &[], text);
    assert_eq!(
        found,
        [
            "$1 output.png (64x64, seed 7)",
            "$2 output-2.png (64x64, seed 7)",
            "$3 output-3.png (64x64, seed 7)",
            "$4 output-4.png (128x128, seed 7)",
            "$4 is forgotten; output-4.png stays, the last is $3",
            "saved copy.png",
            "saved a copy.jpg",
            "$1 output.png (64x64, seed 7) a red fox",
        ]
    );
    let quick = ["-s", "1", "-S", "7"];
    let edit = ["make it blue", "-i", "output.png", "--size", "64x64", "-o", "edit.png"];
    cli.stdout(edit.iter().chain(&quick));
    assert!(cli.read("edit.png") == cli.read("output-2.png"));
    let paint = ["a hat", "--source", "output.png", "--mask", "mask.png", "--feather", "0", "-o", "paint.png"];
    cli.stdout(paint.iter().chain(&quick));
    assert!(cli.read("paint.png") == cli.read("output-3.png") && cli.read("copy.png") == cli.read("output-3.png"));
    cli.stdout(["upscale", "output.png", "--by", "2", "-o", "large.png"]);
    assert!(cli.read("large.png") == cli.read("output-4.png"));
    assert_eq!(&cli.read("a copy.jpg")[..2], [0xff, 0xd8]);
}

/// A mask of 64x64 that is white on the left.
fn flux2_mask() -> Vec<u8> {
    use flux2::image::{ImageFormat, RgbImage, encode};

    let pixels = (0..64 * 64).flat_map(|at| [if at % 64 < 32 { 255 } else { 0 }; 3]).collect();
    encode(&RgbImage::new(64, 64, pixels).unwrap(), ImageFormat::Png, None).unwrap()
}

#[test]
fn the_first_error_ends_a_script_with_its_code() {
    let cli = Cli::with_tiny_model();
    crate::snapshot!(shown(&script(&cli, &[], "# begins\n\n!udno\na red fox\n")), @r"
    exit code: 2
    ----- stderr -----
    error: line 3: there is no command !udno
    hint: did you mean !undo? !help lists the commands
    ");
    crate::snapshot!(shown(&script(&cli, &[], "$cat make it blue")), @r"
    exit code: 2
    ----- stderr -----
    error: line 1: no picture is called cat: no picture has a name yet
    hint: !history lists the pictures
    ");
    crate::snapshot!(shown(&script(&cli, &[], "!edit make it blue")), @r"
    exit code: 2
    ----- stderr -----
    error: line 1: there is no picture yet
    hint: type a prompt first, as in a red fox
    ");
    crate::snapshot!(shown(&script(&cli, &[], "!mask none.png a hat")), @r"
    exit code: 2
    ----- stderr -----
    error: line 1: there is no picture yet
    hint: type a prompt first, as in a red fox
    ");
    crate::snapshot!(shown(&script(&cli, &[], "!set stpes 4")), @r"
    exit code: 2
    ----- stderr -----
    error: line 1: there is no setting stpes
    hint: the nearest name is steps
    ");
    let latin = cli.output_with_input(&["session"], b"f\xfcchse\n".to_vec());
    assert!(shown(&latin).contains("error: line 1: the line is not UTF-8"), "{}", shown(&latin));
    assert!(cli.files().is_empty());
    let missing = script(&cli, &[], "a red fox\n!mask none.png a hat");
    assert_eq!(missing.status.code(), Some(6), "{}", shown(&missing));
}

#[test]
fn a_script_may_go_on_after_an_error() {
    let cli = Cli::with_tiny_model();
    let output = script(&cli, &["--keep-going"], "!udno\n$cat\na red fox\n!quit\na blue fox\n");
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("error: line 1: there is no command !udno") && text.contains("error: line 2:"), "{text}");
    assert!(text.contains("error: 2 lines failed"), "{text}");
    assert_eq!(cli.files(), ["output.png"]);
}

#[test]
fn programs_read_json() {
    let cli = Cli::with_tiny_model();
    let output = script(&cli, &["--json", "--keep-going"], "a red fox\n!name fox\n!nme\n!history\n!save fox.jpg\n");
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 5, "{text}");
    assert_eq!((&found[0]["picture"], &found[0]["made"]["seed"]), (&1.into(), &7.into()));
    assert!(found[0]["path"].as_str().unwrap().ends_with("/output.png") && found[0]["seconds"].is_f64());
    assert_eq!((&found[2]["line"], &found[2]["error"]["code"]), (&3.into(), &2.into()));
    assert_eq!((&found[3]["name"], &found[4]["saved"]), (&"fox".into(), &"fox.jpg".into()));
}

#[test]
fn pictures_keep_their_numbers_from_session_to_session() {
    let cli = Cli::with_tiny_model();
    let kept = ["--history", "kept"];
    lines(&cli, &kept, "a red fox\n!name fox\n");
    let found = lines(&cli, &kept, "$fox make it blue\n!history\n");
    assert_eq!(
        found,
        [
            "$2 output-2.png (64x64, seed 7)",
            "$1 $fox output.png (64x64, seed 7) a red fox",
            "$2 output-2.png (64x64, seed 7, from $1) make it blue",
        ]
    );
    cli.write("output.png", "something else");
    let changed = script(&cli, &kept, "$fox make it green\n");
    assert_eq!(changed.status.code(), Some(6), "{}", shown(&changed));
    // A script begins with nothing unless it names a folder.
    let alone = script(&cli, &[], "$1 make it green\n");
    assert!(shown(&alone).contains("there is no picture 1: there is none yet"), "{}", shown(&alone));
}

#[test]
fn help_lists_the_commands() {
    let cli = Cli::with_tiny_model();
    let all = lines(&cli, &[], "!help\n!help undo\n");
    for command in flux2_session_commands() {
        assert!(all.iter().any(|line| line.trim_start().starts_with(&command)), "{command}");
    }
    assert_eq!(all.last().unwrap(), "!undo : forget the last picture; its file stays");
}

/// The commands, as the guide lists them.
fn flux2_session_commands() -> Vec<String> {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/session.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `!"));
    let names: Vec<String> = rows.map(|row| format!("!{}", row.split([' ', '`']).next().unwrap())).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn a_model_that_is_missing_ends_the_session() {
    let cli = Cli::with_tiny_model();
    let output = script(&cli, &["-m", "nowhere/at-all"], "a red fox\n");
    assert_eq!(output.status.code(), Some(3), "{}", shown(&output));
}

#[test]
fn a_setting_that_cannot_be_drawn_with_is_refused_when_it_is_typed() {
    let cli = Cli::with_tiny_model();
    cli.write("text.png", "no picture");
    cli.write("mask.png", flux2_mask());
    for (setting, message, hint) in [
        ("!size 1000x1000", "1000x1000: sides are multiples of 16", "use !size 992x992 or !size 1008x1008"),
        ("!set width 100", "width 100", "96 or"),
        ("!set model nowhere/at-all", "nowhere/at-all", ""),
        ("!set lora gone.safetensors", "gone.safetensors", ""),
        ("!set input gone.png", "gone.png", ""),
        ("!set input text.png", "text.png", ""),
        ("!set source gone.png", "gone.png", ""),
        ("!set template watercolour", "no template is called watercolour", "the nearest name is watercolor"),
        ("!set upscaler lanczo", "no upscaler is called lanczo", "pass lanczos"),
        ("!set quantize int9", "int9", ""),
        ("!set output fox.txt", "fox.txt", ""),
        ("!set preview p.png", "preview is no setting of a session", "only `dj-flux2 generate --preview`"),
        ("!set allow-quantize on", "allow-quantize is no setting", "!set quantize int8"),
        ("!set sampler euler", "there is no sampler to choose", "steps and seed"),
    ] {
        // It is the only line: nothing is drawn that could refuse it later.
        let output = script(&cli, &["--keep-going"], &format!("{setting}\n!set\n"));
        let text = shown(&output);
        assert!(text.contains("error: line 1: ") && text.contains(message) && text.contains(hint), "{setting}: {text}");
        let name = setting.split_whitespace().nth(1).unwrap();
        let kept = String::from_utf8(output.stdout).unwrap();
        assert!(!kept.lines().any(|line| line.starts_with(&format!("{name} "))), "{setting}: {kept}");
        assert!(kept.contains("size 64x64"), "what was chosen before is chosen still: {kept}");
    }
    // What fits only together with a prompt or with another setting is no error.
    let found = lines(&cli, &["--set", "var=light=dusk"], "!set expand on\n!set mask mask.png\n!set strength 0.5\n");
    assert!(found.is_empty(), "{found:?}");
    lines(&cli, &[], "!set var light=dusk\n!set source mask.png\n!set mask mask.png\n!set input mask.png; mask.png\n");
}

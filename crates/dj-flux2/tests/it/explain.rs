//! `explain`: the page, the same as JSON, and what is refused.

use std::fs;

use serde_json::Value;

use crate::cli::{Cli, QUICK};
use crate::snapshot;

/// The fox that `Cli::fox` draws, explained.
fn explain(cli: &Cli, args: &[&str]) -> String {
    cli.stdout(["explain", "a red fox", "-q"].iter().chain(&QUICK).chain(args))
}

/// The bytes behind a `data:` URL.
fn bytes(url: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text = url.strip_prefix("data:image/png;base64,").unwrap_or_else(|| panic!("{url}"));
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn the_picture_of_a_page_is_the_one_that_generate_makes() {
    let cli = Cli::with_tiny_model();
    let fox = cli.fox("fox.png", &[]);
    assert_eq!(explain(&cli, &[]), "explain.html\n");
    let page = fs::read_to_string(cli.path("explain.html")).unwrap();
    let url = page.split_once("<img class=\"finished\" src=\"").unwrap().1.split('"').next().unwrap();
    assert!(bytes(url) == fox, "the picture has other bytes");
    let json: Value = serde_json::from_str(&explain(&cli, &["--json"])).unwrap();
    assert!(bytes(json["picture"].as_str().unwrap()) == fox, "the picture has other bytes");
    assert_eq!(cli.files(), ["explain.html", "fox.png"]);
}

#[test]
fn a_page_loads_nothing_and_escapes_the_prompt() {
    let cli = Cli::with_tiny_model();
    let prompt = "\u{1F98A} <img src=x onerror=alert(1)> \"&\" </style><script>alert(2)</script>";
    cli.stdout(["explain", prompt, "-o", "-"].iter().chain(&QUICK));
    cli.stdout(["explain", prompt, "-o", "page.html"].iter().chain(&QUICK));
    let page = fs::read_to_string(cli.path("page.html")).unwrap();
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;") && page.contains("\u{1F98A}"));
    // One script, ours; every other address is that of a picture in the page, or of a section.
    assert_eq!((page.matches("<script").count(), page.matches("alert(2)</script>").count()), (1, 0));
    for (attribute, allowed) in [(" src=\"", "data:image/png;base64,"), (" href=\"", "#"), ("url(", "data:image/png;")]
    {
        let found: Vec<&str> = page.split(attribute).skip(1).collect();
        assert!(!found.is_empty() && found.iter().all(|value| value.starts_with(allowed)), "{attribute}");
    }
    let names_of_svg = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("http").count() - page.matches("http-equiv").count(), names_of_svg);
    assert!(page.contains("default-src 'none'; img-src data:;") && page.contains("script-src 'sha256-"));
}

#[test]
fn every_section_has_its_content() {
    let cli = Cli::with_tiny_model();
    let dog = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/images/dog.png");
    let guided = ["--variant", "klein-base", "-g", "3", "--negative-prompt", "rain", "-s", "7", "-i", dog];
    explain(&cli, &guided);
    let page = fs::read_to_string(cli.path("explain.html")).unwrap();
    let texts = [
        ("prompt", "The negative prompt"),
        ("embedding", "after layer "),
        ("images", "ids (10, 0, 0, 0) to (10, 7, 7, 0)"),
        ("noise", "philox"),
        ("schedule", "evenly spaced"),
        ("steps", "<h3>Step 7</h3>"),
        ("attention", "Attention to image 1 in step 7"),
        ("decode", "[64, 64, 3] pixels"),
        ("time", "memory planned"),
        ("kernels", "attention"),
        ("parameters", "negative_prompt"),
    ];
    for (id, text) in texts {
        let section = page.split_once(&format!("<section id=\"{id}\">")).unwrap_or_else(|| panic!("{id}")).1;
        let section = section.split_once("</section>").unwrap().0;
        assert!(section.contains(text), "{id}: {text}");
    }
    // Seven steps are more than are shown.
    assert!(!page.contains("in step 6\"") && page.contains("in step 1\""));
    let none = explain(&cli, &["--attention-blocks", "none", "-o", "none.html"]);
    assert_eq!(none, "none.html\n");
    assert!(fs::read_to_string(cli.path("none.html")).unwrap().contains("Not read in this run"));
}

#[test]
fn a_document_has_all_of_a_run() {
    let cli = Cli::with_tiny_model();
    let text = explain(&cli, &["--json", "-o", "page.html", "--plots", "plots"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    let keys = [
        "device",
        "model",
        "parameters",
        "warnings",
        "text",
        "negative",
        "images",
        "noise",
        "start",
        "schedule",
        "steps",
        "attention",
        "latents",
        "decoded_px",
        "timeline",
        "stages",
        "kernels",
        "rescues",
        "seconds",
        "explaining_seconds",
        "planned",
        "picture_px",
        "picture",
    ];
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    let planned = document["planned"]["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]);
    let taken = document["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]);
    assert_eq!(planned.collect::<Vec<_>>(), taken.collect::<Vec<_>>());
    assert_eq!(cli.files(), ["page.html", "plots"]);
    for entry in fs::read_dir(cli.path("plots")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => assert!(bytes.starts_with(b"<svg") && bytes.ends_with(b"</svg>\n"), "{}", path.display()),
            _ => drop(flux2::image::decode(&bytes, "plot").unwrap()),
        }
    }
}

#[test]
fn what_a_page_cannot_explain_is_refused() {
    let cli = Cli::with_tiny_model();
    let run = |args: &[&str]| cli.run(["explain", "a red fox", "-q"].iter().chain(&QUICK).chain(args));
    snapshot!(run(&["-n", "3"]), @"
    exit code: 2
    ----- stderr -----
    error: a page explains one picture, and these are 3
    hint: give one prompt and one seed, and no -n
    ");
    snapshot!(run(&["--grid", "steps=1,2"]), @"
    exit code: 2
    ----- stderr -----
    error: --grid makes several pictures, and a page explains one
    hint: explain one picture at a time, and draw the others with `dj-flux2 generate`
    ");
    snapshot!(run(&["--show-steps"]), @"
    exit code: 2
    ----- stderr -----
    error: --show-steps has no effect on a page
    hint: leave it out: the page shows every step
    ");
    snapshot!(run(&["-o", "fox.png"]), @"
    exit code: 2
    ----- stderr -----
    error: fox.png is no name of a page
    hint: end the name in .html; --plots DIR writes the picture as a file
    ");
    snapshot!(run(&["-o", "-", "--json"]), @"
    exit code: 2
    ----- stderr -----
    error: the page and the JSON object both go to standard output
    hint: leave --json out, or write the page to a file, with -o NAME.html
    ");
    snapshot!(run(&["--attention-blocks", "double.99"]), @"
    exit code: 2
    ----- stderr -----
    error: the model has no block double.99: it has 2 double and 3 single blocks, counted from 0
    hint: take blocks that it has, or all of them
    ");
    snapshot!(run(&["--attention-blocks", "first"]), @"
    exit code: 2
    ----- stderr -----
    error: invalid value 'first' for '--attention-blocks <BLOCKS>': a block is double.N or single.N, from 0
    hint: run it with --help to see what it takes
    ");
    fs::write(cli.path("explain.html"), "precious").unwrap();
    snapshot!(run(&["--no-clobber"]), @"
    exit code: 2
    ----- stderr -----
    error: explain.html exists
    hint: choose another name, or leave --no-clobber out
    ");
    assert_eq!(cli.files(), ["explain.html"]);
}

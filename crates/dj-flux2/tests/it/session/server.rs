//! The same on a server.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{QUICK, lines, script};
use crate::cli::{Cli, shown};
use crate::serve::Server;

#[test]
fn a_server_draws_the_same_pictures() {
    let cli = Cli::with_tiny_model();
    let mut command = cli.command(["serve", "--port", "0", "--log-format", "json", "--no-journal"]);
    command.env("DJ_FLUX2_TEXT_CACHE", "off");
    let server = Server::start(command);
    server.wait_until_ready();
    let pixels: Vec<u8> = (0..64 * 64).flat_map(|at| [if at % 64 < 32 { 255 } else { 0 }; 3]).collect();
    let mask = flux2::image::RgbImage::new(64, 64, pixels).unwrap();
    cli.write("mask.png", flux2::image::encode(&mask, flux2::image::ImageFormat::Png, None).unwrap());
    let text = "a red fox\n!name fox\n$fox make it blue\n!mask mask.png $fox a hat\n!explore 2\n2\n!upscale 2 $fox\n\
                !history\n";
    let connect = ["--connect", &server.address];
    let here = lines(&cli, &["-o", "here/{index}.png"], text);
    let there = lines(&cli, &[&connect[..], &["-o", "there/{index}.png"]].concat(), text);
    assert_eq!(there, here.iter().map(|line| line.replace("here/", "there/")).collect::<Vec<_>>());
    for number in 1..=5 {
        let (here, there) = (cli.read(&format!("here/{number}.png")), cli.read(&format!("there/{number}.png")));
        // The route that enlarges does not say which file of that name it took, so its hash is not stored.
        let is_enlarged = number == 5;
        let pixels = |file: &[u8]| flux2::image::decode(file, "a picture").unwrap().pixels().to_vec();
        assert!(here == there || is_enlarged && pixels(&here) == pixels(&there), "picture {number}");
    }
}

#[test]
fn a_server_is_told_only_what_it_can_do() {
    let cli = Cli::without_model();
    let server = Server::fake(&cli, &["-m", "klein-4b", "-m", "klein-base-4b"]);
    let connect = ["--connect", &server.address];
    for (setting, why) in [
        ("device cpu", "the server decides it"),
        ("negative-prompt rain", "its API has no field for it"),
        ("background red", "its API has no field for it"),
        ("jpeg-quality 50", "its API has no field for it"),
    ] {
        let text = shown(&script(&cli, &connect, &format!("!set {setting}\n")));
        assert!(text.contains("cannot be chosen on a server") && text.contains(why), "{setting}: {text}");
    }
    cli.write("config.toml", "background = \"red\"\n");
    let output = script(&cli, &[&connect[..], &["--config", "config.toml"]].concat(), "a fox\n");
    assert!(shown(&output).contains("background cannot be chosen on a server"), "{}", shown(&output));
    let found = lines(&cli, &connect, "!set model klein-base-4b\n!set guidance 2\na fox\n!set aspect 2:1\na fox\n");
    assert_eq!(found, ["$1 output.png (64x64, seed 7)", "$2 output-2.png (720x368, seed 7)"]);
    let output = script(&cli, &connect, "!set model kleni-4b\n");
    assert_eq!(output.status.code(), Some(3), "{}", shown(&output));
    assert!(shown(&output).contains("hint: the nearest name is klein-4b"), "{}", shown(&output));
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let cli = Cli::without_model();
    let output = script(&cli, &["--connect", "127.0.0.1:9"], "a fox\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("http://127.0.0.1:9 does not answer"), "{}", shown(&output));
    let output = script(&cli, &["--connect", "ftp://x"], "a fox\n");
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
}

#[test]
fn a_server_with_keys_wants_one() {
    let cli = Cli::without_model();
    let digest = {
        use sha2::Digest as _;
        sha2::Sha256::digest(b"secret").iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    cli.write("keys", format!("alice {digest}\n"));
    cli.write("key", "secret\n");
    let server = Server::fake(&cli, &["--api-key-file", "keys"]);
    let connect = ["--connect", &server.address];
    let output = script(&cli, &connect, "a fox\n");
    assert_eq!(output.status.code(), Some(4), "{}", shown(&output));
    let found = lines(&cli, &[&connect[..], &["--api-key-file", "key"]].concat(), "a fox\n");
    assert_eq!(found, ["$1 output.png (64x64, seed 7)"]);
}

#[test]
fn an_interrupt_cancels_the_job() {
    let cli = Cli::without_model();
    let server = Server::fake(&cli, &["--fake-step-ms", "200"]);
    let mut session = cli
        .command(["session", "--connect", &server.address].iter().chain(&QUICK).chain(&["--set", "steps=500"]))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    session.stdin.as_mut().unwrap().write_all(b"a fox\n").unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let wait_for = |state: &str| {
        while !server.send("GET", "/api/v1/jobs", "").1.contains(&format!("\"state\":\"{state}\"")) {
            assert!(Instant::now() < end, "no job is {state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for("running");
    let pid = session.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    assert_eq!(session.wait().unwrap().code(), Some(130));
    wait_for("cancelled");
}

//! `mcp`: the process, its streams and its folder. Tools are tested in `flux2-mcp`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use flux2::image::decode;
use flux2::marks::watermark::Watermark;
use serde_json::{Value, json};

use crate::cli::{Cli, fixture, shown};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The messages that a client begins with.
fn hello() -> String {
    let about =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about});
    format!("{initialize}\n{}\n", json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
}

fn call(id: u32, tool: &str, arguments: Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}))
}

/// A running server.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || output.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut server = Server { input: child.stdin.take(), child, lines };
        server.write(&hello());
        server.answer(0);
        server
    }

    fn write(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// The answer to a request. Every line is a message.
    fn answer(&self, id: u32) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("an answer in time");
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if message["id"] == id {
                return message["result"].clone();
            }
        }
    }

    fn text(&mut self, id: u32, tool: &str, arguments: Value) -> Value {
        self.write(&call(id, tool, arguments));
        let answer = self.answer(id);
        serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap_or_else(|_| panic!("{answer}"))
    }

    /// The exit code and the time until it comes.
    fn end(mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(start.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        (code, start.elapsed())
    }
}

#[test]
fn pictures_are_drawn_by_the_built_in_model_and_written_to_the_folder() {
    let cli = Cli::without_model();
    let mut server = Server::start(cli.command(["mcp", "--root", "pictures", "--no-text-cache"]));
    let made = server.text(1, "generate", json!({"prompt": "a cat on a blue background", "seed": 11, "name": "cat"}));
    assert_eq!(
        (&made["model"], &made["pictures"][0]["file"]),
        (&json!("klein-mini"), &json!("a-cat-on-a-blue-background-11.png"))
    );
    // The same bytes as those of `generate`.
    cli.stdout(["a cat on a blue background", "-S", "11", "-o", "cat.png", "--no-text-cache"]);
    assert_eq!(cli.read("pictures/a-cat-on-a-blue-background-11.png"), cli.read("cat.png"));
    // The model stays loaded: the next picture takes a moment.
    let edit = json!({"prompt": "make the background green", "references": ["$cat"], "show": false});
    assert_eq!(server.text(2, "edit", edit)["pictures"][0]["ref"], "$2");
    drop(server.input.take());
    let (code, time) = server.end();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn upscalers_are_offered_and_every_picture_is_watermarked() {
    let cli = Cli::without_model();
    let net = fixture("golden/upscale/srvgg_x4.pth").display().to_string();
    let size = json!({"prompt": "a fox", "width": 256, "height": 256, "seed": 1, "steps": 1, "name": "fox"});
    let found = |flags: &[&str]| {
        let always = ["mcp", "--root", "p", "--no-text-cache", "--upscaler", &net];
        let mut server = Server::start(cli.command(always.iter().chain(flags)));
        assert_eq!(server.text(1, "list_models", json!({}))["upscalers"][0], "srvgg_x4");
        let drawn = server.text(2, "generate", size.clone());
        let larger = server.text(3, "upscale", json!({"image": "$fox", "upscaler": "lanczos"}));
        let files = [&drawn["pictures"][0]["file"], &larger["file"]];
        files.map(|file| {
            let bytes = cli.read(&format!("p/{}", file.as_str().unwrap_or_else(|| panic!("{drawn} {larger}"))));
            Watermark::find(&decode(&bytes, "it").unwrap()).is_some()
        })
    };
    assert_eq!((found(&[]), found(&["--watermark"])), ([false; 2], [true; 2]));
    let keys = ["--c2pa-key", "absent", "--c2pa-cert", "absent"];
    let shown = cli.run(["mcp", "--root", "p"].iter().chain(&keys));
    assert!(shown.starts_with("exit code: 1") && shown.contains("absent: "), "{shown}");
}

#[test]
fn what_was_asked_before_the_end_of_the_input_is_answered() {
    let cli = Cli::without_model();
    let input = hello() + &call(1, "plan", json!({"width": 128, "height": 128}));
    let output = cli.output_with_input(&["mcp", "--root", "pictures"], input);
    assert!(output.status.success(), "{}", shown(&output));
    let lines: Vec<Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert!(lines.iter().any(|line| line["id"] == 1 && line["result"]["isError"] == false), "{}", shown(&output));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("note: pictures are written to "), "{notes}");
}

#[test]
fn a_signal_ends_it_also_while_it_draws() {
    let cli = Cli::without_model();
    let mut server =
        Server::start(cli.command(["mcp", "--root", "p", "--backend", "fake", "--fake-step-ms", "100000"]));
    server.write(&call(1, "generate", json!({"prompt": "p", "width": 64, "height": 64})));
    std::thread::sleep(Duration::from_millis(200));
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let (_, time) = server.end();
    assert!(time < Duration::from_secs(10), "{time:?}");
    assert_eq!(cli.files(), ["p"]);
}

#[test]
fn two_processes_may_use_one_folder() {
    let cli = Cli::without_model();
    let start = || Server::start(cli.command(["mcp", "--root", "p", "--backend", "fake"]));
    let (mut first, mut second) = (start(), start());
    let fox = json!({"prompt": "a fox", "width": 64, "height": 64, "seed": 1});
    assert_eq!(first.text(1, "generate", fox.clone())["pictures"][0]["file"], "a-fox-1.png");
    assert_eq!(second.text(1, "generate", fox)["pictures"][0]["file"], "a-fox-1-2.png");
}

#[test]
fn a_client_that_says_nothing_or_something_else_is_no_crash() {
    let cli = Cli::without_model();
    let run = |input: &str| cli.output_with_input(&["mcp", "--root", "p", "--backend", "fake"], input);
    assert_eq!(run("").status.code(), Some(0));
    for input in ["no json\n", "{}\n", "\n\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let output = run(input);
        assert!(output.status.code().is_some_and(|code| code < 2), "{input:?}: {}", shown(&output));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{}", shown(&output));
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let cli = Cli::without_model();
    cli.write("file", b"x");
    let shown = cli.run(["mcp", "--root", "file/below"]);
    assert!(shown.starts_with("exit code: 1\n") && shown.contains("file/below: "), "{shown}");
    assert!(shown.contains("hint: pass a folder that can be written, with --root FOLDER"), "{shown}");
    let nowhere = cli.run(["mcp"]);
    assert!(nowhere.contains("neither XDG_DATA_HOME nor HOME is set"), "{nowhere}");
    let model = cli.run(["mcp", "--root", "p", "-m", "nowhere"]);
    assert!(model.starts_with("exit code: 3\n"), "{model}");
}

#[cfg(feature = "session")]
#[test]
fn an_agent_and_a_session_go_on_with_the_same_pictures() {
    let cli = Cli::without_model();
    let session = |lines: &str, folder: &str| {
        let args = ["session", "--history", "kept", "--set", "seed=1", "-o", folder];
        let output = cli.output_with_input(&args, lines);
        assert!(output.status.success(), "{}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let start = || Server::start(cli.command(["mcp", "--root", "p", "--history", "kept", "--no-text-cache"]));
    session("a cat\n!name cat\n", "p/");
    session("a secret\n!name secret\n", "elsewhere/");

    let mut server = start();
    let edit = json!({"prompt": "make it blue", "references": ["$cat"], "name": "blue", "show": false});
    assert_eq!(server.text(1, "edit", edit)["pictures"][0]["ref"], "$3");
    // A picture outside of the folder is neither read nor listed.
    server.write(&call(2, "edit", json!({"prompt": "p", "references": ["$secret"]})));
    let refused = server.answer(2);
    let text = refused["content"][0]["text"].as_str().unwrap();
    assert!(refused["isError"] == true && text.contains("picture 2 is in no file below the folder"), "{refused}");
    let listed = server.text(3, "job_status", json!({}));
    let numbers: Vec<&Value> = listed["history"].as_array().unwrap().iter().map(|picture| &picture["ref"]).collect();
    assert_eq!(numbers, ["$3", "$1"], "{listed}");
    assert!(!listed.to_string().contains("secret"), "{listed}");
    // As long as it is there, nobody else has the history.
    let busy = cli.output_with_input(&["session", "--history", "kept"], "!history\n");
    assert!(shown(&busy).contains("another process uses the history in kept"), "{}", shown(&busy));
    let second = cli.run(["mcp", "--root", "p", "--history", "kept"]);
    assert!(second.starts_with("exit code: 2\n") && second.contains("another process uses"), "{second}");
    drop(server.input.take());
    assert_eq!(server.end().0, Some(0));

    let found = session("$blue make the background red\n!history\n", "p/");
    assert!(found.contains("from $1) make it blue") && found.contains("from $3)"), "{found}");
}

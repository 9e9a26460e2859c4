//! `serve`: the process, its sockets and signals. Routes are tested in `flux2-server`.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::{Cli, fixture};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, its log as JSON.
pub struct Server {
    child: Child,
    log: Receiver<String>,
    /// Lines that were received.
    seen: Vec<String>,
    pub address: String,
}

impl Server {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (send, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut server = Server { child, log, seen: vec![], address: String::new() };
        let line = server.line("listening");
        server.address = field(&line, "address").trim_start_matches("http://").to_owned();
        server
    }

    pub fn fake(cli: &Cli, flags: &[&str]) -> Self {
        let always = ["serve", "--backend", "fake", "--port", "0", "--log-format", "json"];
        Server::start(cli.command(always.iter().chain(flags)))
    }

    /// The next line of the log with this message.
    fn line(&mut self, message: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if field(&line, "message") == message {
                return line;
            }
        }
        panic!("no line {message:?} in {:#?}", self.seen);
    }

    /// Status and the rest of an answer.
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        exchange(&mut stream, method, path, body)
    }

    pub fn wait_until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        while self.send("GET", "/ready", "").0 != 200 {
            assert!(Instant::now() < end, "it does not get ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange<S: std::io::Read + std::io::Write>(stream: &mut S, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Authorization: Bearer secret\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer}")), answer)
}

/// The body of an answer.
pub fn json(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

/// The text of a field in a line of JSON.
fn field(line: &str, name: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    json[name].as_str().unwrap_or_default().to_owned()
}

const PICTURE: &str = r#"{"prompt":"a secret red fox","size":"64x64","steps":1,"seed":7}"#;

#[test]
fn the_tiny_model_draws_the_same_bytes_as_generate() {
    let cli = Cli::with_tiny_model();
    let mut command =
        cli.command(["serve", "--port", "0", "--log-format", "json", "--log-level", "debug", "--state", "s"]);
    command.env("DJ_FLUX2_TEXT_CACHE", "off");
    let mut server = Server::start(command);
    assert_eq!(server.send("GET", "/health", "").0, 200);
    server.wait_until_ready();
    let (status, answer) = server.send("POST", "/api/v1/jobs", PICTURE);
    assert_eq!(status, 202, "{answer}");
    let job = json(&answer);
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let (_, events) = server.send("GET", &format!("{path}/events"), "");
    assert!(events.contains("event: done"), "{events}");
    let (_, after) = server.send("GET", &path, "");
    let args = ["a secret red fox", "-W", "64", "-H", "64", "-s", "1", "-S", "7", "-o", "fox.png", "-q"];
    cli.stdout(args);
    let digest = {
        use sha2::Digest as _;
        sha2::Sha256::digest(cli.read("fox.png")).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert!(after.contains(&digest), "{after}");
    server.signal("TERM");
    assert!(server.end().success());
    while let Ok(line) = server.log.try_recv() {
        server.seen.push(line);
    }
    assert!(server.seen.iter().any(|line| line.contains("\"route\":\"/api/v1/jobs\"")), "{:#?}", server.seen);
    assert!(!server.seen.iter().any(|line| line.contains("secret red fox")), "a prompt is in the log");
}

#[test]
fn an_upscaler_and_a_decoder_of_previews_are_offered() {
    let cli = Cli::with_tiny_model();
    let net = fixture("golden/upscale/srvgg_x4.pth").display().to_string();
    let decoder = fixture("golden/preview/taef2_decoder.pth").display().to_string();
    let previews = |flags: &[&str]| {
        let always = ["serve", "--port", "0", "--log-format", "json", "--no-journal", "--no-text-cache"];
        let server = Server::start(cli.command(always.iter().chain(flags)));
        server.wait_until_ready();
        let capabilities = json(&server.send("GET", "/api/v1/capabilities", "").1);
        let job = json(&server.send("POST", "/api/v1/jobs", &PICTURE.replace("\"steps\":1", "\"steps\":100")).1);
        let (_, events) = server.send("GET", &format!("/api/v1/jobs/{}/events", job["id"].as_str().unwrap()), "");
        let preview = events.split("event: preview").nth(1).unwrap_or_else(|| panic!("{events}"));
        let data = preview.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let preview: serde_json::Value = serde_json::from_str(data).unwrap();
        let file = STANDARD.decode(preview["b64_json"].as_str().unwrap()).unwrap();
        let shown = flux2::image::decode(&file, "a preview").unwrap();
        (capabilities["upscalers"][0]["name"].clone(), shown.width())
    };
    assert_eq!(previews(&["--upscaler", &net, "--preview-decoder", &decoder]), ("srvgg_x4".into(), 64));
    let (upscaler, width) = previews(&[]);
    assert!(upscaler != "srvgg_x4" && width == 8, "{upscaler} {width}");
}

#[test]
fn every_picture_is_watermarked_if_the_server_says_so() {
    let cli = Cli::without_model();
    let post = |flags: &[&str]| Server::fake(&cli, flags).send("POST", "/api/v1/jobs", PICTURE);
    assert_eq!(post(&[]).0, 202);
    let (status, answer) = post(&["--watermark"]);
    assert!(status == 400 && answer.contains("64x64 is too small for the watermark"), "{answer}");
    let marked =
        Server::fake(&cli, &["--watermark"]).send("POST", "/api/v1/jobs", &PICTURE.replace("64x64", "256x256"));
    assert_eq!(json(&marked.1)["request"]["watermark"], true);
}

#[test]
fn it_listens_before_the_model_is_loaded() {
    let cli = Cli::without_model();
    let server = Server::fake(&cli, &["--fake-load-ms", "100000"]);
    assert_eq!(server.send("GET", "/health", "").0, 200);
    let (status, answer) = server.send("GET", "/ready", "");
    assert!(status == 503 && answer.contains("starting"), "{answer}");
}

#[test]
fn the_first_signal_drains_and_the_second_ends_at_once() {
    let cli = Cli::without_model();
    let mut server = Server::fake(&cli, &["--fake-step-ms", "100"]);
    server.wait_until_ready();
    server.signal("INT");
    assert!(server.end().success());

    let mut server = Server::fake(&cli, &["--fake-step-ms", "1000", "--drain-timeout", "600"]);
    server.wait_until_ready();
    assert_eq!(server.send("POST", "/api/v1/jobs", r#"{"prompt":"p","size":"64x64","steps":900}"#).0, 202);
    while !server.send("GET", "/api/v1/jobs", "").1.contains("\"state\":\"running\"") {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.signal("TERM");
    server.line("draining");
    assert_eq!(server.send("GET", "/ready", "").0, 503);
    assert_eq!(server.send("POST", "/v1/images/generations", PICTURE).0, 503);
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(130));
}

#[test]
fn keys_are_read_again_on_a_signal() {
    let cli = Cli::without_model();
    // SHA-256 of `secret`, which the tests send.
    let line = "alice 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n";
    cli.write("keys", line.replace('2', "3"));
    let mut server = Server::fake(&cli, &["--api-key-file", "keys"]);
    assert_eq!(server.send("GET", "/v1/models", "").0, 401);
    cli.write("keys", line);
    server.signal("HUP");
    server.line("keys are read again");
    assert_eq!(server.send("GET", "/v1/models", "").0, 200);
    cli.write("keys", "alice");
    server.signal("HUP");
    server.line("the keys stay as they were");
    assert_eq!(server.send("GET", "/v1/models", "").0, 200);
}

#[test]
fn a_unix_socket_and_one_that_was_inherited() {
    let cli = Cli::without_model();
    let file = cli.path("socket");
    let flags = ["serve", "--backend", "fake", "--log-format", "json", "--unix", "socket"];
    let mut server = Server::start(cli.command(flags));
    let mut stream = std::os::unix::net::UnixStream::connect(&file).unwrap();
    assert_eq!(exchange(&mut stream, "GET", "/health", "").0, 200);
    server.signal("TERM");
    assert!(server.end().success());
    assert!(!file.exists());

    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut command = Command::new("sh");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --backend fake --log-format json 3<&0 </dev/null";
    command.args(["-c", script, env!("CARGO_BIN_EXE_dj-flux2")]).stdin(std::os::fd::OwnedFd::from(socket));
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(cli.path(""));
    let server = Server::start(command);
    assert_eq!(server.address, address);
    assert_eq!(server.send("GET", "/health", "").0, 200);
}

#[test]
fn a_public_address_needs_keys() {
    let cli = Cli::without_model();
    let refused = cli.output(["serve", "--backend", "fake", "--bind", "0.0.0.0", "--port", "0"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr.starts_with("error: everybody who reaches 0.0.0.0:"), "{stderr}");
    assert!(stderr.ends_with("hint: add --api-key-file FILE; or --insecure, if that is meant\n"), "{stderr}");
    let mut command =
        cli.command(["serve", "--backend", "fake", "--bind", "0.0.0.0", "--port", "0", "--log-format", "json"]);
    command.env("DJ_FLUX2_API_KEY", "secret");
    assert_eq!(Server::start(command).child.try_wait().unwrap(), None);
}

#[test]
fn what_cannot_be_served_is_said_before_the_start() {
    let cli = Cli::without_model();
    let refused = |flags: &[&str]| {
        let always = ["serve", "--port", "0", "--no-journal"];
        let output = cli.output(always.iter().chain(flags));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    cli.write("keys", "# none\n");
    for (flags, code, text) in [
        (["-m", "nowhere"].as_slice(), 3, "no model at nowhere"),
        (&["--backend", "fake", "--preload", "other"], 2, "--preload other: no model of this name is served"),
        (&["--backend", "fake", "--alias", "a=b"], 2, "--alias a=b: no model of this name is served"),
        (&["--backend", "fake", "-m", "a", "-m", "x/a"], 2, "two models are called a"),
        (&["--backend", "fake", "--api-key-file", "keys"], 1, "keys: there is no key in it"),
        (&["--backend", "fake", "--api-key-file", "absent"], 1, "absent: "),
        (&["--backend", "fake", "--tls-cert", "absent", "--tls-key", "absent"], 1, "absent: "),
        (&["--backend", "fake", "--fake-fail", "a=b"], 2, "no failure is called b"),
        (&["--backend", "fake", "--c2pa-key", "absent", "--c2pa-cert", "keys"], 1, "absent: "),
        (&["--backend", "fake", "--c2pa-key", "keys", "--c2pa-cert", "keys"], 2, "dj-flux2-c2pa, which signs pictures"),
    ] {
        let (found, stderr) = refused(flags);
        assert!(found == Some(code) && stderr.contains(text), "{flags:?}: {found:?} {stderr}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = cli.run(["serve", "--backend", "fake", "--port", &port]);
    assert!(output.contains("another program listens there"), "{output}");
}

//! `worker`, `serve --fleet` and `fleet`, as processes, with a NATS server. The queue is tested in `flux2-fleet`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Cli;
use crate::serve::{Server, json};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A NATS server, and the command line that knows it.
struct Fleet {
    cli: Cli,
    url: String,
    _nats: Process,
}

impl Fleet {
    fn new() -> Fleet {
        let cli = Cli::without_model();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("nats-server");
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(cli.path("nats"));
        // Debian has it where the PATH of a user may not lead.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        let nats = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let nats = Process(nats.expect("the tests need nats-server: apt-get install nats-server"));
        until("the NATS server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Fleet { cli, url: format!("nats://127.0.0.1:{port}"), _nats: nats }
    }

    fn worker(&self, flags: &[&str]) -> Process {
        let always = ["worker", "--fleet", &self.url, "--backend", "fake", "--lease", "2", "--name", "w"];
        let mut command = self.cli.command(always.iter().chain(flags));
        let log = fs::File::options().create(true).append(true).open(self.cli.path("worker.log")).unwrap();
        Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn front(&self) -> Server {
        let flags = ["serve", "--fleet", &self.url, "--port", "0", "--lease", "2", "--log-format", "json"];
        let server = Server::start(self.cli.command(flags));
        server.wait_until_ready();
        server
    }

    /// What a subcommand of `fleet` prints as JSON.
    fn ask(&self, words: &[&str]) -> String {
        self.cli.stdout(["fleet"].iter().chain(words).chain(&["--fleet", &self.url, "--json"]))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status"])).unwrap()
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn submit(server: &Server, prompt: &str) -> String {
    let order = format!(r#"{{"prompt":"{prompt}","size":"64x64","seed":7}}"#);
    let (status, answer) = server.send("POST", "/api/v1/jobs", &order);
    assert_eq!(status, 202, "{answer}");
    json(&answer)["id"].as_str().unwrap().to_owned()
}

fn job(server: &Server, id: &str) -> Value {
    let (status, answer) = server.send("GET", &format!("/api/v1/jobs/{id}"), "");
    assert_eq!(status, 200, "{answer}");
    json(&answer)
}

fn in_state(server: &Server, id: &str, state: &str) -> Value {
    until(state, || Some(job(server, id)).filter(|job| job["state"] == state))
}

#[test]
fn a_worker_that_is_killed_is_started_again_and_any_front_end_answers() {
    let fleet = Fleet::new();
    let mut supervisor = fleet.worker(&["--fake-step-ms", "300"]);
    let (first, second) = (fleet.front(), fleet.front());
    let id = submit(&first, "a red fox");
    in_state(&second, &id, "running");
    let children = format!("/proc/{pid}/task/{pid}/children", pid = supervisor.0.id());
    let child = fs::read_to_string(children).unwrap().trim().to_owned();
    assert!(Command::new("kill").args(["-s", "KILL", &child]).status().unwrap().success());
    let done = in_state(&second, &id, "done");
    assert_eq!(done["attempts"], 2, "{done}");
    drop(first);
    let (status, events) = second.send("GET", &format!("/api/v1/jobs/{id}/events"), "");
    assert!(status == 200 && events.contains("event: done"), "{events}");
    let (status, image) = second.send("GET", &format!("/api/v1/jobs/{id}/images/0"), "");
    assert!(status == 200 && image.contains("PNG"), "{status}");
    let (status, answer) = second.send("DELETE", &format!("/api/v1/jobs/{id}/images/0"), "");
    assert!(status == 501 && answer.contains("not_supported"), "{answer}");
    let status = fleet.status();
    assert_eq!((&status["workers"][0]["drawer"]["worker"], &status["dead"]), (&"w-0".into(), &0.into()), "{status}");
    assert!(fleet.cli.stdout(["fleet", "status", "--fleet", &fleet.url]).contains("w-0"));
    assert_eq!(fleet.ask(&["drain", "w-0"]).trim(), r#"["w-0"]"#);
    assert!(until("the supervisor ends", || supervisor.0.try_wait().unwrap()).success());
    assert!(fleet.status()["workers"].as_array().unwrap().is_empty());
}

#[test]
fn dead_letters_are_listed_and_drawn_again() {
    let fleet = Fleet::new();
    let poisoned = fleet.worker(&["--only", "0", "--fake-fail", "poison=model_unavailable"]);
    let front = fleet.front();
    let id = submit(&front, "poison");
    let failed = in_state(&front, &id, "failed");
    assert_eq!(failed["attempts"], 4, "{failed}");
    let letters = fleet.ask(&["dead", "list"]);
    let letter: Value = serde_json::from_str(&letters).unwrap();
    assert_eq!((&letter["id"], &letter["model"]), (&id.as_str().into(), &"klein-mini".into()), "{letters}");
    drop(poisoned);
    let _healthy = fleet.worker(&["--only", "1"]);
    assert!(fleet.ask(&["dead", "requeue", &id]).contains(&id));
    in_state(&front, &id, "done");
    assert_eq!(fleet.ask(&["dead", "list"]), "");
}

#[test]
fn a_fleet_that_is_not_there_is_said_without_its_password() {
    let cli = Cli::without_model();
    let url = "nats://me:secret@127.0.0.1:1";
    for words in [&["fleet", "status"][..], &["worker", "--backend", "fake", "--only", "0"], &["serve", "--port", "0"]]
    {
        let error = cli.run(words.iter().chain(&["--fleet", url]));
        assert!(error.contains("cannot connect to nats://127.0.0.1:1") && !error.contains("secret"), "{error}");
    }
    let error = cli.run(["serve", "--fleet", url, "-m", "x"]);
    assert!(error.contains("--model"), "{error}");
}

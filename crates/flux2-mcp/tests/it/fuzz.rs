//! Random messages, from a seeded generator: every call is answered, every line of the server is a message, and it goes
//! on.

use std::fmt::Write as _;

use flux2_jobs::fake::FakeOptions;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, ReadHalf, WriteHalf};
use tokio::io::{DuplexStream, split};

use crate::client::{PATIENCE, Site, files};
use crate::hostile::HELLO;

/// Calls with random arguments, and lines with random bytes.
const CALLS: u64 = 250;
const LINES: u64 = 250;

/// What is drawn at random.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end)
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn text(&mut self) -> String {
        let chars = ['a', 'Z', '0', '$', '-', '.', '/', ' ', '{', '"', '\\', '\0', '\n', 'ü', '狐', '\u{202e}'];
        (0..self.below(30)).map(|_| self.one_of(&chars)).collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 9 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => self.one_of(&[json!(0), json!(-1), json!(64), json!(80), json!(u64::MAX), json!(1e300), json!(0.5)]),
            3 => json!(self.below(200)),
            4 => self.one_of(&[json!("$1"), json!("$-1"), json!("$fox"), json!("$0"), json!("x.png"), json!("../x")]),
            5 => self.one_of(&[json!("64"), json!("png"), json!("lanczos"), json!("klein-4b"), json!("64,0,10%,0")]),
            9 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            10 => (0..self.below(4)).map(|_| (self.text(), self.value(depth - 1))).collect::<Map<_, _>>().into(),
            _ => json!(self.text()),
        }
    }
}

/// A client that looks at every line.
struct Wire {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    write: WriteHalf<DuplexStream>,
}

impl Wire {
    async fn send(&mut self, line: &[u8]) {
        self.write.write_all(line).await.unwrap();
        self.write.write_all(b"\n").await.unwrap();
    }

    /// The answer to request `id`, which `what` asked for.
    async fn answer(&mut self, id: &str, what: &str) -> Value {
        let found = async {
            loop {
                let line = self.lines.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended after {what}"));
                let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert_eq!(message["jsonrpc"], "2.0", "{line}");
                let is_answer = message.get("result").is_some() != message.get("error").is_some();
                assert!(is_answer || message["method"].is_string(), "{line}");
                if message["id"] == id {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no answer to {what}"))
    }
}

async fn connect(site: &Site) -> Wire {
    let (read, write) = split(site.connect());
    let mut wire = Wire { lines: BufReader::new(read).lines(), write };
    wire.send(HELLO.trim_end().as_bytes()).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_with_random_arguments_is_answered() {
    let site = Site::new(FakeOptions::default());
    let schemas = site.client().await.peer.list_all_tools().await.unwrap();
    let mut wire = connect(&site).await;
    let mut random = Random(fastrand::Rng::with_seed(0x5eed));
    let mut drawn = 0;
    for number in 0..CALLS {
        let tool = random.one_of(&schemas);
        let names: Vec<String> = tool.input_schema["properties"].as_object().unwrap().keys().cloned().collect();
        let mut arguments = Map::new();
        for _ in 0..random.below(5) {
            let name = if names.is_empty() || random.below(12) == 0 { random.text() } else { random.one_of(&names) };
            arguments.insert(name, random.value(2));
        }
        // Many of them should get as far as the engine.
        if names.iter().any(|name| name == "prompt") && random.below(3) > 0 {
            let small = json!({"prompt": "a fox", "width": 64, "height": 64, "name": "fox", "show": false});
            small.as_object().unwrap().iter().filter(|(name, _)| names.contains(name)).for_each(|(name, value)| {
                arguments.insert(name.clone(), value.clone());
            });
        }
        // Nothing is waited for as long as a random number says, and no picture is large.
        for (name, most) in [("wait_seconds", 2), ("upscale", 3), ("width", 200), ("height", 200), ("count", 3)] {
            if arguments.get(name).and_then(Value::as_f64).is_some_and(|value| value > f64::from(most)) {
                arguments.insert(name.into(), most.into());
            }
        }
        let id = format!("call {number}");
        let params = json!({"name": tool.name, "arguments": arguments});
        let what = format!("{} {}", tool.name, params["arguments"]);
        wire.send(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string().as_bytes())
            .await;
        let answer = wire.answer(&id, &what).await;
        let content = answer["result"]["content"].as_array().unwrap_or_else(|| panic!("{what}: {answer}"));
        let text = content[0]["text"].as_str().unwrap_or_else(|| panic!("{what}: {answer}"));
        assert!(!text.is_empty() && !text.contains("a bug"), "{what}: {text}");
        drawn += usize::from(answer["result"]["isError"] == false && *tool.name == *"generate");
    }
    assert!(drawn > 5, "only {drawn} of the calls drew something");
    // Whatever was asked for, files are in the folder alone.
    let outside = files(site.folder.path());
    assert!(outside.iter().all(|name| name.starts_with("root/")), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_lines_do_not_end_the_server() {
    let site = Site::new(FakeOptions::default());
    let mut wire = connect(&site).await;
    let mut random = Random(fastrand::Rng::with_seed(0xfeed));
    let methods = ["ping", "tools/list", "tools/call", "initialize", "resources/read", "logging/setLevel", "", "x"];
    for number in 0..LINES {
        let mut message = json!({"jsonrpc": "2.0", "id": random.value(1), "method": random.one_of(&methods)});
        for name in ["params", "id", "method", "jsonrpc", "result", "error"] {
            if random.below(4) == 0 {
                message[name] = random.value(3);
            }
        }
        let mut line = message.to_string().into_bytes();
        // Bytes that are changed, left out and added.
        for _ in 0..random.below(3) {
            let at = random.below(line.len());
            match random.below(3) {
                0 => line[at] = random.below(256) as u8,
                1 => drop(line.drain(at..(at + 1 + random.below(9)).min(line.len()))),
                _ => line.insert(at, random.below(256) as u8),
            }
        }
        let mut what = String::new();
        let _ = write!(what, "line {number}: {}", String::from_utf8_lossy(&line));
        wire.send(&line).await;
        let id = format!("ping {number}");
        wire.send(json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string().as_bytes()).await;
        assert_eq!(wire.answer(&id, &what).await["result"], json!({}), "{what}");
    }
    assert!(files(&site.root()).is_empty());
}

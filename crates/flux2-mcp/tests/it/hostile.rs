//! A client that means no good: nothing panics, nothing outside of the folder is read or written.

use std::fmt::Write as _;
use std::time::Duration;

use flux2_jobs::fake::FakeOptions;
use rmcp::model::{CallToolRequestParams, ErrorCode};
use rmcp::service::ServiceError;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::client::{PATIENCE, Site, files};

const TOOLS: [&str; 7] = ["generate", "edit", "upscale", "list_models", "plan", "job_status", "cancel"];

/// Paths that lead out, to devices, or nowhere.
fn paths(outside: &str) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/etc/passwd",
        "../secret.png",
        "a/../../secret.png",
        "..",
        ".",
        "/",
        "//etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "~/x.png",
        "..\\secret.png",
        "C:\\x.png",
        "\\\\host\\x",
        "file:///etc/passwd",
        "a\0.png",
        "http://169.254.169.254/x",
        "https://example.com/x.png",
        "up/secret.png",
        "zero",
        "folder",
        "…/…/x",
        "%2e%2e/x",
        ".history/history.jsonl",
        ".history/lock",
        "$",
        "$0",
        "$-0",
        "$99999999999999999999999",
        "$a b",
        "-",
        "",
        "data:",
        "data:image/png;base64,",
        "data:;base64,!!!!",
        "data:image/png;base64,iVBORw0KGgo=",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([outside.to_owned(), "x/".repeat(600), "\u{202e}gnp.x".into(), "é".repeat(2000)]);
    paths
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn paths_lead_nowhere_else() {
    use std::os::unix::fs::symlink;
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    let outside = site.folder.path().join("secret.png");
    std::fs::write(&outside, b"secret").unwrap();
    symlink(site.folder.path(), site.root().join("up")).unwrap();
    symlink("/dev/zero", site.root().join("zero")).unwrap();
    std::fs::create_dir(site.root().join("folder")).unwrap();
    let before = files(site.folder.path());
    let names = paths(&outside.display().to_string());
    for path in &names {
        for (tool, arguments) in [
            ("edit", json!({"prompt": "p", "references": [path]})),
            ("edit", json!({"prompt": "p", "source": path})),
            ("upscale", json!({"image": path})),
            ("plan", json!({"references": [path]})),
        ] {
            let error = client.error(tool, arguments).await;
            assert!(!error.contains("a bug") && !error.contains("secret content"), "{path:?}: {error}");
            assert!(error.len() < 2500, "{path:?}: {} bytes", error.len());
        }
    }
    assert_eq!(files(site.folder.path()), before);
    // As files to be written, with an extension, so that only the path is to blame.
    for path in names.iter().filter(|path| !path.starts_with('$') && !path.starts_with("data:")) {
        let path = format!("{path}/x.png");
        let answer = client.call("generate", json!({"prompt": "p", "width": 64, "height": 64, "output": path})).await;
        let written =
            answer.is_error || site.root().join(answer.json()["pictures"][0]["file"].as_str().unwrap()).is_file();
        assert!(written, "{path}: {answer:?}");
    }
    assert_eq!(std::fs::read(&outside).unwrap(), b"secret");
    let new: Vec<_> = files(site.folder.path()).into_iter().filter(|name| !before.contains(name)).collect();
    assert!(new.iter().all(|name| name.starts_with("root/")), "{new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_are_sentences() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("x"),
        json!("\u{0}"),
        json!("NaN"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"a": {"b": 1}}),
        json!(["$1", 2, null]),
        json!("1e999"),
        json!("9".repeat(400)),
    ];
    let schemas = client.peer.list_all_tools().await.unwrap();
    for tool in &schemas {
        let properties: Vec<String> = tool.input_schema["properties"].as_object().unwrap().keys().cloned().collect();
        let name = TOOLS.into_iter().find(|name| **name == *tool.name).unwrap();
        for property in properties.iter().map(String::as_str).chain(["", "__proto__", "prompt\u{0}"]) {
            for value in &odd {
                let mut arguments = json!({"prompt": "p", "width": 64, "height": 64});
                if !["generate", "edit", "plan"].contains(&name) {
                    arguments = json!({});
                }
                arguments[property] = value.clone();
                // Waiting is bounded by a value of the call, which may be a large one.
                let call = client.call(name, arguments.clone());
                let answer = tokio::time::timeout(Duration::from_secs(30), call).await.unwrap();
                assert!(!answer.text.contains("a bug"), "{name} {arguments}: {}", answer.text);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tool_is_an_error_of_the_protocol_that_names_the_tools() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    for name in ["", "Generate", "rm -rf /", "x"] {
        let error = client.peer.call_tool(CallToolRequestParams::new(name)).await.unwrap_err();
        let ServiceError::McpError(error) = error else { panic!("{error}") };
        assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
        assert!(error.message.contains("the tools are generate, edit"), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_is_answered_and_bounded() {
    let site = Site::new(FakeOptions { step: Duration::from_secs(1), ..FakeOptions::default() });
    let client = site.client().await;
    let call = || client.call("generate", json!({"prompt": "p", "width": 64, "height": 64, "wait_seconds": 2}));
    let answers = futures(200, call).await;
    let refused = answers.iter().filter(|answer| answer.text.contains("64 calls are in progress")).count();
    assert_eq!((answers.len(), refused), (200, 200 - 64), "{:?}", answers.last());
    // It goes on working.
    assert_eq!(client.ok("plan", json!({})).await["steps"], 4);
}

/// The results of so many futures that run at the same time.
async fn futures<T, F: Future<Output = T>>(count: usize, make: impl Fn() -> F) -> Vec<T> {
    let mut running: Vec<_> = (0..count).map(|_| Box::pin(make())).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        running.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

pub const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn broken_messages_do_not_end_the_server() {
    let site = Site::new(FakeOptions::default());
    let stream = site.connect();
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    write.write_all(HELLO.as_bytes()).await.unwrap();
    let hello = lines.next_line().await.unwrap().unwrap();
    assert!(hello.contains("dj-flux2"), "{hello}");
    let mut deep = "[".repeat(100_000);
    deep += "\n";
    let broken: Vec<Vec<u8>> = vec![
        b"\n\n  \n".to_vec(),
        b"no json\n".to_vec(),
        b"{\"jsonrpc\":\"2.0\"\n".to_vec(),
        b"\xff\xfe\x00\n".to_vec(),
        b"null\n[]\n[1]\n{}\n\"x\"\n".to_vec(),
        br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","id":{},"method":"tools/call"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":3}}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","id":6,"method":"tools/call","params":[]}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","id":7,"method":"nothing"}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}"#.iter().copied().chain(*b"\n").collect(),
        br#"{"jsonrpc":"2.0","id":8,"result":{}}"#.iter().copied().chain(*b"\n").collect(),
        deep.into_bytes(),
        // A line of 20 MiB, which is more than is read.
        [vec![b'a'; 20 << 20], b"\n".to_vec()].concat(),
    ];
    for message in broken {
        write.write_all(&message).await.unwrap();
    }
    write.write_all(br#"{"jsonrpc":"2.0","id":"last","method":"tools/call","params":{"name":"plan"}}"#).await.unwrap();
    write.write_all(b"\n").await.unwrap();
    let found = tokio::time::timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if message["id"] == "last" {
                return Some(message);
            }
        }
        None
    });
    let found = found.await.unwrap().expect("an answer to the last request");
    assert_eq!(found["result"]["isError"], false, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_not_read_from() {
    let site = Site::new(FakeOptions::default());
    let mut stream = site.connect();
    stream.write_all(HELLO.as_bytes()).await.unwrap();
    let mut flood = String::new();
    for id in 1..=2000 {
        let _ = writeln!(flood, r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
    }
    // The server must stop reading long before this: its buffers and those of the socket hold far less.
    let flooded = async {
        let mut written = 0;
        loop {
            stream.write_all(flood.as_bytes()).await.unwrap();
            written += flood.len();
            assert!(written < 64 << 20, "the server reads on");
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), flooded).await.is_err());
    // Once the client reads, it is answered.
    let mut some = vec![0; 1 << 20];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut some)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&some).contains("\"generate\""));
}

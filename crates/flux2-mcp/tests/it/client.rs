//! A client and a server of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flux2_jobs::fake::{FakeHost, FakeOptions};
use flux2_jobs::{Jobs, Options};
use flux2_mcp::{Direct, Handler, Limits, Root, stdio};
use flux2_session::{History, HistoryOptions};
use rmcp::model::{CallToolRequestParams, CallToolResult, ProgressNotificationParam};
use rmcp::service::{NotificationContext, RoleClient, RunningService};
use rmcp::{ClientHandler, ServiceExt as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::DuplexStream;

/// Longest wait for something that should happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server, its folder, and its engine.
pub struct Site {
    pub jobs: Jobs,
    pub folder: TempDir,
}

impl Site {
    pub fn new(fake: FakeOptions) -> Self {
        let jobs = Jobs::start(Options::default(), Arc::new(FakeHost::new(fake))).unwrap();
        Site { jobs, folder: tempfile::tempdir().unwrap() }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The other end of a new server, as bytes.
    pub fn connect(&self) -> DuplexStream {
        let direct = Direct { jobs: self.jobs.clone(), limits: Limits { pixels: 1 << 20, ..Limits::default() } };
        let root = Root::open(&self.root()).unwrap();
        let opened = History::open(&root.path().join(".history"), HistoryOptions::default());
        // A client may still be there.
        let history = opened.map_or_else(|_| History::in_memory(HistoryOptions::default()), |(history, _)| history);
        let handler = Handler::of_one(Arc::new(direct), root, history);
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (read, write) = tokio::io::split(theirs);
            stdio::serve_on(handler, read, write).await
        });
        ours
    }

    pub async fn client(&self) -> Client {
        let progress = Arc::<Mutex<Vec<ProgressNotificationParam>>>::default();
        let peer = Watcher { progress: Arc::clone(&progress) }.serve(self.connect()).await.unwrap();
        Client { peer, progress }
    }
}

/// A client of the protocol.
pub struct Client {
    pub peer: RunningService<RoleClient, Watcher>,
    pub progress: Arc<Mutex<Vec<ProgressNotificationParam>>>,
}

/// Keeps what it is told of progress.
pub struct Watcher {
    progress: Arc<Mutex<Vec<ProgressNotificationParam>>>,
}

impl ClientHandler for Watcher {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.lock().unwrap().push(progress);
    }
}

/// An answer of a tool: whether it is an error, its text, and its pictures.
#[derive(Debug)]
pub struct Answer {
    pub is_error: bool,
    pub text: String,
    pub pictures: Vec<(String, Vec<u8>)>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl From<CallToolResult> for Answer {
    fn from(result: CallToolResult) -> Self {
        let texts: Vec<&str> = result.content.iter().filter_map(|block| Some(block.as_text()?.text.as_str())).collect();
        let images = result.content.iter().filter_map(|block| block.as_image());
        let picture =
            |image: &rmcp::model::ImageContent| (image.mime_type.clone(), BASE64_STANDARD.decode(&image.data).unwrap());
        Answer {
            is_error: result.is_error == Some(true),
            text: texts.concat(),
            pictures: images.map(picture).collect(),
        }
    }
}

impl Client {
    pub async fn call(&self, tool: &'static str, arguments: Value) -> Answer {
        let arguments = arguments.as_object().cloned().unwrap();
        let call = self.peer.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments));
        tokio::time::timeout(PATIENCE, call).await.expect("an answer in time").unwrap().into()
    }

    /// The JSON of a call that must succeed.
    #[track_caller]
    pub fn ok(&self, tool: &'static str, arguments: Value) -> impl Future<Output = Value> {
        let at = std::panic::Location::caller();
        async move {
            let answer = self.call(tool, arguments).await;
            assert!(!answer.is_error, "{at}: {}", answer.text);
            answer.json()
        }
    }

    /// The sentence of a call that must fail.
    pub async fn error(&self, tool: &'static str, arguments: Value) -> String {
        let answer = self.call(tool, arguments.clone()).await;
        assert!(answer.is_error && answer.pictures.is_empty(), "{tool} {arguments}: {}", answer.text);
        answer.text
    }
}

/// Names of all files below a folder, but for those of the history.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.strip_prefix(folder).unwrap().display().to_string();
            match entry.is_dir() {
                true if name == ".history" => {}
                true => folders.push(entry),
                false => found.push(name),
            }
        }
    }
    found.sort();
    found
}

pub async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: it never happened");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

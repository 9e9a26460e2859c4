//! Models from a hub on loopback: names, exit codes, what survives a kill. The tiny checkpoint plays klein-4b.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::cli::{Cli, QUICK, fixture, shown};
use crate::snapshot;
use server::{Answer, COMMIT, REPO, Repo, Request, Server, bytes, hash};

#[path = "../../../flux2/tests/it/hub/server.rs"]
#[expect(dead_code, reason = "the tests of the library use all of it")]
mod server;

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// The tiny checkpoint as it would be published.
fn tiny() -> Repo {
    let root = fixture("tiny/klein");
    let mut repo = Repo::default().with("README.md", "not needed").with("flux-2-klein-4b.safetensors", bytes(1, 99));
    for folder in ["", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"] {
        let mut files: Vec<PathBuf> = fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|path| path.is_file());
        files.sort();
        for file in files {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            repo = repo.with(&path, fs::read(file).unwrap());
        }
    }
    repo
}

/// A folder with a cache, and a hub.
struct Hub {
    cli: Cli,
    server: Server,
}

impl Hub {
    fn start(repo: Repo, faults: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Hub { cli: Cli::without_model(), server: Server::start(repo, faults) }
    }

    fn honest() -> Self {
        Self::start(tiny(), |_| Answer::File)
    }

    fn cache(&self) -> PathBuf {
        self.cli.path("cache")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.cli.command(args);
        command.env("HF_ENDPOINT", &self.server.url).env("HF_HUB_CACHE", self.cache());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Exit code and output, without what differs from run to run.
    fn run(&self, args: &[&str]) -> String {
        self.shown(&self.output(args))
    }

    fn shown(&self, output: &Output) -> String {
        let (url, folder) = (&self.server.url, self.cli.path(""));
        let host = url.strip_prefix("http://").unwrap();
        let text = shown(output).replace(url, "[HUB]").replace(host, "[HUB]");
        text.replace(&format!("{}/", folder.display().to_string().trim_end_matches('/')), "")
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("models--black-forest-labs--FLUX.2-klein-4B/snapshots").join(COMMIT)
    }
}

/// Every file of a repository that is in a snapshot has its bytes, and those in folders are all there.
fn assert_whole(snapshot: &Path, repo: &Repo) {
    for (path, bytes) in repo.files().iter().filter(|(path, _)| path.contains('/') || path == "model_index.json") {
        assert!(fs::read(snapshot.join(path)).unwrap_or_else(|e| panic!("{path}: {e}")) == *bytes, "{path} differs");
    }
}

#[test]
fn a_name_becomes_a_model_that_draws() {
    let hub = Hub::honest();
    // There is no terminal to ask on.
    snapshot!(hub.run(&["a red fox", "-m", "klein-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-4b is not on this disk
    hint: download it (16.0 GB) with `dj-flux2 download klein-4b`, or pass its folder with -m PATH
    ");
    assert!(hub.server.seen().is_empty());

    let said = hub.run(&["download", "klein-4b"]);
    let (stdout, stderr) = said.split_once("----- stderr -----\n").unwrap();
    snapshot!(stdout, @"
    exit code: 0
    ----- stdout -----
    cache/models--black-forest-labs--FLUX.2-klein-4B/snapshots/0123456789abcdef0123456789abcdef01234567
    ");
    let mut lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.remove(0), "12 files, 2.3 MB");
    lines.sort();
    snapshot!(lines[lines.len() - 1], @"vae/diffusion_pytorch_model.safetensors 443 kB [TIME]");
    assert_eq!(lines.len(), 12);
    assert_whole(&hub.snapshot(), &tiny());

    // No network from here on.
    let run = |args: &[&str]| {
        let output = hub.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
    };
    let seen = hub.server.seen().len();
    let fox = |model: &str, file: &str| {
        run(&[&["a red fox", "--no-metadata", "-m", model, "-o", file], &QUICK[..]].concat());
        hub.cli.read(file)
    };
    let expected = fox(fixture("tiny/klein").to_str().unwrap(), "folder.png");
    assert!(fox("klein-4b", "name.png") == expected);
    assert!(fox(REPO, "repository.png") == expected);
    run(&[&["a red fox", "-m", REPO, "-o", "named.png"], &QUICK[..]].concat());
    // A model of no published size is named after its repository, never after a commit hash.
    assert!(hub.run(&["info", "named.png"]).contains("model       FLUX.2-klein-4B\n"));
    // A whole model in the place of a network: the one in it.
    let part = ["a red fox", "--no-metadata", "-m", "klein-4b", "--text-encoder", REPO, "-o", "part.png"];
    run(&[&part, &QUICK[..]].concat());
    assert!(hub.cli.read("part.png") == expected);
    assert_eq!(hub.server.seen().len(), seen);
}

#[test]
fn a_download_that_is_complete_says_so() {
    let hub = Hub::honest();
    hub.run(&["download", "-q"]);
    snapshot!(hub.run(&["download", "black-forest-labs/FLUX.2-klein-4B"]), @"
    exit code: 0
    ----- stdout -----
    cache/models--black-forest-labs--FLUX.2-klein-4B/snapshots/0123456789abcdef0123456789abcdef01234567
    ----- stderr -----
    note: all 12 files of black-forest-labs/FLUX.2-klein-4B are on this disk, 2.3 MB
    ");
    snapshot!(hub.run(&["download", "-q"]), @"
    exit code: 0
    ----- stdout -----
    cache/models--black-forest-labs--FLUX.2-klein-4B/snapshots/0123456789abcdef0123456789abcdef01234567
    ");
    if cfg!(feature = "mini") {
        let said = hub.run(&["a cat", "-S", "7"]);
        assert!(said.contains("emoji-like); for FLUX.2 [klein], which is here, add -m klein-4b\n"), "{said}");
    }
}

#[test]
fn names_that_are_none() {
    let hub = Hub::honest();
    snapshot!(hub.run(&["download", "klien-4b"]), @r#"
    exit code: 2
    ----- stderr -----
    error: no model is called "klien-4b"
    hint: use klein-4b, or a repository as owner/name
    "#);
    snapshot!(hub.run(&["download", "klein-mini"]), @"
    exit code: 2
    ----- stderr -----
    error: klein-mini is built in
    hint: use it with -m klein-mini
    ");
    snapshot!(hub.run(&["download", "klein-base"]), @"
    exit code: 2
    ----- stderr -----
    error: klein-base is published in several sizes
    hint: name one, as in klein-4b
    ");
    snapshot!(shown(&hub.cli.output(["download"])), @"
    exit code: 2
    ----- stderr -----
    error: no folder for models: neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set
    hint: set HF_HUB_CACHE to a folder with room for them
    ");
    assert!(hub.server.seen().is_empty() && !hub.cache().exists());
}

#[test]
fn every_trouble_has_its_words_and_its_exit_code() {
    let weights = |answer: Answer| move |r: &Request| if r.file == WEIGHTS { answer.clone() } else { Answer::File };
    let download = |hub: Hub, model: &str| {
        let said = hub.run(&["download", "-q", model]);
        assert_eq!(hub.run(&["a red fox", "-m", model]).lines().next(), Some("exit code: 3"));
        said
    };
    let gated = || Answer::Status(401, vec![("X-Error-Code", "GatedRepo".into())]);
    snapshot!(download(Hub::start(tiny(), weights(gated())), "klein-9b"), @"
    exit code: 4
    ----- stderr -----
    error: black-forest-labs/FLUX.2-klein-9B is given to those who accepted its license (FLUX Non-Commercial License), and no token says who asks
    hint: accept the license at [HUB]/black-forest-labs/FLUX.2-klein-9B, make a token at [HUB]/settings/tokens and pass it with HF_TOKEN=hf_… or `hf auth login`
    ");
    let hub = Hub::start(tiny(), weights(gated()));
    let output = hub.command(&["download", "-q", "klein-9b"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    snapshot!(hub.shown(&output), @"
    exit code: 4
    ----- stderr -----
    error: black-forest-labs/FLUX.2-klein-9B is not given to the account of this token: its license (FLUX Non-Commercial License) is not accepted
    hint: accept the license at [HUB]/black-forest-labs/FLUX.2-klein-9B with the account of the token, and let the token read gated models
    ");
    assert_eq!(hub.server.seen_of(WEIGHTS)[0].headers["authorization"], "Bearer hf_secret");
    snapshot!(download(Hub::start(tiny(), |_| Answer::Status(404, vec![])), "nobody/nothing"), @"
    exit code: 3
    ----- stderr -----
    error: [HUB] knows no repository nobody/nothing
    hint: correct the name; if the repository is private, pass a token with HF_TOKEN
    ");
    snapshot!(download(Hub::start(tiny(), weights(Answer::Length(5))), "klein-4b"), @"
    exit code: 1
    ----- stderr -----
    error: transformer/diffusion_pytorch_model.safetensors: the server offers 5 bytes, the hub names 924184
    hint: run it again; if it stays, something between here and the hub changes files
    ");
    snapshot!(download(Hub::start(tiny(), weights(Answer::Corrupt(9))), "klein-4b"), @"
    exit code: 1
    ----- stderr -----
    error: transformer/diffusion_pytorch_model.safetensors: its hash is [SHA-256], the hub names [SHA-256]
    hint: run it again; if it stays, something between here and the hub changes files
    ");
    snapshot!(download(Hub::start(tiny(), |_| Answer::Text("<html>".into())), "klein-4b"), @"
    exit code: 1
    ----- stderr -----
    error: [HUB] does not answer as a hub does: its list of files cannot be read: expected value at line 1 column 1
    hint: check HF_ENDPOINT, and whether a login page is in the way
    ");
    let listing = tiny().listing().replace(r#""size":924184"#, r#""size":3000000000000000"#);
    let large =
        move |r: &Request| if r.file.starts_with("/api") { Answer::Text(listing.clone()) } else { Answer::File };
    let said = download(Hub::start(tiny(), large), "klein-4b");
    assert!(said.starts_with("exit code: 1\n") && said.contains("cache: 3000000.0 GB are missing, "), "{said}");

    let hub = Hub::honest();
    let offline = hub.command(&["download"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    snapshot!(hub.shown(&offline), @"
    exit code: 3
    ----- stderr -----
    error: black-forest-labs/FLUX.2-klein-4B must be downloaded, but network access is turned off
    hint: unset HF_HUB_OFFLINE to use the network
    ");
    let unreachable = hub.command(&["download"]).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    snapshot!(hub.shown(&unreachable), @"
    exit code: 3
    ----- stderr -----
    error: 127.0.0.1:1 cannot be reached: Connection refused
    hint: check the network, HF_ENDPOINT and the proxies, then run it again
    ");
    let endpoint = hub.command(&["download"]).env("HF_ENDPOINT", "hub.corp").output().unwrap();
    snapshot!(hub.shown(&endpoint), @"
    exit code: 2
    ----- stderr -----
    error: the endpoint of the hub is not a URL that can be used
    hint: write it as in https://huggingface.co or http://proxy:3128
    ");
    assert!(hub.server.seen().is_empty());
}

#[test]
fn models_are_listed_verified_repaired_and_removed() {
    let hub = Hub::honest();
    let none = hub.run(&["models"]);
    // Five models, six upscalers.
    assert_eq!(none.matches("not on this disk").count(), 5 + 6, "{none}");
    snapshot!(hub.run(&["verify"]), @"
    exit code: 3
    ----- stderr -----
    error: no model is in cache
    hint: download one with `dj-flux2 download klein-4b`
    ");
    snapshot!(hub.run(&["remove", "klein-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-4b is not in cache
    hint: run `dj-flux2 models` to see what is on this disk
    ");
    hub.run(&["download", "-q"]);
    if cfg!(feature = "mini") {
        snapshot!(hub.run(&["models"]), @"
        exit code: 0
        ----- stdout -----
        name                            size    memory  license                             where
        klein-4b                      2.3 MB    8.6 GB  Apache-2.0                          cache/models--black-forest-labs--FLUX.2-klein-4B/snapshots/0123456789abcdef0123456789abcdef01234567
        klein-base-4b                16.0 GB    8.6 GB  Apache-2.0                          not on this disk
        klein-9b                     34.7 GB   20.0 GB  FLUX Non-Commercial License, gated  not on this disk
        klein-base-9b                34.7 GB   20.0 GB  FLUX Non-Commercial License, gated  not on this disk
        klein-9b-kv                  34.7 GB   20.0 GB  FLUX Non-Commercial License, gated  not on this disk
        klein-mini                                      MIT AND OFL-1.1                     built in

        upscaler                        size            license                             where
        realesr-general-x4v3          4.9 MB            BSD-3-Clause                        not on this disk
        realesr-animevideov3          2.5 MB            BSD-3-Clause                        not on this disk
        realesrgan-x4plus              67 MB            BSD-3-Clause                        not on this disk
        realesrgan-x2plus              67 MB            BSD-3-Clause                        not on this disk
        realesrgan-x4plus-anime-6b     18 MB            BSD-3-Clause                        not on this disk
        realesrnet-x4plus              67 MB            BSD-3-Clause                        not on this disk
        ");
    }
    let rows = String::from_utf8(hub.output(&["models", "--json"]).stdout).unwrap();
    let row: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!((&row["name"], &row["state"], &row["gated"]), (&"klein-4b".into(), &"complete".into(), &false.into()));
    assert_eq!(row["path"].as_str(), hub.snapshot().to_str());
    assert_eq!(hub.run(&["verify", "-q"]), "exit code: 0\n----- stdout -----\nklein-4b: 12 files, all whole\n");

    let blob = hub.snapshot().join(WEIGHTS).canonicalize().unwrap();
    let whole = fs::read(&blob).unwrap();
    let mut damaged = whole.clone();
    damaged[500_000] ^= 1;
    fs::write(&blob, damaged).unwrap();
    snapshot!(hub.run(&["verify", "klein-4b"]), @"
    exit code: 1
    ----- stderr -----
    12 files, 2.3 MB
    warning: klein-4b: transformer/diffusion_pytorch_model.safetensors is damaged
    error: klein-4b: a file is damaged
    hint: download what is damaged or missing with `dj-flux2 verify --repair klein-4b`
    ");
    let seen = hub.server.seen().len();
    assert_eq!(hub.run(&["verify", "-q", "--repair"]), "exit code: 0\n----- stdout -----\nklein-4b: repaired\n");
    assert!(fs::read(&blob).unwrap() == whole);
    assert_eq!(hub.server.seen().len(), seen + 2);

    fs::remove_file(&blob).unwrap();
    snapshot!(hub.run(&["a red fox", "-m", "klein-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-4b is only partly on this disk
    hint: download it (16.0 GB) with `dj-flux2 download klein-4b`, or pass its folder with -m PATH
    ");
    assert!(hub.run(&["models"]).contains("only partly on this disk"));
    snapshot!(hub.run(&["verify", "-q", "klein-4b"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-4b is only partly on this disk
    hint: download what is damaged or missing with `dj-flux2 verify --repair klein-4b`
    ");
    snapshot!(hub.run(&["remove", "klein-4b"]), @"
    exit code: 2
    ----- stderr -----
    error: no terminal to confirm that klein-4b, 1.3 MB in cache/models--black-forest-labs--FLUX.2-klein-4B is to be removed
    hint: add --yes
    ");
    snapshot!(hub.run(&["remove", "--yes", "klein-4b"]), @"
    exit code: 0
    ----- stderr -----
    removed klein-4b, 1.3 MB freed
    ");
    assert!(!hub.cache().join("models--black-forest-labs--FLUX.2-klein-4B").exists());
}

#[test]
fn what_cannot_be_verified_is_no_success() {
    let hub = Hub::honest();
    hub.run(&["download", "-q"]);
    let snapshot = hub.snapshot();
    let folder = snapshot.parent().unwrap().parent().unwrap().to_owned();
    // As another program leaves it where there are no links.
    for (path, _) in tiny().files() {
        if let Ok(blob) = snapshot.join(path).canonicalize() {
            fs::remove_file(snapshot.join(path)).unwrap();
            fs::copy(blob, snapshot.join(path)).unwrap();
        }
    }
    fs::remove_dir_all(folder.join("blobs")).unwrap();
    assert_eq!(hub.run(&["verify", "-q"]), "exit code: 0\n----- stdout -----\nklein-4b: 12 files, all whole\n");
    fs::remove_dir_all(folder.join("digests")).unwrap();
    snapshot!(hub.run(&["verify", "klein-4b"]), @"
    exit code: 1
    ----- stderr -----
    warning: klein-4b: no hash of model_index.json is recorded
    warning: klein-4b: no hash of scheduler/scheduler_config.json is recorded
    warning: klein-4b: no hash of text_encoder/config.json is recorded
    warning: klein-4b: no hash of text_encoder/model-00001-of-00002.safetensors is recorded
    warning: klein-4b: no hash of text_encoder/model-00002-of-00002.safetensors is recorded
    warning: klein-4b: nor of 7 more files
    error: klein-4b: 12 of 12 files cannot be verified
    hint: compare them with the hub with `dj-flux2 verify --repair klein-4b`
    ");
    // A cut file is found without a hash.
    let weights = fs::read(snapshot.join(WEIGHTS)).unwrap();
    fs::write(snapshot.join(WEIGHTS), &weights[..weights.len() - 1]).unwrap();
    let said = hub.run(&["verify", "klein-4b"]);
    assert!(said.starts_with("exit code: 1\n") && said.contains("error: klein-4b: a file is damaged\n"), "{said}");
    let said = hub.run(&["verify", snapshot.to_str().unwrap()]);
    assert!(said.starts_with("exit code: 1\n") && said.contains(": a file is damaged\n"), "{said}");
    assert!(hub.run(&["models"]).contains("2.3 MB"));
    assert_eq!(hub.run(&["verify", "-q", "--repair"]), "exit code: 0\n----- stdout -----\nklein-4b: repaired\n");
    assert!(fs::read(snapshot.join(WEIGHTS)).unwrap() == weights);
    assert_eq!(hub.server.seen_of(WEIGHTS).len(), 2);
    assert_eq!(hub.run(&["verify", "-q"]), "exit code: 0\n----- stdout -----\nklein-4b: 12 files, all whole\n");
    let said = hub.run(&["remove", "--yes", "klein-4b"]);
    assert!(said.contains("removed klein-4b, 2.3 MB freed"), "{said}");
}

#[test]
fn paths_that_cannot_be_verified() {
    let hub = Hub::honest();
    fs::create_dir(hub.cli.path("empty")).unwrap();
    fs::write(hub.cli.path("a.safetensors"), "").unwrap();
    snapshot!(hub.run(&["verify", "empty"]), @"
    exit code: 3
    ----- stderr -----
    error: empty holds no files of a model
    hint: name the folder of a model
    ");
    snapshot!(hub.run(&["verify", "a.safetensors"]), @"
    exit code: 2
    ----- stderr -----
    error: a.safetensors is a file, and hashes are recorded beside folders
    hint: name its folder; `dj-flux2 inspect` checks what a file holds
    ");
    snapshot!(hub.run(&["verify", "--repair", "empty"]), @"
    exit code: 2
    ----- stderr -----
    error: a folder cannot be repaired: nothing says which repository it is
    hint: name the model, as in `dj-flux2 verify --repair klein-4b`
    ");
}

#[test]
fn a_repository_in_another_case_or_nearly_named() {
    let hub = Hub::honest();
    hub.run(&["download", "-q"]);
    let folder = |name: &str| hub.cache().join(name);
    let other = folder("models--Black-Forest-Labs--flux.2-klein-4b");
    fs::rename(folder("models--black-forest-labs--FLUX.2-klein-4B"), &other).unwrap();
    for name in ["klein-4b", "BLACK-FOREST-LABS/flux.2-KLEIN-4B"] {
        let said = hub.run(&[&["a red fox", "-m", name, "-o", "fox.png"], &QUICK[..]].concat());
        assert!(said.starts_with("exit code: 0\n"), "{said}");
    }
    assert_eq!(hub.run(&["verify", "-q"]), "exit code: 0\n----- stdout -----\nklein-4b: 12 files, all whole\n");
    let models = hub.run(&["models"]);
    let missing =
        models.lines().filter(|line| line.starts_with("klein-") && line.ends_with("not on this disk")).count();
    assert_eq!((models.matches("klein-4b").count(), missing), (2, 4), "{models}");
    fs::rename(&other, folder("models--somebody--my-klein")).unwrap();
    snapshot!(hub.run(&["a red fox", "-m", "somebody/my-klien"]), @"
    exit code: 3
    ----- stderr -----
    error: no model at somebody/my-klien
    hint: pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file; the nearest name of a model is somebody/my-klein; to download a Hugging Face repository, run `dj-flux2 download somebody/my-klien`
    ");
    snapshot!(hub.run(&["a red fox", "-m", "FLUX.2-klein-9B"]), @"
    exit code: 3
    ----- stderr -----
    error: klein-9b is not on this disk
    hint: download it (34.7 GB) with `dj-flux2 download klein-9b`, or pass its folder with -m PATH
    ");
    let home = hub.cli.path("");
    let output = hub.command(&["models"]).env("HOME", &home).env("HF_HUB_CACHE", "~/cache").output().unwrap();
    assert!(hub.shown(&output).contains("somebody/my-klein"));
}

#[test]
fn a_lone_file_of_weights_stands_for_its_repository() {
    let transformer = fs::read(fixture("tiny/klein-bfl/transformer.safetensors")).unwrap();
    let repo = Repo::default().with("klein.safetensors", transformer).with("README.md", "x");
    let hub = Hub::start(repo, |_| Answer::File);
    hub.run(&["download", "-q", "owner/single"]);
    let said = hub.run(&["a red fox", "-m", "owner/single"]);
    assert!(said.contains("klein.safetensors holds no text encoder, and none is named"), "{said}");
}

#[test]
fn two_processes_at_once_receive_each_file_once() {
    let hub = Hub::start(tiny(), |_| Answer::Slow(20_000, Duration::from_millis(4)));
    let start = || hub.command(&["download"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let children = [start(), start()];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
    }
    assert_whole(&hub.snapshot(), &tiny());
    assert_eq!(hub.server.seen_of(WEIGHTS).len(), 1);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_download_which_goes_on_later() {
    let hub = Hub::start(tiny(), |request| match (request.file.as_str(), request.number) {
        (WEIGHTS, 0) => Answer::Stall(400_000, Duration::from_secs(20)),
        _ => Answer::File,
    });
    let child = hub.command(&["download"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let incomplete = || {
        let blobs = fs::read_dir(hub.cache().join("models--black-forest-labs--FLUX.2-klein-4B/blobs"));
        let names = blobs.into_iter().flatten().map(|entry| entry.unwrap());
        let partial = names.filter(|entry| entry.path().extension().is_some_and(|end| end == "incomplete"));
        partial.map(|entry| entry.metadata().map_or(0, |meta| meta.len())).max()
    };
    while incomplete() != Some(400_000) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = std::time::Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(output.status.code(), Some(130), "{}", shown(&output));
    assert_eq!(incomplete(), Some(400_000));
    assert!(hub.output(&["download", "-q"]).status.success());
    assert_eq!(hub.server.seen_of(WEIGHTS)[1].from, Some(400_000));
    assert_whole(&hub.snapshot(), &tiny());
}

/// A process cannot react to SIGKILL. After a hundred of them at random moments, all files are there, with the right
/// bytes, and nothing else.
#[test]
fn a_hundred_kills_end_with_the_right_bytes() {
    let mut repo = Repo::default().with("model_index.json", "{}").with("vae/config.json", "[]");
    for (seed, folder) in ["transformer", "text_encoder"].into_iter().enumerate() {
        repo = repo.with(&format!("{folder}/config.json"), bytes(seed as u64, 3_000 + seed));
    }
    for (seed, folder) in ["transformer", "text_encoder", "vae"].into_iter().enumerate() {
        repo = repo.with(&format!("{folder}/model.safetensors"), bytes(10 + seed as u64, 150_000 * (seed + 1)));
    }
    // Some connections are also cut, and some bytes are wrong.
    let faults = |request: &Request| match (request.file.len() + 7 * request.number) % 11 {
        3 => Answer::Cut(40_000),
        5 if request.file.ends_with(".safetensors") && request.from.is_none() => Answer::Corrupt(1_000),
        8 => Answer::Whole,
        _ => Answer::Slow(10_000, Duration::from_millis(2)),
    };
    let hub = Hub::start(repo.clone(), faults);
    let download = || hub.command(&["download"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let moments = bytes(99, 1000);
    let (mut kills, mut finished) = (0, 0);
    for moment in moments {
        let mut child = download();
        std::thread::sleep(Duration::from_millis(u64::from(moment) / 4));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // The download finished before the kill: start over.
            assert_whole(&hub.snapshot(), &repo);
            fs::remove_dir_all(hub.cache()).unwrap();
            finished += 1;
        } else {
            kills += 1;
        }
        if kills == 100 {
            break;
        }
    }
    assert!(kills == 100 && finished < 100, "{kills} kills, {finished} finished");
    let output = hub.output(&["download"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_whole(&hub.snapshot(), &repo);
    let mut blobs: Vec<String> = fs::read_dir(hub.snapshot().join("../../blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    blobs.sort();
    let mut expected: Vec<String> = repo.files().iter().map(|(path, bytes)| hash(path, bytes)).collect();
    expected.sort();
    assert_eq!(blobs, expected);
    assert!(hub.run(&["verify", "-q"]).contains("7 files, all whole"));
}

#[test]
fn an_upscaler_of_other_bytes_is_refused() {
    let path = "/xinntao/Real-ESRGAN/releases/download/v0.2.5.0/realesr-animevideov3.pth";
    let hub = Hub::start(Repo::default().with(path, bytes(5, 2_504_012)), |_| Answer::File);
    let output = |args: &[&str]| {
        let (releases, caches) = (("DJ_FLUX2_RELEASES", &hub.server.url), ("XDG_CACHE_HOME", hub.cli.path("own")));
        hub.shown(&hub.command(args).envs([releases]).envs([caches]).output().unwrap())
    };
    let said = output(&["download", "realesr-animevideov3"]);
    assert!(said.starts_with("exit code: 1\n") && said.contains("realesr-animevideov3.pth: its hash is "), "{said}");
    assert!(hub.server.seen().iter().all(|request| request.file == path), "only this file is asked for");
    let said = output(&["upscale", "in.png", "--upscaler", "realesr-animevideov3"]);
    assert!(said.contains("dj-flux2 download realesr-animevideov3"), "{said}");
}

/// The cache of a published upscaler with other bytes, as a damaged disk would leave it.
#[cfg(unix)]
#[test]
fn models_verify_and_remove_know_a_downloaded_upscaler() {
    let hub = Hub::start(Repo::default(), |_| Answer::File);
    let output = |args: &[&str]| {
        let caches = ("XDG_CACHE_HOME", hub.cli.path("own"));
        hub.shown(&hub.command(args).envs([caches]).output().unwrap())
    };
    let listed = |name: &str| -> serde_json::Value {
        let shown = output(&["models", "--json", name]);
        serde_json::from_str(shown.lines().find(|line| line.starts_with('{')).unwrap()).unwrap()
    };
    let name = "realesr-animevideov3";
    let absent = listed(name);
    assert_eq!((&absent["kind"], &absent["state"]), (&"upscaler".into(), &"absent".into()));
    assert_eq!(listed("klein-4b")["kind"], "model");
    for args in [&["verify", name][..], &["remove", "-y", name]] {
        let said = output(args);
        assert!(said.starts_with("exit code: 3\n") && said.contains(&format!("{name} is not ")), "{said}");
    }
    let folder = hub.cli.path("own/dj-flux2/upscalers/models--xinntao--realesr-animevideov3");
    let digest = "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d";
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("snapshots/v0.2.5.0")).unwrap();
    fs::write(folder.join("blobs").join(digest), bytes(5, 2_504_012)).unwrap();
    let link = folder.join("snapshots/v0.2.5.0/realesr-animevideov3.pth");
    std::os::unix::fs::symlink(format!("../../blobs/{digest}"), &link).unwrap();
    let there = listed("RealESR_animevideov3");
    assert_eq!((&there["state"], &there["bytes"]), (&"complete".into(), &2_504_012.into()));
    let table = output(&["models"]);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line(name).contains("2.5 MB") && line(name).contains("BSD-3-Clause"), "{table}");
    assert!(line("realesrgan-x4plus ").ends_with("not on this disk"), "{table}");
    for args in [&["verify"][..], &["verify", name]] {
        let said = output(args);
        assert!(said.starts_with("exit code: 1\n") && said.contains(&format!("{name}: a file is damaged")), "{said}");
    }
    let said = output(&["remove", name]);
    assert!(said.contains("add --yes"), "{said}");
    let said = output(&["remove", "-y", name]);
    assert!(said.contains(&format!("removed {name}, 2.5 MB freed")) && !folder.exists(), "{said}");
}

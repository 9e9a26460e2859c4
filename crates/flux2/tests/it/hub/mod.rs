//! Downloads from a loopback server that misbehaves in every way a server can. No network, seeded bytes.

mod cache;

mod release;
pub mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flux2::hub::{
    Cache, Checked, Error, Hub, HubOptions, Patience, Proxies, RepoId, State, Token, Verdict, verify_folder,
};
use flux2::{CancelToken, ErrorKind, TransferEvent, Variant};
use server::{Answer, COMMIT, REPO, Repo, Request, Server, bytes, hash};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// Files that make a repository look like a model.
fn model() -> Repo {
    Repo::default()
        .with("README.md", "not needed")
        .with("flux-2-klein-4b.safetensors", bytes(1, 999))
        .with("model_index.json", r#"{"_class_name": "Flux2KleinPipeline"}"#)
        .with("tokenizer/tokenizer.json", bytes(2, 5000))
        .with("text_encoder/config.json", "{}")
        .with("text_encoder/model.safetensors", bytes(3, 70_001))
        .with("transformer/config.json", "{}")
        .with(WEIGHTS, bytes(4, 300_000))
        .with("vae/config.json", "[]")
        .with("vae/diffusion_pytorch_model.safetensors", bytes(5, 40_000))
}

fn repo() -> RepoId {
    REPO.parse().unwrap()
}

/// A temporary cache folder to download to.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::TempDir::new().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn blobs(&self) -> PathBuf {
        self.root().join("models--black-forest-labs--FLUX.2-klein-4B/blobs")
    }

    fn options(&self, server: &Server) -> HubOptions {
        HubOptions {
            endpoint: server.url.clone(),
            patience: Patience {
                silence: Duration::from_secs(1),
                attempts: 4,
                pause: Duration::from_millis(1),
                longest_pause: Duration::from_secs(5),
            },
            license_of: |repo| Variant::by_repo(repo).map(|variant| variant.license),
            ..HubOptions::new(self.root())
        }
    }

    fn hub(&self, server: &Server) -> Hub {
        Hub::new(self.options(server)).unwrap()
    }

    fn download(&self, server: &Server) -> Result<PathBuf, Error> {
        download(&self.hub(server)).0
    }

    fn problem(&self, server: &Server) -> Error {
        self.download(server).unwrap_err()
    }
}

fn download(hub: &Hub) -> (Result<PathBuf, Error>, Vec<TransferEvent>) {
    let mut events = Vec::new();
    let mut observer = |event: &TransferEvent| events.push(event.clone());
    let plan = hub.plan(&repo());
    let done = plan.and_then(|plan| hub.download(&plan, &mut observer, &CancelToken::new()));
    (done, events)
}

/// Asserts that the cache holds exactly the needed files, under their names and hashes, byte for byte.
fn assert_whole(root: &Path, snapshot: &Path, expected: &Repo) {
    let needed = |path: &str| path.contains('/') || path == "model_index.json";
    let folder = root.join("models--black-forest-labs--FLUX.2-klein-4B");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    let mut blobs = Vec::new();
    for (path, bytes) in expected.files() {
        let place = snapshot.join(path);
        assert_eq!(place.exists(), needed(path), "{path}");
        if needed(path) {
            assert!(fs::read(&place).unwrap() == *bytes, "{path} differs");
            blobs.push(hash(path, bytes));
            #[cfg(unix)]
            {
                let up = if path.contains('/') { "../../../blobs" } else { "../../blobs" };
                assert_eq!(fs::read_link(&place).unwrap(), Path::new(up).join(hash(path, bytes)));
            }
        }
    }
    blobs.sort();
    blobs.dedup();
    let mut found: Vec<String> =
        fs::read_dir(folder.join("blobs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, blobs);
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(Cache::new(root).find(&repo()).unwrap().as_deref(), Some(snapshot));
}

/// Downloads from a server with faults; must succeed.
fn survives(faults: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Server, Vec<TransferEvent>) {
    let (place, server) = (Place::new(), Server::start(model(), faults));
    let (done, events) = download(&place.hub(&server));
    assert_whole(&place.root(), &done.unwrap(), &model());
    (server, events)
}

/// Faults for the transformer's weights; other files are served correctly.
fn weights(
    fault: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| if request.file == WEIGHTS { fault(request) } else { Answer::File }
}

#[test]
fn a_model_comes_whole_and_only_once() {
    let (place, server) = (Place::new(), Server::honest(model()));
    let hub = place.hub(&server);
    let plan = hub.plan(&repo()).unwrap();
    assert_eq!(hub.missing_bytes(&plan), plan.bytes());
    let (done, events) = download(&hub);
    assert_whole(&place.root(), &done.unwrap(), &model());
    let total = plan.bytes();
    assert_eq!(events.first(), Some(&TransferEvent::Started { files: 8, done: 0, total }));
    let last = events.iter().rev().find(|event| matches!(event, TransferEvent::Progress { .. }));
    assert_eq!(last, Some(&TransferEvent::Progress { done: total }));
    assert_eq!(events.iter().filter(|event| matches!(event, TransferEvent::FileFinished { .. })).count(), 8);
    // Only needed files were requested; of two files with the same bytes, possibly one.
    assert!(server.seen_of("README.md").is_empty() && server.seen_of("flux-2-klein-4b.safetensors").is_empty());

    let before = server.seen().len();
    assert_eq!(hub.missing_bytes(&hub.plan(&repo()).unwrap()), 0);
    let (done, events) = download(&hub);
    assert_whole(&place.root(), &done.unwrap(), &model());
    assert_eq!((events, server.seen().len()), (vec![], before + 2));
}

#[test]
fn what_another_program_left_is_used() {
    let (place, server) = (Place::new(), Server::honest(model()));
    fs::create_dir_all(place.blobs()).unwrap();
    let (_, whole) = &model().files()[7].clone();
    let name = hash(WEIGHTS, whole);
    fs::write(place.blobs().join(format!("{name}.incomplete")), &whole[..123_456]).unwrap();
    let vae = bytes(5, 40_000);
    fs::write(place.blobs().join(hash("vae.safetensors", &vae)), &vae).unwrap();
    let (done, events) = download(&place.hub(&server));
    assert_whole(&place.root(), &done.unwrap(), &model());
    assert!(matches!(events[0], TransferEvent::Started { done: 123_456, .. }), "{events:?}");
    assert_eq!(server.seen_of(WEIGHTS)[0].from, Some(123_456));
    assert!(server.seen_of("vae/diffusion_pytorch_model.safetensors").is_empty());
}

#[test]
fn what_another_program_left_is_not_believed() {
    for (left, asked) in [
        (vec![7; 100_000], vec![Some(100_000), None]), // wrong bytes: the hash differs, then restarts
        (vec![7; 300_000], vec![None]),                // the length of the file
        (vec![7; 300_001], vec![None]),                // longer
    ] {
        let (place, server) = (Place::new(), Server::honest(model()));
        fs::create_dir_all(place.blobs()).unwrap();
        let name = hash(WEIGHTS, &bytes(4, 300_000));
        fs::write(place.blobs().join(format!("{name}.incomplete")), left).unwrap();
        // A blob of the wrong length is ignored.
        fs::write(place.blobs().join(hash("vae.safetensors", &bytes(5, 40_000))), "short").unwrap();
        assert_whole(&place.root(), &place.download(&server).unwrap(), &model());
        assert_eq!(server.seen_of(WEIGHTS).iter().map(|request| request.from).collect::<Vec<_>>(), asked);
    }
}

#[test]
fn cut_connections_are_resumed() {
    let (server, events) = survives(weights(|request| match request.number {
        0 => Answer::Cut(100_000),
        1 => Answer::Cut(1),
        2 => Answer::HangUp,
        3 => Answer::Cut(0),
        _ => Answer::File,
    }));
    let from: Vec<_> = server.seen_of(WEIGHTS).iter().map(|request| request.from).collect();
    assert_eq!(from, [None, Some(100_000), Some(100_001), Some(100_001), Some(100_001)]);
    let again = events.iter().filter(|event| matches!(event, TransferEvent::Retry { .. }));
    assert_eq!(again.count(), 4);
}

#[test]
fn a_server_that_always_cuts_is_given_up_on_and_what_came_is_kept() {
    let (place, server) = (Place::new(), Server::start(model(), weights(|_| Answer::Cut(0))));
    match place.problem(&server) {
        Error::CutShort { file, here: 0, size: 300_000, .. } if file == WEIGHTS => {}
        other => panic!("{other:?}"),
    }
    // A server that always sends the beginning makes no progress either.
    let server = Server::start(model(), weights(|_| Answer::Whole));
    assert!(place.download(&server).is_ok());
    let place = Place::new();
    let server =
        Server::start(model(), weights(|request| if request.from.is_none() { Answer::Cut(9) } else { Answer::Whole }));
    assert!(place.download(&server).is_ok());
}

#[test]
fn a_server_that_ignores_ranges_sends_the_whole_again() {
    let (server, _) = survives(weights(|request| match request.number {
        0 => Answer::Cut(200_000),
        _ => Answer::Whole,
    }));
    assert_eq!(server.seen_of(WEIGHTS).len(), 2);
}

#[test]
fn a_range_that_was_not_asked_for_is_a_lie() {
    let lie = |request: &Request| if request.number == 0 { Answer::Cut(1000) } else { Answer::OtherRange(500) };
    let (place, server) = (Place::new(), Server::start(model(), weights(lie)));
    assert!(matches!(place.problem(&server), Error::Answer { reason, .. } if reason.contains("byte 1000")));
}

#[test]
fn wrong_lengths_are_refused() {
    for wrong in [299_999, 300_001, 0] {
        let server = Server::start(model(), weights(move |_| Answer::Length(wrong)));
        match Place::new().problem(&server) {
            Error::Length { file, found, expected: 300_000 } if file == WEIGHTS => assert_eq!(found, wrong as u64),
            other => panic!("{other:?}"),
        }
    }
    // Without a length the bytes are counted.
    let server = Server::start(model(), weights(|_| Answer::Longer(1)));
    assert!(matches!(Place::new().problem(&server), Error::Length { expected: 300_000, .. }));
}

#[test]
fn corrupted_bytes_are_found_by_their_hash() {
    let once = |request: &Request| if request.number == 0 { Answer::Corrupt(299_999) } else { Answer::File };
    let (server, events) = survives(weights(once));
    assert_eq!(server.seen_of(WEIGHTS).len(), 2);
    assert!(events.iter().any(|event| matches!(event, TransferEvent::Retry { reason, .. } if reason.contains("hash"))));

    let (place, server) = (Place::new(), Server::start(model(), weights(|_| Answer::Corrupt(0))));
    assert!(matches!(place.problem(&server), Error::Digest { file, .. } if file == WEIGHTS));
    assert_eq!(server.seen_of(WEIGHTS).len(), 2);
    assert_eq!(Cache::new(place.root()).find(&repo()).unwrap(), None);
    // Small files are verified too (SHA-1 of Git).
    let config = |request: &Request| if request.file == "vae/config.json" { Answer::Corrupt(0) } else { Answer::File };
    assert!(matches!(Place::new().problem(&Server::start(model(), config)), Error::Digest { .. }));
}

#[test]
fn slow_bodies_are_waited_for_and_silent_ones_are_not() {
    let start = Instant::now();
    // Longer in total than the timeout, but never silent for that long.
    survives(weights(|_| Answer::Slow(12_000, Duration::from_millis(60))));
    assert!(start.elapsed() > Duration::from_millis(1400));
    let (server, _) = survives(weights(|request| match request.number {
        0 => Answer::Stall(150_000, Duration::from_secs(20)),
        _ => Answer::File,
    }));
    assert_eq!(server.seen_of(WEIGHTS)[1].from, Some(150_000));
}

#[test]
fn a_pause_that_is_asked_for_is_made() {
    let start = Instant::now();
    let (server, events) = survives(|request| match (request.file.as_str(), request.number) {
        (WEIGHTS, 0) => Answer::Status(429, vec![("Retry-After", "1".into())]),
        (WEIGHTS, 1) => Answer::Status(503, vec![]),
        (file, 0) if file.starts_with("/api") => Answer::Status(429, vec![("Retry-After", "0".into())]),
        (file, 1) if file.starts_with("/api") => Answer::Status(500, vec![]),
        _ => Answer::File,
    });
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen_of(WEIGHTS).len(), 3);
    let pause = Duration::from_secs(1);
    assert!(events.iter().any(|event| matches!(event, TransferEvent::Retry { pause: p, .. } if *p == pause)));

    let long = |_: &Request| Answer::Status(429, vec![("Retry-After", "3600".into())]);
    match Place::new().problem(&Server::start(model(), long)) {
        Error::Busy { pause: Some(pause), .. } => assert_eq!(pause.as_secs(), 3600),
        other => panic!("{other:?}"),
    }
    let always = Server::start(model(), weights(|_| Answer::Status(429, vec![])));
    assert!(matches!(Place::new().problem(&always), Error::Busy { pause: None, .. }));
    assert_eq!(always.seen_of(WEIGHTS).len(), 4);
}

#[test]
fn a_redirect_takes_no_token_to_another_host() {
    let place = Place::new();
    let elsewhere = Server::honest(model());
    let to = elsewhere.url.clone();
    let server = Server::start(model(), move |request| match request.file.as_str() {
        file if file.starts_with("/api") || file.contains("/cdn/") => Answer::File,
        WEIGHTS => Answer::Status(302, vec![("Location", format!("{to}/cdn/{WEIGHTS}?signed=yes#"))]),
        // A redirect to the same host keeps the token.
        file => Answer::Status(307, vec![("Location", format!("/cdn/{file}"))]),
    });
    let token = Token::new("hf_secret");
    let hub = Hub::new(HubOptions { token, ..place.options(&server) }).unwrap();
    assert_whole(&place.root(), &download(&hub).0.unwrap(), &model());
    let bearer = Some("Bearer hf_secret");
    for request in server.seen() {
        assert_eq!(request.headers.get("authorization").map(String::as_str), bearer, "{request:?}");
    }
    assert!(!elsewhere.seen().is_empty());
    for request in elsewhere.seen() {
        assert_eq!(request.headers.get("authorization"), None, "{request:?}");
    }
}

#[test]
fn a_resumed_file_is_asked_for_where_it_lies() {
    let place = Place::new();
    let cut = |request: &Request| if request.number == 0 { Answer::Cut(5_000) } else { Answer::File };
    let elsewhere = Server::start(model(), cut);
    let to = elsewhere.url.clone();
    let server = Server::start(
        model(),
        weights(move |_| Answer::Status(302, vec![("Location", format!("{to}/cdn/{WEIGHTS}"))])),
    );
    assert_whole(&place.root(), &place.download(&server).unwrap(), &model());
    let from: Vec<_> = elsewhere.seen().iter().map(|request| request.from).collect();
    assert_eq!(from, [None, Some(5_000)]);
    // The redirected URL may expire, so each attempt asks the hub again.
    assert_eq!(server.seen_of(WEIGHTS).len(), 2);
}

#[test]
fn redirects_end() {
    let round = |request: &Request| Answer::Status(302, vec![("Location", format!("/cdn/{}", request.file))]);
    let server = Server::start(model(), weights(round));
    let around = Server::start(model(), |request| match request.file.starts_with("/api") {
        true => Answer::Status(302, vec![("Location", request.file.clone())]),
        false => Answer::File,
    });
    assert!(matches!(Place::new().problem(&around), Error::Answer { reason, .. } if reason.contains("do not end")));
    assert!(Place::new().download(&server).is_ok());
    let nowhere = Server::start(model(), weights(|_| Answer::Status(302, vec![("Location", "gopher://a".into())])));
    assert!(matches!(Place::new().problem(&nowhere), Error::Answer { .. }));
}

#[test]
fn who_may_not_read_is_told_which_license_and_where() {
    for (status, with_token) in [(401, false), (403, true), (401, true)] {
        let place = Place::new();
        let gated = move |_: &Request| Answer::Status(status, vec![("X-Error-Code", "GatedRepo".into())]);
        let server = Server::start(model(), weights(gated));
        let token = with_token.then(|| Token::new("hf_x").unwrap());
        let (done, _) = download(&Hub::new(HubOptions { token, ..place.options(&server) }).unwrap());
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Access);
        let said = format!("{error} {}", error.remedy().unwrap());
        assert!(said.contains("Apache-2.0") && said.contains(&format!("{}/{REPO}", server.url)), "{said}");
        assert_eq!(said.contains("/settings/tokens"), !with_token, "{said}");
        assert_eq!(server.seen_of(WEIGHTS).len(), 1);
    }
    let (place, server) = (Place::new(), Server::start(model(), |_| Answer::Status(401, vec![])));
    let (done, _) = download(&Hub::new(HubOptions { token: Token::new("hf_old"), ..place.options(&server) }).unwrap());
    let error = done.unwrap_err();
    assert!(matches!(error, Error::Token { .. }) && error.kind() == ErrorKind::Access, "{error}");
}

#[test]
fn a_repository_that_is_not_there() {
    for (status, code) in [(404, None), (401, Some("RepoNotFound")), (404, Some("RepoNotFound"))] {
        let headers: Vec<_> = code.iter().map(|code| ("X-Error-Code", code.to_string())).collect();
        let server = Server::start(model(), move |_| Answer::Status(status, headers.clone()));
        let problem = Place::new().problem(&server);
        assert!(matches!(problem, Error::NotFound { .. }), "{problem:?}");
        assert_eq!((problem.kind(), server.seen().len()), (ErrorKind::ModelMissing, 1));
    }
}

#[test]
fn without_a_network_it_says_so_at_once() {
    // A port that was free a moment ago: nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (place, server) = (Place::new(), Server::honest(model()));
    let problem = |options| {
        let error = download(&Hub::new(options).unwrap()).0.unwrap_err();
        (error.kind(), error)
    };
    let start = Instant::now();
    let (kind, found) = problem(HubOptions { endpoint, ..place.options(&server) });
    assert!(matches!(found, Error::Unreachable { .. }) && start.elapsed() < Duration::from_secs(2), "{found:?}");
    assert_eq!(kind, ErrorKind::ModelMissing);
    let (kind, found) = problem(HubOptions { offline: true, ..place.options(&server) });
    assert!(
        kind == ErrorKind::ModelMissing && matches!(&found, Error::Offline { repo: r } if *r == repo()),
        "{found:?}"
    );
    assert!(server.seen().is_empty() && !place.root().exists());
}

#[test]
fn what_is_no_hub_is_not_believed() {
    for text in ["<html>log in</html>", "{}", r#"{"sha": "main", "siblings": []}"#] {
        let server = Server::start(model(), |_| Answer::Text(text.into()));
        assert!(matches!(Place::new().problem(&server), Error::Answer { .. }), "{text}");
    }
    let pictures = Server::honest(Repo::default().with("teaser.png", "x").with("README.md", "y"));
    assert!(matches!(Place::new().problem(&pictures), Error::NoModel { repo: r } if r == repo()));
}

#[test]
fn a_disk_that_is_too_small_is_not_begun_to_be_filled() {
    let (place, listing) = (Place::new(), model().listing().replace("300000", "3000000000000000"));
    let server = Server::start(model(), move |request| match request.file.starts_with("/api") {
        true => Answer::Text(listing.clone()),
        false => Answer::File,
    });
    match place.problem(&server) {
        Error::DiskFull { needed, free, .. } => assert!(needed > 3_000_000_000_000_000 && free < needed),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_proxy_is_asked_unless_the_host_is_excepted() {
    let (place, server) = (Place::new(), Server::honest(model()));
    // The request of a proxy client is no path of a hub, so the server answers 404: the proxy failed to connect.
    let proxy = Server::honest(Repo::default());
    let proxies = Proxies { http: Some(proxy.url.clone()), ..Default::default() };
    let through = HubOptions { proxies: proxies.clone(), ..place.options(&server) };
    assert!(matches!(download(&Hub::new(through).unwrap()).0, Err(Error::Unreachable { .. })));
    assert!(server.seen().is_empty() && proxy.seen().len() == 1, "{:?}", proxy.seen());
    let except = Proxies { except: "127.0.0.1".into(), ..proxies };
    let past = HubOptions { proxies: except, ..place.options(&server) };
    assert!(download(&Hub::new(past).unwrap()).0.is_ok() && proxy.seen().len() == 1);
}

#[test]
fn a_download_can_be_stopped_and_goes_on_later() {
    let place = Place::new();
    let server = Server::start(
        model(),
        weights(|request| match request.number {
            0 => Answer::Stall(100_000, Duration::from_secs(20)),
            _ => Answer::File,
        }),
    );
    let patience = Patience { silence: Duration::from_secs(30), ..place.options(&server).patience };
    let hub = Hub::new(HubOptions { patience, ..place.options(&server) }).unwrap();
    let plan = hub.plan(&repo()).unwrap();
    let (cancel, mut seen) = (CancelToken::new(), 0);
    let token = cancel.clone();
    let mut observer = |event: &TransferEvent| {
        if let TransferEvent::Progress { done } = event {
            seen = *done;
            // All other files are small and downloaded before.
            if seen > plan.bytes() - 200_001 {
                token.cancel();
            }
        }
    };
    let start = Instant::now();
    assert!(matches!(hub.download(&plan, &mut observer, &cancel), Err(Error::Cancelled(_))));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(hub.cache().find(&repo()).unwrap(), None);
    assert_eq!(hub.cache().state(&repo()).unwrap(), Some(State::Incomplete(vec![])));
    assert_eq!(hub.missing_bytes(&plan), 200_000);
    assert_whole(&place.root(), &place.download(&server).unwrap(), &model());
    assert_eq!(server.seen_of(WEIGHTS)[1].from, Some(100_000));
}

#[test]
fn two_at_once_receive_each_file_once() {
    let place = Place::new();
    let server = Server::start(model(), |_| Answer::Slow(20_000, Duration::from_millis(5)));
    let (first, second) = std::thread::scope(|scope| {
        let run = || download(&place.hub(&server)).0.unwrap();
        let (a, b) = (scope.spawn(run), scope.spawn(run));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert_eq!(first, second);
    assert_whole(&place.root(), &first, &model());
    assert_eq!(server.seen_of(WEIGHTS).len(), 1);
}

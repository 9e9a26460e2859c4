//! Files of releases: downloaded by hash, resumed, and never with the hub's token.

use flux2::digest::sha256;
use flux2::hub::release::ReleaseFile;
use flux2::hub::{Error, Hub, HubOptions, Token};
use flux2::{CancelToken, TransferEvent};
use tempfile::TempDir;

use super::server::{Answer, Repo, Request, Server, bytes};

/// A file of a release with these bytes.
fn file_of(bytes: &[u8]) -> ReleaseFile {
    let sha256 = Box::leak(sha256(bytes).into_boxed_str());
    ReleaseFile { repository: "owner/tool", tag: "v1.0", file: "Net_x4.pth", bytes: bytes.len() as u64, sha256 }
}

const PATH: &str = "/owner/tool/releases/download/v1.0/Net_x4.pth";

fn hub(server: &Server, cache: &TempDir) -> Hub {
    let usual = HubOptions { token: Token::new("hf_secret"), ..HubOptions::new("nowhere") };
    let options = HubOptions { endpoint: server.url.clone(), ..usual.for_releases(cache.path()) };
    Hub::new(options).unwrap()
}

fn download(server: &Server, cache: &TempDir, file: &ReleaseFile) -> Result<Vec<u8>, Error> {
    let hub = hub(server, cache);
    let plan = hub.release_plan(file)?;
    let folder = hub.download(&plan, &mut |_: &TransferEvent| {}, &CancelToken::new())?;
    Ok(std::fs::read(folder.join(file.file)).unwrap())
}

#[test]
fn a_file_of_a_release_is_downloaded_once() {
    let (cache, content) = (TempDir::new().unwrap(), bytes(3, 70_000));
    // The first connection is cut, the second goes on where it ended.
    let faults = |request: &Request| if request.number == 0 { Answer::Cut(30_000) } else { Answer::File };
    let server = Server::start(Repo::default().with(PATH, content.clone()), faults);
    let file = file_of(&content);
    assert_eq!(hub(&server, &cache).cache().release(&file), None);
    assert!(download(&server, &cache, &file).unwrap() == content);
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].from, seen[1].from), (2, None, Some(30_000)));
    assert!(seen.iter().all(|request| !request.headers.contains_key("authorization")), "the token is the hub's");
    assert!(download(&server, &cache, &file).unwrap() == content);
    assert_eq!(server.seen().len(), 2, "it is here");
    let found = hub(&server, &cache).cache().release(&file).unwrap();
    assert!(std::fs::read(found).unwrap() == content);
}

#[test]
fn other_bytes_are_refused() {
    let (cache, content) = (TempDir::new().unwrap(), bytes(3, 1000));
    let server = Server::start(Repo::default().with(PATH, content.clone()), |_| Answer::Corrupt(7));
    let error = download(&server, &cache, &file_of(&content)).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let server = Server::honest(Repo::default().with(PATH, bytes(3, 999)));
    let error = download(&server, &cache, &file_of(&content)).unwrap_err();
    assert!(matches!(error, Error::Length { .. }), "{error}");
    let server = Server::honest(Repo::default());
    assert!(matches!(download(&server, &cache, &file_of(&content)), Err(Error::NotFound { .. })));
}

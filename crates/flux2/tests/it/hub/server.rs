//! A fake hub on the loopback interface, with scripted faults.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

pub const REPO: &str = "black-forest-labs/FLUX.2-klein-4B";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path in the repository, or the whole request target if it is not a file of the repository.
    pub file: String,
    /// How many requests for this path came before.
    pub number: usize,
    /// Headers, with names in lower case.
    pub headers: HashMap<String, String>,
    /// First byte of the requested range.
    pub from: Option<usize>,
}

/// The server's answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The requested range, correctly.
    File,
    /// The whole file, ignoring the range.
    Whole,
    /// Closes the connection after this many bytes of the body.
    Cut(usize),
    /// Stalls after this many bytes of the body, for this long.
    Stall(usize, Duration),
    /// Sends pieces of this many bytes, with a pause after each.
    Slow(usize, Duration),
    /// Corrupts the byte at this offset.
    Corrupt(usize),
    /// Claims, and sends, a wrong total length.
    Length(usize),
    /// Sends no length, and this many extra bytes.
    Longer(usize),
    /// 206 with another range than the requested one.
    OtherRange(usize),
    /// A status and headers, without a body.
    Status(u16, Vec<(&'static str, String)>),
    /// An unrelated body.
    Text(String),
    /// Closes the connection without an answer.
    HangUp,
}

/// Chooses the answer to a request.
type Faults = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server; it ends with the process.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// Files of a repository.
#[derive(Clone, Default)]
pub struct Repo(Vec<(String, Vec<u8>)>);

impl Repo {
    pub fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push((path.into(), bytes.into()));
        self
    }

    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.0
    }

    /// The hub's JSON listing: SHA-256 for weights (LFS), Git's SHA-1 for other files.
    pub fn listing(&self) -> String {
        let files: Vec<String> = self
            .0
            .iter()
            .map(|(path, bytes)| {
                let (size, git) = (bytes.len(), hash(path, bytes));
                match path.ends_with(".safetensors") {
                    true => {
                        let (blob, lfs) = ("f".repeat(40), format!(r#"{{"sha256":"{git}","size":{size}}}"#));
                        format!(r#"{{"rfilename":"{path}","size":{size},"blobId":"{blob}","lfs":{lfs}}}"#)
                    }
                    false => format!(r#"{{"rfilename":"{path}","size":{size},"blobId":"{git}"}}"#),
                }
            })
            .collect();
        format!(r#"{{"id":"x","sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","))
    }
}

/// The hash by which the hub identifies a file.
pub fn hash(path: &str, bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match path.ends_with(".safetensors") {
        true => hex(&Sha256::digest(bytes)),
        false => hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize()),
    }
}

/// Pseudo-random bytes from a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Server {
    /// Starts a hub with one repository, under any name; `faults` chooses the answers to requests for files.
    pub fn start(repo: Repo, faults: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { url, seen: Arc::default() };
        let (seen, repo, faults): (_, _, Arc<Faults>) = (Arc::clone(&server.seen), Arc::new(repo), Arc::new(faults));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, repo, faults) = (Arc::clone(&seen), Arc::clone(&repo), Arc::clone(&faults));
                // A disconnected client is not an error.
                thread::spawn(move || serve(stream, &repo, &seen, &*faults));
            }
        });
        server
    }

    /// Starts a hub without faults.
    pub fn honest(repo: Repo) -> Self {
        Self::start(repo, |_| Answer::File)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests for one file so far.
    pub fn seen_of(&self, file: &str) -> Vec<Request> {
        self.seen().into_iter().filter(|request| request.file == file).collect()
    }
}

fn serve(stream: TcpStream, repo: &Repo, seen: &Mutex<Vec<Request>>, faults: &Faults) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let target = first.split([' ', '?']).nth(1)?.to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let from = headers.get("range").map(|range| range[6..].trim_end_matches('-').parse().unwrap());
    let file = match target.split_once(&format!("/resolve/{COMMIT}/")) {
        Some((_, file)) => file.to_owned(),
        None => target.clone(),
    };
    let request = {
        let mut seen = seen.lock().unwrap();
        let number = seen.iter().filter(|request| request.file == file).count();
        seen.push(Request { file, number, headers, from });
        seen.last().unwrap().clone()
    };
    let answer = faults(&request);
    let listing = repo.listing().into_bytes();
    let found =
        repo.0.iter().find(|(path, _)| *path == request.file || request.file.ends_with(&format!("/cdn/{path}")));
    let body = match found {
        Some((_, bytes)) => bytes,
        None if target.starts_with("/api/models/") => &listing,
        None => return send(stream, 404, &[], b"", Answer::File),
    };
    let start = request.from.unwrap_or(0);
    let length = |status, length: usize| vec![("Content-Length", length.to_string())].into_iter().chain(status);
    match answer {
        Answer::HangUp => None,
        Answer::Status(status, headers) => send(stream, status, &headers, b"", Answer::File),
        Answer::Text(text) => {
            send(stream, 200, &length(None, text.len()).collect::<Vec<_>>(), text.as_bytes(), Answer::File)
        }
        Answer::Length(wrong) => {
            let mut body = body.clone();
            body.resize(wrong, 7);
            send(stream, 200, &length(None, wrong).collect::<Vec<_>>(), &body, Answer::File)
        }
        Answer::Longer(more) => {
            let body = [body.as_slice(), &vec![7; more]].concat();
            send(stream, 200, &[], &body, Answer::File)
        }
        Answer::Corrupt(place) => {
            let mut body = body.clone();
            body[place] ^= 0x20;
            part(stream, &body, start, start, Answer::File)
        }
        Answer::OtherRange(other) => part(stream, body, other, other, Answer::File),
        Answer::Whole => part(stream, body, 0, 0, Answer::File),
        answer => part(stream, body, start, request.from.map_or(0, |_| start), answer),
    }
}

/// Sends the body from `start`; with status 206 and a range that starts at `claimed`, unless that is 0.
fn part(stream: TcpStream, body: &[u8], start: usize, claimed: usize, how: Answer) -> Option<()> {
    let size = body.len();
    if start > 0 && start >= size {
        return send(stream, 416, &[("Content-Range", format!("bytes */{size}"))], b"", Answer::File);
    }
    let mut headers = vec![("Content-Length", (size - start).to_string())];
    if claimed > 0 {
        headers.push(("Content-Range", format!("bytes {claimed}-{}/{size}", size - 1)));
    }
    send(stream, if claimed > 0 { 206 } else { 200 }, &headers, &body[start..], how)
}

fn send(mut stream: TcpStream, status: u16, headers: &[(&str, String)], body: &[u8], how: Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    if body.is_empty() && !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += "Content-Length: 0\r\n";
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    match how {
        Answer::Cut(after) => stream.write_all(&body[..after.min(body.len())]).ok(),
        Answer::Stall(after, time) => {
            stream.write_all(&body[..after.min(body.len())]).ok()?;
            thread::sleep(time);
            None
        }
        Answer::Slow(piece, pause) => body.chunks(piece).try_for_each(|piece| {
            stream.write_all(piece).ok()?;
            thread::sleep(pause);
            Some(())
        }),
        _ => stream.write_all(body).ok(),
    }
}

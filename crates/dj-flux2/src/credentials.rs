//! Content Credentials by the program `dj-flux2-c2pa`, which is built apart: signing the files of pictures, verifying
//! those of anybody.
//!
//! Files go to it through a temporary folder, and a request as JSON. It is looked for beside this program, then among
//! the programs of the system.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use flux2::Error;
use flux2::image::{ImageFormat, Parameters, codec};
use flux2::marks::credentials::{Credentials, Relationship, ingredient_label, manifest, media_type};
use flux2_jobs::{JobSpec, Signer};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// Name of the program.
const PROGRAM: &str = "dj-flux2-c2pa";

/// Key and certificates, and where the references of a run are.
struct Signing {
    /// PEM, both of them.
    key: String,
    certificates: String,
    /// Files by their digests.
    references: HashMap<String, PathBuf>,
}

/// What signs with a key and certificates, if they are given: `references` are files by their digests. Whether the key
/// can sign is tried now.
pub fn signer(files: Option<(&Path, &Path)>, references: HashMap<String, PathBuf>) -> Result<Option<Arc<dyn Signer>>> {
    let Some((key, certificates)) = files else { return Ok(None) };
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| Failure::from(Error::Io { path: path.to_owned(), source }))
    };
    let (key, certificates) = (read(key)?, read(certificates)?);
    let trial = json!({"key": key, "certificates": certificates});
    let output = match run("check", &trial) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_there()),
        output => output.map_err(|source| Error::Io { path: PROGRAM.into(), source })?,
    };
    if let Err(reason) = succeeded(&output) {
        return Err(Error::Credentials { reason }.into());
    }
    Ok(Some(Arc::new(Signing { key, certificates, references })))
}

/// What is known of the Content Credentials in the bytes of a file; not verified without the program.
pub fn read(file: &[u8]) -> Credentials {
    let verify = || -> io::Result<Option<Credentials>> {
        let folder = Folder::new()?;
        let format = ImageFormat::of(file).map_or("", media_type);
        let request = json!({"file": folder.write("picture", file)?, "format": format});
        let output = run("read", &request)?;
        let report: Option<Value> = succeeded(&output).ok().and_then(|()| serde_json::from_slice(&output.stdout).ok());
        Ok(report.map(|report| Credentials::of_report(&report)))
    };
    verify().ok().flatten().unwrap_or_default()
}

/// That the program is not there.
fn not_there() -> Failure {
    Failure::usage(
        format!("the program {PROGRAM}, which signs pictures, is not there"),
        "build it, and put it beside dj-flux2: cargo install --path extras/c2pa",
    )
}

/// Runs the program with a request on standard input.
fn run(what: &str, request: &Value) -> io::Result<Output> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM)).filter(|path| path.is_file());
    let program = beside.map_or_else(|| OsString::from(PROGRAM), PathBuf::into_os_string);
    let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
    let mut child = Command::new(program).arg(what).stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // It may have ended without reading, and says why.
        let _ = io::Write::write_all(&mut input, request.to_string().as_bytes());
    }
    child.wait_with_output()
}

/// Whether it did what was asked; else what it says.
fn succeeded(output: &Output) -> Result<(), String> {
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A temporary folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{PROGRAM}-{}-{number}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        // Pictures are nobody else's business.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Folder(path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Shows no key.
impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signing with {PROGRAM}")
    }
}

impl Signing {
    /// The bytes of a file that a picture was made from, which `what` names in errors.
    fn reference(&self, digest: &str, what: &str, kept: &dyn Fn(&str) -> Option<Vec<u8>>) -> flux2::Result<Vec<u8>> {
        let of_run = || codec::read_file(self.references.get(digest)?).ok();
        let file = of_run().or_else(|| kept(digest)).filter(|file| flux2::digest::sha256(file) == *digest);
        let reason = || format!("the file of the {what}, {digest}, is not there any more, or another one");
        file.ok_or_else(|| Error::Credentials { reason: reason() })
    }
}

impl Signer for Signing {
    fn sign(
        &self,
        file: Vec<u8>,
        spec: &JobSpec,
        made: &Parameters,
        reference: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> flux2::Result<Vec<u8>> {
        let io = |source| Error::Io { path: PROGRAM.into(), source };
        let folder = Folder::new().map_err(io)?;
        // A picture that is painted into is what the result was before.
        let source = made.source.iter().map(|source| (&source.sha256, Relationship::Parent, "source".to_owned()));
        let inputs = made.references.iter().zip(1..);
        let inputs = inputs.map(|(digest, n)| (digest, Relationship::Input, format!("reference image {n}")));
        let (mut ingredients, mut relationships) = (Vec::new(), Vec::new());
        for ((digest, relationship, title), number) in source.chain(inputs).zip(1..) {
            let bytes = self.reference(digest, &title, reference)?;
            let format = ImageFormat::of(&bytes).map_or("", media_type);
            ingredients.push(json!({
                "file": folder.write(&format!("input-{number}"), &bytes).map_err(io)?, "format": format,
                "of": {"title": title, "relationship": relationship.name(), "label": ingredient_label(number)},
            }));
            relationships.push(relationship);
        }
        let request = json!({
            "key": self.key, "certificates": self.certificates, "file": folder.write("picture", &file).map_err(io)?,
            "format": media_type(spec.format), "manifest": manifest(made, spec.format, &relationships),
            "ingredients": ingredients,
        });
        let output = run("sign", &request).map_err(io)?;
        match succeeded(&output) {
            Ok(()) => Ok(output.stdout),
            Err(reason) => Err(Error::Credentials { reason }),
        }
    }
}

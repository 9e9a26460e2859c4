//! `dj-flux2-c2pa`: signs and verifies the Content Credentials of pictures. `dj-flux2` runs it.
//!
//! ```text
//! dj-flux2-c2pa check     a key and certificates can sign
//! dj-flux2-c2pa sign      the signed file on standard output
//! dj-flux2-c2pa read      a report on standard output, as JSON
//! ```
//!
//! The request is JSON on standard input, one of the structs below. Errors go to standard error, with exit code 1.
//! Nothing is fetched from the network.

use std::io::{Cursor, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use c2pa::{BoxedSigner, Builder, Context, Reader, SigningAlg, ValidationState, create_signer};
use serde::Deserialize;
use serde_json::{Value, json};

/// Algorithms of keys, tried in this order.
const ALGORITHMS: [SigningAlg; 7] = [
    SigningAlg::Es256,
    SigningAlg::Ed25519,
    SigningAlg::Es384,
    SigningAlg::Es512,
    SigningAlg::Ps256,
    SigningAlg::Ps384,
    SigningAlg::Ps512,
];

/// A picture of one pixel, to try a key with.
const PIXEL: &[u8] = &[
    137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 58, 126, 155,
    85, 0, 0, 0, 10, 73, 68, 65, 84, 120, 156, 99, 96, 0, 0, 0, 2, 0, 1, 72, 175, 164, 113, 0, 0, 0, 0, 73, 69, 78, 68,
    174, 66, 96, 130,
];

/// What signs.
#[derive(Deserialize)]
struct Keys {
    /// The private key, PEM of PKCS #8.
    key: String,
    /// Its certificate in PEM, followed by those it is signed with.
    certificates: String,
}

/// A file to sign.
#[derive(Deserialize)]
struct Signing {
    #[serde(flatten)]
    keys: Keys,
    file: PathBuf,
    /// Media type.
    format: String,
    /// What the library takes as the definition of a manifest.
    manifest: Value,
    #[serde(default)]
    ingredients: Vec<Ingredient>,
}

/// A file that it was made from.
#[derive(Deserialize)]
struct Ingredient {
    file: PathBuf,
    format: String,
    /// Title, relationship and label.
    of: Value,
}

/// A file to verify.
#[derive(Deserialize)]
struct Reading {
    file: PathBuf,
    format: String,
}

type Result<T, E = String> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    let mut request = String::new();
    let done = std::io::stdin().read_to_string(&mut request).map_err(text).and_then(|_| match what.as_str() {
        "check" => check(&parsed(&request)?),
        "sign" => sign(&parsed(&request)?),
        "read" => read(&parsed(&request)?),
        _ => Err("usage: dj-flux2-c2pa check|sign|read, with a request as JSON on standard input".into()),
    });
    match done.and_then(|output| std::io::stdout().write_all(&output).map_err(text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn parsed<'a, T: Deserialize<'a>>(request: &'a str) -> Result<T> {
    serde_json::from_str(request).map_err(text)
}

fn check(keys: &Keys) -> Result<Vec<u8>> {
    let action = json!({
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    });
    let manifest = json!({"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]});
    signed(keys, PIXEL, "image/png", &manifest, &[]).map(|_| Vec::new())
}

fn sign(request: &Signing) -> Result<Vec<u8>> {
    let Signing { keys, file, format, manifest, ingredients } = request;
    let file = std::fs::read(file).map_err(text)?;
    signed(keys, &file, format, manifest, ingredients)
}

fn signed(keys: &Keys, file: &[u8], format: &str, manifest: &Value, ingredients: &[Ingredient]) -> Result<Vec<u8>> {
    let definition = manifest.to_string();
    let mut builder = Builder::from_context(Context::new()).with_definition(definition.as_str()).map_err(text)?;
    for Ingredient { file, format, of } in ingredients {
        let mut file = std::fs::File::open(file).map_err(text)?;
        builder.add_ingredient_from_stream(of.to_string(), format, &mut file).map_err(text)?;
    }
    let signer = signer(keys)?;
    let mut signed = Cursor::new(Vec::new());
    builder.sign(signer.as_ref(), format, &mut Cursor::new(file), &mut signed).map_err(text)?;
    Ok(signed.into_inner())
}

/// The key, by the first algorithm that it can sign with.
fn signer(Keys { key, certificates }: &Keys) -> Result<BoxedSigner> {
    let of = |algorithm| create_signer::from_keys(certificates.as_bytes(), key.as_bytes(), algorithm, None).ok();
    let works = |signer: &BoxedSigner| signer.sign(b"a test").is_ok();
    ALGORITHMS.into_iter().filter_map(of).find(works).ok_or_else(|| {
        "the key or its certificates cannot be used: they are not PEM, do not belong together, or are of no algorithm of \
         the C2PA"
            .into()
    })
}

fn read(request: &Reading) -> Result<Vec<u8>> {
    let file = std::fs::File::open(&request.file).map_err(text)?;
    let report = match Reader::from_context(Context::new()).with_stream(&request.format, file) {
        Ok(reader) => {
            let mut report: Value = serde_json::from_str(&reader.json()).unwrap_or_default();
            let state = match reader.validation_state() {
                ValidationState::Invalid => "Invalid",
                ValidationState::Valid => "Valid",
                ValidationState::Trusted => "Trusted",
            };
            report["validation_state"] = state.into();
            report
        }
        Err(error) => json!({"validation_state": "Invalid", "validation_status": [{"code": text(error)}]}),
    };
    Ok(report.to_string().into_bytes())
}

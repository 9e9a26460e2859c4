//! JSON objects from untrusted files: values by key, and errors that name the key, the value and what was expected.
//!
//! Read by hand and not through serde: a derived type would say "invalid value" without the range that is allowed, and
//! a `null` that counts as absent, an alternative place of a key or a supported value would each need code all the
//! same.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use flux2_base::Remedy;
use serde_json::{Map, Value};

use crate::location::Location;
use crate::tensor_file::Printable;
use crate::{Error, Result};

/// An object from a JSON file, and the file's path for errors.
#[derive(Debug)]
pub(super) struct Json {
    pub path: PathBuf,
    pub object: Map<String, Value>,
}

impl Json {
    /// Reads an object from a file of at most `max_bytes`.
    pub fn read(file: &Location, max_bytes: u64) -> Result<Self> {
        let path = file.path().to_owned();
        let refuse = |problem| Error::Config { path: path.clone(), problem };
        let stat = file.stat()?;
        if !stat.is_file || stat.len > max_bytes {
            return Err(refuse(ConfigProblem::NotReadable { bytes: stat.len, max: max_bytes }));
        }
        let mut text = Vec::new();
        file.reader()?.take(max_bytes).read_to_end(&mut text).map_err(|e| file.io(e))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(object)) => Ok(Json { path, object }),
            Ok(_) => Err(refuse(ConfigProblem::Json { message: "not an object".into() })),
            Err(e) => Err(refuse(ConfigProblem::Json { message: e.to_string() })),
        }
    }

    /// The value of a key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    pub fn error(&self, key: &str, expected: impl ToString) -> Error {
        self.error_with(key, self.get(key).unwrap_or(&Value::Null), expected)
    }

    pub fn error_with(&self, key: &str, found: &Value, expected: impl ToString) -> Error {
        value(&self.path, key, short(found), expected)
    }

    pub fn child(&self, key: &'static str) -> Result<Option<Json>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Json { path: self.path.clone(), object: object.clone() })),
            Some(_) => Err(self.error(key, "an object")),
        }
    }

    /// Accepts a key that is absent, `null` or one of `supported`; refuses any other value.
    pub fn only(&self, key: &str, supported: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(found) if !supported.contains(found) => {
                let supported = supported.first().map_or("null".into(), Value::to_string);
                Err(unsupported(&self.path, key, found, &supported))
            }
            _ => Ok(()),
        }
    }

    pub fn size(&self, key: &str, max: usize) -> Result<usize> {
        if self.get(key).is_none() {
            return Err(missing(&self.path, key));
        }
        self.size_or(key, max, 0)
    }

    pub fn size_or(&self, key: &str, max: usize, default: usize) -> Result<usize> {
        let Some(found) = self.get(key) else { return Ok(default) };
        found
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.error(key, format!("a whole number from 1 to {max}")))
    }

    pub fn sizes(&self, key: &str, max: usize, count: usize) -> Result<Option<Vec<usize>>> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let size = |v: &Value| v.as_u64().map(|n| n as usize).filter(|n| (1..=max).contains(n));
        let sizes: Option<Vec<usize>> =
            found.as_array().filter(|a| a.len() == count).and_then(|a| a.iter().map(size).collect());
        match sizes {
            Some(sizes) => Ok(Some(sizes)),
            None => Err(self.error(key, format!("{count} whole numbers from 1 to {max}"))),
        }
    }

    pub fn number(&self, key: &str, range: std::ops::RangeInclusive<f64>, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(missing(&self.path, key)),
            (Some(found), _) => found
                .as_f64()
                .filter(|n| range.contains(n))
                .ok_or_else(|| self.error(key, format!("a number from {} to {}", range.start(), range.end()))),
        }
    }
}

pub(super) fn value(path: &Path, key: &str, found: impl ToString, expected: impl ToString) -> Error {
    let problem = ConfigProblem::Value { key: key.into(), found: found.to_string(), expected: expected.to_string() };
    Error::Config { path: path.to_owned(), problem }
}

pub(super) fn missing(path: &Path, key: &str) -> Error {
    Error::Config { path: path.to_owned(), problem: ConfigProblem::Missing { key: key.into() } }
}

pub(super) fn unsupported(path: &Path, key: &str, found: &Value, supported: &str) -> Error {
    let problem = ConfigProblem::Unsupported { key: key.into(), found: short(found), supported: supported.to_owned() };
    Error::Config { path: path.to_owned(), problem }
}

pub(super) fn range(path: &Path, key: &str, found: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&found) { Ok(()) } else { Err(value(path, key, found, format!("1 to {max}"))) }
}

/// A value as JSON, truncated to a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

/// What is wrong with a configuration, or with the tensor shapes that replace it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// A folder, or too long for a configuration.
    #[error("not a file of at most {max} bytes ({bytes})")]
    NotReadable {
        /// Length in bytes.
        bytes: u64,
        /// Largest length accepted, in bytes.
        max: u64,
    },
    /// Not a JSON object.
    #[error("not valid: {}", Printable(message))]
    Json {
        /// The parser's message.
        message: String,
    },
    /// A required key is missing.
    #[error("`{key}` is missing")]
    Missing {
        /// Key in the configuration.
        key: String,
    },
    /// A VAE without its encoder.
    #[error("holds the decoder of a VAE only, without its encoder")]
    DecoderOnly,
    /// A value of the wrong kind, or out of range.
    #[error("`{key}` is {}, expected {expected}", Printable(found))]
    Value {
        /// Key in the configuration.
        key: String,
        /// Value in the file, as JSON.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// A valid value that this engine does not support.
    #[error("`{key}` is {}, only {supported} is supported", Printable(found))]
    Unsupported {
        /// Key in the configuration.
        key: String,
        /// Value in the file, as JSON.
        found: String,
        /// The value that is supported.
        supported: String,
    },
    /// A tensor from which a size is inferred has another number of axes, or an axis of zero.
    #[error("`{}` has shape {shape:?}, expected {axes} axes", Printable(tensor))]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Shape of the tensor.
        shape: Vec<usize>,
        /// Number of axes expected.
        axes: usize,
    },
}

impl ConfigProblem {
    pub(crate) fn remedy(&self) -> Remedy {
        Remedy::advice(match self {
            ConfigProblem::Unsupported { .. } => "use a FLUX.2 [klein] model",
            ConfigProblem::DecoderOnly => "pass the whole VAE, as ae.safetensors or the vae folder of the model",
            ConfigProblem::Shape { .. } => "pass the file that belongs to the model",
            _ => "download the file again, or correct it",
        })
    }
}

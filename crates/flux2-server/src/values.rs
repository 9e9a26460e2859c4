//! Values of fields that several APIs have, read as leniently as clients write them.

use std::str::FromStr;

use axum::body::Bytes;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use flux2::image::ImageFormat;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};

/// Standard base64 with or without its padding.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A number or a truth value that may come as a text, as in forms; nothing for `null` and an empty text.
pub fn lenient<'de, D: Deserializer<'de>, T: FromStr + DeserializeOwned>(reader: D) -> Result<Option<T>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => {
            text.trim().parse().map(Some).map_err(|_| D::Error::custom(format!("{text:?} is not allowed here")))
        }
        value => serde_json::from_value(value).map(Some).map_err(D::Error::custom),
    }
}

/// A seed as a number or a text; -1 and nothing are a random one.
pub fn seed<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<u64>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(None),
        Value::Number(number) if number.as_i64() == Some(-1) => Ok(None),
        Value::Number(number) if number.is_u64() => Ok(number.as_u64()),
        Value::String(text) if ["", "-1"].contains(&text.trim()) => Ok(None),
        Value::String(text) if text.trim().parse::<u64>().is_ok() => Ok(text.trim().parse().ok()),
        value => Err(D::Error::custom(format!("a seed is 0 to {}, or -1 for a random one, not {value}", u64::MAX))),
    }
}

/// One value or a list of them.
pub fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned>(reader: D) -> Result<Vec<T>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(Vec::new()),
        list @ Value::Array(_) => serde_json::from_value(list).map_err(D::Error::custom),
        one => serde_json::from_value(one).map(|one| vec![one]).map_err(D::Error::custom),
    }
}

/// Width and height of a size such as `1024x768`; nothing for `auto`.
///
/// # Errors
/// 400 with `param` `size`.
pub fn parse_size(size: &str) -> Result<Option<(u32, u32)>> {
    if size == "auto" {
        return Ok(None);
    }
    let sides = size.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.map(Some).ok_or_else(|| {
        let error = ApiError::invalid("size", format!("{size:?} is not a size")).code("invalid_size");
        error.hint("a size is WIDTHxHEIGHT as in 1024x768, or auto")
    })
}

/// The format of a picture's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lossless.
    #[default]
    Png,
    /// Lossy, small.
    #[serde(alias = "jpg")]
    Jpeg,
    /// Lossless, smaller than PNG.
    Webp,
}

impl Format {
    /// As OpenAI's API names it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpeg",
            Format::Webp => "webp",
        }
    }
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Png => ImageFormat::Png,
            Format::Jpeg => ImageFormat::Jpeg,
            Format::Webp => ImageFormat::WebP,
        }
    }
}

impl From<ImageFormat> for Format {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Png => Format::Png,
            ImageFormat::Jpeg => Format::Jpeg,
            ImageFormat::WebP => Format::Webp,
        }
    }
}

/// Media type of a picture's file.
pub fn media_type(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::WebP => "image/webp",
    }
}

/// The bytes of an image that a field holds as base64 or as a data URL. Addresses of the web are never fetched.
///
/// # Errors
/// 400 with the name of the field.
pub fn image_bytes(text: &str, field: &str) -> Result<Bytes> {
    let text = text.trim();
    if ["http:", "https:", "file:", "ftp:"].iter().any(|scheme| has_prefix(text, scheme)) {
        let error =
            ApiError::new(StatusCode::BAD_REQUEST, "url_not_supported", "images are not fetched from addresses");
        return Err(error.of(field).hint("send the bytes of the image, as base64 or in a form"));
    }
    let base64 = match has_prefix(text, "data:") {
        true => text.split_once(";base64,").map_or("", |(_, base64)| base64),
        false => text,
    };
    let digits: Vec<u8> = base64.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    match LENIENT_BASE64.decode(&digits) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes.into()),
        _ => Err(ApiError::invalid(field, "the image is not valid base64").code("invalid_image")),
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Bytes as base64.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(deserialize_with = "lenient")]
        n: Option<u32>,
        #[serde(deserialize_with = "lenient")]
        stream: Option<bool>,
        #[serde(deserialize_with = "seed")]
        seed: Option<u64>,
        #[serde(deserialize_with = "one_or_many")]
        image: Vec<String>,
    }

    fn read(json: Value) -> Result<Sample, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_may_be_texts() {
        let expected = Sample { n: Some(2), stream: Some(true), seed: Some(u64::MAX), image: vec!["a".into()] };
        assert_eq!(read(json!({"n": 2, "stream": true, "seed": u64::MAX, "image": "a"})).unwrap(), expected);
        let max = u64::MAX.to_string();
        assert_eq!(read(json!({"n": " 2", "stream": "true", "seed": max, "image": ["a"]})).unwrap(), expected);
        for nothing in [json!({"n": null, "seed": -1}), json!({"n": "", "seed": "-1", "image": null}), json!({})] {
            assert_eq!(read(nothing).unwrap(), Sample::default());
        }
        for wrong in [
            json!({"n": "two"}),
            json!({"n": 1.5}),
            json!({"n": -1}),
            json!({"seed": 1.5}),
            json!({"seed": -2}),
            json!({"stream": "yes"}),
            json!({"stream": 1}),
            json!({"image": 3}),
            json!({"n": u64::MAX}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_is_base64_or_a_data_url_and_never_an_address() {
        for text in ["aGk=", "aGk", " aG\nk= ", "data:image/png;base64,aGk=", "DATA:;base64,aGk="] {
            assert_eq!(image_bytes(text, "image").unwrap(), "hi", "{text}");
        }
        for (text, code) in [
            ("https://example.com/a.png", "url_not_supported"),
            ("HTTP://169.254.169.254/", "url_not_supported"),
            ("file:///etc/passwd", "url_not_supported"),
            ("data:image/png,hi", "invalid_image"),
            ("", "invalid_image"),
            ("!!", "invalid_image"),
            ("é", "invalid_image"),
        ] {
            assert_eq!(image_bytes(text, "image").unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1024x768").unwrap(), Some((1024, 768)));
        assert_eq!(parse_size("auto").unwrap(), None);
        for wrong in ["", "1024", "x", "1024x", "-1x5", "1e3x5", "99999999999x1"] {
            assert_eq!(parse_size(wrong).unwrap_err().param.as_deref(), Some("size"), "{wrong}");
        }
    }
}

//! Verification of the Content Credentials of a file. Nothing is fetched from the network.

use std::io::Cursor;

use c2pa::{Reader, ValidationState};
use serde_json::Value;

use super::sign::mime;
use super::{Credentials, State};
use crate::image::ImageFormat;

/// Most names of actions and problems that are listed.
const MOST_LISTED: usize = 8;

/// What is known of the credentials in `file`.
pub(super) fn verify(file: &[u8]) -> Credentials {
    let invalid = |reason: String| Credentials { state: State::Invalid, problems: vec![reason], ..Default::default() };
    let Some(format) = ImageFormat::of(file) else { return invalid("no image".into()) };
    let reader = match Reader::from_stream(mime(format), Cursor::new(file)) {
        Ok(reader) => reader,
        Err(error) => return invalid(error.to_string()),
    };
    let state = match reader.validation_state() {
        ValidationState::Invalid => State::Invalid,
        ValidationState::Valid => State::Valid,
        ValidationState::Trusted => State::Trusted,
    };
    let report: Value = serde_json::from_str(&reader.json()).unwrap_or_default();
    let manifest = report["active_manifest"].as_str().map(|active| &report["manifests"][active]);
    let manifest = manifest.unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let texts = |values: Vec<Value>, name: &str| -> Vec<String> {
        values.iter().filter_map(|value| text(&value[name])).take(MOST_LISTED).collect()
    };
    let assertions = list(&manifest["assertions"]);
    let is_actions = |assertion: &&Value| assertion["label"].as_str().is_some_and(|label| label.starts_with("c2pa.actions"));
    let actions = assertions.iter().filter(is_actions).flat_map(|assertion| list(&assertion["data"]["actions"]));
    let generator = &manifest["claim_generator_info"][0];
    let signature = &manifest["signature_info"];
    Credentials {
        state,
        signer: text(&signature["common_name"]).or_else(|| text(&signature["issuer"])),
        program: text(&generator["name"]).map(|name| match generator["version"].as_str() {
            Some(version) => format!("{name} {version}"),
            None => name,
        }),
        actions: texts(actions.collect(), "action"),
        ingredients: list(&manifest["ingredients"]).len(),
        problems: texts(list(&report["validation_status"]), "code"),
    }
}

//! Every route, from the OpenAPI document that the server makes, and every code of an error, from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;
use ureq::http::StatusCode;

use super::{cell, repository, table};

/// docs/reference/generated/http.md.
pub fn http() -> String {
    let document = serde_json::to_value(flux2_server::openapi()).expect("it is JSON");
    let mut text = "# All routes\n\nEvery operation of the server's OpenAPI document, which a running server has at \
                    `/openapi.json`, and for people at `/docs`. How the APIs differ is in [HTTP](../http.md).\n\n"
        .to_owned();
    for tag in document["tags"].as_array().expect("the document has tags") {
        text += &format!("## {}\n\n{}\n\n", words(&tag["name"]), words(&tag["description"]));
        for (path, item) in document["paths"].as_object().expect("the document has paths") {
            for (method, operation) in item.as_object().expect("a path has operations") {
                if operation["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"])) {
                    text += &self::operation(&document, method, path, operation);
                }
            }
        }
    }
    text += "## Codes of errors\n\nThe `code` of an error, and the status it comes with. Whether to send the same \
             request again is in [HTTP](../http.md#openai).\n\n";
    text + &table(
        ["status", "`code`"],
        codes().into_iter().map(|(status, codes)| {
            let codes: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
            [status.to_string(), codes.join(", ")]
        }),
    )
}

fn words(value: &Value) -> String {
    cell(value.as_str().unwrap_or_default())
}

fn operation(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let mut text = format!("### {} {path}\n\n", method.to_uppercase());
    let about = [&operation["summary"], &operation["description"]].map(words).join(" ");
    text += &format!("{}\n\n", about.trim());
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let mut rows: Vec<_> = parameters
        .map(|parameter| {
            [
                format!("`{}`", words(&parameter["name"])),
                words(&parameter["in"]),
                kind(document, &parameter["schema"]),
                words(&parameter["description"]),
            ]
        })
        .collect();
    let content = operation["requestBody"]["content"].as_object().into_iter().flatten();
    for (media, body) in content {
        for (name, field) in fields(document, &body["schema"]) {
            rows.push([
                format!("`{name}`"),
                format!("body, {media}"),
                kind(document, field),
                words(&field["description"]),
            ]);
        }
    }
    if !rows.is_empty() {
        text += &table(["name", "where", "type", "meaning"], rows);
    }
    let responses = operation["responses"].as_object().expect("an operation has responses");
    for (status, response) in responses {
        text += &format!("- {status}: {}\n", words(&response["description"]));
    }
    text + "\n"
}

/// The fields of a schema, with those that it takes over from others.
fn fields<'a>(document: &'a Value, schema: &'a Value) -> Vec<(&'a String, &'a Value)> {
    if let Some(reference) = schema["$ref"].as_str() {
        return fields(document, target(document, reference));
    }
    let own = schema["properties"].as_object().into_iter().flatten();
    let others = schema["allOf"].as_array().into_iter().flatten();
    own.chain(others.flat_map(|other| fields(document, other))).collect()
}

/// What `#/components/...` names.
fn target<'a>(document: &'a Value, reference: &str) -> &'a Value {
    document.pointer(reference.trim_start_matches('#')).expect("the document has what it refers to")
}

/// The type of a value in a word.
fn kind(document: &Value, schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let values = target(document, reference)["enum"].as_array().into_iter().flatten();
        let values: Vec<_> = values.map(|value| format!("`{value}`")).collect();
        let name = || cell(reference.rsplit('/').next().unwrap_or_default());
        return if values.is_empty() { name() } else { values.join(", ") };
    }
    let choices = ["oneOf", "anyOf"].iter().flat_map(|key| schema[*key].as_array()).flatten();
    let choices: Vec<String> = choices.map(|schema| kind(document, schema)).filter(|kind| kind != "null").collect();
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(document, &schema["items"])),
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.collect::<Vec<_>>().join(" or ")
        }
        _ if choices.is_empty() => "any".to_owned(),
        _ => choices.join(" or "),
    }
}

/// Codes of errors by their status, as the server's source gives them to an error.
fn codes() -> BTreeMap<u16, BTreeSet<String>> {
    let names: BTreeMap<String, u16> = (100..600)
        .filter_map(|number| Some((StatusCode::from_u16(number).ok()?.canonical_reason()?, number)))
        .map(|(reason, number)| (reason.to_uppercase().replace([' ', '-'], "_").replace('\'', ""), number))
        .collect();
    let mut found = BTreeMap::<u16, BTreeSet<String>>::new();
    let mut add = |status: u16, code: &str| found.entry(status).or_default().insert(code.to_owned());
    for source in sources(&repository("crates/flux2-server/src")) {
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for rest in source.split("StatusCode::").skip(1) {
            let (name, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(0));
            if let (Some(status), Some(code)) = (names.get(name), code_after(rest.strip_prefix(','))) {
                add(*status, code);
            }
        }
        // `ApiError::invalid` is a 400, under another code where one follows.
        for rest in source.split(".code(").skip(1) {
            add(400, code_after(Some(rest)).expect("a code is a text"));
        }
    }
    // The one status that has no name.
    add(499, "cancelled");
    found
}

/// The text of snake case in quotes that comes first.
fn code_after(rest: Option<&str>) -> Option<&str> {
    let (code, _) = rest?.trim_start().strip_prefix('"')?.split_once('"')?;
    (!code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c == '_')).then_some(code)
}

fn sources(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![fs::read_to_string(&path).unwrap_or_default()],
    };
    paths.flat_map(of).collect()
}

#[test]
fn the_overview_names_every_code() {
    let overview = fs::read_to_string(repository("docs/reference/http.md")).expect("it is there");
    let codes = codes();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes.values().flatten() {
        assert!(overview.contains(&format!("`{code}`")), "docs/reference/http.md does not name {code}");
    }
}

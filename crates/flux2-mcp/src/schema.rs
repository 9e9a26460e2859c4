//! Schemas of inputs, and arguments as models write them.

use std::sync::Arc;

use flux2::foreign;
use rmcp::handler::server::common::schema_for_type;
use rmcp::model::JsonObject;
use rmcp::schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::desk::{Result, ToolError};

/// The schema of a type, whose fields `required` may not be left out, in the plain words that all clients read: no null
/// beside a type, no references, no formats.
pub fn of<T: JsonSchema + 'static>(required: &[&str]) -> Arc<JsonObject> {
    let mut schema = schema_for_type::<T>().as_ref().clone();
    schema.retain(|key, _| ["type", "properties"].contains(&key.as_str()));
    schema.entry("properties").or_insert_with(|| Map::new().into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    schema.insert("required".into(), required.into());
    schema.insert("additionalProperties".into(), false.into());
    Arc::new(schema)
}

fn simplify(property: &mut Value) {
    let Value::Object(property) = property else { return };
    property.retain(|key, _| !["default", "format"].contains(&key.as_str()));
    if let Some(Value::Array(types)) = property.get("type") {
        let one = types.iter().find(|kind| *kind != "null").cloned();
        property.extend(one.map(|kind| ("type".to_owned(), kind)));
    }
    if let Some(Value::Array(choices)) = property.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if let Some(text) = property.get("description").and_then(Value::as_str) {
        let text = text.replace('\n', " ");
        property.insert("description".into(), text.into());
    }
    property.get_mut("items").into_iter().for_each(simplify);
}

/// Arguments as the type of `schema`. Models write numbers as texts, one value where a list is meant, null for what they
/// leave out, and -1 for a random seed: all of that is read.
///
/// # Errors
/// Which argument is unknown, missing or of another type.
pub fn read<T: DeserializeOwned>(arguments: Option<JsonObject>, schema: &JsonObject) -> Result<T> {
    let mut arguments = arguments.unwrap_or_default();
    let is_left_out = |name: &str, value: &Value| value.is_null() || (name == "seed" && value.as_i64() == Some(-1));
    arguments.retain(|name, value| !is_left_out(name, value));
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, value) in &mut arguments {
        let Some(property) = properties.get(name) else { return Err(unknown(name, properties)) };
        convert(value, property["type"].as_str().unwrap_or_default());
        if !fits(value, property) {
            let expected = expectation(property);
            return Err(ToolError::new(format!("{name} is {}", shown(value)), format_args!("it must be {expected}")));
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if !arguments.contains_key(name) {
            return Err(ToolError(format!("{name} is missing, and this tool needs it")));
        }
    }
    serde_json::from_value(Value::Object(arguments)).map_err(|error| ToolError(format!("the arguments: {error}")))
}

fn unknown(name: &str, properties: &Map<String, Value>) -> ToolError {
    let name: String = name.chars().take(60).collect();
    if let Some(why) = foreign::why(&name) {
        return ToolError::new(why, foreign::HINT);
    }
    let similar = properties.keys().map(|known| (strsim::jaro_winkler(&name, known), known));
    let nearest = similar.filter(|(similarity, _)| *similarity > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
    let message = format!("there is no argument {name:?}");
    match nearest {
        Some((_, nearest)) => ToolError::new(message, format_args!("use {nearest:?}")),
        None if properties.is_empty() => ToolError::new(message, "this tool takes none"),
        None => {
            let names: Vec<&str> = properties.keys().map(String::as_str).collect();
            ToolError::new(message, format_args!("the arguments are {}", names.join(", ")))
        }
    }
}

/// A text that is a number or a truth value becomes one, and one value a list of it.
fn convert(value: &mut Value, kind: &str) {
    match (kind, &*value) {
        ("integer" | "number" | "boolean", Value::String(text)) => {
            if let Ok(parsed @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text.trim()) {
                *value = parsed;
            }
        }
        ("array", Value::String(_)) => *value = Value::Array(vec![value.take()]),
        _ => {}
    }
    // 4.0 is a whole number.
    if kind == "integer"
        && let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && number.fract() == 0.0
        && (0.0..9e15).contains(&number)
    {
        *value = (number as u64).into();
    }
}

fn fits(value: &Value, property: &Value) -> bool {
    let is_type = match property["type"].as_str().unwrap_or_default() {
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.as_array().is_some_and(|items| items.iter().all(|item| fits(item, &property["items"]))),
        _ => true,
    };
    let least = property["minimum"].as_f64().unwrap_or(f64::NEG_INFINITY);
    let most = property["maximum"].as_f64().unwrap_or(f64::INFINITY);
    is_type && value.as_f64().is_none_or(|number| (least..=most).contains(&number))
}

/// What a property takes, in words.
fn expectation(property: &Value) -> String {
    let range = match (&property["minimum"], &property["maximum"]) {
        (Value::Null, Value::Null) => String::new(),
        (least, Value::Null) => format!(" of at least {least}"),
        (Value::Null, most) => format!(" of at most {most}"),
        (least, most) => format!(" from {least} to {most}"),
    };
    let kind = match property["type"].as_str().unwrap_or_default() {
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "string" => "a text",
        "array" => "a list of texts",
        other => other,
    };
    format!("{kind}{range}")
}

/// A value in an error: the beginning of it.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => return format!("a list of {}", items.len()),
        Value::Object(_) => return "an object".into(),
        other => other.to_string(),
    };
    match text.chars().nth(60) {
        None => text,
        Some(_) => format!("{}…", text.chars().take(60).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::input::{EditInput, GenerateInput, NoInput, StatusInput};

    fn generate(arguments: Value) -> Result<GenerateInput> {
        read(arguments.as_object().cloned(), &of::<GenerateInput>(&["prompt"]))
    }

    #[test]
    fn a_schema_is_plain() {
        let schema = Value::Object(of::<EditInput>(&["prompt"]).as_ref().clone());
        assert_eq!(schema["required"], json!(["prompt"]));
        for (name, property) in schema["properties"].as_object().unwrap() {
            assert!(property["type"].is_string(), "{name}: {property}");
            assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{name}: {property}");
            let allowed = ["type", "description", "items", "enum", "minimum", "maximum"];
            let odd = property.as_object().unwrap().keys().find(|key| !allowed.contains(&key.as_str()));
            assert_eq!(odd, None, "{name}: {property}");
        }
        // Whole numbers fit into 32 bits, but for a seed.
        let is_bounded = |name: &str, property: &Value| name == "seed" || property["maximum"].as_u64().is_some();
        let integers = schema["properties"].as_object().unwrap().iter().filter(|(_, it)| it["type"] == "integer");
        integers.for_each(|(name, property)| assert!(is_bounded(name, property), "{name}: {property}"));
        let text = schema.to_string();
        assert!(!text.contains("$ref") && !text.contains("null") && !text.contains("anyOf"), "{text}");
        assert_eq!(schema["properties"]["format"]["enum"], json!(["png", "jpeg", "webp"]));
        assert_eq!(schema["properties"]["references"]["items"]["type"], "string");
        assert_eq!(of::<NoInput>(&[])["properties"], json!({}));
    }

    #[test]
    fn arguments_are_read_as_models_write_them() {
        let input = generate(
            json!({"prompt": "p", "width": "64", "height": 64.0, "seed": -1, "steps": null, "loras": "a", "show": "false"}),
        );
        let input = input.unwrap();
        assert_eq!((input.drawing.width, input.drawing.height, input.drawing.seed), (Some(64), Some(64), None));
        assert_eq!((input.drawing.loras, input.delivery.show), (vec!["a".to_owned()], Some(false)));
        let biggest = generate(json!({"prompt": "p", "seed": u64::MAX, "format": "jpg", "upscale": 2})).unwrap();
        assert_eq!((biggest.drawing.seed, biggest.drawing.upscale), (Some(u64::MAX), Some(2.0)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |arguments: Value| generate(arguments).unwrap_err().0;
        assert_eq!(error(json!({"prompt": "p", "widht": 64})), r#"there is no argument "widht"; use "width""#);
        assert!(error(json!({"prompt": "p", "sampler": "euler"})).starts_with("there is no sampler to choose"));
        assert!(error(json!({"prompt": "p", "qqq": 64})).contains("the arguments are prompt, "));
        assert_eq!(error(json!({})), "prompt is missing, and this tool needs it");
        assert_eq!(error(json!({"prompt": 3})), "prompt is 3; it must be a text");
        assert_eq!(
            error(json!({"prompt": "p", "width": -1})),
            "width is -1; it must be a whole number from 64 to 4096"
        );
        assert_eq!(error(json!({"prompt": "p", "upscale": 99})), "upscale is 99; it must be a number from 1 to 16");
        assert_eq!(error(json!({"prompt": "p", "loras": [1]})), "loras is a list of 1; it must be a list of texts");
        assert_eq!(error(json!({"prompt": {}})), "prompt is an object; it must be a text");
        assert!(error(json!({"prompt": "p", "width": 99_999_999_999_u64})).contains("width"), "over 32 bits");
        assert!(error(json!({"prompt": "p", "format": "bmp"})).contains("bmp"));
        assert!(error(json!({"prompt": "p", "seed": "x".repeat(1000)})).len() < 200);
        let status = read::<StatusInput>(json!({"wait_seconds": 601}).as_object().cloned(), &of::<StatusInput>(&[]));
        assert_eq!(status.unwrap_err().0, "wait_seconds is 601; it must be a whole number from 0 to 600");
    }
}

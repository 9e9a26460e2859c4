//! The OpenAPI document, made from the types and handlers, and a page of it for people.

use std::fmt::Write as _;

use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// What the document says besides its paths.
#[derive(OpenApi)]
#[openapi(
    info(title = "dj-flux2", description = "Images from prompts with FLUX.2 [klein]."),
    tags(
        (name = "jobs", description = "The native API: jobs that are made, watched and fetched."),
        (name = "about", description = "What the server can do, and how it does."),
        (name = "openai", description = "OpenAI's images API. The paths also work without `/v1`."),
        (name = "automatic1111", description = "The part of AUTOMATIC1111's API that other programs use."),
        (name = "dj-flux2", description = "The API of the Python program dj-flux2; with a WebSocket at `/ws/{token}`."),
        (name = "operation", description = "For those who watch the server."),
    ),
    security(("bearer" = []), ("basic" = [])),
    modifiers(&Security)
)]
pub struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = |scheme| SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build());
        components.add_security_scheme("bearer", scheme(HttpAuthScheme::Bearer));
        components.add_security_scheme("basic", scheme(HttpAuthScheme::Basic));
    }
}

/// Methods of OpenAPI, in the order that the page shows them.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

const HEAD: &str = "\
<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>dj-flux2: HTTP reference</title>
<meta name=\"viewport\" content=\"width=device-width\">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h3 { margin-top: 2.5rem } code { font-size: 0.95em } table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #8884; padding: 0.3rem 0.6rem; text-align: left; vertical-align: top }
</style>
";

/// The document as a page without scripts.
pub fn page(document: &Value) -> String {
    let mut html = HEAD.to_owned();
    let _ = write!(
        html,
        "<h1>HTTP reference, version {}</h1>\n<p>The same as a document for programs: ",
        text(&document["info"]["version"])
    );
    html += "<a href=\"/openapi.json\">openapi.json</a>.</p>\n";
    for tag in document["tags"].as_array().into_iter().flatten() {
        let _ = write!(html, "<h2>{}</h2>\n<p>{}</p>\n", text(&tag["name"]), text(&tag["description"]));
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for method in METHODS {
                let operation = &item[method];
                if operation["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"])) {
                    write_operation(&mut html, document, method, path, operation);
                }
            }
        }
    }
    html + "</html>\n"
}

fn write_operation(html: &mut String, document: &Value, method: &str, path: &str, operation: &Value) {
    let method = method.to_uppercase();
    let _ = write!(html, "<h3><code>{method} {}</code></h3>\n<p>{}", escaped(path), text(&operation["summary"]));
    let _ = writeln!(html, " {}</p>", text(&operation["description"]));
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let place = format!("{} ({})", text(&parameter["name"]), text(&parameter["in"]));
        row(&mut rows, &place, &kind(&parameter["schema"]), &text(&parameter["description"]));
    }
    for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let schema = resolved(document, &content["schema"]);
        let Some(fields) = schema["properties"].as_object() else {
            row(&mut rows, "body", &escaped(media), "");
            continue;
        };
        row(&mut rows, "body", &escaped(media), &text(&schema["description"]));
        for (name, field) in fields {
            row(&mut rows, &escaped(name), &kind(field), &text(&field["description"]));
        }
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let media: Vec<_> =
            response["content"].as_object().into_iter().flatten().map(|(media, _)| escaped(media)).collect();
        row(&mut rows, &format!("answer {}", escaped(status)), &media.join(", "), &text(&response["description"]));
    }
    let _ = writeln!(html, "<table>\n{rows}</table>");
}

fn row(rows: &mut String, name: &str, kind: &str, description: &str) {
    let _ = writeln!(rows, "<tr><td><code>{name}</code></td><td>{kind}</td><td>{description}</td></tr>");
}

/// A schema, or the one that it refers to.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/"));
    name.map_or(schema, |name| &document["components"]["schemas"][name])
}

/// The type of a schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(path) = schema["$ref"].as_str() {
        return escaped(path.rsplit('/').next().unwrap_or_default());
    }
    let names: Vec<String> = match &schema["type"] {
        Value::String(name) => vec![escaped(name)],
        Value::Array(names) => names.iter().map(text).filter(|name| name != "null").collect(),
        _ => schema["oneOf"].as_array().into_iter().flatten().map(kind).filter(|name| name != "null").collect(),
    };
    match names.iter().any(|name| name == "array") {
        true => format!("array of {}", kind(&schema["items"])),
        false => names.join(" or "),
    }
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

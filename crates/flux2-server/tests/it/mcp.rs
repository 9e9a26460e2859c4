//! The Model Context Protocol at `/mcp`, in the version with sessions; the official client is run by `tests/clients`.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use flux2_server::{Key, Keys};
use serde_json::{Value, json};

use crate::site::{Answer, Site, base64, png, post, request, unbase64};

const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");

/// A client with a session.
struct Client<'a> {
    site: &'a Site,
    key: &'a str,
    session: String,
}

impl<'a> Client<'a> {
    fn new(site: &'a Site, key: &'a str) -> Self {
        let about =
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let mut client = Client { site, key, session: String::new() };
        let answer = client.send(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        client.session = answer.header("mcp-session-id").to_owned();
        assert!(!client.session.is_empty());
        client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn send(&self, message: Value) -> Answer {
        let mut headers = vec![ACCEPT];
        if !self.session.is_empty() {
            headers.push(("mcp-session-id", &self.session));
        }
        if !self.key.is_empty() {
            headers.push(("authorization", self.key));
        }
        self.site.post_with("/mcp", &headers, message)
    }

    /// The result of a call: whether it is an error, its text as JSON or as it is, and its picture.
    fn call(&self, tool: &str, arguments: Value) -> (bool, Value, Option<Vec<u8>>) {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": 5}});
        let answer = self.send(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let events = answer.events();
        let (_, last) = events.iter().rfind(|(_, data)| data["id"] == 1).unwrap_or_else(|| panic!("{events:?}"));
        let content = &last["result"]["content"];
        let text = content[0]["text"].as_str().unwrap_or_else(|| panic!("{last}"));
        let text = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        (last["result"]["isError"] == true, text, content.get(1).map(|image| unbase64(&image["data"])))
    }
}

#[test]
fn an_agent_draws_and_edits() {
    let site = Site::new();
    let client = Client::new(&site, "");
    let (is_error, job, shown) =
        client.call("generate", json!({"prompt": "a fox", "width": 64, "height": 64, "name": "fox"}));
    assert!(!is_error, "{job}");
    let picture = &job["pictures"][0];
    assert_eq!((&picture["ref"], picture.get("file"), picture.get("path")), (&json!("$1"), None, None));
    assert_eq!(Some(site.get(picture["url"].as_str().unwrap()).body.to_vec()), shown);
    let (_, edited, _) = client.call("edit", json!({"prompt": "p", "references": ["$fox", base64(&png(64, 64))]}));
    assert_eq!((&edited["state"], &edited["pictures"][0]["ref"]), (&json!("done"), &json!("$2")));
    // An alias of the server, and an upload.
    let (_, aliased, _) =
        client.call("generate", json!({"prompt": "p", "width": 64, "height": 64, "model": "gpt-image-1"}));
    assert_eq!(aliased["model"], "klein-4b");
    let (_, plan, _) = client.call("plan", json!({"model": "gpt-image-1"}));
    assert_eq!(plan["model"], "klein-4b");
    let (is_error, larger, _) = client.call("upscale", json!({"image": "$fox", "upscaler": "lanczos"}));
    assert_eq!((is_error, &larger["width"]), (false, &json!(128)), "{larger}");
}

#[test]
fn files_are_neither_read_nor_written() {
    let site = Site::new();
    let client = Client::new(&site, "");
    for path in ["/etc/passwd", "a.png", "../a.png", "/dev/zero"] {
        let (is_error, text, _) = client.call("upscale", json!({"image": path}));
        assert!(is_error && text.as_str().unwrap().contains("reads no files"), "{path}: {text}");
    }
    let (is_error, text, _) = client.call("generate", json!({"prompt": "p", "output": "a.png"}));
    assert!(is_error && text.as_str().unwrap().contains("writes no files"), "{text}");
}

#[test]
fn keys_and_limits_hold_for_agents_too() {
    let site = Site::with(|setup| {
        let secret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        setup.keys = Keys::parse(&format!("alice {secret} jobs=1")).unwrap().with(Key::new("bob", "b-key"));
        setup.fake.step = Duration::from_secs(30);
        setup.options.limits.pixels = 1 << 16;
    });
    for key in ["", "Bearer wrong"] {
        let headers: Vec<_> =
            [ACCEPT, ("authorization", key)].into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let answer = site.send(post("/mcp", &headers, json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})));
        assert_eq!(answer.status, 401, "{key:?}");
    }
    let [alice, bob] = ["Bearer secret", "Bearer b-key"].map(|key| Client::new(&site, key));
    let small = json!({"prompt": "p", "width": 64, "height": 64, "wait_seconds": 0});
    let (_, job, _) = alice.call("generate", small.clone());
    let (is_error, text, _) = alice.call("generate", small);
    assert!(is_error && text.as_str().unwrap().contains("this key has 1 jobs"), "{text}");
    let (is_error, text, _) = alice.call("generate", json!({"prompt": "p", "width": 512, "height": 512}));
    assert!(is_error && text.as_str().unwrap().contains("more than 65536 pixels"), "{text}");
    for tool in ["job_status", "cancel"] {
        let (is_error, text, _) = bob.call(tool, json!({"id": job["id"]}));
        assert!(is_error && text.as_str().unwrap().contains("there is no job"), "{text}");
    }
    // A session that is known to somebody else does not lend its key.
    let stolen = Client { session: alice.session.clone(), ..Client::new(&site, "Bearer b-key") };
    let (_, lists, _) = stolen.call("job_status", json!({}));
    assert_eq!((&lists["jobs"], &lists["history"]), (&json!([]), &json!([])));
    assert_eq!(alice.call("cancel", json!({"id": job["id"]})).1["id"], job["id"]);
}

#[test]
fn odd_requests_are_answered() {
    let site = Site::new();
    let send = |method: Method, headers: &[(&str, &str)], body: &str| {
        site.send(request(method, "/mcp", headers, Body::from(body.to_owned()))).status.as_u16()
    };
    let json_type = ("content-type", "application/json");
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(send(Method::POST, &[ACCEPT, json_type, ("host", "x"), ("origin", "https://evil.example")], ping), 403);
    for (headers, body) in [
        (vec![ACCEPT, json_type], "no json"),
        (vec![ACCEPT, json_type], "[[[["),
        (vec![ACCEPT, json_type], "{}"),
        (vec![ACCEPT], ping),
        (vec![json_type], ping),
        (vec![ACCEPT, json_type, ("mcp-session-id", "none")], ping),
        (vec![ACCEPT, json_type, ("mcp-protocol-version", "1")], ping),
    ] {
        let status = send(Method::POST, &headers, body);
        assert!((400..500).contains(&status), "{headers:?} {body}: {status}");
    }
    assert_eq!(send(Method::POST, &[ACCEPT, json_type], &"x".repeat(17 << 20)), 413);
    assert_eq!(send(Method::PUT, &[ACCEPT], ""), 405);
    assert!((400..500).contains(&send(Method::GET, &[ACCEPT], "")));
    assert_eq!(site.get("/health").status, 200);
}

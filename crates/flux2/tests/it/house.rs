//! House rules that the compiler does not check: which names may not occur in which sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The sources below `crates/PATH`, each with its text up to its unit tests.
fn sources(path: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                found.push((path, code));
            }
        }
    }
    assert!(found.len() > 1, "{path} has too few sources to be the right folder");
    found
}

/// The text of `crates/PATH`.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// No line of code below `path` holds one of `words`, except in the module `except`: a file of that name, or a folder.
fn check(path: &str, words: &[&str], except: &str) {
    let is_except =
        |file: &Path| file.iter().any(|part| Path::new(part).file_stem().is_some_and(|stem| stem == except));
    for (file, code) in sources(path).into_iter().filter(|(file, _)| !is_except(file)) {
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                panic!("{}:{}: `{word}` does not belong here: {}", file.display(), number + 1, line.trim());
            }
        }
    }
}

#[test]
fn only_the_engine_names_a_backend() {
    for path in ["flux2/src", "dj-flux2/src"] {
        check(path, &["CpuBackend", "CpuOptions", "CudaBackend", "CudaOptions", "cudarc"], "engine");
    }
}

/// Models import one module a line: a list in braces could hide a module from this search.
#[test]
fn models_know_neither_files_nor_watchers() {
    check("flux2/src/models", &["crate::{", "super::super"], "");
    let rooms =
        ["pipeline", "event", "image", "engine", "request", "text", "hub", "weights::layout", "weights::safetensors"];
    let imports: Vec<String> = rooms.iter().map(|room| format!("crate::{room}")).collect();
    check("flux2/src/models", &imports.iter().map(String::as_str).collect::<Vec<_>>(), "");
    check("flux2/src/models", &["std::fs", "std::time", "std::path"], "");
}

/// The library crates; the command line is the only other one.
const LIBRARIES: [&str; 10] = [
    "flux2-base/src",
    "flux2-backend/src",
    "flux2-weights/src",
    "flux2-hub/src",
    "flux2/src",
    "flux2-jobs/src",
    "flux2-session/src",
    FLEET,
    MCP,
    SERVER,
];

/// The only crates with an async runtime.
const SERVER: &str = "flux2-server/src";
const MCP: &str = "flux2-mcp/src";
const FLEET: &str = "flux2-fleet/src";

#[test]
fn libraries_read_no_environment_and_do_not_exit() {
    for path in LIBRARIES {
        // `ModelFinder::usual` reads it, when a program asks for that.
        let except = if path == "flux2/src" { "find" } else { "testing" };
        check(path, &["std::env", "std::{", "env::var", "env::args", "process::exit"], except);
    }
    assert_eq!(read("flux2/src/find.rs").matches("env::").count(), 1);
}

/// Loops on the host run on the threads the backend was given, not on a pool that `--threads` does not reach.
#[test]
fn the_cuda_backend_uses_neither_the_cpu_backend_nor_other_threads() {
    check("flux2-backend/src/cuda", &["rayon", "crate::cpu", "CpuBackend"], "");
}

#[test]
fn the_cuda_runtime_knows_neither_products_nor_ops() {
    check("flux2-backend/src/cuda/runtime", &["super::product", "super::ops", "cuda::product", "cuda::ops"], "");
}

#[test]
fn only_servers_have_an_async_runtime() {
    for path in LIBRARIES.into_iter().chain(["dj-flux2/src"]).filter(|path| ![SERVER, MCP, FLEET].contains(path)) {
        check(path, &["async fn", "async move", "tokio", "async_std", "smol", ".await"], "");
        for (number, line) in read(&path.replace("src", "Cargo.toml")).lines().enumerate() {
            for runtime in ["tokio", "async-std", "smol"] {
                assert!(!line.starts_with(runtime), "{path}:{}: {line}", number + 1);
            }
        }
    }
}

#[test]
fn pictures_in_the_terminal_know_nothing_of_the_program() {
    check("dj-flux2/src/terminal_picture", &["crate::"], "");
}

#[test]
fn the_sampler_does_not_know_the_networks() {
    check("flux2/src/sampler", &["crate::models", "crate::weights", "crate::pipeline"], "");
}

/// Crates, and the crates of the workspace that each may depend on.
const CRATES: [(&str, &[&str]); 11] = [
    ("flux2-base", &[]),
    ("flux2-backend", &[]),
    ("flux2-weights", &["flux2-base", "flux2-backend", "flux2-mini", "flux2-upscaler"]),
    ("flux2-hub", &["flux2-base"]),
    ("flux2", &["flux2-base", "flux2-backend", "flux2-weights", "flux2-hub"]),
    ("flux2-jobs", &["flux2"]),
    ("flux2-session", &["flux2", "flux2-jobs"]),
    ("flux2-fleet", &["flux2", "flux2-jobs"]),
    ("flux2-mcp", &["flux2", "flux2-jobs", "flux2-session"]),
    ("flux2-server", &["flux2", "flux2-jobs", "flux2-mcp"]),
    ("dj-flux2", &["flux2", "flux2-fleet", "flux2-jobs", "flux2-mcp", "flux2-server", "flux2-session"]),
];

#[test]
fn crates_depend_downwards() {
    for (name, may) in CRATES {
        let manifest = read(&format!("{name}/Cargo.toml"));
        let dependencies = manifest.split("\n[dependencies]\n").nth(1).expect("every crate lists its dependencies");
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        for found in names.filter(|found| found.starts_with("flux2") || found.starts_with("dj-flux2")) {
            assert!(may.contains(&found), "{name} must not depend on {found}");
        }
    }
}

/// A room, and the rooms that it may import.
type Room = (&'static str, &'static [&'static str]);

/// Rooms of a crate, and the other rooms of it that each may import. Rooms that are not listed may import any.
const ROOMS: [(&str, &[Room]); 9] = [
    (
        "flux2-backend",
        &[
            ("backend", &["dtype", "ops", "runtime", "tensor"]),
            ("cpu", &["backend", "dtype", "host", "ops", "quant", "runtime", "simd", "tensor", "threads"]),
            ("cuda", &["backend", "dtype", "host", "ops", "quant", "runtime", "tensor", "threads"]),
            ("dtype", &[]),
            ("host", &["dtype", "quant"]),
            ("ops", &["backend", "dtype", "quant", "tensor"]),
            ("quant", &["dtype", "host", "simd", "threads"]),
            ("runtime", &["dtype", "host", "tensor"]),
            ("simd", &["dtype"]),
            ("tensor", &["dtype", "host", "runtime"]),
            ("threads", &[]),
        ],
    ),
    (
        "flux2-hub",
        &[
            ("cache", &["listing", "snapshot", "RepoId"]),
            ("download", &["http", "listing", "Hub"]),
            ("environment", &[]),
            ("http", &["listing", "Hub", "Patience", "Proxies", "RepoId", "Token"]),
            ("listing", &["http", "Hub", "RepoId"]),
            ("release", &["cache", "listing", "verify", "Hub", "HubOptions", "RepoId"]),
            ("snapshot", &["listing"]),
            ("verify", &["cache", "listing", "snapshot", "RepoId"]),
        ],
    ),
    (
        "flux2",
        &[
            ("canvas", &["image", "marks"]),
            ("compat", &["image", "sampler"]),
            ("device", &[]),
            ("event", &["image", "upscale", "vocabulary"]),
            ("error", &["device", "event"]),
            ("foreign", &[]),
            ("image", &[]),
            ("latents", &[]),
            ("marks", &["image"]),
            ("models", &["latents", "weights"]),
            ("preview", &["image", "sampler", "weights"]),
            ("request", &["canvas", "compat", "event", "image", "latents", "marks", "sampler", "upscale", "variant"]),
            ("sampler", &[]),
            ("sheet", &["image"]),
            ("template", &[]),
            ("text", &["weights"]),
            ("text_cache", &["event", "weights"]),
            (
                "upscale",
                &["device", "engine", "event", "hub", "image", "marks", "models", "pipeline", "plan", "weights"],
            ),
            ("vocabulary", &["weights"]),
        ],
    ),
    (
        "flux2-fleet",
        &[
            ("connect", &["error", "names"]),
            ("dead", &["connect", "error", "names", "record", "store"]),
            ("error", &[]),
            ("front", &["connect", "error", "names", "objects", "record", "roster", "wire"]),
            ("names", &[]),
            ("objects", &["connect", "error", "names", "s3"]),
            ("operator", &["connect", "dead", "error", "names", "roster"]),
            ("record", &["error"]),
            ("roster", &["connect", "error", "names", "record"]),
            ("s3", &[]),
            ("store", &["connect", "error", "names", "record"]),
            ("wire", &["record"]),
            ("worker", &["connect", "error", "names", "objects", "record", "roster", "store", "wire"]),
        ],
    ),
    (
        "flux2-jobs",
        &[
            ("canvas", &[]),
            ("estimate", &["spec"]),
            ("event", &["failure", "view"]),
            ("failure", &[]),
            ("id", &[]),
            ("journal", &["failure", "id", "spec", "submission", "view"]),
            ("lanes", &["scheduler", "submission"]),
            ("options", &["spec"]),
            ("scheduler", &["id", "options", "spec", "submission"]),
            ("spec", &["canvas"]),
            ("store", &[]),
        ],
    ),
    (
        "flux2-mcp",
        &[
            ("album", &["desk", "root"]),
            ("call", &["album", "desk"]),
            ("content", &["desk"]),
            ("desk", &[]),
            ("draft", &["album", "desk", "input", "picture"]),
            ("handler", &["album", "call", "desk", "root", "tools"]),
            ("input", &[]),
            ("picture", &["album", "desk"]),
            ("record", &["album", "desk"]),
            ("root", &["desk"]),
            ("schema", &["desk"]),
            ("stdio", &["handler", "transport"]),
            ("streamable", &["desk", "handler"]),
            ("transport", &[]),
        ],
    ),
    (
        "flux2-server",
        &[
            ("access", &["app", "keys", "options"]),
            ("app", &["keys", "links", "metrics", "options"]),
            ("body", &["app"]),
            ("connection", &["access", "listen", "options", "tls"]),
            ("document", &[]),
            ("extract", &[]),
            ("drawing", &["access", "app", "body", "values"]),
            ("health", &["app", "metrics"]),
            ("keys", &[]),
            ("links", &[]),
            ("listen", &[]),
            ("mcp", &["access", "app", "body", "drawing"]),
            ("metrics", &[]),
            ("native", &["access", "app", "body", "drawing", "extract", "values"]),
            ("observe", &["access", "app"]),
            ("options", &[]),
            ("page", &["app"]),
            ("signals", &[]),
            ("tls", &[]),
            ("values", &[]),
        ],
    ),
    (
        "flux2-session",
        &[
            ("error", &["names"]),
            ("history", &["made", "names", "Result"]),
            ("line", &["names", "Result"]),
            ("local", &["made", "studio"]),
            ("made", &[]),
            ("names", &["history", "Result"]),
            ("studio", &["made"]),
        ],
    ),
    (
        "flux2-weights",
        &[
            ("any_file", &["config", "location", "mismatch", "pth", "tensor_file"]),
            ("gguf", &["tensor_file"]),
            ("json", &["location", "tensor_file"]),
            ("layout", &[]),
            ("location", &["variant"]),
            ("mismatch", &["tensor_file"]),
            ("preview_decoder", &["any_file", "config", "location", "mismatch", "tensor_file", "WeightSource"]),
            ("pth", &["location", "tensor_file"]),
            ("quantize", &[]),
            ("safetensors", &["tensor_file"]),
            ("tensor_file", &["gguf", "location", "pth", "safetensors"]),
            ("sizes", &["config", "variant"]),
            ("upscaler", &["any_file", "config", "location", "mismatch", "tensor_file", "WeightSource"]),
            ("variant", &["config", "mismatch", "sizes"]),
        ],
    ),
];

#[test]
fn rooms_import_only_what_the_table_says() {
    for (name, rooms) in ROOMS {
        let lib = read(&format!("{name}/src/lib.rs"));
        // A name that lib.rs re-exports counts as its module's.
        let mut owners = BTreeMap::new();
        for statement in lib.split(';').filter_map(|statement| statement.trim().rsplit_once("pub use ")) {
            if let Some((room, names)) = statement.1.split_once("::") {
                for name in names.split(['{', '}', ',', ':', ' ', '\n']).filter(|name| !name.is_empty()) {
                    owners.insert(name.to_owned(), room.to_owned());
                }
            }
        }
        let all = sources(&format!("{name}/src"));
        for (room, may) in rooms {
            let in_room = all.iter().filter(|(file, _)| room_of(file).is_some_and(|found| found == *room));
            let mut found_any = false;
            for (file, code) in in_room {
                found_any = true;
                for import in imports(code) {
                    let target = owners.get(&import).unwrap_or(&import);
                    let is_allowed = target == room || target == "error" || may.contains(&target.as_str());
                    // Crates of the workspace have a table of their own.
                    let is_crate = target.starts_with("flux2_");
                    assert!(is_allowed || is_crate, "{}: {room} must not import {target}", file.display());
                }
            }
            assert!(found_any, "{name} has no room {room}");
        }
    }
}

/// The first part of a source's path below `src`, without its extension.
fn room_of(file: &Path) -> Option<String> {
    let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
    let src = parts.iter().rposition(|part| part == "src")?;
    Some(parts.get(src + 1)?.trim_end_matches(".rs").to_owned())
}

/// Names behind `crate::` in lines of code.
fn imports(code: &str) -> BTreeSet<String> {
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.extend(rest.split(|c| !is_name(c)).next().map(str::to_owned));
            continue;
        };
        // In braces, the first part of each path at the outer level.
        let (mut depth, mut entry) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.extend(std::mem::take(&mut entry).split("::").next().map(name_in)),
                _ if depth == 0 => entry.push(c),
                _ => {}
            }
        }
        found.extend(entry.split("::").next().map(name_in));
    }
    found.retain(|name| !name.is_empty());
    found
}

fn name_in(text: &str) -> String {
    text.trim().to_owned()
}

#[test]
fn imports_are_found_in_lists() {
    let code = "use crate::{Error, a::{b, c}, d::E};\nuse crate::f::g;\n// use crate::h;\n";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["Error", "a", "d", "f"]);
}

/// Texts that look like flags of the command line and are options of NVIDIA's compiler.
const COMPILER_OPTIONS: [&str; 3] = ["--gpu-architecture={architecture}", "--std=c++17", "-default-device"];

#[test]
fn libraries_know_no_command_line() {
    let mut count = 0;
    for path in LIBRARIES {
        // Tolerances and runners for tests are no part of a front end's library. All clients of the hub read the same
        // variables.
        let is_exempt = |file: &Path| file.ends_with("testing.rs") || file.ends_with("flux2-hub/src/environment.rs");
        for (file, code) in sources(path).into_iter().filter(|(file, _)| !is_exempt(file)) {
            for text in string_literals(&code).iter().filter(|text| !COMPILER_OPTIONS.contains(&text.as_str())) {
                count += 1;
                if let Some(word) = front_end_word(text) {
                    panic!("{}: `{word}` belongs to the command line: {text:?}", file.display());
                }
            }
        }
    }
    assert!(count > 1000, "{count} texts are too few to be those of the libraries");
}

/// A flag, a subcommand or an environment variable in a text.
fn front_end_word(text: &str) -> Option<&str> {
    let of_variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let variables =
        text.split(|c| !of_variable(c)).filter(|word| word.starts_with("DJ_FLUX2") || word.starts_with("HF_"));
    let words = text.split(|c: char| c.is_whitespace() || "`'\"(),;:=[]".contains(c));
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    let flags = words.filter(|word| match word.strip_prefix("--") {
        Some(long) => is_letter(long.chars().next()),
        None => word.strip_prefix('-').is_some_and(|short| short.len() == 1 && is_letter(short.chars().next())),
    });
    let subcommand = text.contains("dj-flux2 ").then_some("dj-flux2 ");
    variables.chain(flags).chain(subcommand).next()
}

#[test]
fn words_of_the_command_line_are_found() {
    for text in ["use --width 496", "--vae", "pass `-m`, or", "run `dj-flux2 doctor`", "set HF_TOKEN", "DJ_FLUX2_MODEL"]
    {
        assert!(front_end_word(text).is_some(), "{text}");
    }
    for text in ["models--{}--{}", "a -> b", "1 - x", "dj-flux2/0.1", "half-open", "--", "-1", "SHF_X"] {
        assert_eq!(front_end_word(text), None, "{text}");
    }
}

/// The texts in string literals of Rust code, comments left out; escapes stay as they are written.
fn string_literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let (before, here) = rest.split_at(at);
        let in_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let hashes = here.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        rest = if here.starts_with("//") {
            here.find('\n').map_or("", |end| &here[end..])
        } else if let Some(text) = here.strip_prefix('"') {
            let end = end_of_literal(text);
            found.push(text[..end].to_owned());
            text.get(end + 1..).unwrap_or_default()
        } else if let Some(hashes) = hashes.filter(|hashes| here[1 + hashes..].starts_with('"') && !in_name) {
            let (text, end) = (&here[hashes + 2..], format!("\"{}", "#".repeat(hashes)));
            let length = text.find(&end).unwrap_or(text.len());
            found.push(text[..length].to_owned());
            text.get(length + end.len()..).unwrap_or_default()
        } else if here.starts_with("'\"'") || here.starts_with("'\\") {
            // A character: a quotation mark, or an escape such as '\'' that may hold one.
            here[2..].find('\'').map_or("", |end| &here[end + 3..])
        } else {
            &here[1..]
        };
    }
    found
}

/// Where a string literal ends that `text` begins with, from behind its first quotation mark.
fn end_of_literal(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return at,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

#[test]
fn string_literals_are_found() {
    let code = r##"a("b \"c\"", 'd', '"', '\'', b"e"); // "f"
        let for_r = r#"g"h"#; "i\
            j";"##;
    assert_eq!(string_literals(code), ["b \\\"c\\\"", "e", "g\"h", "i\\\n            j"]);
}

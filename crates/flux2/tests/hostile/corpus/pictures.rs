//! Hostile pictures: broken containers, and parameters that lie.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{Files, Rng, bytes, mutant};

/// Where a file is read completely, with its pixels.
pub(super) const WHOLE: &str = "picture";
/// Where only parameters are read: a changed header may ask for any number of pixels.
const PARAMETERS: &str = "parameters";

/// Adds all of them to `files`.
pub(super) fn pictures(files: &mut Files, rng: &mut Rng, fixtures: &Path) {
    let read = |path: String| std::fs::read(fixtures.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    files.place = WHOLE;
    for name in ["rgba.png", "palette_trns.png", "adobe_rgb.png", "animated.png", "exif_after_pixels.png"] {
        parts(files, name, &read(format!("images/{name}")), Container::Png);
    }
    for name in ["adobe_rgb.webp", "animated.webp", "orientation_6.webp", "lossy.webp"] {
        parts(files, name, &read(format!("images/{name}")), Container::WebP);
    }
    for name in ["display_p3.jpg", "progressive.jpg", "orientation_6.jpg"] {
        parts(files, name, &read(format!("images/{name}")), Container::Jpeg);
    }
    for (extension, container) in [("png", Container::Png), ("webp", Container::WebP), ("jpg", Container::Jpeg)] {
        let name = format!("compositeWithTrainedAlgorithmicMedia.{extension}");
        parts(files, &name, &read(format!("marks/{name}")), container);
    }
    files.place = PARAMETERS;
    let grey = read("images/grey.png".into());
    json_texts(files, rng, &grey, |name| read(format!("metadata/{name}")));
    lines(files, &grey);
    graphs(files, &grey);
    compressed(files, &grey);
    exif(files, &grey);
    marks(files, &grey);
    for name in ["ours_exif.png", "a1111.webp", "a1111.jpg", "comfyui_flux2.png"] {
        let whole = read(format!("metadata/{name}"));
        bytes(files, rng, &whole, whole.len(), 10);
    }
}

/// Adds masks to `files`, for a source of 100x75 pixels.
pub(super) fn masks(files: &mut Files, rng: &mut Rng, fixtures: &Path) {
    files.place = "mask";
    for name in ["mask_hard.png", "mask_soft.png"] {
        let whole = std::fs::read(fixtures.join("golden/inpaint").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        parts(files, name, &whole, Container::Png);
        bytes(files, rng, &whole, whole.len(), 30);
        for (width, height) in [
            (0, 0),
            (0, 75),
            (1, 1),
            (4, 3),
            (100, 74),
            (100, 76),
            (75, 100),
            (16_384, 1),
            (1, 16_384),
            (16_384, 12_288),
            (10_000, 7_500),
            (u32::MAX, u32::MAX),
        ] {
            let mut resized = whole.clone();
            let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &whole[24..29]].concat();
            resized.splice(8..33, png_chunk(b"IHDR", &header));
            files.add(format!("{name}: a header of {width}x{height}"), resized);
        }
        for (depth, color) in
            [(1u8, 0u8), (2, 0), (4, 0), (16, 0), (8, 2), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6), (3, 9)]
        {
            let mut other = whole.clone();
            let header = [&whole[16..24], &[depth, color, 0, 0, 0]].concat();
            other.splice(8..33, png_chunk(b"IHDR", &header));
            files.add(format!("{name}: depth {depth}, color type {color}"), other);
        }
    }
}

// ---- containers ----

#[derive(Clone, Copy)]
enum Container {
    Png,
    WebP,
    Jpeg,
}

/// Name of a part, and its data without length and checksum.
type Part = (Vec<u8>, Vec<u8>);

/// The signature of a file, and its chunks or segments.
fn split(file: &[u8], container: Container) -> (Vec<u8>, Vec<Part>) {
    let (start, mut at) = match container {
        Container::Png => (8, 8),
        Container::WebP => (12, 12),
        Container::Jpeg => (2, 2),
    };
    let mut parts = vec![];
    while at < file.len() {
        let (name, from, to, next) = match container {
            Container::Png => {
                let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
                (at + 4..at + 8, at + 8, at + 8 + length, at + 12 + length)
            }
            Container::WebP => {
                let length = u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
                (at..at + 4, at + 8, at + 8 + length, at + 8 + length.next_multiple_of(2))
            }
            // The pixels follow the start of scan.
            Container::Jpeg if file[at + 1] == 0xda => (at..at + 2, at + 2, file.len(), file.len()),
            Container::Jpeg => {
                let length = usize::from(u16::from_be_bytes(file[at + 2..at + 4].try_into().unwrap()));
                (at..at + 2, at + 4, at + 2 + length, at + 2 + length)
            }
        };
        parts.push((file[name].to_vec(), file[from..to].to_vec()));
        at = next;
    }
    (file[..start].to_vec(), parts)
}

fn join(head: &[u8], parts: &[Part], container: Container) -> Vec<u8> {
    let mut file = head.to_vec();
    for (name, data) in parts {
        match container {
            Container::Png => file.extend(png_chunk(name, data)),
            Container::WebP => {
                file.extend([name, &(data.len() as u32).to_le_bytes()[..], data].concat());
                file.resize(file.len().next_multiple_of(2), 0);
            }
            Container::Jpeg if name[1] == 0xda => file.extend([&name[..], data].concat()),
            Container::Jpeg => file.extend([name, &(data.len() as u16 + 2).to_be_bytes()[..], data].concat()),
        }
    }
    if let Container::WebP = container {
        let size = file.len() as u32 - 8;
        file[4..8].copy_from_slice(&size.to_le_bytes());
    }
    file
}

fn png_chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
}

/// Every part of a file left out, doubled, emptied, cut and moved to the end, with lengths and checksums that fit.
fn parts(files: &mut Files, name: &str, whole: &[u8], container: Container) {
    let (head, parts) = split(whole, container);
    assert_eq!(join(&head, &parts, container), whole, "{name}");
    for i in 0..parts.len() {
        let part = String::from_utf8_lossy(&parts[i].0).into_owned();
        let mut add = |what: &str, change: &dyn Fn(&mut Vec<Part>)| {
            let mut changed = parts.clone();
            change(&mut changed);
            files.add(format!("{name}: part {i}, {part}, {what}"), join(&head, &changed, container));
        };
        add("left out", &|parts| drop(parts.remove(i)));
        add("twice", &|parts| parts.insert(i, parts[i].clone()));
        add("empty", &|parts| parts[i].1.clear());
        add("cut", &|parts| {
            let half = parts[i].1.len() / 2;
            parts[i].1.truncate(half);
        });
        add("last", &|parts| {
            let part = parts.remove(i);
            parts.push(part);
        });
    }
}

// ---- parameters ----

fn with_text(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&png[..33], &png_chunk(kind, data), &png[33..]].concat()
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

/// The uncompressed text of a keyword.
fn text_of(png: &[u8], keyword: &str) -> Value {
    let (_, parts) = split(png, Container::Png);
    let prefix = format!("{keyword}\0");
    let text = parts.iter().find_map(|(_, data)| data.strip_prefix(prefix.as_bytes())).expect("a text of the fixture");
    serde_json::from_slice(text).expect("JSON")
}

fn json_texts(files: &mut Files, rng: &mut Rng, png: &[u8], read: impl Fn(&str) -> Vec<u8>) {
    for (name, keyword) in [
        ("ours_utf8_text.png", "dj-flux2"),
        ("comfyui.png", "prompt"),
        ("comfyui_flux2.png", "prompt"),
        ("comfyui_workflow.png", "workflow"),
        ("invokeai.png", "invokeai_metadata"),
        ("invokeai_2.png", "sd-metadata"),
        ("novelai_v4.png", "Comment"),
        ("swarmui.png", "parameters"),
    ] {
        let document = text_of(&read(name), keyword);
        for i in 0..8 {
            let (what, text) = mutant(rng, &document);
            let (kind, text) =
                if i % 2 == 0 { (b"tEXt", text) } else { (b"zTXt", [&[0], &deflated(&text)[..]].concat()) };
            files.add(format!("{name}: {what}"), with_text(png, kind, &[keyword.as_bytes(), b"\0", &text].concat()));
        }
    }
}

/// Texts in AUTOMATIC1111's format.
fn lines(files: &mut Files, png: &[u8]) {
    let start = "a fox\nSteps: 4, Sampler: Euler, Seed: 7";
    for (what, text) in [
        ("no text", String::new()),
        ("only settings", "Steps: 1, Seed: 2, Size: 3x4".into()),
        ("a quote that does not end", format!("{start}, Model: \"x")),
        ("100000 brackets", format!("{start}, Hashes: {}", "[".repeat(100_000))),
        ("100000 open lists", format!("{start}, {}", "ab: [1, ".repeat(100_000))),
        ("100000 open texts", format!("{start}, {}", "ab: \"x, ".repeat(100_000))),
        ("100000 colons", format!("{start}{}", ":".repeat(100_000))),
        ("100000 commas", format!("{start}{}", ",".repeat(100_000))),
        ("50000 settings", format!("{start}, {}", "ab: 1, ".repeat(50_000))),
        ("100000 lines", format!("{}\n{start}", "x\n".repeat(100_000))),
        ("50000 lines of settings", format!("{start}\n").repeat(50_000)),
        ("50000 negative prompts", format!("{}{start}", "Negative prompt: x\n".repeat(50_000))),
        ("numbers out of range", "a\nSteps: 4294967296, Seed: -1, Size: 1x99999999999, CFG scale: 1e999".into()),
        ("no numbers", "a\nSteps: four, Seed: NaN, Size: x, CFG scale: inf".into()),
        ("a line of a megabyte", format!("{start}, Model: {}", "x".repeat(1 << 20))),
        ("over the limit", format!("{start}, Model: {}", "x".repeat(3 << 20))),
    ] {
        files.add(what, with_text(png, b"tEXt", &[b"parameters\0", text.as_bytes()].concat()));
    }
}

/// Graphs of ComfyUI.
fn graphs(files: &mut Files, png: &[u8]) {
    let sampler = |inputs: Value| json!({"class_type": "KSampler", "inputs": inputs});
    let many =
        |n: usize, node: &dyn Fn(usize) -> Value| Value::Object((0..n).map(|i| (i.to_string(), node(i))).collect());
    let next = |i: usize| json!([(i + 1).to_string(), 0]);
    for (what, graph) in [
        ("a node that is its own input", json!({"1": sampler(json!({"seed": ["1", 0], "positive": ["1", 0]}))})),
        ("a link to nowhere", json!({"1": sampler(json!({"seed": ["2", 0], "positive": ["x", 0]}))})),
        ("2000 samplers in a row", many(2000, &|i| sampler(json!({"latent_image": next(i), "positive": next(i)})))),
        ("2000 samplers side by side", many(2000, &|i| sampler(json!({"seed": i})))),
        ("a ring of samplers", many(500, &|i| sampler(json!({"latent_image": next((i + 1) % 500)})))),
        ("2000 conditionings, two ways each", {
            let mut graph = many(2000, &|i| {
                let inputs = json!({"conditioning_1": next(i), "conditioning_2": next(i), "text": next(i)});
                json!({"class_type": "ConditioningCombine", "inputs": inputs})
            });
            graph["s"] = sampler(json!({"positive": ["0", 0], "seed": ["0", 0]}));
            graph
        }),
        ("nodes that are none", json!({"1": null, "2": [], "3": {"class_type": 7}, "4": {"inputs": 7}, "5": "x"})),
        ("inputs that are none", json!({"1": {"class_type": "KSampler", "inputs": [1, 2]}})),
        ("values of all types", sampler_of_all_types()),
    ] {
        files.add(what, with_text(png, b"tEXt", &[b"prompt\0", graph.to_string().as_bytes()].concat()));
    }
    let links: Vec<Value> = (0..5000).map(|i| json!([i, i, 0, i + 1, 0, "X"])).collect();
    let workflow = json!({"nodes": [{"id": 1, "type": "KSampler", "widgets_values": links}], "links": links});
    files.add("5000 links", with_text(png, b"tEXt", &[b"workflow\0", workflow.to_string().as_bytes()].concat()));
    let nan = format!("{{\"1\": {{\"x\": [{}]}}}}", "NaN,".repeat(100_000));
    files.add("100000 NaN", with_text(png, b"tEXt", &[b"prompt\0", nan.as_bytes()].concat()));
}

fn sampler_of_all_types() -> Value {
    let inputs = json!({
        "seed": {"a": 1}, "steps": true, "cfg": "x", "sampler_name": 7, "positive": ["1"], "negative": [1, 0],
        "latent_image": [["1", 0], 0], "width": -1, "height": 1e300,
    });
    json!({"1": {"class_type": "KSampler", "inputs": inputs}})
}

/// Texts that are far longer than their chunk.
fn compressed(files: &mut Files, png: &[u8]) {
    let bomb = deflated(&vec![b' '; 48 << 20]);
    for keyword in ["dj-flux2", "parameters", "prompt", "workflow", "invokeai_metadata", "Comment", "Description"] {
        let text = [keyword.as_bytes(), b"\0\0", &bomb].concat();
        files.add(format!("{keyword} of 48 MB"), with_text(png, b"zTXt", &text));
    }
    for (what, data) in [
        ("zTXt without text", b"dj-flux2\0".to_vec()),
        ("zTXt of an unknown method", [b"dj-flux2\0\x07", &bomb[..]].concat()),
        ("zTXt that is not compressed", b"dj-flux2\0\0{\"prompt\": \"a\"}".to_vec()),
        ("zTXt that is cut", [b"dj-flux2\0\0", &bomb[..bomb.len() / 2]].concat()),
    ] {
        files.add(what, with_text(png, b"zTXt", &data));
    }
}

/// XMP packets that say much or nothing, and manifests of Content Credentials that are none.
fn marks(files: &mut Files, png: &[u8]) {
    let word = "x:DigitalSourceType=\"http://cv.iptc.org/newscodes/digitalsourcetype/";
    let xmp = |packet: &[u8]| with_text(png, b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", packet].concat());
    for (what, packet) in [
        ("XMP of no bytes", vec![]),
        ("XMP that ends in the word", word.as_bytes().to_vec()),
        ("XMP with a word of a megabyte", [word.as_bytes(), &[b'x'; 1 << 20]].concat()),
        ("XMP with 50000 words", word.repeat(50_000).into_bytes()),
        ("XMP of 8 megabytes", vec![b'<'; 8 << 20]),
        ("XMP that is no UTF-8", [word.as_bytes(), &[0xff; 1000]].concat()),
        ("XMP of 100000 open elements", "<a:b>".repeat(100_000).into_bytes()),
    ] {
        files.add(what, xmp(&packet));
    }
    let length = |bytes: u32| bytes.to_be_bytes();
    let superbox = |inner: &[u8]| [&length(inner.len() as u32 + 8)[..], b"jumb", inner].concat();
    let nested = (0..2000).fold(Vec::new(), |inner, _| superbox(&inner));
    for (what, manifest) in [
        ("a manifest of no bytes", vec![]),
        ("a manifest that is no box", b"c2pa".to_vec()),
        ("a manifest longer than its chunk", [&length(u32::MAX)[..], b"jumb"].concat()),
        ("a manifest of length 1 and no longer one", [&length(1)[..], b"jumb"].concat()),
        ("2000 boxes in each other", nested),
        ("100000 empty boxes", superbox(&[&length(8)[..], b"free"].concat().repeat(100_000))),
    ] {
        files.add(what, with_text(png, b"caBX", &manifest));
    }
}

/// EXIF blocks in the chunk of a PNG.
fn exif(files: &mut Files, png: &[u8]) {
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value.to_be_bytes()].concat()
    };
    let block = |entries: &[Vec<u8>], next: u32, tail: &[u8]| {
        let count = (entries.len() as u16).to_be_bytes();
        [b"MM\0*\0\0\0\x08", &count[..], &entries.concat(), &next.to_be_bytes(), tail].concat()
    };
    let comment = |text: &[u8]| block(&[entry(0x9286, 7, text.len() as u32, 26)], 0, text);
    let utf16: Vec<u8> = "a\nSteps: 1, Seed: 2, Size: 3x4".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (what, data) in [
        ("no EXIF", vec![]),
        ("an unknown byte order", b"XX\0*\0\0\0\x08".to_vec()),
        ("a directory beyond the end", b"MM\0*\xff\xff\xff\xff".to_vec()),
        ("more entries than there are", [b"MM\0*\0\0\0\x08\xff\xff", &entry(0x10e, 2, 1, 0)[..]].concat()),
        ("a directory that follows itself", block(&[], 8, b"")),
        ("an EXIF directory that is the first one", block(&[entry(0x8769, 4, 1, 8)], 0, b"")),
        ("a text of 4 GB", block(&[entry(0x10e, 2, u32::MAX, 26)], 0, b"{}")),
        ("a text beyond the end", block(&[entry(0x10e, 2, 9, 0xffff_fff0)], 0, b"{}")),
        ("a value of an unknown type", block(&[entry(0x10e, 99, 9, 26)], 0, b"{}")),
        ("a description that is a number", block(&[entry(0x10e, 3, 1, 7)], 0, b"")),
        ("5000 descriptions", block(&vec![entry(0x10e, 2, 4000, 26); 5000], 0, &[b'x'; 4000])),
        ("a comment of no bytes", comment(b"")),
        ("a comment of an odd length", comment(&[b"UNICODE\0", &utf16[1..]].concat())),
        ("a comment of half a surrogate", comment(b"UNICODE\0\xd8\x00\0a")),
        ("a comment of an unknown encoding", comment(b"KLINGON\0abc")),
        ("a comment of JSON that is cut", comment(b"ASCII\0\0\0{\"prompt\": \"a")),
    ] {
        files.add(format!("EXIF: {what}"), with_text(png, b"eXIf", &data));
    }
}

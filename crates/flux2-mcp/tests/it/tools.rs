//! What each tool does.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flux2::image::{ImageFormat, RgbImage, codec, encode, metadata};
use flux2_jobs::fake::FakeOptions;
use flux2_jobs::{FailureClass, JobState};
use serde_json::{Value, json};

use crate::client::{PATIENCE, Site, files, wait_until};

const SMALL: [(&str, u32); 2] = [("width", 64), ("height", 80)];

fn fox(more: Value) -> Value {
    let mut arguments = json!({"prompt": "a red fox"});
    SMALL.iter().for_each(|(name, px)| arguments[*name] = (*px).into());
    more.as_object().unwrap().iter().for_each(|(name, value)| arguments[name] = value.clone());
    arguments
}

fn slow() -> FakeOptions {
    FakeOptions { step: Duration::from_secs(100), ..FakeOptions::default() }
}

fn gray(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::new(width, height, vec![128; (3 * width * height) as usize]).unwrap();
    encode(&image, ImageFormat::Png, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_what_it_is_and_lists_its_tools() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    let info = client.peer.peer_info().unwrap();
    let root = site.root().canonicalize().unwrap().display().to_string();
    assert!(info.instructions.as_ref().unwrap().contains(&root), "{info:?}");
    let tools = client.peer.list_all_tools().await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| &*tool.name).collect();
    assert_eq!(names, ["generate", "edit", "upscale", "list_models", "plan", "job_status", "cancel"]);
    for tool in &tools {
        assert_eq!(tool.input_schema["type"], "object", "{}", tool.name);
    }
    let models = client.ok("list_models", json!({})).await;
    assert_eq!((&models["models"][0]["name"], &models["models"][0]["is_default"]), (&json!("klein-4b"), &json!(true)));
    assert_eq!(models["folder"], root);
    let plan = client.ok("plan", json!({"width": 64, "height": 64, "count": 2})).await;
    assert_eq!((&plan["width"], &plan["steps"], &plan["count"]), (&json!(64), &json!(4), &json!(2)));
    assert!(files(&site.root()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_comes_back_as_content_and_as_a_file() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    let answer = client.call("generate", fox(json!({"seed": 7, "name": "fox"}))).await;
    let record = answer.json();
    assert_eq!((&record["state"], &record["seed"], &record["model"]), (&json!("done"), &json!(7), &json!("klein-4b")));
    let picture = &record["pictures"][0];
    assert_eq!(
        (&picture["ref"], &picture["name"], &picture["file"]),
        (&json!("$1"), &json!("$fox"), &json!("a-red-fox-7.png"))
    );
    let file = std::fs::read(picture["path"].as_str().unwrap()).unwrap();
    assert_eq!(answer.pictures, [("image/png".to_owned(), file.clone())]);
    assert_eq!(metadata::read(&file).unwrap().unwrap().prompt, "a red fox");
    // The same again is the same picture, in a file of its own.
    let again = client.ok("generate", fox(json!({"seed": 7, "show": false}))).await;
    assert_eq!(again["pictures"][0]["file"], "a-red-fox-7-2.png");
    assert_eq!(std::fs::read(site.root().join("a-red-fox-7-2.png")).unwrap(), file);
    let named = client.ok("generate", fox(json!({"output": "cats/red.jpg", "count": 2}))).await;
    let names: Vec<_> = named["pictures"].as_array().unwrap().iter().map(|picture| picture["file"].clone()).collect();
    assert_eq!(names, ["cats/red.jpg", "cats/red-2.jpg"]);
    assert_eq!(ImageFormat::of(&std::fs::read(site.root().join("cats/red.jpg")).unwrap()), Some(ImageFormat::Jpeg));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_and_only_grows() {
    let site = Site::new(FakeOptions { step: Duration::from_millis(20), ..FakeOptions::default() });
    let client = site.client().await;
    client.ok("generate", fox(json!({"count": 2}))).await;
    let told = client.progress.lock().unwrap().clone();
    assert!(told.len() >= 6, "{told:?}");
    assert!(told.is_sorted_by(|a, b| a.progress < b.progress), "{told:?}");
    assert!(told.iter().all(|note| note.total == Some(10.0) && note.progress <= 10.0), "{told:?}");
    assert!(told.iter().any(|note| note.message.as_deref() == Some("picture 2 of 2: step 3 of 4")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_edited_by_reference_name_file_and_content() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    client.ok("generate", fox(json!({"name": "fox"}))).await;
    std::fs::write(site.root().join("mine.png"), gray(64, 64)).unwrap();
    let inline = BASE64_STANDARD.encode(gray(64, 96));
    let all = json!({"prompt": "together", "references": ["$fox", "$-1", "mine.png", inline]});
    let edited = client.ok("edit", all).await;
    assert_eq!((&edited["pictures"][0]["ref"], &edited["width"]), (&json!("$2"), &json!(64)));
    // A prompt may name them too.
    let hat = client.ok("edit", json!({"prompt": "put a hat on $fox", "show": false})).await;
    assert_eq!(hat["prompt"], "put a hat on image 1");
    // A part is repainted.
    let mask = BASE64_STANDARD.encode(gray(64, 80));
    let painted = json!({"prompt": "p", "source": "$1", "mask": mask, "strength": 0.5, "feather": 0});
    assert_eq!(client.ok("edit", painted).await["height"], 80);
    let wide = json!({"prompt": "p", "source": "$1", "outpaint": "16,0,50%,0"});
    assert_eq!(client.ok("edit", wide).await["pictures"][0]["width"], 64 + 16 + 32);
    for (arguments, part) in [
        (json!({"prompt": "p"}), "there is no picture to edit; name one in references"),
        (json!({"prompt": "p", "references": ["$99"]}), "there is no picture 99: there are 1 to 5"),
        (json!({"prompt": "p", "references": ["$fix"]}), "no picture is called fix: the nearest name is fox"),
        (json!({"prompt": "p", "references": ["gone.png"]}), "there is no file \"gone.png\"; paths are below"),
        (json!({"prompt": "p", "references": vec!["$1"; 5]}), "there are 5 references; use at most 4"),
        (json!({"prompt": "p", "references": ["$1"], "mask": "$1"}), "mask means nothing without a source"),
        (json!({"prompt": "p", "source": "$1", "outpaint": "1"}), "give left, top, right and bottom"),
        (json!({"references": ["$1"]}), "prompt is missing"),
    ] {
        let error = client.error("edit", arguments).await;
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_enlarged_and_keeps_its_parameters() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    client.ok("generate", fox(json!({"seed": 3}))).await;
    let answer = client.call("upscale", json!({"image": "$1", "upscaler": "lanczos", "name": "big"})).await;
    let record = answer.json();
    assert_eq!((&record["width"], &record["height"], &record["name"]), (&json!(128), &json!(160), &json!("$big")));
    let file = std::fs::read(record["path"].as_str().unwrap()).unwrap();
    assert_eq!(codec::decode(&file, "it").unwrap().width(), 128);
    let made = metadata::read(&file).unwrap().unwrap();
    assert_eq!((made.prompt.as_str(), made.upscale.unwrap().upscaler.as_str()), ("a red fox", "lanczos"));
    assert_eq!(client.ok("edit", json!({"prompt": "p", "references": ["$big"], "show": false})).await["state"], "done");
    for (arguments, part) in [
        (json!({"image": "$1", "upscale": 0.5}), "upscale is 0.5; it must be a number from 1 to 16"),
        (json!({"image": "$1", "upscaler": "lanczo"}), "there is no upscaler \"lanczo\"; use \"lanczos\""),
        (json!({}), "image is missing"),
    ] {
        let error = client.error("upscale", arguments).await;
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_longer_goes_on_and_is_asked_for() {
    let site = Site::new(FakeOptions { step: Duration::from_millis(150), ..FakeOptions::default() });
    let client = site.client().await;
    let begun = client.call("generate", fox(json!({"wait_seconds": 0, "name": "late"}))).await;
    let record = begun.json();
    assert!(begun.pictures.is_empty() && record["next"].as_str().unwrap().contains("job_status"), "{record}");
    let id = record["id"].as_str().unwrap();
    let listed = client.ok("job_status", json!({})).await;
    assert_eq!(listed["jobs"][0]["id"], id);
    let done = client.call("job_status", json!({"id": id, "wait_seconds": 60})).await;
    assert_eq!((&done.json()["state"], done.pictures.len()), (&json!("done"), 1));
    assert_eq!(done.json()["pictures"][0]["name"], "$late");
    // Asked again, it is taken in only once.
    let again = client.ok("job_status", json!({"id": id})).await;
    assert_eq!(again["pictures"][0]["ref"], "$1");
    assert_eq!(files(&site.root()).len(), 1);
    assert_eq!(client.ok("job_status", json!({})).await["history"][0]["ref"], "$1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_nobody_waits_for_is_written_all_the_same() {
    let site = Site::new(FakeOptions { step: Duration::from_millis(20), ..FakeOptions::default() });
    let client = site.client().await;
    client.ok("generate", fox(json!({"wait_seconds": 0, "seed": 5}))).await;
    wait_until("the file", || files(&site.root()) == ["a-red-fox-5.png"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_by_the_tool_and_by_the_protocol() {
    let site = Site::new(slow());
    let client = site.client().await;
    let begun = client.ok("generate", fox(json!({"wait_seconds": 0}))).await;
    let id = begun["id"].as_str().unwrap();
    wait_until("it runs", || site.jobs.get(id.parse().unwrap()).unwrap().state == JobState::Running).await;
    assert!(client.ok("cancel", json!({"id": id})).await["outcome"].as_str().unwrap().contains("running"));
    let ended = client.ok("job_status", json!({"id": id, "wait_seconds": 60})).await;
    assert_eq!(ended["state"], "cancelled");
    assert!(client.ok("cancel", json!({"id": id})).await["outcome"].as_str().unwrap().contains("over before"));
    // A call that is given up sends the notification.
    let call = client.call("generate", fox(json!({"prompt": "second", "wait_seconds": 600})));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    let second = || site.jobs.list(&flux2_jobs::Filter::default(), None, 1).jobs[0].clone();
    wait_until("it is cancelled", || second().state == JobState::Cancelled).await;
    assert_eq!(second().spec.prompt, "second");
    assert!(files(&site.root()).is_empty());
    for (id, part) in [("x", "is no job"), ("01975d8e-7c1a-7d3c-8f05-3f2b7f6e9a10", "there is no job")] {
        assert!(client.error("cancel", json!({"id": id})).await.contains(part));
        assert!(client.error("job_status", json!({"id": id})).await.contains(part));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn enlarging_is_cancelled_with_its_call() {
    let site = Site::new(slow());
    let client = site.client().await;
    // As many as may be in progress; each would take 100 s.
    for _ in 0..64 {
        let picture = BASE64_STANDARD.encode(gray(64, 64));
        let call = client.call("upscale", json!({"image": picture, "upscaler": "lanczos"}));
        assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
    }
    let begin = Instant::now();
    while client.call("plan", json!({})).await.is_error {
        assert!(begin.elapsed() < PATIENCE, "they are still in progress");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(files(&site.root()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_client_ends_its_jobs() {
    let site = Site::new(slow());
    let client = site.client().await;
    let begun = client.call("generate", fox(json!({"wait_seconds": 600})));
    assert!(tokio::time::timeout(Duration::from_millis(200), begun).await.is_err());
    client.peer.cancel().await.unwrap();
    let state = || site.jobs.list(&flux2_jobs::Filter::default(), None, 1).jobs[0].state;
    wait_until("it is cancelled", || state() == JobState::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_a_sentence_in_the_answer() {
    let failures = vec![("[oom]".to_owned(), FailureClass::OutOfMemory)];
    let site = Site::new(FakeOptions { failures, ..FakeOptions::default() });
    let client = site.client().await;
    let failed = client.call("generate", fox(json!({"prompt": "[oom]"}))).await;
    assert!(failed.is_error, "{failed:?}");
    assert!(failed.json()["error"].as_str().unwrap().contains("memory"), "{failed:?}");
    for (more, part) in [
        (json!({"width": 65}), "use a width of 64 or 80"),
        (json!({"width": 4096, "height": 4096}), "4096x4096 is too large; at most 1048576 pixels"),
        (json!({"model": "klein-4c"}), "there is no model \"klein-4c\"; use \"klein-4b\""),
        (json!({"loras": ["none"]}), "there is no LoRA \"none\""),
        (json!({"count": 11}), "count is 11; use 1 to 10"),
        (json!({"name": "no name"}), "is not a name"),
        (json!({"output": "a.png", "format": "webp"}), "leave one of output and format out"),
        (json!({"prompt": "x".repeat(40_000)}), "the prompt has 40000 characters; use at most 32000"),
    ] {
        let error = client.error("generate", fox(more)).await;
        assert!(error.contains(part), "{error}");
    }
    assert!(files(&site.root()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_goes_on_with_the_next_client() {
    let site = Site::new(FakeOptions::default());
    let client = site.client().await;
    client.ok("generate", fox(json!({"name": "fox"}))).await;
    client.peer.cancel().await.unwrap();
    // The folder is free once the first server has ended.
    let mut last = Value::Null;
    for _ in 0..500 {
        let client = site.client().await;
        last = client.ok("job_status", json!({})).await;
        if last["history"][0]["name"] == "$fox" {
            return;
        }
        client.peer.cancel().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{last}");
}

//! OpenAI's images API.

use std::time::Duration;

use axum::http::Method;
use flux2::image::{ImageFormat, codec, metadata};
use serde_json::{Value, json};

use crate::site::{FORM, NOT_FINITE, OUT_OF_MEMORY, Site, base64, form, mask, png, post, request, same, unbase64};

const PATH: &str = "/v1/images/generations";

fn small(prompt: &str) -> Value {
    json!({ "prompt": prompt, "size": "64x80", "seed": 7 })
}

#[test]
fn a_generation_has_all_that_the_clients_type_requires() {
    let site = Site::new();
    let mut request = small("a red fox");
    request["n"] = 2.into();
    request["odd"] = true.into();
    let answer = site.post(PATH, request);
    let body = answer.expect(200);
    assert_eq!(body["data"].as_array().unwrap().len(), 2);
    let image = unbase64(&body["data"][1]["b64_json"]);
    let decoded = codec::decode(&image, "it").unwrap();
    assert_eq!((decoded.width(), decoded.height()), (64, 80));
    let parameters = metadata::read(&image).unwrap().unwrap();
    assert_eq!((parameters.seed, parameters.prompt.as_str()), (8, "a red fox"));
    assert_eq!((&body["data"][0]["seed"], &body["data"][1]["seed"]), (&json!(7), &json!(8)));
    assert!(body["data"][0]["revised_prompt"].is_null() && body["created"].as_u64().unwrap() > 1_700_000_000);
    let fields = ["size", "output_format", "quality", "background", "model"].map(|name| body[name].as_str().unwrap());
    assert_eq!(fields, ["64x80", "png", "auto", "opaque", "klein-4b"]);
    let usage = &body["usage"];
    let tokens = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(tokens("/output_tokens"), 2 * 4 * 5);
    assert_eq!(tokens("/total_tokens"), tokens("/input_tokens") + tokens("/output_tokens"));
    assert!(tokens("/input_tokens_details/text_tokens") > 3);
    assert_eq!(body["warnings"], json!(["the field \"odd\" is not known and was ignored"]));
    assert!(answer.header("x-request-id").starts_with("req_"));
}

#[test]
fn formats_and_links() {
    let site = Site::new();
    for (name, format) in [("png", ImageFormat::Png), ("jpeg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)] {
        let mut request = small("a fox");
        request["output_format"] = name.into();
        request["response_format"] = "url".into();
        let body = site.post("/images/generations", request).expect(200);
        assert!(body["data"][0].get("b64_json").is_none());
        let url = body["data"][0]["url"].as_str().unwrap();
        let path = url.strip_prefix("http://localhost:8190").unwrap();
        let file = site.get(path);
        assert_eq!((file.status.as_u16(), ImageFormat::of(&file.body)), (200, Some(format)));
        assert_eq!(file.header("content-type"), format!("image/{name}"));
        let again = request_with_tag(&site, path, file.header("etag"));
        assert_eq!(again, 304);
    }
    assert_eq!(site.get("/v1/files/0123").error(), (404, "file_not_found".into(), String::new()));
}

/// As the documentation of OpenAI's API has it: the first image is painted into where the mask is transparent.
#[test]
fn an_edit_with_a_mask_paints_into_the_first_image() {
    let site = Site::new();
    let edges = [16, 16, 48, 64];
    let (image, other) = (png(80, 96), png(96, 64));
    for is_transparent in [true, false] {
        let mask = mask([80, 96], edges, is_transparent);
        let parts = [
            ("image[]", Some("a.png"), image.as_slice()),
            ("image[]", Some("b.png"), &other),
            ("mask", Some("m.png"), &mask),
            ("prompt", None, b"a red fox"),
            ("size", None, b"1024x1024"),
            ("seed", None, b"3"),
        ];
        let body = site.post_form("/v1/images/edits", &parts).expect(200);
        let made = unbase64(&body["data"][0]["b64_json"]);
        assert_eq!(same(&made, &image, edges), (false, true));
        assert_eq!(body["size"], "80x96");
        assert!(body["warnings"][0].as_str().unwrap().contains("size was ignored"), "{body}");
        let parameters = metadata::read(&made).unwrap().unwrap();
        assert_eq!((parameters.references.len(), parameters.source.unwrap().strength), (1, 1.0));
    }
    let json =
        json!({"prompt": "p", "image": base64(&image), "mask": base64(&mask([80, 96], edges, true)), "strength": 0.5});
    let body = site.post("/v1/images/edits", json).expect(200);
    let made = unbase64(&body["data"][0]["b64_json"]);
    assert_eq!(metadata::read(&made).unwrap().unwrap().source.unwrap().strength, 0.5);
    let wrong = json!({"prompt": "p", "image": base64(&image), "mask": base64(&mask([96, 80], edges, true))});
    assert_eq!(site.post("/v1/images/edits", wrong).error(), (400, "invalid_value".into(), "mask".into()));
    let nothing = json!({"prompt": "p", "image": base64(&image), "mask": base64(&png(80, 96)), "strength": 2});
    assert_eq!(site.post("/v1/images/edits", nothing).error().2, "strength");
}

fn request_with_tag(site: &Site, path: &str, tag: &str) -> u16 {
    site.send(request(Method::GET, path, &[("if-none-match", tag)], axum::body::Body::empty())).status.as_u16()
}

#[test]
fn an_edit_takes_files_under_every_name_that_clients_use() {
    let site = Site::new();
    let (image, other) = (png(64, 64), png(96, 64));
    for names in [["image", "image"], ["image[]", "image[]"], ["image[0]", "image[1]"]] {
        let parts = [
            (names[0], Some("a.png"), image.as_slice()),
            (names[1], Some("b.png"), &other),
            ("prompt", None, b"make it green"),
            ("n", None, b"1"),
            ("seed", None, b"3"),
        ];
        let body = site.post_form("/v1/images/edits", &parts).expect(200);
        // The first reference gives the size.
        assert_eq!((body["size"].as_str(), body["data"][0]["seed"].as_u64()), (Some("64x64"), Some(3)));
    }
    let json = json!({ "prompt": "p", "image": [format!("data:image/png;base64,{}", base64(&image))] });
    site.post("/v1/images/edits", json).expect(200);
    let masked = [("prompt", None, b"p".as_slice()), ("mask", Some("m.png"), &image)];
    assert_eq!(site.post_form("/v1/images/edits", &masked).error(), (400, "invalid_value".into(), "mask".into()));
    let without = site.post_form("/v1/images/edits", &[("prompt", None, b"p")]);
    assert_eq!(without.error(), (400, "invalid_value".into(), "image".into()));
    let broken = [("image", Some("a.png"), b"GIF89a".as_slice()), ("prompt", None, b"p")];
    assert_eq!(site.post_form("/v1/images/edits", &broken).error(), (400, "invalid_image".into(), "image".into()));
    let five: Vec<_> = [("prompt", None, b"p".as_slice())]
        .into_iter()
        .chain((0..5).map(|_| ("image[]", Some("a.png"), image.as_slice())))
        .collect();
    assert_eq!(site.post_form("/v1/images/edits", &five).error().2, "image");
}

#[test]
fn a_stream_has_an_event_for_each_image() {
    let site = Site::new();
    let mut request = small("a fox");
    request["n"] = 2.into();
    request["stream"] = true.into();
    request["partial_images"] = 2.into();
    let answer = site.post(PATH, request.clone());
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/event-stream"));
    let events = answer.events();
    let completed: Vec<_> = events.iter().filter(|(name, _)| name == "image_generation.completed").collect();
    assert_eq!(completed.len(), 2, "{}", answer.text());
    let plain = site.post(PATH, small("a fox")).expect(200);
    let (name, first) = completed[0];
    assert_eq!((first["type"].as_str().unwrap(), &first["b64_json"]), (name.as_str(), &plain["data"][0]["b64_json"]));
    for field in ["created_at", "size", "quality", "background", "output_format", "usage", "seed"] {
        assert!(!first[field].is_null(), "{field}");
    }
    let form =
        [("image", Some("a.png"), png(64, 64)), ("prompt", None, b"p".to_vec()), ("stream", None, b"true".to_vec())];
    let form: Vec<_> = form.iter().map(|(name, file, bytes)| (*name, *file, bytes.as_slice())).collect();
    let events = site.post_form("/v1/images/edits", &form).events();
    assert_eq!(events.last().unwrap().0, "image_edit.completed");
}

#[test]
fn previews_are_spread_over_the_steps_before_their_image() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(40));
    let mut request = small("a fox");
    request["stream"] = true.into();
    request["steps"] = 8.into();
    for most in 0..=3 {
        request["partial_images"] = most.into();
        request["seed"] = (100 + most).into();
        let events = site.post(PATH, request.clone()).events();
        let (last, previews) = events.split_last().unwrap();
        assert_eq!(last.0, "image_generation.completed");
        // A reader that is late finds the latest two.
        assert!(previews.len() <= most && (most == 0) == previews.is_empty(), "{most}: {}", previews.len());
        for (index, (name, data)) in previews.iter().enumerate() {
            assert_eq!((name.as_str(), data["type"].as_str()), ("image_generation.partial_image", Some(name.as_str())));
            assert_eq!((&data["partial_image_index"], &data["output_format"]), (&json!(index), &json!("png")));
            let shown = codec::decode(&unbase64(&data["b64_json"]), "it").unwrap();
            assert_eq!((shown.width(), shown.height()), (8, 10));
        }
    }
}

#[test]
fn failures_are_errors_with_all_keys_and_say_whether_to_retry() {
    let site = Site::new();
    let answer = site.post(PATH, small(OUT_OF_MEMORY));
    assert_eq!(answer.error(), (503, "out_of_memory".into(), String::new()));
    assert_eq!(answer.header("x-should-retry"), "false");
    let answer = site.post(PATH, small(NOT_FINITE));
    assert_eq!(answer.error(), (500, "nan_output".into(), String::new()));
    assert_eq!(answer.header("x-should-retry"), "false");
    let mut request = small(OUT_OF_MEMORY);
    request["stream"] = true.into();
    let (name, data) = site.post(PATH, request).events().pop().unwrap();
    assert_eq!((name.as_str(), data["error"]["code"].as_str()), ("error", Some("out_of_memory")));
    let unknown = site.post(PATH, json!({"prompt": "p", "model": "klein-4x"}));
    assert_eq!(unknown.error(), (404, "model_not_found".into(), "model".into()));
    let limits = Site::with(|setup| {
        setup.options.limits.prompt_chars = 3;
        setup.options.limits.pixels = 64 * 64;
        setup.options.limits.count = 2;
    });
    let code = |json| limits.post(PATH, json).error();
    assert_eq!(code(json!({"prompt": "äöüß"})), (400, "prompt_too_long".into(), "prompt".into()));
    assert_eq!(code(json!({"prompt": "p", "size": "64x80"})), (400, "invalid_size".into(), "size".into()));
    assert_eq!(code(json!({"prompt": "p", "size": "65x64"})).1, "invalid_size");
    assert_eq!(code(json!({"prompt": "p", "n": 3})), (400, "invalid_value".into(), "n".into()));
    assert_eq!(site.post("/v1/images/variations", json!({})).error().0, 501);
}

#[test]
fn the_same_idempotency_key_is_the_same_job() {
    let site = Site::new();
    let headers = [("idempotency-key", "k-1")];
    let with_random_seed = json!({ "prompt": "a fox", "size": "64x64" });
    let first = site.post_with(PATH, &headers, with_random_seed.clone()).expect(200);
    let second = site.post_with(PATH, &headers, with_random_seed.clone()).expect(200);
    assert_eq!((&first["id"], &first["data"][0]["b64_json"]), (&second["id"], &second["data"][0]["b64_json"]));
    let other = site.post_with(PATH, &[("idempotency-key", "k-2")], with_random_seed).expect(200);
    assert_ne!(first["id"], other["id"]);
    let long = "k".repeat(256);
    assert_eq!(site.post_with(PATH, &[("idempotency-key", long.as_str())], small("p")).error().0, 400);
}

#[test]
fn models_and_aliases() {
    let site = Site::new();
    let list = site.get("/v1/models").expect(200);
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(["klein-4b", "klein-base-4b", "gpt-image-1"].iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(site.get("/v1/models/klein-4b").expect(200)["object"], "model");
    assert_eq!(site.get("/v1/models/owner%2Fname").error(), (404, "model_not_found".into(), "model".into()));
    let body = site.post(PATH, json!({"prompt": "p", "size": "64x64", "model": "gpt-image-1"})).expect(200);
    assert_eq!(body["model"], "klein-4b");
}

#[test]
fn a_full_queue_is_an_answer() {
    let site = Site::with(|setup| {
        setup.jobs.max_queued = 1;
        setup.fake.step = Duration::from_millis(300);
    });
    let answers = site.runtime.block_on(async {
        let requests = (0..6).map(|n| site.answer(post(PATH, &[], json!({"prompt": "p", "size": "64x64", "seed": n}))));
        futures_util::future::join_all(requests).await
    });
    let full: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!full.is_empty() && full.len() < answers.len());
    for answer in full {
        assert_eq!(answer.error().1, "queue_full");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status.as_u16())));
}

#[test]
fn a_client_that_hangs_up_cancels_its_job() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(200));
    site.runtime.block_on(async {
        let waiting = site.answer(post(PATH, &[], json!({"prompt": "p", "size": "64x64", "steps": 100})));
        assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
    });
    let jobs = site.get("/api/v1/jobs").expect(200);
    let id = jobs["jobs"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(site.wait(&id)["state"], "cancelled");
}

#[test]
fn bodies_have_limits() {
    let site = Site::with(|setup| {
        setup.options.limits.body_bytes = 4000;
        setup.options.limits.image_bytes = 100;
        setup.options.limits.parts = 3;
    });
    let long = site.post(PATH, json!({"prompt": "p".repeat(5000)}));
    assert_eq!(long.error(), (413, "payload_too_large".into(), String::new()));
    let image = [("image", Some("a.png"), [0; 101].as_slice()), ("prompt", None, b"p")];
    assert_eq!(site.post_form("/v1/images/edits", &image).error().0, 413);
    let parts: Vec<_> = (0..4).map(|_| ("prompt", None, b"p".as_slice())).collect();
    assert_eq!(site.post_form("/v1/images/edits", &parts).error(), (400, "invalid_form".into(), String::new()));
    let cut = &form(&parts)[..60];
    let cut = request(Method::POST, "/v1/images/edits", &[("content-type", FORM)], cut.to_vec().into());
    assert_eq!(site.send(cut).error().1, "invalid_form");
    let text = request(Method::POST, PATH, &[("content-type", "text/plain")], "{}".into());
    assert_eq!(site.send(text).error().0, 415);
}

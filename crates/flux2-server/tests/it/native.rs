//! The native API.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use flux2::digest::sha256;
use flux2::image::codec;
use flux2::marks::watermark::Watermark;
use serde_json::{Value, json};

use crate::site::{Site, base64, mask, png, request, same, unbase64};

const JOBS: &str = "/api/v1/jobs";

fn small() -> Value {
    json!({ "prompt": "a red fox", "size": "64x80", "seed": 7 })
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

#[test]
fn a_job_is_accepted_with_every_default_and_fetched_when_it_is_done() {
    let site = Site::new();
    let answer = site.post(JOBS, json!({"prompt": "a red fox", "width": 64, "height": 80, "count": 2}));
    let job = answer.expect(202);
    assert_eq!(answer.header("location"), format!("{JOBS}/{}", id(&job)));
    let resolved = &job["request"];
    assert_eq!(
        (&resolved["steps"], &resolved["model"], &resolved["count"]),
        (&json!(4), &json!("klein-4b"), &json!(2))
    );
    let seed = resolved["seed"].as_u64().unwrap();
    let done = site.wait(id(&job));
    assert_eq!((done["state"].as_str(), done["images"].as_array().unwrap().len()), (Some("done"), 2));
    let image = &done["images"][1];
    assert_eq!(image["seed"].as_u64(), Some(seed + 1));
    let file = site.get(image["url"].as_str().unwrap());
    assert_eq!(sha256(&file.body), image["sha256"].as_str().unwrap());
    assert_eq!((file.header("content-type"), file.header("x-content-type-options")), ("image/png", "nosniff"));
    let small = site.get(&format!("{}?px=40", image["thumbnail"].as_str().unwrap()));
    let decoded = codec::decode(&small.body, "it").unwrap();
    assert_eq!((small.header("content-type"), decoded.width(), decoded.height()), ("image/jpeg", 32, 40));
    for (path, code) in [("9", "image_not_found"), ("x", "image_not_found"), ("0/thumbnail?px=9", "invalid_value")] {
        assert_eq!(site.get(&format!("{JOBS}/{}/images/{path}", id(&job))).error().1, code);
    }
}

#[test]
fn a_job_paints_into_a_source() {
    let site = Site::new();
    let (source, edges) = (png(80, 96), [16, 16, 48, 64]);
    let mask = mask([80, 96], edges, false);
    let upload = |bytes: &[u8]| {
        let request = request(Method::POST, "/api/v1/uploads", &[], Body::from(bytes.to_vec()));
        site.send(request).expect(201)["sha256"].as_str().unwrap().to_owned()
    };
    let made = |job: &Value| site.get(site.wait(id(job))["images"][0]["url"].as_str().unwrap()).body.to_vec();
    // By digest, as base64, as files of a form.
    let by_digest = json!({"prompt": "p", "seed": 3, "source": upload(&source), "mask": upload(&mask), "feather": 0,
        "strength": 0.5, "source_reference": false});
    let inline = json!({"prompt": "p", "seed": 3, "source": base64(&source), "mask": base64(&mask), "feather": "0",
        "strength": "0.5", "source_reference": "false"});
    let parts = [
        ("prompt", None, b"p".as_slice()),
        ("seed", None, b"3"),
        ("source", Some("a.png"), &source),
        ("mask", Some("m.png"), &mask),
        ("feather", None, b"0"),
        ("strength", None, b"0.5"),
        ("source_reference", None, b"false"),
    ];
    let jobs = [
        site.post(JOBS, by_digest).expect(202),
        site.post(JOBS, inline).expect(202),
        site.post_form(JOBS, &parts).expect(202),
    ];
    let view = &jobs[0]["request"];
    assert_eq!((&view["width"], &view["height"]), (&json!(80), &json!(96)));
    assert_eq!(view["source"]["sha256"], sha256(&source));
    assert_eq!((&view["source"]["strength"], &view["source"]["source_reference"]), (&json!(0.5), &json!(false)));
    let first = made(&jobs[0]);
    assert_eq!(same(&first, &source, edges), (false, true));
    assert!(jobs[1..].iter().all(|job| made(job) == first));
    // A larger canvas, without a mask.
    let wide = json!({"prompt": "p", "source": base64(&source), "outpaint": "16,0,50%,0", "outpaint_fill": "#00ff00"});
    let job = site.post(JOBS, wide).expect(202);
    assert_eq!(job["request"]["source"]["outpaint"], json!(["16", "0", "50%", "0"]));
    let image = codec::decode(&made(&job), "it").unwrap();
    assert_eq!((image.width(), image.height()), (80 + 16 + 40, 96));
}

#[test]
fn what_means_nothing_without_a_source_is_refused() {
    let site = Site::new();
    let source = base64(&png(80, 96));
    let refused = |request: Value| site.post(JOBS, request).error();
    for field in ["mask_invert", "mask_from_alpha", "source_reference"] {
        assert_eq!(refused(json!({"prompt": "p", field: true})).2, field);
    }
    for (field, value) in [
        ("strength", json!(0.5)),
        ("feather", json!(3)),
        ("mask_grow", json!(3)),
        ("outpaint", json!("1,1,1,1")),
        ("outpaint_fill", json!("edge")),
        ("mask", json!(source)),
    ] {
        assert_eq!(refused(json!({"prompt": "p", field: value})).2, field);
    }
    for (field, value, param) in [
        ("strength", json!(0), "strength"),
        ("outpaint", json!("1,2"), "outpaint"),
        ("outpaint_fill", json!("mauve"), "outpaint_fill"),
        ("width", json!(64), "width"),
        ("mask_grow", json!(1000), "mask"),
        ("mask_from_alpha", json!(true), "mask"),
        ("mask", json!("http://10.0.0.1/m.png"), "mask"),
        ("outpaint", json!("17000,0,0,0"), "source"),
    ] {
        let mut request =
            json!({"prompt": "p", "source": source, "mask": base64(&mask([80, 96], [0, 0, 9, 9], false))});
        if field == "mask_from_alpha" {
            request = json!({"prompt": "p", "source": source});
        }
        request[field] = value;
        let error = refused(request);
        assert_eq!((error.0, error.2.as_str()), (400, param), "{field}");
    }
    let both = json!({"prompt": "p", "source": source, "mask": source, "mask_from_alpha": true});
    assert_eq!(refused(both).2, "mask_from_alpha");
    let unknown = json!({"prompt": "p", "source": "0".repeat(64)});
    assert_eq!(refused(unknown).0, 404);
    assert_eq!(site.get("/api/v1/capabilities").expect(200)["features"]["masks"], true);
}

#[test]
fn events_are_read_again_from_any_number() {
    let site = Site::new();
    let job = site.post(JOBS, small()).expect(202);
    let path = format!("{JOBS}/{}/events", id(&job));
    let answer = site.get(&path);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let names: Vec<String> = answer.events().into_iter().map(|(name, _)| name).collect();
    assert_eq!((names.first().map(String::as_str), names.last().map(String::as_str)), (Some("queued"), Some("done")));
    let numbers: Vec<u64> =
        answer.text().lines().filter_map(|line| line.strip_prefix("id:")?.trim().parse().ok()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let after = |number: u64| {
        let number = number.to_string();
        site.send(request(Method::GET, &path, &[("last-event-id", number.as_str())], Body::empty()))
    };
    let last = numbers[numbers.len() - 1];
    let rest = after(numbers[numbers.len() - 2]).events();
    assert_eq!(rest.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["done"]);
    assert_eq!(after(last).status, 204);
    assert_eq!(site.get(&format!("{path}?after={last}")).status, 204);
    let odd = site.send(request(Method::GET, &path, &[("last-event-id", "x")], Body::empty()));
    assert_eq!(odd.error().0, 400);
}

#[test]
fn previews_are_events_unless_the_reader_wants_none() {
    let previews = |query: &str| {
        let site = Site::with(|setup| setup.fake.step = Duration::from_millis(100));
        let job = site.post(JOBS, small()).expect(202);
        let events = site.get(&format!("{JOBS}/{}/events{query}", id(&job))).events();
        assert!(events.iter().any(|(name, _)| name == "step") && events.last().unwrap().0 == "done");
        events.into_iter().filter(|(name, _)| name == "preview").map(|(_, data)| data).collect::<Vec<_>>()
    };
    let seen = previews("");
    assert!(!seen.is_empty());
    let shown = codec::decode(&unbase64(&seen[0]["b64_json"]), "it").unwrap();
    assert_eq!((shown.width(), shown.height(), &seen[0]["image"]), (8, 10, &json!(0)));
    assert!(seen.iter().all(|data| (1..=4).contains(&data["step"].as_u64().unwrap())));
    assert_eq!(previews("?previews=false").len(), 0);
    assert_eq!(Site::new().get("/api/v1/capabilities").expect(200)["features"]["previews"], true);
}

#[test]
fn a_watermark_is_the_request_s_or_the_server_s() {
    let large = |watermark: Option<bool>| {
        let mut request = json!({ "prompt": "a red fox", "size": "256x256", "seed": 7 });
        if let Some(watermark) = watermark {
            request["watermark"] = watermark.into();
        }
        request
    };
    let marked = |site: &Site, request: Value| {
        let job = site.post(JOBS, request).expect(202);
        let done = site.wait(id(&job));
        let file = site.get(done["images"][0]["url"].as_str().unwrap());
        let found = Watermark::find(&codec::decode(&file.body, "it").unwrap()).is_some();
        assert_eq!(done["request"]["watermark"], found);
        found
    };
    let site = Site::new();
    assert!(!marked(&site, large(None)) && !marked(&site, large(Some(false))) && marked(&site, large(Some(true))));
    let mut request = small();
    request["watermark"] = true.into();
    let refused = site.post(JOBS, request);
    assert_eq!(refused.error().0, 400);
    assert!(refused.text().contains("64x80 is too small for the watermark"), "{}", refused.text());
    let site = Site::with(|setup| setup.jobs.watermark = true);
    assert!(marked(&site, large(None)) && marked(&site, large(Some(false))));
    assert_eq!(site.post(JOBS, small()).error().0, 400);
}

#[test]
fn a_running_and_a_queued_job_are_cancelled() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(50));
    let long = json!({ "prompt": "p", "size": "64x64", "steps": 1000 });
    let (running, queued) = (site.post(JOBS, long.clone()).expect(202), site.post(JOBS, long).expect(202));
    for job in [&queued, &running] {
        site.delete(&format!("{JOBS}/{}", id(job))).expect(200);
        assert_eq!(site.wait(id(job))["state"], "cancelled");
        // Cancelling again changes nothing.
        assert_eq!(site.delete(&format!("{JOBS}/{}", id(job))).expect(200)["state"], "cancelled");
    }
}

#[test]
fn jobs_are_listed_by_pages_the_newest_first() {
    let site = Site::new();
    let ids: Vec<String> = (0..5).map(|_| id(&site.post(JOBS, small()).expect(202)).to_owned()).collect();
    ids.iter().for_each(|id| drop(site.wait(id)));
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = site.get(&format!("{JOBS}?limit=2{cursor}")).expect(200);
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| id(job).to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ids.into_iter().rev().collect::<Vec<_>>());
    let with_state = |states: &str| site.get(&format!("{JOBS}?state={states}"));
    assert_eq!(with_state("done").expect(200)["jobs"].as_array().unwrap().len(), 5);
    assert_eq!(with_state("queued,running").expect(200)["jobs"], json!([]));
    for wrong in ["?state=odd", "?limit=0", "?limit=201", "?limit=x", "?cursor=x"] {
        assert_eq!(site.get(&format!("{JOBS}{wrong}")).error().0, 400, "{wrong}");
    }
}

#[test]
fn references_are_sent_with_the_job_or_uploaded_before() {
    let site = Site::new();
    let image = png(64, 96);
    let upload = |bytes: &[u8]| site.send(request(Method::POST, "/api/v1/uploads", &[], bytes.to_vec().into()));
    let kept = upload(&image).expect(201);
    assert_eq!((kept["sha256"].as_str(), kept["height"].as_u64()), (Some(sha256(&image).as_str()), Some(96)));
    let digest = sha256(&image);
    assert_eq!(site.get(&format!("/api/v1/uploads/{digest}")).expect(200)["bytes"], image.len());
    assert_eq!(site.get("/api/v1/uploads/..%2f..%2fetc%2fpasswd").error().0, 404);
    assert_eq!(upload(b"no image").error(), (400, "invalid_image".into(), "image".into()));
    let other = png(96, 64);
    let references = json!([base64(&other), digest]);
    let job = site.post(JOBS, json!({"prompt": "p", "references": references})).expect(202);
    // In the order of the request.
    assert_eq!(job["request"]["references"], json!([sha256(&other), digest]));
    assert_eq!(job["request"]["width"], 96);
    let parts = [("prompt", None, b"p".as_slice()), ("reference", Some("a.png"), &image), ("steps", None, b"2")];
    let job = site.post_form(JOBS, &parts).expect(202);
    assert_eq!((&job["request"]["steps"], &job["request"]["height"]), (&json!(2), &json!(96)));
    let unknown = site.post(JOBS, json!({"prompt": "p", "references": "0".repeat(64)}));
    assert_eq!(unknown.error(), (404, "upload_not_found".into(), "references".into()));
}

#[test]
fn the_native_api_refuses_what_it_does_not_know() {
    let site = Site::new();
    for (json, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": "p", "widht": 64}), "widht"),
        (json!({"prompt": "p", "width": 65, "height": 64}), "width"),
        (json!({"prompt": "p", "size": "64x64", "width": 64}), "size"),
        (json!({"prompt": "p", "steps": 0}), "steps"),
        (json!({"prompt": "p", "precision": "f7"}), "precision"),
        (json!({"prompt": "p", "deadline_seconds": -1}), "deadline_seconds"),
        (json!({"prompt": "p", "loras": [{"name": "none"}]}), "loras"),
        (json!({"prompt": "p", "seed": u64::MAX, "count": 2}), "seed"),
        (json!({"prompt": "p", "model": "nothing"}), "model"),
    ] {
        assert_eq!(site.post(JOBS, json.clone()).error().2, param, "{json}");
    }
}

#[test]
fn capabilities_and_statistics() {
    let site = Site::new();
    let job = site.post(JOBS, small()).expect(202);
    site.wait(id(&job));
    let capabilities = site.get("/api/v1/capabilities").expect(200);
    assert_eq!((&capabilities["is_fake"], &capabilities["limits"]["grid_px"]), (&json!(true), &json!(16)));
    let model = &site.get("/api/v1/models").expect(200)[0];
    assert_eq!(
        (&model["name"], &model["default_steps"], &model["aliases"][0]),
        (&json!("klein-4b"), &json!(4), &json!("gpt-image-1"))
    );
    assert_eq!(model["loaded_on"], json!(["fake:0"]));
    let stats = site.get("/api/v1/stats").expect(200);
    assert_eq!((&stats["accepted"], &stats["images"]), (&json!(1), &json!(1)));
    let metrics = site.get("/metrics");
    let expected = "flux_requests_total{route=\"/api/v1/jobs\",code=\"202\"} 1\n";
    assert!(
        metrics.text().contains(expected) && metrics.text().contains("\nflux_images_total 1\n"),
        "{}",
        metrics.text()
    );
    assert!(!metrics.text().contains("red fox"));
}

#[test]
fn the_server_is_ready_after_a_picture_and_not_while_it_drains() {
    let site = Site::with(|setup| setup.fake.load = Duration::from_millis(200));
    site.jobs.preload(&Default::default()).unwrap();
    assert_eq!(site.get("/health").expect(200)["status"], "ok");
    assert_eq!(site.get("/ready").expect(503)["status"], "starting");
    let ready = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        site.get("/ready").status == 200
    });
    assert!(ready);
    // The picture of the warm-up is nobody's job.
    assert_eq!(site.get(JOBS).expect(200)["jobs"], json!([]));
    site.app.begin_drain();
    assert_eq!(site.get("/ready").expect(503)["status"], "draining");
    let refused = site.post(JOBS, small());
    assert_eq!((refused.error().0, refused.error().1.as_str()), (503, "draining"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(site.get("/health").status, 200);
}

#[test]
fn finished_images_are_enlarged() {
    let site = Site::new();
    let capabilities = site.get("/api/v1/capabilities").expect(200);
    assert_eq!(capabilities["features"]["upscaling"], true);
    let upscalers = capabilities["upscalers"].as_array().unwrap();
    assert_eq!(upscalers.last().unwrap(), &json!({"name": "lanczos", "scale": null}));
    let request = json!({"prompt": "p", "size": "64x80", "upscale": 2, "upscaler": "lanczos"});
    let job = site.wait(id(&site.post(JOBS, request).expect(202)));
    assert_eq!((&job["images"][0]["width"], &job["images"][0]["height"]), (&json!(128), &json!(160)));
    assert_eq!((&job["request"]["width"], &job["request"]["upscale"]), (&json!(64), &json!(2.0)));
    let file = site.get(job["images"][0]["url"].as_str().unwrap());
    let parameters = flux2::image::metadata::read(&file.body).unwrap().unwrap();
    assert_eq!(parameters.upscale.map(|upscale| upscale.by), Some(Some(2.0)));
    for (wrong, code) in [
        (json!({"upscale": 17}), "invalid_value"),
        (json!({"upscale": 0.5}), "invalid_value"),
        (json!({"upscale": 16, "size": "4096x64"}), "invalid_size"),
        (json!({"upscale": 2, "upscaler": "lanzcos"}), "upscaler_not_found"),
    ] {
        let mut request = small();
        request.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(site.post(JOBS, request).error().1, code, "{wrong}");
    }
}

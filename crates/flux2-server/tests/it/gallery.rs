//! What a page needs besides jobs: forecasts, favorites, deletion, search, parameters, other formats, uploads.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use flux2::image::{ImageFormat, RgbImage, codec, metadata};
use flux2_server::{Key, Keys};
use serde_json::{Value, json};

use crate::site::{Site, png, request};

const JOBS: &str = "/api/v1/jobs";

/// A job of two pictures that is done.
fn drawn(site: &Site, prompt: &str) -> Value {
    let job = site.post(JOBS, json!({"prompt": prompt, "size": "64x80", "seed": 7, "count": 2})).expect(202);
    site.wait(job["id"].as_str().unwrap())
}

/// A mask that repaints all.
fn white(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::new(width, height, vec![255; (width * height * 3) as usize]).unwrap();
    flux2::image::encode(&image, ImageFormat::Png, None).unwrap()
}

fn put(site: &Site, path: &str) -> u16 {
    site.send(request(Method::PUT, path, &[], Body::empty())).status.as_u16()
}

#[test]
fn a_forecast_says_size_time_and_memory() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(500));
    let upload = site.send(request(Method::POST, "/api/v1/uploads", &[], png(200, 100).into())).expect(201);
    let body = json!({"prompt": "", "references": upload["sha256"], "model": "gpt-image-1"});
    let found = site.post("/api/v1/forecast", body).expect(200);
    assert_eq!((&found["model"], &found["steps"]), (&json!("klein-4b"), &json!(4)));
    // The size of the reference image, cropped to the grid.
    assert_eq!((&found["width"], &found["height"]), (&json!(192), &json!(96)));
    assert_eq!(found["references"], json!([{"width": 192, "height": 96}]));
    assert_eq!((&found["seconds"], &found["wait_seconds"]), (&json!(2.0), &json!(0.0)));
    assert!(found["memory_bytes"].as_u64() > Some(1 << 30));
    assert_eq!(site.get(JOBS).expect(200)["jobs"], json!([]));
    for (body, param) in [
        (json!({"prompt": "", "width": 65, "height": 64}), "width"),
        (json!({"prompt": "", "references": "no digest"}), "references"),
        (json!({"prompt": "", "references": "0".repeat(64)}), "references"),
        (json!({"prompt": "", "model": "nothing"}), "model"),
    ] {
        assert_eq!(site.post("/api/v1/forecast", body.clone()).error().2, param, "{body}");
    }
}

#[test]
fn favorites_are_marked_and_found() {
    let site = Site::new();
    let (first, second) = (drawn(&site, "a red fox"), drawn(&site, "a blue owl"));
    let image = first["images"][1]["url"].as_str().unwrap();
    assert_eq!(put(&site, &format!("{image}/favorite")), 204);
    let found = |query: &str| site.get(&format!("{JOBS}?{query}")).expect(200)["jobs"].as_array().unwrap().clone();
    assert_eq!(found("favorite=true").len(), 1);
    assert_eq!(found("favorite=true")[0]["images"][1]["is_favorite"], true);
    assert_eq!(site.delete(&format!("{image}/favorite")).status, 204);
    assert_eq!(found("favorite=true").len(), 0);
    assert_eq!(found("search=BLUE%20owl")[0]["id"], second["id"]);
    assert_eq!((found("search=blue%20fox").len(), found("model=klein-4b").len(), found("model=x").len()), (0, 2, 0));
    assert_eq!(put(&site, &format!("{JOBS}/{}/images/9/favorite", first["id"].as_str().unwrap())), 404);
}

#[test]
fn a_picture_is_deleted_and_its_job_stays() {
    let site = Site::new();
    let job = drawn(&site, "p");
    let image = job["images"][0]["url"].as_str().unwrap();
    assert_eq!(site.delete(image).status, 204);
    assert_eq!((site.get(image).error().1.as_str(), site.delete(image).error().0), ("image_not_found", 404));
    let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
    let left = site.get(&path).expect(200);
    assert_eq!((left["images"].as_array().unwrap().len(), &left["images"][0]["index"]), (1, &json!(1)));

    let revision = || site.get(JOBS).expect(200)["revision"].as_u64();
    let before = revision();
    assert_eq!(site.post(&format!("{image}/restore"), json!({})).status, 204);
    assert_eq!(site.get(&path).expect(200)["images"], job["images"]);
    assert!(revision() > before);
    assert_eq!(site.post(&format!("{image}/restore"), json!({})).error().1, "image_not_found");
}

#[test]
fn nobody_changes_the_pictures_of_others() {
    let site = Site::with(|setup| setup.keys = Keys::new([Key::new("alice", "a-key"), Key::new("bob", "b-key")]));
    let headers = [("authorization", "Bearer a-key")];
    let job = site.post_with(JOBS, &headers, json!({"prompt": "p", "size": "64x64"})).expect(202);
    let image = format!("{JOBS}/{}/images/0", job["id"].as_str().unwrap());
    let bob =
        |method, path: &str| site.send(request(method, path, &[("authorization", "Bearer b-key")], Body::empty()));
    assert_eq!(bob(Method::DELETE, &image).error().1, "job_not_found");
    assert_eq!(bob(Method::PUT, &format!("{image}/favorite")).error().1, "job_not_found");
    assert_eq!(bob(Method::POST, &format!("{image}/restore")).error().1, "job_not_found");
}

#[test]
fn a_picture_comes_in_every_format_with_its_parameters() {
    let site = Site::new();
    let job = drawn(&site, "a red fox");
    let image = job["images"][0]["url"].as_str().unwrap();
    let png = site.get(image).body;
    for (format, kind) in [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")] {
        let answer = site.get(&format!("{image}?format={format}"));
        assert_eq!(answer.header("content-type"), kind);
        let decoded = codec::decode(&answer.body, "it").unwrap();
        assert_eq!((decoded.width(), decoded.height()), (64, 80));
        let parameters = metadata::read(&answer.body).unwrap().unwrap();
        assert_eq!((parameters.prompt.as_str(), parameters.seed), ("a red fox", 7));
        assert_eq!(answer.body == png, format == "png");
        let tag = answer.header("etag").to_owned();
        let path = format!("{image}?format={format}");
        let again = site.send(request(Method::GET, &path, &[("if-none-match", &tag)], Body::empty()));
        assert_eq!(again.status, 304, "{format}");
    }
    assert_eq!(site.get(&format!("{image}?format=gif")).error().0, 400);
}

#[test]
fn the_parameters_in_a_file_are_read() {
    let site = Site::new();
    let read = |bytes: Vec<u8>| site.send(request(Method::POST, "/api/v1/parameters", &[], bytes.into()));
    let job = drawn(&site, "a red fox");
    let file = site.get(job["images"][0]["url"].as_str().unwrap()).body.to_vec();
    let found = read(file).expect(200);
    assert_eq!((&found["prompt"], &found["seed"], &found["width"]), (&json!("a red fox"), &json!(7), &json!(64)));
    assert_eq!((&found["is_ours"], &found["model"]), (&json!(true), &json!("klein-4b")));
    let upload = |bytes: Vec<u8>| {
        let kept = site.send(request(Method::POST, "/api/v1/uploads", &[], bytes.into())).expect(201);
        kept["sha256"].as_str().unwrap().to_owned()
    };
    let (source, mask) = (upload(png(64, 64)), upload(white(64, 64)));
    let body = json!({"prompt": "p", "source": source, "mask": mask, "outpaint": [16, 0, 0, 0], "upscale": 2,
        "strength": 0.5, "feather": 3, "precision": "f32"});
    let id = site.post(JOBS, body).expect(202)["id"].as_str().unwrap().to_owned();
    let job = site.wait(&id);
    let found = read(site.get(job["images"][0]["url"].as_str().unwrap()).body.to_vec()).expect(200);
    assert_eq!(found["source"], job["request"]["source"]);
    for name in ["precision", "upscale", "upscaler", "width", "height", "noise"] {
        assert_eq!(found[name], job["request"][name], "{name}");
    }
    assert_eq!(read(png(64, 64)).error(), (404, "no_parameters".into(), "image".into()));
    assert_eq!(read(b"no image".to_vec()).error().1, "no_parameters");
}

#[test]
fn an_upload_is_sent_back_as_it_was_or_small() {
    let site = Site::new();
    let bytes = png(400, 200);
    let upload = site.send(request(Method::POST, "/api/v1/uploads", &[], bytes.clone().into())).expect(201);
    let path = format!("/api/v1/uploads/{}/image", upload["sha256"].as_str().unwrap());
    let whole = site.get(&path);
    assert_eq!((whole.header("content-type"), whole.body == bytes), ("image/png", true));
    let small = site.get(&format!("{path}?px=64"));
    let decoded = codec::decode(&small.body, "it").unwrap();
    assert_eq!((small.header("content-type"), decoded.width()), ("image/jpeg", 64));
    assert_eq!(site.get(&format!("{path}?px=9")).error().2, "px");
    assert_eq!(site.get(&format!("/api/v1/uploads/{}/image", "0".repeat(64))).error().1, "upload_not_found");
}

//! The origin's API.

use std::time::Duration;

use flux2::image::ImageFormat;
use serde_json::{Value, json};

use crate::site::{Site, base64, png};

fn wait(site: &Site, token: &str) -> Value {
    for _ in 0..1000 {
        let status = site.get(&format!("/status/{token}")).expect(200);
        if !["queued", "running"].contains(&status["status"].as_str().unwrap()) {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the job does not end");
}

#[test]
fn generate_status_result() {
    let site = Site::new();
    let request = json!({"prompt": "a fox", "model": "klein-4b", "width": 64, "height": 64, "steps": 2, "guidance": 1.0,
        "seed": 5, "input_image_base64": base64(&png(64, 64)), "upscale": null, "upscale_method": "lanczos"});
    let token = site.post("/generate", request).expect(201)["token"].as_str().unwrap().to_owned();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let status = wait(&site, &token);
    assert_eq!((status["status"].as_str(), status["seed"].as_u64()), (Some("completed"), Some(5)));
    for field in ["token", "prompt", "model", "width", "height", "created_at", "started_at", "completed_at"] {
        assert!(!status[field].is_null(), "{field}");
    }
    for field in ["error", "progress_message", "queue_position"] {
        assert!(status.get(field).is_some(), "{field}");
    }
    let result = site.get(&format!("/result/{token}"));
    assert_eq!((result.header("content-type"), ImageFormat::of(&result.body)), ("image/png", Some(ImageFormat::Png)));
    let name = result.header("content-disposition");
    assert!(name.starts_with("attachment; filename=\"20") && name.ends_with(".png\""), "{name}");
    assert_eq!(site.post(&format!("/cancel/{token}"), json!({})).status, 409);
    let models = site.get("/models").expect(200);
    assert_eq!((models["supported"][0].as_str(), models["object"].as_str()), (Some("klein-4b"), Some("list")));
    assert!(models["vram_usage"].as_str().unwrap().ends_with(" GB"));
}

#[test]
fn jobs_wait_in_the_queue_and_are_cancelled() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(100));
    let make = || {
        let answer = site.post("/generate", json!({"prompt": "p", "width": 64, "height": 64, "steps": 500}));
        answer.expect(201)["token"].as_str().unwrap().to_owned()
    };
    let tokens = [make(), make()];
    let queue = site.get("/queue").expect(200);
    assert_eq!(queue.as_array().unwrap().iter().map(|job| job["token"].as_str().unwrap()).collect::<Vec<_>>(), tokens);
    assert_eq!(site.get(&format!("/result/{}", tokens[1])).status, 409);
    for token in &tokens {
        let answer = site.post(&format!("/cancel/{token}"), json!({})).expect(200);
        assert_eq!(answer, json!({"success": true, "message": "Cancelled"}));
        assert_eq!(wait(&site, token)["status"], "cancelled");
    }
    assert_eq!(site.get("/queue").expect(200), json!([]));
}

#[test]
fn errors_are_fastapis() {
    let site = Site::new();
    for (request, status) in [
        (json!({}), 422),
        (json!({"prompt": 3}), 422),
        (json!({"prompt": "p", "width": "wide"}), 422),
        (json!({"prompt": "p", "width": 0}), 400),
        (json!({"prompt": "p", "height": 4096}), 400),
        (json!({"prompt": "p", "width": -16}), 400),
        (json!({"prompt": "p", "width": 65}), 400),
        (json!({"prompt": "p", "model": "other"}), 400),
        (json!({"prompt": "p", "upscale": 3}), 400),
        (json!({"prompt": "p", "input_image_base64": "!!"}), 400),
        (json!({"prompt": "p", "input_image_base64": ["aGk="]}), 400),
    ] {
        let detail = &site.post("/generate", request.clone()).expect(status)["detail"];
        match status {
            422 => assert!(detail[0]["loc"][0] == "body" && detail[0]["msg"].is_string(), "{request}: {detail}"),
            _ => assert!(detail.is_string(), "{request}: {detail}"),
        }
    }
    for path in ["/status/0", "/result/0123456789abcdef0123456789abcdef"] {
        assert!(site.get(path).expect(404)["detail"].is_string());
    }
    assert!(site.post("/cancel/..%2f", json!({})).expect(404)["detail"].is_string());
}

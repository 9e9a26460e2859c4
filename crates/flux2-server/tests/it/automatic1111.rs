//! The part of AUTOMATIC1111's API.

use std::time::Duration;

use axum::http::Method;
use flux2::image::{ImageFormat, codec, metadata};
use serde_json::{Value, json};

use crate::site::{Site, base64, mask, png, post, same, unbase64};

#[test]
fn txt2img_answers_with_images_and_an_info_that_parses() {
    let site = Site::new();
    let request = json!({"prompt": "a fox", "negative_prompt": "dogs", "width": 64, "height": 64, "steps": 2,
        "cfg_scale": 7, "seed": 11, "batch_size": 2, "n_iter": 2, "sampler_name": "Euler a", "scheduler": "Karras",
        "save_images": false, "alwayson_scripts": {}, "override_settings": {"sd_model_checkpoint": "klein-base-4b"}});
    let body = site.post("/sdapi/v1/txt2img", request).expect(200);
    let images = body["images"].as_array().unwrap();
    assert_eq!((images.len(), ImageFormat::of(&unbase64(&images[0]))), (4, Some(ImageFormat::Png)));
    assert_eq!(body["parameters"]["sampler_name"], "Euler a");
    let info: Value = serde_json::from_str(body["info"].as_str().unwrap()).unwrap();
    assert_eq!((&info["seed"], &info["all_seeds"]), (&json!(11), &json!([11, 12, 13, 14])));
    assert_eq!((&info["sd_model_name"], &info["cfg_scale"]), (&json!("klein-base-4b"), &json!(7.0)));
    assert!(info["infotexts"][1].as_str().unwrap().contains("Seed: 12, Size: 64x64"));
    assert!(info["warnings"][0].as_str().unwrap().contains("negative_prompt"));
    let read = site.post("/sdapi/v1/png-info", json!({"image": images[2]})).expect(200);
    assert!(read["info"].as_str().unwrap().contains("Seed: 13"));
    assert_eq!(read["parameters"]["seed"], 13);
    let plain = site.post("/sdapi/v1/png-info", json!({"image": base64(&png(8, 8))})).expect(200);
    assert_eq!(plain["info"], "");
}

#[test]
fn img2img_edits_and_paints() {
    let site = Site::new();
    let image = base64(&png(64, 96));
    let body = site.post("/sdapi/v1/img2img", json!({"prompt": "p", "init_images": [image], "width": 80})).expect(200);
    assert!(body["parameters"]["init_images"].is_null());
    let info = |body: &Value| serde_json::from_str::<Value>(body["info"].as_str().unwrap()).unwrap();
    assert_eq!((&info(&body)["width"], &info(&body)["denoising_strength"]), (&json!(80), &Value::Null));
    let read = |body: &Value| metadata::read(&unbase64(&body["images"][0])).unwrap().unwrap();
    assert!(read(&body).source.is_none() && read(&body).references.len() == 1);
    // As clients send it, with a size that does not count.
    let request =
        json!({"prompt": "p", "init_images": [image], "denoising_strength": 0.7, "width": 512, "height": 512});
    let body = site.post("/sdapi/v1/img2img", request).expect(200);
    assert_eq!((&info(&body)["height"], &info(&body)["denoising_strength"]), (&json!(96), &json!(0.7)));
    assert_eq!(read(&body).source.unwrap().strength, 0.7);
    let edges = [16, 16, 48, 48];
    for (invert, expected) in [(0, (false, true)), (1, (true, false))] {
        let request = json!({"prompt": "p", "init_images": [image, image], "mask": base64(&mask([64, 96], edges, false)),
            "inpainting_mask_invert": invert, "mask_blur": 3, "inpainting_fill": 1, "denoising_strength": 1});
        let body = site.post("/sdapi/v1/img2img", request).expect(200);
        let made = unbase64(&body["images"][0]);
        assert_eq!(same(&made, &png(64, 96), edges), expected);
        let parameters = read(&body);
        assert_eq!((parameters.references.len(), parameters.source.unwrap().feather), (1, Some(3)));
    }
    let request = json!({"prompt": "p", "init_images": [image], "denoising_strength": 0});
    assert_eq!(site.post("/sdapi/v1/img2img", request).expect(400)["error"], "invalid_value");
    let without = site.post("/sdapi/v1/img2img", json!({"prompt": "p", "init_images": []}));
    assert!(without.expect(400)["detail"].is_string());
}

#[test]
fn progress_and_interruption() {
    let site = Site::with(|setup| setup.fake.step = Duration::from_millis(50));
    assert_eq!(site.get("/sdapi/v1/progress").expect(200)["progress"], 0.0);
    let request = json!({"prompt": "p", "width": 64, "height": 64, "steps": 1000});
    let (answer, ()) = site.runtime.block_on(async {
        let interrupting = async {
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let request = crate::site::request(Method::GET, "/sdapi/v1/progress", &[], axum::body::Body::empty());
                let progress = site.answer(request).await.expect(200);
                // The first look asks for previews.
                if progress["state"]["sampling_step"].as_u64() > Some(0) && !progress["current_image"].is_null() {
                    assert!(progress["progress"].as_f64().unwrap() > 0.0);
                    assert_eq!(progress["state"]["sampling_steps"], 1000);
                    let shown = codec::decode(&unbase64(&progress["current_image"]), "it").unwrap();
                    assert_eq!((shown.width(), shown.height()), (8, 8));
                    let without = "/sdapi/v1/progress?skip_current_image=true";
                    let request = crate::site::request(Method::GET, without, &[], axum::body::Body::empty());
                    assert!(site.answer(request).await.expect(200)["current_image"].is_null());
                    break;
                }
            }
            site.answer(post("/sdapi/v1/interrupt", &[], json!({}))).await.expect(200);
        };
        tokio::join!(site.answer(post("/sdapi/v1/txt2img", &[], request)), interrupting)
    });
    assert_eq!(answer.expect(200)["images"], json!([]));
}

#[test]
fn options_choose_the_model_of_the_caller() {
    let site = Site::new();
    assert_eq!(site.get("/sdapi/v1/options").expect(200)["sd_model_checkpoint"], "klein-4b");
    site.post("/sdapi/v1/options", json!({"sd_model_checkpoint": "klein-base-4b", "CLIP_stop_at_last_layers": 2}))
        .expect(200);
    assert_eq!(site.get("/sdapi/v1/options").expect(200)["sd_model_checkpoint"], "klein-base-4b");
    let body =
        site.post("/sdapi/v1/txt2img", json!({"prompt": "p", "width": 64, "height": 64, "steps": 1})).expect(200);
    let info: Value = serde_json::from_str(body["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["sd_model_name"], "klein-base-4b");
    site.post("/sdapi/v1/options", json!({"sd_model_checkpoint": "sd15.safetensors"})).expect(404);
}

#[test]
fn lists_have_the_fields_that_clients_read() {
    let site = Site::new();
    for (path, fields) in [
        ("sd-models", ["title", "model_name", "hash", "sha256", "filename", "config"].as_slice()),
        ("samplers", &["name", "aliases", "options"]),
        ("schedulers", &["name", "label"]),
        ("upscalers", &["name", "model_name", "scale"]),
        ("loras", &["name", "alias", "path", "metadata"]),
    ] {
        let list = site.get(&format!("/sdapi/v1/{path}")).expect(200);
        fields.iter().for_each(|field| assert!(list[0].get(*field).is_some(), "{path}: {field}"));
    }
    assert!(site.get("/sdapi/v1/memory").expect(200)["cuda"].is_object());
}

#[test]
fn images_are_enlarged_when_they_are_drawn_or_later() {
    let site = Site::new();
    let size = |image: &Value| {
        let image = flux2::image::decode(&unbase64(image), "it").unwrap();
        (image.width(), image.height())
    };
    let draw = |more: Value| {
        let mut request = json!({"prompt": "p", "width": 64, "height": 80, "steps": 1, "enable_hr": true});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        site.post("/sdapi/v1/txt2img", request)
    };
    let body = draw(json!({"hr_upscaler": "Latent (nearest)"})).expect(200);
    assert_eq!(size(&body["images"][0]), (128, 160));
    assert!(body["info"].as_str().unwrap().contains("not denoised a second time"));
    let body = draw(json!({"hr_scale": 3, "hr_upscaler": "Lanczos"})).expect(200);
    assert_eq!(size(&body["images"][0]), (192, 240));
    assert_eq!(draw(json!({"hr_upscaler": "SwinIR"})).expect(400)["error"], "upscaler_not_found");
    assert_eq!(size(&draw(json!({"enable_hr": false})).expect(200)["images"][0]), (64, 80));
    let names = site.get("/sdapi/v1/upscalers").expect(200);
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("None", "lanczos"));

    let enlarge = |request: Value| site.post("/sdapi/v1/extra-single-image", request);
    let image = base64(&png(20, 10));
    let body = enlarge(json!({"image": image, "upscaling_resize": 3, "upscaler_1": "lanczos"})).expect(200);
    assert_eq!(size(&body["image"]), (60, 30));
    let to = json!({"image": image, "resize_mode": 1, "upscaling_resize_w": 50, "upscaling_resize_h": 40,
        "upscaler_1": "None"});
    assert_eq!(size(&enlarge(to).expect(200)["image"]), (50, 40));
    // What the file says beside its pixels stays.
    let drawn = draw(json!({"enable_hr": false})).expect(200)["images"][0].clone();
    let larger = enlarge(json!({"image": drawn, "upscaler_1": "lanczos"})).expect(200);
    let made = metadata::read(&unbase64(&larger["image"])).unwrap().unwrap();
    assert_eq!((made.width, made.upscale.unwrap().by), (64, Some(2.0)));
    for wrong in [
        json!({"image": image, "upscaling_resize": 17}),
        json!({"image": image, "upscaler_1": "SwinIR"}),
        json!({"image": "aGk="}),
        json!({}),
        json!({"image": image, "resize_mode": 2}),
    ] {
        assert!(enlarge(wrong.clone()).expect(400)["detail"].is_string(), "{wrong}");
    }
}

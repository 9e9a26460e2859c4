//! Replayed passes and 8-bit products, which only GPUs have. Tests are skipped with a message if there is no GPU.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use flux2::image::RgbImage;
use flux2::pipeline::{Pipeline, Residency};
use flux2::weights::ModelFiles;
use flux2::{BatchMember, Batching, CancelToken, Error, Event, GenerateRequest, Precision, Reference, Result, Variant};
use flux2_backend::testing::{on_cuda, skip_without_gpu};
use flux2_backend::{Backend, Compute, CpuBackend, CudaBackend, CudaOptions, DType};

use crate::evaluation::{self, psnr};

/// Least PSNR of a picture in fp8 against the f32 one of the CPU, in dB; the worst of three was 28.3.
const FP8: f64 = 25.0;
/// Least PSNR in int8, in dB; the worst of three was 38.2.
const INT8: f64 = 34.0;

/// Run `case` on a backend of its own, since all clones of a backend share one kernel log.
fn on_own_gpu(case: impl FnOnce(&CudaBackend) -> Result<()>) {
    match CudaBackend::new(CudaOptions::default()) {
        Ok(be) => case(&be).unwrap_or_else(|error| panic!("{error:?}")),
        Err(reason) => skip_without_gpu(reason),
    }
}

fn pipeline<B: Backend>(be: &B, precision: Precision) -> Pipeline<B> {
    let files = ModelFiles::open(&evaluation::mini()).unwrap();
    Pipeline::of_files(be.clone(), files, Residency::KeepAll).unwrap().with_precision(precision)
}

fn request(prompt: &str, [width, height]: [u32; 2], steps: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.into(),
        width: Some(width),
        height: Some(height),
        steps: Some(steps),
        seed: 3,
        ..Default::default()
    }
}

fn draw<B: Backend>(pipeline: &mut Pipeline<B>, request: &GenerateRequest) -> Result<RgbImage> {
    Ok(pipeline.generate(request, &mut |_: &Event| {}, &CancelToken::new())?.image)
}

/// The first pass with some shapes runs directly, the second is captured, later ones are replayed. All give the same
/// picture, whatever was drawn in between.
#[test]
fn recorded_passes_draw_the_same_picture() {
    on_cuda(Compute::Bf16, |be| {
        let requests = [
            request("a cat on a blue background", [128, 128], 3),
            request("an owl, pink stripes", [128, 128], 3),
            request("a fox on a green background", [64, 128], 3), // as many tokens as the next one
            request("a fox on a green background", [128, 64], 3),
            request("a cat", [96, 96], 1),
            request("a cat", [96, 64], 1),
        ];
        // In a new pipeline the second step is captured; with a single step nothing is.
        let first: Vec<RgbImage> =
            requests.iter().map(|r| draw(&mut pipeline(be, Precision::BF16), r)).collect::<Result<_>>()?;
        let mut pipeline = pipeline(be, Precision::BF16);
        for round in 0..3 {
            for (i, (request, first)) in requests.iter().zip(&first).enumerate() {
                assert!(draw(&mut pipeline, request)? == *first, "request {i} in round {round}");
            }
        }
        // A reference makes the token sequence longer.
        let reference = Reference::from_image(first[0].clone());
        let edit = GenerateRequest { references: vec![reference], ..requests[0].clone() };
        let once = draw(&mut pipeline, &edit)?;
        assert!(once != first[0] && draw(&mut pipeline, &edit)? == once, "with a reference");
        assert!(draw(&mut pipeline, &requests[0])? == first[0], "and without it again");
        Ok::<_, Error>(())
    });
}

/// Kernels and algorithms are chosen for the rows of one picture, so that a picture is the same in every batch.
#[test]
fn a_picture_is_the_same_bytes_in_every_batch() {
    let klein_4b = ModelFiles::synthetic(Variant::by_name("klein-4b").unwrap()).unwrap();
    on_cuda(Compute::Bf16, |be| {
        for precision in [Precision::BF16, Precision::INT8, Precision::FP8] {
            if !be.takes(precision.blocks()) {
                continue;
            }
            check_batches(&mut pipeline(be, precision), [128, 128], &[1, 2, 3, 4, 5], precision)?;
            let mut pipeline = Pipeline::of_files(be.clone(), klein_4b.clone(), Residency::KeepAll)?;
            pipeline = pipeline.with_precision(precision);
            check_batches(&mut pipeline, [256, 256], &[2, 4], precision)?;
            check_batches(&mut pipeline, [512, 512], &[3], precision)?;
        }
        Ok::<_, Error>(())
    });
}

/// Checks that pictures of this size are the same alone and in batches of so many.
fn check_batches(
    pipeline: &mut Pipeline<CudaBackend>,
    size: [u32; 2],
    counts: &[usize],
    precision: Precision,
) -> Result<()> {
    let prompts = ["a cat on a blue background", "two apples", "a small owl", "a fox", "an orange"];
    let requests: Vec<_> = (0..5).map(|i| GenerateRequest { seed: i as u64, ..request(prompts[i], size, 3) }).collect();
    let alone: Vec<RgbImage> = requests.iter().map(|r| draw(pipeline, r)).collect::<Result<_>>()?;
    for count in counts {
        // Twice, as the first pass with some shapes is not replayed.
        for round in 0..2 {
            let (cancel, mut observers) = (CancelToken::new(), vec![|_: &Event| {}; *count]);
            let members = requests.iter().zip(&mut observers);
            let members = members.map(|(request, observer)| BatchMember { request, observer, cancel: &cancel });
            let made = pipeline.generate_batch(&mut members.collect::<Vec<_>>(), Batching::SameBytes);
            for (i, made) in made.into_iter().enumerate() {
                assert!(made?.image == alone[i], "{precision}, {size:?}: picture {i} of {count}, round {round}");
            }
        }
    }
    Ok(())
}

#[test]
fn replayed_products_are_counted_like_others() {
    on_own_gpu(|be| {
        let mut pipeline = pipeline(be, Precision::BF16);
        let request = request("a cat", [128, 128], 4);
        let mut kernels = || {
            let image = pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?;
            let mut kernels: Vec<_> = image.kernels.into_iter().map(|k| (k.op, k.kernel, k.products)).collect();
            kernels.sort();
            Ok::<_, Error>(kernels)
        };
        kernels()?; // encodes the text
        let second = kernels()?;
        assert!(!second.is_empty() && kernels()? == second, "{second:?}");
        Ok(())
    });
}

/// Cancel while a pass is captured, then draw again.
#[test]
fn a_cancelled_recording_leaves_nothing_behind() {
    on_cuda(Compute::Bf16, |be| {
        let request = request("a cat", [128, 128], 4);
        let expected = draw(&mut pipeline(be, Precision::BF16), &request)?;
        for after in [1, 7, 12, 30] {
            let mut pipeline = pipeline(be, Precision::BF16);
            let cancel = CancelToken::new();
            let mut observer = |event: &Event| {
                if matches!(event, Event::Progress { phase: flux2::Phase::Denoise, done } if *done == after) {
                    cancel.cancel();
                }
            };
            let cancelled = pipeline.generate(&request, &mut observer, &cancel);
            assert!(matches!(cancelled, Err(Error::Cancelled) | Ok(_)), "after {after}: {:?}", cancelled.err());
            assert!(draw(&mut pipeline, &request)? == expected, "after {after}");
            assert!(draw(&mut pipeline, &request)? == expected, "after {after}, again");
        }
        Ok::<_, Error>(())
    });
}

/// Two threads with a pipeline each on one GPU; one captures while the other runs.
#[test]
fn threads_may_share_a_gpu() {
    on_cuda(Compute::Bf16, |be| {
        let request = request("a cat", [128, 128], 4);
        let expected = draw(&mut pipeline(be, Precision::BF16), &request)?;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut pipeline = pipeline(be, Precision::BF16);
                    for _ in 0..4 {
                        assert!(draw(&mut pipeline, &request).unwrap() == expected);
                    }
                });
            }
        });
        Ok::<_, Error>(())
    });
}

#[test]
fn bytes_agree_with_f32_and_are_really_multiplied() {
    on_own_gpu(|be| {
        let exact = CpuBackend::new(flux2_backend::CpuOptions { compute: Compute::F32, ..Default::default() });
        let mut exact = pipeline(&exact, Precision::F32);
        for (precision, dtype, least) in [(Precision::FP8, DType::F8E4M3, FP8), (Precision::INT8, DType::I8, INT8)] {
            if !be.takes(precision.blocks()) {
                continue;
            }
            let mut pipeline = pipeline(be, precision);
            for prompt in ["a cat on a blue background", "two apples, yellow gradient", "small owl, pink stripes"] {
                let request = request(prompt, [128, 128], 4);
                let got = pipeline.generate(&request, &mut |_: &Event| {}, &CancelToken::new())?;
                let psnr = psnr(&got.image, &draw(&mut exact, &request)?);
                assert!((least..60.0).contains(&psnr), "\"{prompt}\": {precision} is {psnr:.1} dB from f32");
                let products: u64 = got.kernels.iter().filter(|k| k.weights == Some(dtype)).map(|k| k.products).sum();
                assert!(products > 0, "{:?}", got.kernels);
            }
        }
        Ok(())
    });
}

/// Passes with cached keys and values of references are never captured, since a capture would copy them.
#[test]
fn cached_references_are_not_recorded() {
    on_cuda(Compute::Bf16, |be| {
        let mut paths = evaluation::mini();
        paths.variant = Some(Variant::by_name("klein-kv").unwrap());
        let files = ModelFiles::open(&paths)?;
        let mut pipeline = Pipeline::of_files(be.clone(), files, Residency::KeepAll)?;
        let plain = draw(&mut pipeline, &request("a cat", [128, 128], 2))?;
        let edit = GenerateRequest {
            references: vec![Reference::from_image(plain)],
            ..request("make the background red", [128, 128], 3)
        };
        let first = draw(&mut pipeline, &edit)?;
        assert!(draw(&mut pipeline, &edit)? == first && draw(&mut pipeline, &edit)? == first);
        Ok::<_, Error>(())
    });
}

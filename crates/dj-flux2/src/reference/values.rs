//! Formats of images and weights, kinds of noise, and other names that the library knows, from its enums.

use std::path::Path;

use flux2::backend::DType;
use flux2::event::Rung;
use flux2::image::{ImageFormat, InputFormat};
use flux2::weights::Layout;
use flux2::{Compat, NoiseKind, Variant};

use super::source::variants;
use super::{cell, table};

/// docs/reference/generated/formats.md.
pub fn formats() -> String {
    let mut text = "# All formats and names\n\nWhat the program reads, writes and knows by name. How number formats \
                    compare is in [Number formats](../formats.md).\n\n"
        .to_owned();
    text += "## Images\n\n";
    let input = [
        InputFormat::Png,
        InputFormat::Jpeg,
        InputFormat::WebP,
        InputFormat::Gif,
        InputFormat::Bmp,
        InputFormat::Tiff,
        InputFormat::Qoi,
    ];
    let about = documented("crates/flux2/src/image/input.rs", "InputFormat", &input);
    let rows = input.into_iter().zip(about).map(|(format, about)| {
        let written = ["png", "jpg", "jpeg", "webp"].into_iter().filter(|extension| {
            let of = ImageFormat::from_path(Path::new(&format!("a.{extension}")));
            of.is_ok_and(|of| of.name() == format.name())
        });
        let written: Vec<_> = written.map(|extension| format!("`.{extension}`")).collect();
        [format.name().to_owned(), about, written.join(", ")]
    });
    text += &table(["format", "read", "written as"], rows);

    text += "## Number formats of weights\n\n";
    let dtypes = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::F8E4M3,
        DType::F4E2M1,
        DType::I8,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
    ];
    let about = documented("crates/flux2-backend/src/dtype.rs", "DType", &dtypes);
    text += &table(
        ["name", "values to a block", "what it is"],
        dtypes.iter().zip(about).map(|(dtype, about)| [format!("`{dtype}`"), dtype.block_len().to_string(), about]),
    );

    text += "## Layouts of checkpoints\n\n";
    let layouts = [Layout::Diffusers, Layout::Bfl, Layout::HuggingFace, Layout::LlamaCpp, Layout::Synthetic];
    let about = documented("crates/flux2-weights/src/layout/mod.rs", "Layout", &layouts);
    let rows = layouts.iter().zip(about);
    text += &table(["name", "what it is"], rows.map(|(layout, about)| [format!("`{layout}`"), about]));

    text += "## Models\n\n";
    let rows = Variant::named().iter().map(|model| {
        let guidance = model.default_guidance.map_or("none".to_owned(), |guidance| guidance.to_string());
        let px = model.default_px;
        [
            format!("`{}`", model.name),
            model.default_steps.to_string(),
            guidance,
            format!("{px}x{px}"),
            cell(model.license),
        ]
    });
    text += &table(["name", "steps", "guidance", "size", "license"], rows);

    text += "## Kinds of noise\n\n";
    let kinds = [NoiseKind::Philox, NoiseKind::TorchCpu, NoiseKind::TORCH_CUDA_H100];
    let about = variants("crates/flux2/src/sampler/noise.rs", "NoiseKind");
    assert_eq!(about.len(), kinds.len(), "a kind of noise is missing here");
    text += &table(
        ["name", "what it is"],
        kinds.iter().zip(about).map(|(kind, (_, about))| [format!("`{kind}`"), cell(&about)]),
    );

    text += "## Programs for `--compat`\n\n";
    let about = documented("crates/flux2/src/compat.rs", "Compat", &Compat::ALL);
    let rows = Compat::ALL.into_iter().zip(about);
    text += &table(
        ["name", "noise", "program"],
        rows.map(|(program, about)| [format!("`{}`", program.name()), format!("`{}`", program.noise()), about]),
    );

    text += "## What stays loaded\n\nThe library's `Residency`; the command line chooses it by the memory.\n\n";
    text += &named("crates/flux2/src/pipeline/networks.rs", "Residency");

    text += "## Fallbacks where memory is short\n\nIn the order in which they are tried.\n\n";
    let about = documented("crates/flux2/src/event.rs", "Rung", &Rung::ALL);
    let rows = Rung::ALL.into_iter().zip(about);
    text + &table(["name", "what is done"], rows.map(|(rung, about)| [format!("`{}`", rung.name()), about]))
}

/// The documentation of the variants of an enum, which are `all` in this order.
fn documented<T: std::fmt::Debug>(file: &str, name: &str, all: &[T]) -> Vec<String> {
    let found = variants(file, name);
    let names: Vec<_> = found.iter().map(|(name, _)| name.clone()).collect();
    let known: Vec<_> = all.iter().map(|value| format!("{value:?}")).collect();
    assert_eq!(names, known, "{file}: {name}");
    found.into_iter().map(|(_, about)| cell(&about)).collect()
}

/// A table of the variants of an enum under their names in the code.
fn named(file: &str, name: &str) -> String {
    let rows = variants(file, name).into_iter();
    table(["name", "what it is"], rows.map(|(name, about)| [format!("`{name}`"), cell(&about)]))
}

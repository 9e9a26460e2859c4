//! The page: one file of HTML, with its pictures, plots and styles inside. It loads nothing, and says so to the browser
//! in a content security policy. Everything is there without its script, which only shows attention larger.
//!
//! Sections are in the order of the run: `inputs`, `denoising`, `running`.

mod denoising;
mod inputs;
mod running;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flux2::digest::sha256;
use flux2::explain::data_url;
use flux2::image::RgbImage;
use flux2::image::resize::resize_lanczos;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::Document;
use super::plot;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A section: anchor, name among others, heading, content.
type Section = (&'static str, &'static str, &'static str, fn(&Document) -> Markup);

const SECTIONS: [Section; 11] = [
    ("prompt", "Tokens", "Prompt to tokens", inputs::prompt),
    ("embedding", "Embedding", "Tokens to embedding", inputs::embedding),
    ("images", "Images", "Images that the model sees", inputs::images),
    ("noise", "Noise", "Noise", inputs::noise),
    ("schedule", "Levels", "Noise levels", denoising::schedule),
    ("steps", "Steps", "Steps", denoising::steps),
    ("attention", "Attention", "What the picture attends to", denoising::attention),
    ("decode", "Decoding", "Latents to pixels", running::decode),
    ("time", "Time", "Time and memory", running::time),
    ("kernels", "Kernels", "Kernels", running::kernels),
    ("parameters", "Parameters", "Parameters", running::parameters),
];

/// Longest side of the finished picture where it is shown again, in pixels.
const AGAIN_PX: u32 = 384;

/// The page of a picture.
pub fn page(document: &Document) -> String {
    let parameters = &document.explanation.parameters;
    let [width, height] = document.picture_px;
    let policy =
        format!("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{}'", integrity(SCRIPT));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(format!("{} {}", parameters.software, parameters.version));
                title { (parameters.prompt) " \u{b7} explained" }
                style { (PreEscaped(plot::STYLE)) (PreEscaped(STYLE)) (PreEscaped(backgrounds(document))) }
            }
            body {
                header {
                    img.finished src=(document.picture) alt="The finished picture" width=(width) height=(height)
                        style=(format!("max-width:calc(24rem*{width}/{height})"));
                    div {
                        p.kicker { "How this picture came about" }
                        h1 { @if parameters.prompt.is_empty() { "(no prompt)" } @else { (parameters.prompt) } }
                        (facts(&[
                            ("model", format!("{} ({})", parameters.model, document.explanation.model.variant)),
                            ("size", format!("{width}\u{d7}{height}")),
                            ("seed", parameters.seed.to_string()),
                            ("steps", parameters.steps.to_string()),
                            ("time", running::seconds(document.explanation.seconds)),
                            ("device", document.device.clone()),
                        ]))
                        @for warning in &document.explanation.warnings { p.warning { (warning) } }
                    }
                }
                nav { ol { @for (id, name, ..) in SECTIONS { li { a href={ "#" (id) } { (name) } } } } }
                main {
                    @for (number, (id, _, heading, section)) in (1..).zip(SECTIONS) {
                        section id=(id) {
                            h2 { span.number { (number) } (heading) }
                            (section(document))
                        }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Pictures that are shown in several places, each in the page once.
fn backgrounds(document: &Document) -> String {
    let image = &document.image;
    let part = f64::from(AGAIN_PX) / f64::from(image.width().max(image.height()));
    let side = |px: u32| ((f64::from(px) * part).round() as u32).max(1);
    let reduced = (part < 1.0).then(|| resize_lanczos(image, side(image.width()), side(image.height())).ok()).flatten();
    let finished = url(reduced.as_ref().unwrap_or(image));
    let mut rules = format!(".final{{background-image:url({finished})}}\n");
    for step in &document.explanation.steps {
        rules.push_str(&format!(".estimate-{}{{background-image:url({})}}\n", step.number, url(&step.estimate.image)));
    }
    rules
}

/// The URL of a picture; empty if there is no memory for it.
fn url(image: &RgbImage) -> String {
    data_url(image).unwrap_or_default()
}

/// The digest of a script that a policy allows.
fn integrity(script: &str) -> String {
    let hex = sha256(script.as_bytes());
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("a digest is hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    format!("sha256-{}", STANDARD.encode(bytes))
}

/// Names and values, side by side.
fn facts(facts: &[(&str, String)]) -> Markup {
    html! {
        dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
    }
}

/// What goes into a stage and comes out of it.
fn in_out(from: &str, to: &str) -> Markup {
    html! { p.shapes { code { (from) } span aria-label="becomes" { " \u{2192} " } code { (to) } } }
}

/// A small picture of latents, with what stands below it.
fn picture(image: &RgbImage, text: &str, caption: &Markup) -> Markup {
    let ratio = format!("aspect-ratio:{}/{}", image.width(), image.height());
    html! {
        figure.small {
            img src=(url(image)) alt=(text) style=(ratio);
            figcaption { (caption) }
        }
    }
}

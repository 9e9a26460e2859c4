//! The page: one file of HTML, with its pictures, plots and styles inside. It loads nothing, and says so to the browser
//! in a content security policy. Everything is there without its script, which only shows attention larger.
//!
//! Sections are in the order of the run: `inputs`, `denoising`, `running`.

mod denoising;
mod inputs;
mod running;

use flux2::digest::sha256;
use flux2::explain::png_url;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::Document;
use super::plot;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The sections, by the names of their anchors.
const SECTIONS: [(&str, &str, fn(&Document) -> Markup); 11] = [
    ("prompt", "Prompt to tokens", inputs::prompt),
    ("embedding", "Tokens to embedding", inputs::embedding),
    ("images", "Images", inputs::images),
    ("noise", "Noise", inputs::noise),
    ("schedule", "Noise levels", denoising::schedule),
    ("steps", "Steps", denoising::steps),
    ("attention", "Attention", denoising::attention),
    ("decode", "Latents to pixels", running::decode),
    ("time", "Time and memory", running::time),
    ("kernels", "Kernels", running::kernels),
    ("parameters", "Parameters", running::parameters),
];

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
                    div.finished.final role="img" aria-label="The finished picture"
                        style=(format!("aspect-ratio:{width}/{height};--ratio:{:.4}", f64::from(width) / f64::from(height))) {}
                    div {
                        p.kicker { "How this picture came about" }
                        h1 { (parameters.prompt) }
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
                nav { ol { @for (id, name, _) in SECTIONS { li { a href={ "#" (id) } { (name) } } } } }
                main {
                    @for (number, (id, name, section)) in (1..).zip(SECTIONS) {
                        section id=(id) {
                            h2 { span.number { (number) } (name) }
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
    let mut rules = format!(".final{{background-image:url({})}}\n", document.picture);
    for step in &document.explanation.steps {
        let url = flux2::explain::data_url(&step.estimate.image).unwrap_or_else(|_| png_url(&[]));
        rules.push_str(&format!(".estimate-{}{{background-image:url({url})}}\n", step.number));
    }
    rules
}

/// The digest of a script that a policy allows.
fn integrity(script: &str) -> String {
    use base64::Engine as _;
    let hex = sha256(script.as_bytes());
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("a digest is hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(bytes))
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
fn picture(image: &flux2::image::RgbImage, text: &str, caption: &Markup) -> Markup {
    let url = flux2::explain::data_url(image).unwrap_or_default();
    let ratio = format!("aspect-ratio:{}/{}", image.width(), image.height());
    html! {
        figure.small {
            img src=(url) alt=(text) style=(ratio);
            figcaption { (caption) }
        }
    }
}

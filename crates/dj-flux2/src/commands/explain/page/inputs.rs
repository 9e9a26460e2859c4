//! What the flow transformer is given: the prompt, images, noise.

use flux2::explain::{Image, ImageRole, Latents, Spread, Text};
use flux2::text::PromptToken;
use maud::{Markup, html};

use super::super::charts;
use super::super::document::Document;
use super::super::plot::number;
use super::{facts, in_out, picture};

/// Tokens of the prompt.
pub fn prompt(document: &Document) -> Markup {
    let explanation = &document.explanation;
    html! {
        (in_out(
            &format!("prompt, {} characters", explanation.parameters.prompt.chars().count()),
            &format!("[{}] token ids", explanation.text.embedding[0]),
        ))
        p {
            "The prompt is put into the chat template that the text encoder, a language model, was trained with. The "
            "tokenizer cuts the text into pieces of its vocabulary. Padding fills up the rest: the flow "
            "transformer reads "
            "the embedding of every token, padding included."
        }
        (tokens(&explanation.text))
        @if let Some(negative) = &explanation.negative {
            h3 { "The negative prompt" }
            p { "Guidance leads away from this prompt. It is encoded in the same way." }
            (tokens(negative))
        }
    }
}

fn tokens(text: &Text) -> Markup {
    html! {
        ol.tokens {
            @for PromptToken { id, text, is_prompt } in &text.tokens {
                li class=(if *is_prompt { "word" } else { "template" }) {
                    span { (visible(text)) } code { (id) }
                }
            }
            @if text.padding > 0 {
                li.padding { span { (text.padding) " \u{d7} padding" } code { (text.padding_id) } }
            }
        }
        @if let Some(lost) = &text.lost { p.warning { "Not read, as there was no room: " (lost) } }
        details { summary { "The text with its template" } pre { (text.chat) } }
    }
}

/// Text with spaces and line ends that can be seen.
fn visible(text: &str) -> String {
    text.replace(' ', "\u{b7}").replace('\n', "\u{21b5}")
}

/// The text embedding.
pub fn embedding(document: &Document) -> Markup {
    let (text, model) = (&document.explanation.text, &document.explanation.model);
    let [rows, columns] = text.embedding;
    let mean = |norms: &[f64]| number(norms.iter().sum::<f64>() / norms.len().max(1) as f64);
    html! {
        (in_out(&format!("[{rows}] token ids"), &format!("[{rows}, {columns}] text embedding")))
        p {
            "The text encoder runs through " (model.text_layers) " layers. Its residual stream, " (model.text_hidden)
            " values a token, is read at " (text.taps.len()) " taps; the taps lie side by side in the "
            "embedding. The first "
            "token of a language model often has a far larger norm than all others."
        }
        (charts::embedding(text))
        div.scroll { table {
            thead { tr { th { "tap" } th { "columns" } th { "mean norm of tokens" } th { "of padding" } } }
            tbody {
                @for (i, tap) in text.taps.iter().enumerate() {
                    tr {
                        td { "after layer " (tap.layer) }
                        td { (i * model.text_hidden) " to " ((i + 1) * model.text_hidden - 1) }
                        td { (mean(&tap.token_norms)) }
                        td { (tap.padding_norm.map_or_else(|| "no padding".into(), number)) }
                    }
                }
            }
        } }
    }
}

/// Images that the model sees.
pub fn images(document: &Document) -> Markup {
    let images = &document.explanation.images;
    if images.is_empty() {
        return match document.explanation.parameters.source {
            Some(_) => html! { p { "None: the model does not see the source. It only starts from it." } },
            None => html! { p { "None: the picture is drawn from the prompt alone." } },
        };
    }
    let tokens: usize = images.iter().map(|image| image.grid[0] * image.grid[1]).sum();
    html! {
        (in_out("pixels", &format!("[{tokens}, {}] reference tokens", document.explanation.model.token_channels)))
        p {
            "Each image is scaled down to at most a megapixel, cropped to a multiple of 16 pixels and encoded by the "
            "autoencoder. Its tokens stand beside those of the picture in every step. What tells them apart is their "
            "position id (t, h, w, l): t is 0 for the picture, 10 for the first image, 20 for the second."
        }
        div.row { @for image in images { (one_image(image)) } }
    }
}

fn one_image(image: &Image) -> Markup {
    let Image { number, role, file_px: [from_w, from_h], prepared_px: [w, h], grid: [rows, columns], .. } = image;
    let role = match role {
        ImageRole::Source => "the source",
        ImageRole::Reference => "reference",
    };
    let [first, last] = image.position_ids.map(|[t, h, w, l]| format!("({t}, {h}, {w}, {l})"));
    let digest = image.sha256.get(..12).unwrap_or_default();
    picture(
        &image.image,
        &format!("Image {number}"),
        &html! {
            strong { "Image " (number) } ", " (role) br;
            (from_w) "\u{d7}" (from_h) " prepared to " (w) "\u{d7}" (h) br;
            (rows) "\u{d7}" (columns) " = " (rows * columns) " tokens" br;
            "ids " (first) " to " (last) br;
            "SHA-256 " (digest) "\u{2026}"
        },
    )
}

/// What denoising starts from.
pub fn noise(document: &Document) -> Markup {
    let explanation = &document.explanation;
    let Latents { grid: [rows, columns], .. } = explanation.noise;
    let (model, parameters) = (&explanation.model, &explanation.parameters);
    let is_noise = explanation.noise.image == explanation.start.image;
    html! {
        (in_out(
            &format!("seed {}", parameters.seed),
            &format!("[{}, {}] latents", rows * columns, model.token_channels),
        ))
        p {
            "The picture is " (rows) "\u{d7}" (columns) " tokens of 16\u{d7}16 pixels. The seed makes normally "
            "distributed numbers for all of them with the generator " code { (parameters.noise) } ", on the "
            "host, so that "
            "they are the same on every machine."
        }
        @if parameters.source.is_some() {
            p {
                "There is a source: its tokens get noise of the first level and are what denoising starts from. "
                "At level 1 "
                "that is noise alone. Tokens that the mask keeps are set to the source again after every step."
            }
        }
        div.row {
            (picture(&explanation.noise.image, "The noise in colors", &html! {
                "the noise" br; (spread(explanation.noise.spread))
            }))
            @if !is_noise {
                (picture(&explanation.start.image, "What denoising starts from, in colors", &html! {
                    "the source with noise of level " (number(f64::from(explanation.schedule.sigmas[0]))) br;
                    (spread(explanation.start.spread))
                }))
            }
        }
    }
}

/// Mean and deviation, and the extremes.
pub fn spread(Spread { mean, deviation, min, max }: Spread) -> Markup {
    html! {
        "mean " (number(mean)) ", deviation " (number(deviation)) br;
        (number(f64::from(min))) " to " (number(f64::from(max)))
    }
}

/// Facts of latents that were decoded.
pub fn latents(latents: &Latents) -> Markup {
    let Spread { mean, deviation, min, max } = latents.spread;
    facts(&[
        ("mean", number(mean)),
        ("deviation", number(deviation)),
        ("least", number(f64::from(min))),
        ("most", number(f64::from(max))),
    ])
}

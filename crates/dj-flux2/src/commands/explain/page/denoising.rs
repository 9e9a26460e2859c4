//! From noise to latents: noise levels, steps, attention.

use flux2::explain::{Attention, Step};
use maud::{Markup, html};

use super::super::document::Document;
use super::super::heat::{self, Shown};
use super::super::plot::number;
use super::super::{charts, charts::percent};
use super::{in_out, picture, url};

/// The noise levels.
pub fn schedule(document: &Document) -> Markup {
    let schedule = &document.explanation.schedule;
    let steps = schedule.sigmas.len() - 1;
    html! {
        (in_out(
            &format!("{steps} steps, {} image tokens", schedule.image_tokens),
            &format!("[{}] noise levels", schedule.sigmas.len()),
        ))
        p {
            "Levels that are evenly spaced from 1 to 0 are shifted towards high noise: "
            code { "\u{3c3} = e" sup { "\u{3bc}" } " / (e" sup { "\u{3bc}" } " + 1/t \u{2212} 1)" }
            ", here with \u{3bc} = " (number(schedule.mu)) ". The shift grows with the number of image tokens, "
            "since more "
            "pixels show a coarse shape through more noise."
        }
        (charts::schedule(schedule))
        div.scroll { table {
            thead { tr { th { "after step" } @for i in 0..=steps { td { (i) } } } }
            tbody {
                tr { th { "this picture" } @for sigma in &schedule.sigmas { td { (number(f64::from(*sigma))) } } }
                tr { th { "evenly spaced" } @for sigma in &schedule.linear { td { (number(f64::from(*sigma))) } } }
            }
        } }
    }
}

/// The denoising steps.
pub fn steps(document: &Document) -> Markup {
    let explanation = &document.explanation;
    let model = &explanation.model;
    let tokens = explanation.schedule.image_tokens;
    html! {
        (in_out(
            &format!("[{tokens}, {}] latents, text embedding, noise level", model.token_channels),
            &format!("[{tokens}, {}] velocity", model.token_channels),
        ))
        p {
            "The flow transformer, " (model.double_blocks) " double and " (model.single_blocks) " single blocks of "
            (model.heads) " heads, predicts the velocity: noise minus data. A step moves the latents along it by the "
            "difference of two noise levels. The straight line on from there ends at the estimate of the "
            "finished latents. "
            "Both are shown in colors by a linear map, without the autoencoder."
        }
        div.steps { @for step in &explanation.steps { (one_step(step)) } }
        div.plots {
            figure {
                (charts::distances(&explanation.steps))
                figcaption {
                    "How straight the way is. If it were a straight line, the first estimate would be the end, "
                    "and both "
                    "curves would be 0. Distillation makes it straight enough for few steps."
                }
            }
            figure {
                (charts::velocities(&explanation.steps))
                figcaption { "The norm of the velocity. It changes little where the way is straight." }
            }
        }
    }
}

fn one_step(step: &Step) -> Markup {
    let [rows, columns] = step.estimate.grid;
    let Step { number: n, sigma, next_sigma, velocity_norm, estimate_distance, line_distance, .. } = step;
    html! {
        div.step {
            h3 { "Step " (n) }
            div.pair {
                (picture(&step.latents.image, &format!("Latents after step {n}"), &html! { "latents" }))
                figure.small {
                    div class=(format!("shot estimate-{n}")) role="img" aria-label=(format!("Estimate of step {n}"))
                        style=(format!("aspect-ratio:{columns}/{rows}")) {}
                    figcaption { "estimate" }
                }
            }
            dl {
                dt { "noise level" } dd { (number(f64::from(*sigma))) " \u{2192} " (number(f64::from(*next_sigma))) }
                dt { "velocity norm" } dd { (number(*velocity_norm)) }
                @if let (Some(negative), Some(guided)) = (step.negative_velocity_norm, step.guided_velocity_norm) {
                    dt { "negative prompt" } dd { (number(negative)) }
                    dt { "with guidance" } dd { (number(guided)) }
                }
                dt { "estimate \u{2192} end" } dd { (percent(*estimate_distance)) }
                dt { "latents \u{2192} line" } dd { (percent(*line_distance)) }
                @if let Some(cosine) = step.turn_cosine {
                    dt { "turn" } dd { (number(cosine.clamp(-1.0, 1.0).acos().to_degrees())) "\u{b0}" }
                }
                dt { "time" } dd { (super::running::seconds(step.seconds)) }
            }
        }
    }
}

/// Which words and images the image tokens attend to.
pub fn attention(document: &Document) -> Markup {
    let explanation = &document.explanation;
    let Some(attention) = &explanation.attention else {
        return html! { p { "Not read in this run, as no block was chosen." } };
    };
    let shown = heat::shown(attention, &explanation.text);
    let steps = heat::steps(attention.steps.len());
    let all = explanation.model.double_blocks + explanation.model.single_blocks;
    let blocks = match attention.blocks.len() == all {
        true => format!("all {all} blocks"),
        false => attention.blocks.join(", "),
    };
    html! {
        (in_out("queries of the picture's tokens, keys of all tokens", "weights that add up to 1 for each query"))
        p {
            "There is no cross-attention: text, picture and images are one sequence, and every token attends to every "
            "token. Each map shows how much the picture's tokens attend to one word or image: the mean over the "
            "heads of "
            (blocks) ". It is scaled so that its most is bright; the number is the share of all attention. Much "
            "of it goes to "
            "tokens of the template and to padding, which are there in every picture."
        }
        (charts::shares(attention, &explanation.text))
        @if let (Some(most), Some(last)) = (most_attended(attention, &shown), steps.last()) {
            div.attention {
                figure.large id="large" {
                    (overlay(document, attention, *last, most))
                    figcaption id="large-caption" { (most.name) ", step " (last + 1) }
                }
                div.scroll { table.maps {
                    thead { tr { td {} @for step in &steps { th { "step " (step + 1) } } } }
                    tbody {
                        @for shown in &shown {
                            tr {
                                th { (shown.name) }
                                @for step in &steps { td { (cell(document, attention, *step, shown)) } }
                            }
                        }
                    }
                } }
            }
        }
        details {
            summary { "Shares of each block, in the last step" }
            (block_table(attention, &shown))
        }
    }
}

/// What has the largest share in the last step.
fn most_attended<'a>(attention: &Attention, shown: &'a [Shown]) -> Option<&'a Shown> {
    let last = attention.steps.last()?;
    shown.iter().max_by(|a, b| last.shares[a.column].total_cmp(&last.shares[b.column]))
}

fn cell(document: &Document, attention: &Attention, step: usize, shown: &Shown) -> Markup {
    html! {
        button.map type="button" data-caption=(format!("{}, step {}", shown.name, step + 1)) {
            (overlay(document, attention, step, shown))
            small { (percent(f64::from(attention.steps[step].shares[shown.column]))) }
        }
    }
}

/// A map over the estimate of its step.
fn overlay(document: &Document, attention: &Attention, step: usize, shown: &Shown) -> Markup {
    let [rows, columns] = attention.grid;
    let map = heat::map(attention, step, shown.column);
    let is_last = step + 1 == document.explanation.steps.len();
    // A picture with a source, or an enlarged one, is not what the tokens show.
    let is_whole = document.picture_px == document.explanation.decoded_px;
    let below = if is_last && is_whole { "final".to_owned() } else { format!("estimate-{}", step + 1) };
    html! {
        span class=(format!("shot {below}")) style=(format!("aspect-ratio:{columns}/{rows}")) {
            img.heat src=(url(&map))
                alt=(format!("Attention to {} in step {}", shown.name, step + 1));
        }
    }
}

fn block_table(attention: &Attention, shown: &[Shown]) -> Markup {
    let last = attention.steps.last();
    html! {
        div.scroll { table {
            thead { tr { th { "block" } @for shown in shown { th { (shown.name) } } } }
            tbody {
                @for (name, shares) in attention.blocks.iter().zip(last.iter().flat_map(|step| &step.block_shares)) {
                    tr {
                        th { (name) }
                        @for shown in shown { td { (percent(f64::from(shares[shown.column]))) } }
                    }
                }
            }
        } }
    }
}

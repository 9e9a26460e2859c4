//! The plots of a page.

use flux2::explain::{Attended, Attention, Schedule, Step, Tap, Text};
use flux2::units::Memory;
use maud::{Markup, html};

use super::document::Document;
use super::plot::{Plot, Series, at, number, step, svg};

fn series(name: &str, points: impl Iterator<Item = [f64; 2]>) -> Series {
    Series { name: name.to_owned(), points: points.collect(), is_faint: false }
}

/// Noise levels beside evenly spaced ones.
pub fn schedule(Schedule { sigmas, linear, .. }: &Schedule) -> Markup {
    let points = |levels: &[f32]| levels.iter().enumerate().map(|(i, sigma)| [i as f64, f64::from(*sigma)]).collect();
    let linear = Series { name: "evenly spaced".into(), points: points(linear), is_faint: true };
    let used = Series { name: "this picture".into(), points: points(sigmas), is_faint: false };
    let title = "Noise level after each step, beside evenly spaced levels";
    let series = vec![used, linear];
    Plot { title, x: "steps done", y: "noise level sigma", series, is_logarithmic: false, counts: true }.svg()
}

/// How far estimates and latents are from a straight line.
pub fn distances(steps: &[Step]) -> Markup {
    let of = |value: fn(&Step) -> f64| steps.iter().map(move |step| [f64::from(step.number), 100.0 * value(step)]);
    let series = vec![
        series("estimate to the end", of(|step| step.estimate_distance)),
        series("latents to the line", of(|step| step.line_distance)),
    ];
    let title = "Distance of each step's estimate to the final latents, and of the latents to the straight line";
    Plot { title, x: "step", y: "% of the final latents' norm", series, is_logarithmic: false, counts: true }.svg()
}

/// Norms of the velocities.
pub fn velocities(steps: &[Step]) -> Markup {
    let of = |value: fn(&Step) -> Option<f64>| {
        steps.iter().filter_map(move |step| Some([f64::from(step.number), value(step)?]))
    };
    let all = [
        series("for the prompt", of(|step| Some(step.velocity_norm))),
        series("for the negative prompt", of(|step| step.negative_velocity_norm)),
        series("with guidance", of(|step| step.guided_velocity_norm)),
    ];
    let series = all.into_iter().filter(|series| !series.points.is_empty()).collect();
    let title = "L2 norm of the velocity in each step";
    Plot { title, x: "step", y: "norm of the velocity", series, is_logarithmic: false, counts: true }.svg()
}

/// Norms of the text embedding's rows, tap by tap.
pub fn embedding(text: &Text) -> Markup {
    let of_tap = |tap: &Tap| {
        let points = tap.token_norms.iter().enumerate().map(|(i, norm)| [i as f64, *norm]);
        series(&format!("after layer {}", tap.layer), points)
    };
    let series = text.taps.iter().map(of_tap).collect();
    let title = "L2 norm of each token's embedding, for each tap";
    Plot { title, x: "token", y: "norm", series, is_logarithmic: true, counts: true }.svg()
}

/// When stages began and ended, with what was planned.
pub fn timeline(Document { explanation, planned, .. }: &Document) -> Markup {
    const ROW: f64 = 30.0;
    let spans = &explanation.timeline;
    let whole = (explanation.seconds + explanation.explaining_seconds).max(1e-6);
    let (left, right, top) = (124.0, 500.0, 30.0);
    let x = |seconds: f64| at(left + (right - left) * (seconds / whole).min(1.0));
    let bottom = top + ROW * spans.len() as f64;
    let tick = step(whole / 5.0);
    // What is planned for a stage stands beside its first span.
    let plan_of = |i: usize| {
        let is_first = spans.iter().position(|span| span.stage == spans[i].stage) == Some(i);
        planned.stages.iter().find(|plan| is_first && plan.stage == spans[i].stage)
    };
    let bar = |from: f64, to: f64| (x(from), at((x(to) - x(from)).max(1.5)));
    let body = html! {
        text.tick x=(right + 10.0) y="16" { "memory (planned)" }
        g.s0 {
            rect.bar x=(left) y="7" width="12" height="10" rx="2" {}
            rect.planned x=(left + 90.0) y="9.5" width="12" height="5" {}
        }
        g.s1 { rect.bar x=(left + 190.0) y="7" width="12" height="10" rx="2" {} }
        text.tick x=(left + 18.0) y="16" { "taken" }
        text.tick x=(left + 108.0) y="16" { "planned" }
        text.tick x=(left + 208.0) y="16" { "loading" }
        @for i in 0..=(whole / tick) as usize {
            @let x = x(tick * i as f64);
            line.grid x1=(x) x2=(x) y1=(top) y2=(bottom + 5.0) {}
            text.tick x=(x) y=(bottom + 18.0) text-anchor="middle" { (number(tick * i as f64)) }
        }
        text.label x=(right) y=(bottom + 34.0) text-anchor="end" { "seconds" }
        @for (i, span) in spans.iter().enumerate() {
            @let (y, end) = (top + ROW * i as f64, span.begin + span.seconds);
            @let own = end - span.explaining_seconds;
            text x=(left - 8.0) y=(y + 17.0) text-anchor="end" { (span.stage) }
            g class=(if span.is_load { "s1" } else { "s0" }) {
                @let (from, width) = bar(span.begin, own);
                rect.bar x=(from) y=(y + 5.0) width=(width) height="14" rx="2" {
                    title { (span.stage) ": " (number(own - span.begin)) " s" }
                }
                @if span.explaining_seconds > 0.0 {
                    @let (from, width) = bar(own, end);
                    rect.bar.pale x=(from) y=(y + 5.0) width=(width) height="14" rx="2" {
                        title { "explaining: " (number(span.explaining_seconds)) " s" }
                    }
                }
                @if let Some(seconds) = plan_of(i).and_then(|plan| plan.seconds) {
                    @let (from, width) = bar(span.begin, span.begin + seconds);
                    rect.planned x=(from) y=(y + 21.0) width=(width) height="4" {
                        title { (span.stage) ", planned: " (number(seconds)) " s" }
                    }
                }
            }
            text.tick x=(right + 10.0) y=(y + 17.0) {
                (Memory(span.allocated_bytes + span.mapped_bytes).to_string())
                @if let Some(plan) = plan_of(i) {
                    " (" (Memory(plan.allocated_bytes + plan.mapped_bytes).to_string()) ")"
                }
            }
        }
    };
    svg([640.0, bottom + 42.0], "When each stage began and ended, and its memory, beside the plan", &body)
}

/// What the image tokens attend to in each step.
pub fn shares(attention: &Attention, text: &Text) -> Markup {
    let groups = groups(attention, text);
    let row = if attention.steps.len() > 12 { 12.0 } else { 30.0 };
    let (left, right, top) = (64.0, 630.0, 20.0 + 20.0 * groups.len().div_ceil(5) as f64);
    let bottom = top + row * attention.steps.len() as f64;
    let place = |i: usize| [left + (i % 5) as f64 * 116.0, 8.0 + 20.0 * (i / 5) as f64];
    let body = html! {
        @for (i, (name, _)) in groups.iter().enumerate() {
            @let [x, y] = place(i);
            g class=(color(i)) { rect.bar x=(x) y=(y) width="12" height="12" rx="2" {} }
            text x=(x + 18.0) y=(y + 10.0) { (name) }
        }
        @for (number, step) in attention.steps.iter().enumerate() {
            @let y = top + row * number as f64;
            text.tick x=(left - 8.0) y=(y + 0.5 * row + 1.0) text-anchor="end" { "step " (number + 1) }
            @for (i, (name, from, share)) in stacked(&groups, &step.shares).into_iter().enumerate() {
                g class=(color(i)) {
                    rect.bar x=(at(left + (right - left) * from)) y=(y) width=(at((right - left) * share))
                        height=(0.75 * row) {
                        title { "step " (number + 1) ", " (name) ": " (percent(share)) }
                    }
                }
            }
        }
    };
    svg([640.0, bottom + 6.0], "Share of the attention of image tokens in each step", &body)
}

fn color(i: usize) -> String {
    format!("s{}", i % 6)
}

/// A share as people read it.
pub fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

/// Name, begin and size of each group's part of the whole.
fn stacked<'a>(groups: &'a [(String, Vec<usize>)], shares: &[f32]) -> Vec<(&'a str, f64, f64)> {
    let mut from = 0.0;
    let part = |(name, columns): &'a (String, Vec<usize>)| {
        let share: f64 = columns.iter().map(|column| f64::from(shares[*column])).sum();
        from += share;
        (name.as_str(), from - share, share)
    };
    groups.iter().map(part).collect()
}

/// What is attended to in groups that have a color each, with their places; empty ones are left out.
fn groups(attention: &Attention, text: &Text) -> Vec<(String, Vec<usize>)> {
    let name = |attended: &Attended| match attended {
        Attended::Token(i) if text.tokens[*i].is_prompt => "prompt".to_owned(),
        Attended::Token(_) => "template".to_owned(),
        Attended::Padding => "padding".to_owned(),
        Attended::Picture => "the picture".to_owned(),
        Attended::Image(number) => format!("image {number}"),
    };
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (column, attended) in attention.attended.iter().enumerate() {
        let name = name(attended);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, columns)) => columns.push(column),
            None => groups.push((name, vec![column])),
        }
    }
    groups.sort_by_key(|(name, _)| {
        ["prompt", "template", "padding", "the picture"].iter().position(|n| n == name).unwrap_or(4)
    });
    groups
}

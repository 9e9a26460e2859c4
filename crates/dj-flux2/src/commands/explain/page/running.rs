//! The end of the run, and what it took: decoding, time and memory, kernels, parameters.

use std::time::Duration;

use flux2::units::{Memory, Time};
use maud::{Markup, html};
use serde_json::Value;

use super::super::charts;
use super::super::document::Document;
use super::super::plot::number;
use super::{in_out, inputs};

/// A time as people read it.
pub fn seconds(seconds: f64) -> String {
    if seconds < 0.1 {
        return format!("{} ms", number(1000.0 * seconds.max(0.0)));
    }
    Time(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()).to_string()
}

/// From latents to the finished picture.
pub fn decode(document: &Document) -> Markup {
    let explanation = &document.explanation;
    let [width, height] = explanation.decoded_px;
    let [final_width, final_height] = document.picture_px;
    let tokens = explanation.schedule.image_tokens;
    html! {
        (in_out(
            &format!("[{tokens}, {}] latents", explanation.model.token_channels),
            &format!("[{height}, {width}, 3] pixels"),
        ))
        p {
            "The latents are brought back to the scale of the autoencoder, and each token becomes 2\u{d7}2 places of "
            (explanation.model.latent_channels) " channels. The decoder makes 8\u{d7}8 pixels of each place."
            @if document.picture_px != explanation.decoded_px {
                " The result is put into its source or enlarged: " (final_width) "\u{d7}" (final_height) " pixels."
            }
        }
        (inputs::latents(&explanation.latents))
    }
}

/// What the stages took, beside what was planned.
pub fn time(document: &Document) -> Markup {
    let (explanation, planned) = (&document.explanation, &document.planned);
    let memory = |allocated: usize, mapped: usize| Memory(allocated + mapped).to_string();
    html! {
        (charts::timeline(document))
        p {
            @if explanation.explaining_seconds > 0.0 {
                "What is pale, " (seconds(explanation.explaining_seconds)) ", is the work of this explanation: reading "
                "attention and copying latents. It is in none of the other times here. "
            }
            "The memory is the peak of a stage as the device's allocator counts it. In the table, the images "
            "that the host "
            "holds beside the tensors of a processor are added, as in the plan."
        }
        div.scroll { table {
            thead {
                tr {
                    th { "stage" } th { "time planned" } th { "time taken" } th { "loading" }
                    th { "memory planned" } th { "memory taken" }
                }
            }
            tbody {
                @for stage in &explanation.stages {
                    @let plan = planned.stages.iter().find(|plan| plan.stage == stage.stage);
                    tr {
                        th { (stage.stage) }
                        td { (plan.and_then(|plan| plan.seconds).map_or_else(|| "not estimated".into(), seconds)) }
                        td { (seconds(stage.seconds)) }
                        td { (seconds(stage.load_seconds)) }
                        td {
                            (plan.map_or_else(|| "not planned".into(), |p| memory(p.allocated_bytes, p.mapped_bytes)))
                        }
                        td { (memory(stage.allocated_bytes, stage.mapped_bytes)) }
                    }
                }
            }
        } }
        p {
            "The plan is a dry run that allocates and computes nothing; its times are operations, divided by a "
            "speed that "
            "was measured before the run. The program itself takes " (Memory(planned.program_bytes).to_string())
            " more, so that the whole was planned at " (Memory(planned.peak_bytes).to_string()) "."
        }
        @for [stage, rung] in &explanation.rescues {
            p.warning { "Memory was short in the stage " (stage) ": " (rung) "." }
        }
    }
}

/// Kernels that computed products.
pub fn kernels(document: &Document) -> Markup {
    html! {
        p {
            "Products of matrices, convolutions and attention take nearly all of the time. These kernels "
            "computed them; "
            "those that read the attention for this page are not counted."
        }
        div.scroll { table {
            thead { tr { th { "op" } th { "weights" } th { "kernel" } th { "products" } } }
            tbody {
                @for kernel in &document.explanation.kernels {
                    tr {
                        th { (kernel.op) }
                        td { (kernel.weights.as_deref().unwrap_or("none")) }
                        td { code { (kernel.kernel) } }
                        td { (kernel.products) }
                    }
                }
            }
        } }
    }
}

/// Everything that makes the picture again.
pub fn parameters(document: &Document) -> Markup {
    let parameters = serde_json::to_value(&document.explanation.parameters).unwrap_or_default();
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    html! {
        p {
            "With the same model these make the same picture. They are stored in the picture, unless that was "
            "asked not "
            "to be: save it from the top of this page, and run "
            code { "dj-flux2 generate --from picture.png" } "."
        }
        div.scroll { table.parameters {
            tbody {
                @for (name, value) in parameters.as_object().into_iter().flatten() {
                    tr { th { (name) } td { (shown(value)) } }
                }
            }
        } }
    }
}

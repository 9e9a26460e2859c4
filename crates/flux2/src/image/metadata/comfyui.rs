//! The graph of nodes that ComfyUI stores: its values are inputs of nodes, found by following links from the sampler.
//!
//! `prompt` is the graph that ran, `workflow` the one of its editor. The latter is read if it is all there is: its values
//! have no names, so only those of common nodes are known.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::other::OtherParameters;

/// Most nodes that are followed: a graph may be anything.
const MAX_NODES: usize = 1000;

/// Names of the values that an editor's node holds, in order; empty for those that mean nothing here.
const WIDGETS: [(&str, &[&str]); 17] = [
    ("KSampler", &["seed", "", "steps", "cfg", "sampler_name", "scheduler"]),
    ("KSamplerAdvanced", &["", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"]),
    ("SamplerCustom", &["", "noise_seed", "", "cfg"]),
    ("RandomNoise", &["noise_seed"]),
    ("KSamplerSelect", &["sampler_name"]),
    ("BasicScheduler", &["scheduler", "steps"]),
    ("Flux2Scheduler", &["steps", "width", "height"]),
    ("CFGGuider", &["cfg"]),
    ("CLIPTextEncode", &["text"]),
    ("CLIPTextEncodeFlux", &["clip_l", "t5xxl"]),
    ("EmptyLatentImage", &["width", "height"]),
    ("EmptySD3LatentImage", &["width", "height"]),
    ("EmptyFlux2LatentImage", &["width", "height"]),
    ("UNETLoader", &["unet_name"]),
    ("UnetLoaderGGUF", &["unet_name"]),
    ("CheckpointLoaderSimple", &["ckpt_name"]),
    ("PrimitiveInt", &["value"]),
];

/// Inputs that hold a text, of text encoders and of nodes that only hand a text on.
const TEXTS: [&str; 6] = ["text", "prompt", "t5xxl", "text_g", "value", "string"];

/// Inputs that hold the value of a node that only hands it on.
const VALUES: [&str; 6] = ["value", "seed", "noise_seed", "int", "number", "float"];

/// Reads the graph that ran or, failing that, the editor's.
pub(super) fn read(prompt: &Option<String>, workflow: &Option<String>) -> Option<OtherParameters> {
    let ran = || Graph::of_prompt(parse(prompt.as_deref()?)?)?.parameters();
    let edited = || Graph::of_workflow(&parse(workflow.as_deref()?)?)?.parameters();
    ran().or_else(edited)
}

/// Python writes NaN, which is no JSON: null takes its place.
fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&without_nan(text)).ok())
}

fn without_nan(text: &str) -> String {
    let mut parts = vec![];
    let mut in_string = false;
    for part in text.split_inclusive('"') {
        parts.push(match in_string {
            true => part.to_owned(),
            false => part.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"),
        });
        let inside = part.strip_suffix('"').unwrap_or(part);
        let is_escaped = in_string && (inside.len() - inside.trim_end_matches('\\').len()) % 2 == 1;
        in_string ^= !is_escaped;
    }
    parts.concat()
}

/// Nodes by number, each with `class_type` and `inputs`. A link is the number of a node and of one of its outputs.
struct Graph(Map<String, Value>);

impl Graph {
    fn of_prompt(prompt: Value) -> Option<Self> {
        match prompt {
            Value::Object(nodes) => Some(Graph(nodes)),
            _ => None,
        }
    }

    /// The editor's graph in the form of the one that runs.
    fn of_workflow(workflow: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().map(|number| number.to_string());
        let links = workflow.get("links")?.as_array()?.iter();
        let source = |link: &Value| Some((number(link.get(0)?)?, number(link.get(1)?)?));
        let sources: Map<String, Value> = links.filter_map(source).map(|(link, from)| (link, from.into())).collect();
        let mut nodes = Map::new();
        for node in workflow.get("nodes")?.as_array()? {
            let (Some(id), Some(class)) = (node.get("id").and_then(number), node.get("type").and_then(Value::as_str))
            else {
                continue;
            };
            // Muted and bypassed nodes did not run.
            if matches!(node.get("mode").and_then(Value::as_u64), Some(2 | 4)) {
                continue;
            }
            let names = WIDGETS.iter().find(|(name, _)| *name == class).map_or(&[][..], |(_, names)| names);
            let widgets = node.get("widgets_values").and_then(Value::as_array).into_iter().flatten();
            let mut inputs: Map<String, Value> =
                names.iter().zip(widgets).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            for input in node.get("inputs").and_then(Value::as_array).into_iter().flatten() {
                let name = input.get("name").and_then(Value::as_str);
                let from = input.get("link").and_then(number).and_then(|link| sources.get(&link));
                if let (Some(name), Some(from)) = (name, from) {
                    inputs.insert(name.to_owned(), serde_json::json!([from, 0]));
                }
            }
            nodes.insert(id, serde_json::json!({"class_type": class, "inputs": inputs}));
        }
        Some(Graph(nodes))
    }

    fn class(&self, id: &str) -> &str {
        self.0.get(id).and_then(|node| node.get("class_type")?.as_str()).unwrap_or_default()
    }

    fn inputs(&self, id: &str) -> impl Iterator<Item = (&str, &Value)> {
        let inputs = self.0.get(id).and_then(|node| node.get("inputs")?.as_object());
        inputs.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }

    fn input(&self, id: &str, name: &str) -> Option<&Value> {
        self.0.get(id)?.get("inputs")?.get(name)
    }

    /// The nodes whose outputs reach this one, itself first and then by distance.
    fn upstream<'a>(&'a self, id: &'a str) -> Vec<&'a str> {
        let (mut found, mut seen, mut at) = (vec![id], BTreeSet::from([id]), 0);
        while let Some(&id) = found.get(at).filter(|_| found.len() < MAX_NODES) {
            let links = self.inputs(id).filter_map(|(_, value)| link(value));
            found.extend(links.filter(|from| seen.insert(from)));
            at += 1;
        }
        found
    }

    /// A number or text as people read it, through nodes that only hand it on.
    fn value(&self, value: &Value, names: &[&str], hops: u32) -> Option<String> {
        if let Some(from) = link(value) {
            let handed = names.iter().find_map(|name| self.input(from, name));
            return self.value(handed?, names, hops.checked_sub(1)?);
        }
        match value {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// The first of `nodes` that has one of the inputs `names`.
    fn first(&self, nodes: &[&str], names: &[&str]) -> Option<String> {
        let of_node = |id: &&str| names.iter().find_map(|name| self.value(self.input(id, name)?, &VALUES, 8));
        nodes.iter().find_map(of_node)
    }

    /// The text that a conditioning is made from: of the first text encoder on the way.
    fn text<'a>(&'a self, id: &'a str, seen: &mut BTreeSet<&'a str>) -> Option<String> {
        if !seen.insert(id) || seen.len() > MAX_NODES || self.class(id) == "ConditioningZeroOut" {
            return None;
        }
        let own = TEXTS.iter().find_map(|name| self.value(self.input(id, name)?, &TEXTS, 8));
        if own.is_some() {
            return own;
        }
        let further = self.inputs(id).filter(|(name, _)| name.starts_with("cond") || *name == "positive");
        further.filter_map(|(_, value)| link(value)).find_map(|from| self.text(from, seen))
    }

    /// The text of a side of the guidance, whose link is an input of one of `nodes`.
    fn side(&self, nodes: &[&str], names: &[&str]) -> Option<String> {
        let link_of = |id: &&str| names.iter().find_map(|name| link(self.input(id, name)?));
        self.text(nodes.iter().find_map(link_of)?, &mut BTreeSet::new())
    }

    /// The first pass, if there are several: it decides what the picture shows.
    fn sampler(&self) -> Option<&str> {
        let is_sampler = |id: &&str| {
            let class = self.class(id);
            let named = class.starts_with("KSampler") || class.starts_with("SamplerCustom");
            let has_both = self.input(id, "steps").is_some() && self.input(id, "seed").is_some();
            (named && class != "KSamplerSelect") || has_both
        };
        let samplers: Vec<&str> = self.0.keys().map(String::as_str).filter(is_sampler).take(16).collect();
        let is_first = |id: &&str| !self.upstream(id).iter().skip(1).any(|other| samplers.contains(other));
        samplers.iter().copied().find(is_first)
    }

    fn parameters(&self) -> Option<OtherParameters> {
        let mut parameters = OtherParameters { program: "ComfyUI".to_owned(), ..Default::default() };
        let nodes = self.upstream(self.sampler()?);
        let has_latent_size = |id: &&str| self.class(id).contains("Latent") && self.input(id, "width").is_some();
        let sized: Vec<&str> = nodes.iter().copied().filter(has_latent_size).collect();
        let sized = if sized.is_empty() { &nodes } else { &sized };
        for (name, value) in [
            ("prompt", self.side(&nodes, &["positive", "conditioning"])),
            ("negative_prompt", self.side(&nodes, &["negative"])),
            ("seed", self.first(&nodes, &["seed", "noise_seed"])),
            ("steps", self.first(&nodes, &["steps"])),
            ("cfg", self.first(&nodes, &["cfg"])),
            ("guidance", self.first(&nodes, &["guidance"])),
            ("sampler", self.first(&nodes, &["sampler_name"])),
            ("scheduler", self.first(&nodes, &["scheduler"])),
            ("width", self.first(sized, &["width"])),
            ("height", self.first(sized, &["height"])),
            ("model", self.first(&nodes, &["unet_name", "ckpt_name"])),
            ("lora", self.first(&nodes, &["lora_name"])),
        ] {
            parameters.add(name, &value.unwrap_or_default());
        }
        Some(parameters)
    }
}

/// The node that a link leads to.
fn link(value: &Value) -> Option<&str> {
    match value.as_array()?.as_slice() {
        [Value::String(from), Value::Number(_)] => Some(from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_replaced_outside_texts() {
        assert_eq!(without_nan(r#"{"a": NaN, "NaN \" NaN": [-Infinity, "\\"], "b": NaN}"#), {
            r#"{"a": null, "NaN \" NaN": [null, "\\"], "b": null}"#
        });
    }
}

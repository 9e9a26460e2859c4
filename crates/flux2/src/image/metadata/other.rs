//! Parameters that other programs stored in a picture.
//!
//! | program | where | what |
//! |---|---|---|
//! | AUTOMATIC1111's web UI, Forge, stable-diffusion.cpp and many more | PNG `parameters`, EXIF UserComment | text |
//! | SwarmUI, Fooocus | the same | JSON |
//! | ComfyUI | PNG `prompt` and `workflow`; EXIF Make, Model, ImageDescription | graphs as JSON |
//! | InvokeAI | PNG `invokeai_metadata`; earlier `sd-metadata` | JSON |
//! | NovelAI | PNG `Software`, `Description`, `Comment` | JSON in the comment |
//! | mflux, Easy Diffusion | EXIF UserComment, comment of a JPEG | JSON |

use std::collections::BTreeMap;

use exif::Tag;
use serde_json::{Map, Value};

use super::texts::Texts;
use super::{SOFTWARE, a1111, comfyui};

/// Longest text that is taken apart, in bytes: parsed JSON takes a multiple of it.
const MAX_TEXT: usize = 2 << 20;

/// Parameters that another program stored in a picture, as far as they are understood.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct OtherParameters {
    /// Name of the program, or of the format if many write it.
    pub program: String,
    /// The prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What the picture should not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Seed of the noise, which other programs make in other ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Denoising steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Guidance scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Sampler or scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// Width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Name of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Everything else, by the name that the program gives it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, String>,
}

impl OtherParameters {
    /// Takes over a value by the name that a program gives it. The first of several names for one thing counts.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
            let is_new = field.is_none() && value.is_some();
            if is_new {
                *field = value;
            }
            is_new
        }
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        let taken = match name.to_lowercase().replace([' ', '-'], "_").as_str() {
            "prompt" | "positive_prompt" => set(&mut self.prompt, text()),
            "negative_prompt" | "negativeprompt" | "uc" => set(&mut self.negative_prompt, text()),
            "seed" | "noise_seed" => set(&mut self.seed, value.parse().ok()),
            "steps" | "num_steps" | "num_inference_steps" => set(&mut self.steps, value.parse().ok()),
            "cfg" | "cfg_scale" | "cfgscale" | "guidance" | "guidance_scale" | "scale" => {
                set(&mut self.guidance, value.parse().ok().filter(|scale: &f32| scale.is_finite()))
            }
            "sampler" | "sampler_name" | "scheduler" => set(&mut self.sampler, text()),
            "width" => set(&mut self.width, value.parse().ok()),
            "height" => set(&mut self.height, value.parse().ok()),
            "size" | "resolution" => match size(value) {
                Some((width, height)) => set(&mut self.width, Some(width)) & set(&mut self.height, Some(height)),
                None => false,
            },
            "model" | "model_name" | "base_model" | "use_stable_diffusion_model" => set(&mut self.model, text()),
            _ => false,
        };
        if !taken && !value.is_empty() {
            self.other.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }

    fn of_json(program: &str, values: &Map<String, Value>) -> Self {
        let mut parameters = OtherParameters { program: program.to_owned(), ..Default::default() };
        values.iter().for_each(|(name, value)| parameters.add(name, &in_words(value)));
        parameters
    }
}

/// `512x768`, or `(512, 768)`.
fn size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.trim_matches(['(', ')', '[', ']']).split_once(['x', ','])?;
    Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
}

/// A JSON value on one line: the name of what has one, nothing for null.
fn in_words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(object) => {
            let name = ["name", "model_name"].iter().find_map(|key| object.get(*key)?.as_str());
            name.map_or_else(|| value.to_string(), str::to_owned)
        }
        _ => value.to_string(),
    }
}

/// Parameters in the texts of a file, if another program stored any.
pub(super) fn read(texts: &Texts) -> Option<OtherParameters> {
    let png = |keyword| texts.readable(keyword).filter(|text| text.len() <= MAX_TEXT);
    let exif = |tag| texts.exif(tag).filter(|text| text.len() <= MAX_TEXT);
    let comment = || texts.user_comment().filter(|text| text.len() <= MAX_TEXT);
    png("parameters")
        .and_then(|text| of_text(&text, true))
        .or_else(|| invokeai(&png("invokeai_metadata").or_else(|| png("sd-metadata"))?))
        .or_else(|| comfyui::read(&png("prompt"), &png("workflow")))
        .or_else(|| novelai(&png("Comment")?, png("Description"), png("Software").as_deref()))
        .or_else(|| comment().and_then(|text| of_text(&text, false)))
        .or_else(|| {
            let fields = [Tag::Make, Tag::Model, Tag::ImageDescription].map(exif);
            let graph = |wanted: &str| {
                let mut named = fields.iter().flatten().filter_map(|text| text.split_once(':'));
                named.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, graph)| graph.to_owned())
            };
            comfyui::read(&graph("prompt"), &graph("workflow"))
        })
}

fn object(text: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// A text of parameters, or JSON in its place. Of a comment, which may say anything, settings or JSON are expected.
fn of_text(text: &str, is_parameters: bool) -> Option<OtherParameters> {
    if let Some(object) = object(text) {
        return json(&object);
    }
    let a1111::Text { prompt, negative_prompt, settings } = a1111::parse(text);
    if settings.is_empty() && (!is_parameters || prompt.is_empty()) {
        return None;
    }
    let version = settings.iter().find(|(name, _)| name == "Version").map(|(_, version)| version.as_str());
    let program = match version {
        Some(version) if version.starts_with(SOFTWARE) => version,
        Some(version) if version.starts_with("stable-diffusion.cpp") => "stable-diffusion.cpp",
        Some("ComfyUI") => "ComfyUI",
        Some(version) if version.starts_with(['f', 'n']) && version.contains("v1.") => "Forge",
        Some(version) if version.starts_with('v') => "AUTOMATIC1111",
        _ => "unknown, in the format of AUTOMATIC1111",
    };
    let mut parameters = OtherParameters {
        program: program.to_owned(),
        prompt: Some(prompt).filter(|text| !text.is_empty()),
        negative_prompt,
        ..Default::default()
    };
    settings.iter().for_each(|(name, value)| parameters.add(name, value));
    Some(parameters)
}

/// JSON of one of several programs, told by its keys.
fn json(object: &Map<String, Value>) -> Option<OtherParameters> {
    let inner = |key: &str| object.get(key).and_then(Value::as_object);
    if let Some(swarm) = inner("sui_image_params") {
        return Some(OtherParameters::of_json("SwarmUI", swarm));
    }
    // NovelAI writes its texts into the comment of a WebP.
    if let Some(comment) = object.get("Comment").and_then(Value::as_str) {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        return novelai(comment, text("Description").map(str::to_owned), text("Software"));
    }
    let is_fooocus = object.get("version").is_some_and(|version| in_words(version).starts_with("Fooocus"));
    let program = if object.contains_key("mflux_version") {
        "mflux"
    } else if is_fooocus {
        "Fooocus"
    } else if object.contains_key("use_stable_diffusion_model") {
        "Easy Diffusion"
    } else {
        "unknown"
    };
    Some(OtherParameters::of_json(program, object)).filter(|found| found.prompt.is_some())
}

fn invokeai(text: &str) -> Option<OtherParameters> {
    let object = object(text)?;
    // Before version 3 the values of the picture were apart, and its prompt a list of weighted ones.
    let Some(image) = object.get("image").and_then(Value::as_object) else {
        return Some(OtherParameters::of_json("InvokeAI", &object));
    };
    let mut parameters = OtherParameters { program: "InvokeAI".to_owned(), ..Default::default() };
    for (name, value) in image {
        match value.as_array() {
            Some(prompts) if name == "prompt" => {
                let prompts: Vec<&str> = prompts.iter().filter_map(|prompt| prompt.get("prompt")?.as_str()).collect();
                parameters.add(name, &prompts.join("\n"));
            }
            _ => parameters.add(name, &in_words(value)),
        }
    }
    parameters.add("model", &object.get("model_weights").map(in_words).unwrap_or_default());
    Some(parameters)
}

fn novelai(comment: &str, description: Option<String>, software: Option<&str>) -> Option<OtherParameters> {
    let object = object(comment)?;
    if software != Some("NovelAI") && !object.contains_key("uc") {
        return None;
    }
    let mut parameters = OtherParameters::of_json("NovelAI", &object);
    let v4 = |key: &str| object.get(key)?.pointer("/caption/base_caption")?.as_str();
    parameters.prompt = parameters.prompt.or(v4("v4_prompt").map(str::to_owned)).or(description);
    parameters.negative_prompt = parameters.negative_prompt.or(v4("v4_negative_prompt").map(str::to_owned));
    Some(parameters)
}

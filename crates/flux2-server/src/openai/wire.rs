//! Types of OpenAI's images API, with the fields that other servers of it add.

use axum::body::Bytes;
use flux2_jobs::{Draft, LoraKey, ModelChoice, Painting};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::body::File;
use crate::drawing::{Image, SourceOrder};
use crate::error::{ApiError, Result};
use crate::native::times::Times;
use crate::native::wire::{LoraRequest, Urgency, parse_noise, upscale_choice};
use crate::values::{Format, image_bytes, lenient, one_or_many, parse_size, seed};

/// Most previews of an image.
const MAX_PARTIAL_IMAGES: u32 = 3;
/// Words for the quality of an image. Distilled models have one quality.
const QUALITIES: [&str; 6] = ["low", "medium", "high", "auto", "standard", "hd"];

/// A request for images. Fields that are not known are ignored, and the answer says so.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct ImagesRequest {
    /// Description of the images.
    #[schema(required, min_length = 1, max_length = 32000)]
    pub prompt: Option<String>,
    /// Name of a model or an alias; by default the first of `/v1/models`.
    pub model: Option<String>,
    /// Number of images. Each has the seed after that of the one before.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1)]
    pub n: Option<u32>,
    /// Width and height as in `1024x768`, each a multiple of 16; or `auto`.
    pub size: Option<String>,
    /// Width in pixels, in place of `size`.
    #[serde(deserialize_with = "lenient")]
    pub width: Option<u32>,
    /// Height in pixels, in place of `size`.
    #[serde(deserialize_with = "lenient")]
    pub height: Option<u32>,
    /// `b64_json`, or `url` for links that hold for an hour.
    pub response_format: Option<ResponseFormat>,
    /// Format of the files.
    pub output_format: Option<Format>,
    /// Accepted; the files are as small as their format makes them.
    #[serde(deserialize_with = "lenient")]
    #[schema(maximum = 100)]
    pub output_compression: Option<u32>,
    /// `opaque` or `auto`.
    pub background: Option<Background>,
    /// `low`, `medium`, `high`, `auto`, `standard` or `hd`: accepted, the model has one quality.
    pub quality: Option<String>,
    /// Whether the answer is a stream of events.
    #[serde(deserialize_with = "lenient")]
    pub stream: Option<bool>,
    /// Number of previews in a stream.
    #[serde(deserialize_with = "lenient")]
    #[schema(maximum = 3)]
    pub partial_images: Option<u32>,
    /// Seed of the first image; -1 or nothing is random.
    #[serde(deserialize_with = "seed")]
    #[schema(value_type = Option<i128>, minimum = -1)]
    pub seed: Option<u64>,
    /// Denoising steps.
    #[serde(alias = "num_inference_steps", deserialize_with = "lenient")]
    pub steps: Option<u32>,
    /// Guidance scale, for base models.
    #[serde(alias = "guidance_scale", alias = "true_cfg_scale", deserialize_with = "lenient")]
    pub guidance: Option<f32>,
    /// Not supported: ignored, and the answer says so.
    pub negative_prompt: Option<String>,
    /// Kind of noise: `philox`, `torch-cpu` or `torch-cuda`.
    pub noise: Option<String>,
    /// LoRAs to add, in order.
    #[serde(deserialize_with = "one_or_many")]
    pub loras: Vec<LoraRequest>,
    /// How many times as wide and high the finished images become: 1 to 16, as 2 or 4.
    #[serde(deserialize_with = "lenient")]
    #[schema(minimum = 1, maximum = 16)]
    pub upscale: Option<f32>,
    /// Name of the upscaler.
    pub upscaler: Option<String>,
    /// Urgency.
    pub priority: Option<Urgency>,
    /// Reference images of an edit, as base64 or data URLs.
    #[serde(alias = "images", deserialize_with = "one_or_many")]
    #[schema(value_type = Vec<String>)]
    pub image: Vec<ImageField>,
    /// What of the first image is repainted, as an image: where it is transparent, or white if it is opaque. The first
    /// image is painted into then, and gives the size.
    #[schema(value_type = Option<String>)]
    pub mask: Option<ImageField>,
    /// How far the first image is replaced: less than 1 starts from it instead of from noise.
    #[serde(alias = "denoising_strength", deserialize_with = "lenient")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub strength: Option<f64>,
    /// Not supported: nothing is fetched.
    #[schema(value_type = Option<String>)]
    pub url: Option<Value>,
    /// Accepted and ignored.
    #[schema(value_type = Option<String>)]
    pub user: Option<Value>,
    /// Accepted and ignored.
    #[schema(value_type = Option<String>)]
    pub moderation: Option<Value>,
    /// Accepted and ignored.
    #[schema(value_type = Option<String>)]
    pub style: Option<Value>,
    /// Accepted and ignored.
    #[schema(value_type = Option<String>)]
    pub input_fidelity: Option<Value>,
}

/// An edit as a form: the fields of [`ImagesRequest`] as text, and files.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; forms are read as the JSON that says the same")]
pub struct EditForm {
    /// Description of the images.
    #[schema(min_length = 1, max_length = 32000)]
    prompt: String,
    /// Reference images, as `image`, `image[]` or `image[0]`.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<Vec<u8>>,
    /// What of the first image is repainted: where it is transparent, or white if it is opaque.
    #[schema(value_type = Option<String>, format = Binary)]
    mask: Option<Vec<u8>>,
}

/// How images are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormat {
    /// In the answer, as base64.
    B64Json,
    /// By a link that holds for an hour.
    Url,
}

/// What is behind the things that an image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// The model draws it.
    Opaque,
    /// The same.
    Auto,
    /// Not supported: the model draws no transparency.
    Transparent,
}

/// A reference image in JSON: base64, a data URL, or an object with one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageField {
    Text(String),
    Object { image_url: String },
}

/// A request, read.
pub struct Parts {
    /// The pictures.
    pub draft: Draft,
    /// Their reference images.
    pub images: Vec<Image>,
    /// The picture to paint into.
    pub source: Option<SourceOrder>,
    /// How they are given back.
    pub wanted: Wanted,
}

/// What a request asks for besides the pictures themselves.
pub struct Wanted {
    pub response_format: ResponseFormat,
    pub stream: bool,
    pub partial_images: u32,
    /// The word for the quality that was sent.
    pub quality: String,
    /// What is not carried out.
    pub warnings: Vec<String>,
}

impl ImagesRequest {
    /// The pictures, their images, and how they are given back.
    ///
    /// # Errors
    /// 400 for a value that is not allowed, or not supported.
    pub fn parts(self, files: Vec<File>) -> Result<Parts> {
        let prompt = self.prompt.clone().filter(|prompt| !prompt.is_empty());
        let prompt = prompt.ok_or_else(|| ApiError::invalid("prompt", "there is no prompt"))?;
        let mut wanted = self.wanted()?;
        let mut size = match (self.size.as_deref(), self.width, self.height) {
            (Some(size), None, None) => parse_size(size)?.map_or((None, None), |(w, h)| (Some(w), Some(h))),
            (None, width, height) => (width, height),
            _ => {
                let error = ApiError::invalid("size", "size and width or height are given").code("invalid_size");
                return Err(error.hint("give only one of them"));
            }
        };
        let mut images = Vec::new();
        for field in &self.image {
            let (ImageField::Text(text) | ImageField::Object { image_url: text }) = field;
            images.push(image_bytes(text, "image")?);
        }
        let mut mask = match &self.mask {
            Some(ImageField::Text(text) | ImageField::Object { image_url: text }) if !text.is_empty() => {
                Some(image_bytes(text, "mask")?)
            }
            _ => None,
        };
        for File { field, bytes } in files {
            match field.as_str() {
                "image" | "images" => images.push(bytes),
                "mask" => mask = Some(bytes),
                other => return Err(ApiError::invalid(other, "no file is expected in this field").hint("use `image`")),
            }
        }
        let source = source_of(&mut images, mask, self.strength)?;
        if source.is_some() && size != (None, None) {
            wanted.warnings.push("size was ignored: an image with a mask or a strength gives the size".into());
            size = (None, None);
        }
        let loras = self.loras.into_iter().map(|LoraRequest { name, scale }| LoraKey { name, scale }).collect();
        let draft = Draft {
            model: ModelChoice { name: self.model, loras, precision: None },
            prompt,
            width: size.0,
            height: size.1,
            steps: self.steps,
            guidance: self.guidance,
            noise: self.noise.as_deref().map(parse_noise).transpose()?,
            seed: self.seed,
            count: self.n,
            format: self.output_format.map(Into::into),
            upscale: upscale_choice(self.upscale, self.upscaler),
            ..Draft::default()
        };
        let images = images.into_iter().map(Image::Sent).collect();
        Ok(Parts { draft, images, source, wanted })
    }

    fn wanted(&self) -> Result<Wanted> {
        let partial_images = self.partial_images.unwrap_or(0);
        if partial_images > MAX_PARTIAL_IMAGES {
            let message = format!("{partial_images} previews: 0 to {MAX_PARTIAL_IMAGES} are allowed");
            return Err(ApiError::invalid("partial_images", message));
        }
        if self.background == Some(Background::Transparent) {
            return Err(ApiError::invalid("background", "the model draws no transparency").hint("use opaque"));
        }
        let quality = self.quality.clone().unwrap_or_else(|| "auto".into());
        if !QUALITIES.contains(&quality.as_str()) {
            return Err(ApiError::invalid("quality", format!("{quality:?} is none of {}", QUALITIES.join(", "))));
        }
        if let Some(percent) = self.output_compression.filter(|percent| *percent > 100) {
            return Err(ApiError::invalid("output_compression", format!("{percent} is outside 0 to 100")));
        }
        if self.url.as_ref().is_some_and(|url| !url.is_null()) {
            let error = ApiError::invalid("url", "images are not fetched from addresses").code("url_not_supported");
            return Err(error.hint("send the bytes of the image, as base64 or in a form"));
        }
        let has_negative = self.negative_prompt.as_ref().is_some_and(|prompt| !prompt.is_empty());
        let has_compression = self.output_compression.is_some_and(|percent| percent != 100);
        let ignored = [(has_negative, "negative_prompt"), (has_compression, "output_compression")];
        let ignored = ignored.into_iter().filter(|(is_set, _)| *is_set);
        Ok(Wanted {
            response_format: self.response_format.unwrap_or(ResponseFormat::B64Json),
            stream: self.stream.unwrap_or(false),
            partial_images,
            quality,
            warnings: ignored.map(|(_, name)| format!("{name} is not supported and was ignored")).collect(),
        })
    }
}

/// The picture to paint into: the first image, if there is a mask or a strength. It is taken out of `images`.
fn source_of(images: &mut Vec<Bytes>, mask: Option<Bytes>, strength: Option<f64>) -> Result<Option<SourceOrder>> {
    let field = if mask.is_some() { "mask" } else { "strength" };
    if mask.is_none() && strength.is_none() {
        return Ok(None);
    }
    if images.is_empty() {
        return Err(ApiError::invalid(field, format!("{field} means nothing without an image")));
    }
    let usual = Painting::default();
    let painting = Painting { strength: strength.unwrap_or(usual.strength), ..usual };
    let source = Image::Sent(images.remove(0));
    Ok(Some(SourceOrder { source, mask: mask.map(Image::Sent), painting }))
}

/// The images of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImagesResponse {
    /// When they were asked for, in seconds since 1970.
    pub created: u64,
    /// The images, in order.
    pub data: Vec<ImageData>,
    /// Width and height as in `1024x768`.
    pub size: String,
    /// Format of the files.
    pub output_format: Format,
    /// Quality, as it was asked for.
    pub quality: String,
    /// Always `opaque`.
    pub background: &'static str,
    /// What it took, in tokens.
    pub usage: Usage,
    /// Name of the model.
    pub model: String,
    /// Id of the job.
    pub id: String,
    /// What of the request was not carried out.
    pub warnings: Vec<String>,
}

/// An image.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageData {
    /// Its file as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
    /// A link to its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Always null: prompts are not changed.
    pub revised_prompt: Option<String>,
    /// Its seed.
    pub seed: u64,
    /// Seconds of each stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Times>,
}

/// What a request took, in tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt and the reference images.
    pub input_tokens: u64,
    /// Tokens of the images.
    pub output_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Tokens of the input, by kind.
    pub input_tokens_details: TokenDetails,
    /// Tokens of the output, by kind.
    pub output_tokens_details: TokenDetails,
}

/// Tokens by kind.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenDetails {
    /// Tokens of text.
    pub text_tokens: u64,
    /// Tokens of images.
    pub image_tokens: u64,
}

impl Usage {
    /// From the numbers of tokens.
    pub fn new(text: u64, images: u64) -> Self {
        Usage {
            input_tokens: text,
            output_tokens: images,
            total_tokens: text + images,
            input_tokens_details: TokenDetails { text_tokens: text, image_tokens: 0 },
            output_tokens_details: TokenDetails { text_tokens: 0, image_tokens: images },
        }
    }
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The models, the default first; then aliases.
    pub data: Vec<ModelObject>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    /// Its name, or an alias.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Always 0: when the model was made is not known.
    pub created: u64,
    /// Always `dj-flux2`.
    pub owned_by: &'static str,
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::body::typed;

    fn parts(json: Value) -> Result<Parts> {
        let (request, _) = typed::<ImagesRequest>(json, StatusCode::BAD_REQUEST)?;
        request.parts(Vec::new())
    }

    #[test]
    fn fields_of_other_servers_mean_the_same() {
        let ours = json!({"prompt": "p", "steps": 3, "guidance": 2.5, "size": "64x96", "n": 2, "seed": 7});
        let theirs = json!({"prompt": "p", "num_inference_steps": "3", "guidance_scale": "2.5", "width": 64,
            "height": 96,
            "n": "2", "seed": "7", "model": null, "user": "u", "moderation": "low", "style": "vivid"});
        let (ours, theirs) = (parts(ours).unwrap().draft, parts(theirs).unwrap().draft);
        assert_eq!(ours, theirs);
        assert_eq!((ours.width, ours.height, ours.steps, ours.count), (Some(64), Some(96), Some(3), Some(2)));
    }

    #[test]
    fn a_value_that_is_not_allowed_is_named() {
        let refused = |json: Value| {
            let error = parts(json.clone()).err().unwrap_or_else(|| panic!("{json}"));
            (error.param.unwrap_or_default(), error.code)
        };
        for (field, value, code) in [
            ("size", json!("1024"), "invalid_size"),
            ("n", json!(1.5), "invalid_value"),
            ("quality", json!("ultra"), "invalid_value"),
            ("background", json!("transparent"), "invalid_value"),
            ("background", json!("green"), "invalid_value"),
            ("output_format", json!("gif"), "invalid_value"),
            ("output_compression", json!(101), "invalid_value"),
            ("partial_images", json!(4), "invalid_value"),
            ("response_format", json!("file"), "invalid_value"),
            ("mask", json!("aGk="), "invalid_value"),
            ("mask", json!("http://10.0.0.1/"), "url_not_supported"),
            ("strength", json!(0.5), "invalid_value"),
            ("url", json!(["https://example.com"]), "url_not_supported"),
            ("image", json!("https://example.com/a.png"), "url_not_supported"),
            ("image", json!([{"image_url": "http://10.0.0.1/"}]), "url_not_supported"),
            ("noise", json!("pink"), "invalid_value"),
            ("seed", json!(-2), "invalid_value"),
            ("stream", json!("maybe"), "invalid_value"),
            ("priority", json!("urgent"), "invalid_value"),
        ] {
            let mut request = json!({ "prompt": "p" });
            request[field] = value.clone();
            assert_eq!(refused(request), (field.to_owned(), code), "{field} {value}");
        }
        assert_eq!(refused(json!({})), ("prompt".into(), "invalid_value"));
        assert_eq!(refused(json!({"prompt": ""})).0, "prompt");
        assert_eq!(refused(json!({"prompt": "p", "size": "64x64", "width": 64})).0, "size");
    }

    #[test]
    fn what_is_ignored_is_told() {
        let wanted = parts(json!({"prompt": "p", "negative_prompt": "n", "output_compression": 80})).unwrap().wanted;
        assert_eq!(wanted.warnings.len(), 2);
        let (_, unknown) = typed::<ImagesRequest>(json!({"prompt": "p", "odd": 1}), StatusCode::BAD_REQUEST).unwrap();
        assert_eq!(unknown, ["odd"]);
    }
}

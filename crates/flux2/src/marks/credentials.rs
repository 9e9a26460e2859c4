//! Content Credentials: a manifest of the C2PA in a file, which says by whom and how a picture was made, and is signed.
//!
//! In:  the bytes of a file; what made a picture. Out: whether there are credentials; what a manifest says
//!      ([`manifest`]);
//!      what a verification found ([`Credentials`]).
//!
//! Signing and verifying take more than 170 crates of others. A program of its own does them, `dj-flux2-c2pa` in the
//! folder `extras/c2pa`, with the manifest and the report that are written and read here.

use std::fmt;

use serde_json::{Value, json};

use crate::image::metadata::SOFTWARE;
use crate::image::{ImageFormat, Parameters, container};

/// Most names of actions and problems that are listed.
const MOST_LISTED: usize = 8;

/// What is known of the Content Credentials of a file.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Credentials {
    /// Whether they were verified, and what came of it.
    pub state: State,
    /// Who signed them, as the certificate says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// The program that made them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// What was done to the picture, by names of the C2PA, as in `c2pa.created`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Number of files that the picture was made from.
    pub ingredients: usize,
    /// What is wrong with them, by names of the C2PA.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What came of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has verified them.
    #[default]
    NotVerified,
    /// The file was changed since it was signed, or the credentials are damaged.
    Invalid,
    /// The file is as it was signed. Who signed it is not known to be who it says.
    Valid,
    /// The same, and the certificate is on the list of those that are trusted.
    Trusted,
}

impl Credentials {
    /// What the report of the C2PA's library on a file says, as JSON: its `validation_state`, and of the active
    /// manifest the signature, the program, the actions and the ingredients.
    pub fn of_report(report: &Value) -> Self {
        let manifest = report["active_manifest"].as_str().map(|active| &report["manifests"][active]);
        let manifest = manifest.unwrap_or(&Value::Null);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let texts = |values: Vec<Value>, name: &str| -> Vec<String> {
            values.iter().filter_map(|value| text(&value[name])).take(MOST_LISTED).collect()
        };
        let assertions = list(&manifest["assertions"]);
        let is_actions = |it: &&Value| it["label"].as_str().is_some_and(|label| label.starts_with("c2pa.actions"));
        let actions = assertions.iter().filter(is_actions).flat_map(|it| list(&it["data"]["actions"]));
        let (generator, signature) = (&manifest["claim_generator_info"][0], &manifest["signature_info"]);
        Credentials {
            state: match report["validation_state"].as_str() {
                Some("Valid") => State::Valid,
                Some("Trusted") => State::Trusted,
                _ => State::Invalid,
            },
            signer: text(&signature["common_name"]).or_else(|| text(&signature["issuer"])),
            program: text(&generator["name"]).map(|name| match generator["version"].as_str() {
                Some(version) => format!("{name} {version}"),
                None => name,
            }),
            actions: texts(actions.collect(), "action"),
            ingredients: list(&manifest["ingredients"]).len(),
            problems: texts(list(&report["validation_status"]), "code"),
        }
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content Credentials (C2PA), ")?;
        f.write_str(match self.state {
            State::NotVerified => "not verified",
            State::Invalid => "not valid",
            State::Valid => "valid, by a certificate that is not known to be trusted",
            State::Trusted => "valid and trusted",
        })?;
        if let Some(signer) = &self.signer {
            write!(f, "; signed by {signer}")?;
        }
        if let Some(program) = &self.program {
            write!(f, "; made by {program}")?;
        }
        if !self.actions.is_empty() {
            write!(f, "; {}", self.actions.join(", "))?;
        }
        if self.ingredients > 0 {
            write!(f, "; ingredients: {}", self.ingredients)?;
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => write!(f, "; {}", self.problems.join(", ")),
        }
    }
}

/// A file that a picture was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relationship {
    /// The picture is this one, changed.
    Parent,
    /// A model saw it.
    Input,
}

impl Relationship {
    /// Its name in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Relationship::Parent => "parentOf",
            Relationship::Input => "inputTo",
        }
    }
}

/// The label by which a manifest names ingredient `number`, from 1.
pub fn ingredient_label(number: usize) -> String {
    format!("input_{number}")
}

/// The manifest of a picture, as the C2PA's library reads it: which program and model drew it, and what it was made
/// from. The ingredients are added by their labels, in the order in which they are given here.
pub fn manifest(made: &Parameters, format: ImageFormat, ingredients: &[Relationship]) -> Value {
    let mut agent = json!({"name": made.model});
    if let Some(variant) = &made.variant {
        agent["kind"] = variant.as_str().into();
    }
    let labels = |wanted: Relationship| {
        let of = ingredients.iter().zip(1..).filter(move |(relationship, _)| **relationship == wanted);
        of.map(|(_, number)| ingredient_label(number)).collect::<Vec<_>>()
    };
    let (parents, inputs) = (labels(Relationship::Parent), labels(Relationship::Input));
    let mut drawn = json!({
        "action": if parents.is_empty() { "c2pa.created" } else { "c2pa.edited" },
        "softwareAgent": agent,
        "digitalSourceType": made.source_type().address(),
    });
    if !inputs.is_empty() {
        drawn["parameters"] = json!({"ingredientIds": inputs});
    }
    let mut actions = vec![drawn];
    if !parents.is_empty() {
        actions.insert(0, json!({"action": "c2pa.opened", "parameters": {"ingredientIds": parents}}));
    }
    json!({
        "claim_generator_info": [{"name": SOFTWARE, "version": env!("CARGO_PKG_VERSION")}],
        "format": media_type(format),
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    })
}

/// The media type of a file.
pub const fn media_type(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::WebP => "image/webp",
    }
}

/// Whether a PNG, JPEG or WebP carries Content Credentials, valid or not.
pub fn are_in(file: &[u8]) -> bool {
    match ImageFormat::of(file) {
        Some(ImageFormat::Png) => container::png_chunks(file).any(|(_, kind, _)| &kind == b"caBX"),
        // A JUMBF box of any name; other standards that use the segment begin otherwise.
        Some(ImageFormat::Jpeg) => {
            let is_manifest = |data: &[u8]| data.starts_with(b"JP") && holds(data, b"c2pa");
            container::jpeg_segments(file).any(|(marker, data)| marker == 0xeb && is_manifest(data))
        }
        Some(ImageFormat::WebP) => {
            container::webp_chunks(file).unwrap_or_default().iter().any(|(kind, _)| kind == b"C2PA")
        }
        None => false,
    }
}

fn holds(data: &[u8], word: &[u8]) -> bool {
    data.windows(word.len()).any(|window| window == word)
}

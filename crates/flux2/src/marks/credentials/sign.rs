//! Signing: a manifest that says which model drew a picture and what it was made from, with the user's own key and
//! certificates.

use std::io::Cursor;

use c2pa::{BoxedSigner, Builder, SigningAlg, create_signer};
use serde_json::{Value, json};

use crate::image::metadata::SOFTWARE;
use crate::image::{ImageFormat, Parameters};
use crate::{Error, Result};

/// Algorithms of keys, tried in this order.
const ALGORITHMS: [SigningAlg; 7] = [
    SigningAlg::Es256,
    SigningAlg::Ed25519,
    SigningAlg::Es384,
    SigningAlg::Es512,
    SigningAlg::Ps256,
    SigningAlg::Ps384,
    SigningAlg::Ps512,
];

/// A private key and its certificates.
pub struct Signer {
    key: Vec<u8>,
    certificates: Vec<u8>,
    algorithm: SigningAlg,
}

/// Shows no key.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.algorithm)
    }
}

/// A file that a picture was made from. The credentials it carries are kept with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingredient {
    /// The bytes of its file: a PNG, JPEG or WebP.
    pub file: Vec<u8>,
    /// Whether the picture is this one, changed. Otherwise a model saw it.
    pub is_parent: bool,
}

impl Signer {
    /// A key in PEM (PKCS #8), and its certificates in PEM: the signer's first, then those it is signed with.
    ///
    /// # Errors
    /// [`Error::Credentials`] if the key is of no algorithm of the C2PA.
    pub fn new(key: Vec<u8>, certificates: Vec<u8>) -> Result<Self> {
        let works = |algorithm: &SigningAlg| {
            signer(&key, &certificates, *algorithm).is_ok_and(|signer| signer.sign(b"a test").is_ok())
        };
        let algorithm = ALGORITHMS.into_iter().find(works).ok_or_else(|| Error::Credentials {
            reason: "the key or its certificates cannot be used: they are not PEM, do not belong together, or are of \
                     no algorithm of the C2PA"
                .into(),
        })?;
        Ok(Signer { key, certificates, algorithm })
    }

    /// The `file` of a picture with its manifest. Nothing may be changed in it afterwards.
    ///
    /// # Errors
    /// [`Error::Credentials`] if the certificate does not allow it, or an ingredient is no image.
    pub fn sign(
        &self,
        file: &[u8],
        format: ImageFormat,
        made: &Parameters,
        ingredients: &[Ingredient],
    ) -> Result<Vec<u8>> {
        let sign = || -> c2pa::Result<Vec<u8>> {
            let mut builder = Builder::from_json(&manifest(made, format, ingredients).to_string())?;
            for (Ingredient { file, is_parent }, number) in ingredients.iter().zip(1..) {
                let format = ImageFormat::of(file).map_or("application/octet-stream", mime);
                let relationship = if *is_parent { "parentOf" } else { "inputTo" };
                let of = json!({"title": format!("input {number}"), "relationship": relationship, "label": id(number)});
                builder.add_ingredient_from_stream(of.to_string(), format, &mut Cursor::new(file))?;
            }
            let signer = signer(&self.key, &self.certificates, self.algorithm)?;
            let mut signed = Cursor::new(Vec::new());
            builder.sign(signer.as_ref(), mime(format), &mut Cursor::new(file), &mut signed)?;
            Ok(signed.into_inner())
        };
        sign().map_err(|error| Error::Credentials { reason: error.to_string() })
    }
}

fn signer(key: &[u8], certificates: &[u8], algorithm: SigningAlg) -> c2pa::Result<BoxedSigner> {
    create_signer::from_keys(certificates, key, algorithm, None)
}

/// The label by which an action names an ingredient.
fn id(number: usize) -> String {
    format!("input_{number}")
}

fn manifest(made: &Parameters, format: ImageFormat, ingredients: &[Ingredient]) -> Value {
    let mut agent = json!({"name": made.model});
    if let Some(variant) = &made.variant {
        agent["kind"] = variant.as_str().into();
    }
    let ids = |is_parent| {
        let of = ingredients.iter().zip(1..).filter(move |(ingredient, _)| ingredient.is_parent == is_parent);
        of.map(|(_, number)| id(number)).collect::<Vec<_>>()
    };
    let (parents, inputs) = (ids(true), ids(false));
    let mut drawn = json!({"softwareAgent": agent, "digitalSourceType": made.source_type().address()});
    if !inputs.is_empty() {
        drawn["parameters"] = json!({"ingredientIds": inputs});
    }
    let actions = match parents.is_empty() {
        true => {
            drawn["action"] = "c2pa.created".into();
            vec![drawn]
        }
        false => {
            drawn["action"] = "c2pa.edited".into();
            vec![json!({"action": "c2pa.opened", "parameters": {"ingredientIds": parents}}), drawn]
        }
    };
    json!({
        "claim_generator_info": [{"name": SOFTWARE, "version": env!("CARGO_PKG_VERSION")}],
        "format": mime(format),
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    })
}

pub(super) fn mime(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::WebP => "image/webp",
    }
}

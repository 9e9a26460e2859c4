//! Scaling of LoRAs whose alpha is not a tensor: the adapter's configuration in the file's metadata.
//!
//! A JSON object with the fields of PEFT's `LoraConfig`. In files of diffusers' pipelines each field has the prefix
//! `transformer.`. Patterns give single modules another rank or alpha. PEFT treats patterns as regular expressions; the
//! files contain whole names or ends of names, and only these are supported.
//!
//! Read by hand and not through serde, as each field has two names and its errors name the field and the value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::LoraProblem;
use crate::tensor_file::MAX_METADATA_TEXT;

/// Key of the configuration in a file's metadata.
const KEY: &str = "lora_adapter_metadata";

/// The fields of an adapter's configuration that affect scaling.
#[derive(Debug)]
pub(super) struct Scaling {
    rank: Option<u64>,
    alpha: Option<f64>,
    ranks: BTreeMap<String, Value>,
    alphas: BTreeMap<String, Value>,
    /// Divide alpha by the square root of the rank (rsLoRA).
    by_root: bool,
}

impl Scaling {
    /// Reads the configuration; `None` if the metadata have none.
    pub fn of(metadata: &BTreeMap<String, String>) -> Result<Option<Self>, LoraProblem> {
        let Some(json) = metadata.get(KEY) else { return Ok(None) };
        if json.len() > MAX_METADATA_TEXT {
            return Err(wrong(format!("more than {MAX_METADATA_TEXT} bytes long")));
        }
        let object: Map<String, Value> = serde_json::from_str(json).map_err(|e| wrong(e.to_string()))?;
        let get = |key: &str| {
            let found = object.get(&format!("transformer.{key}")).or_else(|| object.get(key));
            found.filter(|value| !value.is_null())
        };
        if get("use_dora").and_then(Value::as_bool) == Some(true) {
            return Err(LoraProblem::Unsupported { name: "use_dora".into(), what: "a DoRA" });
        }
        let pattern = |key| match get(key) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => Ok(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
            Some(_) => Err(wrong(format!("`{key}` is no object"))),
        };
        Ok(Some(Scaling {
            rank: get("r").map(|value| rank("r", value)).transpose()?,
            alpha: get("lora_alpha").map(|value| alpha("lora_alpha", value)).transpose()?,
            ranks: pattern("rank_pattern")?,
            alphas: pattern("alpha_pattern")?,
            by_root: get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        }))
    }

    /// The factor `alpha / rank` of a module whose tensors have rank `found`.
    pub fn factor(&self, module: &str, found: usize) -> Result<f64, LoraProblem> {
        let declared = match matching(&self.ranks, module) {
            Some((pattern, value)) => Some(rank(pattern, value)?),
            None => self.rank,
        };
        if let Some(declared) = declared.filter(|declared| *declared != found as u64) {
            return Err(LoraProblem::Rank { module: module.into(), declared, found });
        }
        let alpha = match matching(&self.alphas, module) {
            Some((pattern, value)) => alpha(pattern, value)?,
            None => self.alpha.unwrap_or(found as f64),
        };
        let rank = found as f64;
        Ok(alpha / if self.by_root { rank.sqrt() } else { rank })
    }
}

/// The value of the longest pattern that is the module's name or the end of it.
fn matching<'p>(patterns: &'p BTreeMap<String, Value>, module: &str) -> Option<(&'p str, &'p Value)> {
    let fits = |pattern: &str| match pattern.strip_prefix('^') {
        Some(whole) => module == whole,
        None => module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    };
    let found = patterns.iter().filter(|(pattern, _)| fits(pattern)).max_by_key(|(pattern, _)| pattern.len());
    found.map(|(pattern, value)| (pattern.as_str(), value))
}

fn rank(key: &str, value: &Value) -> Result<u64, LoraProblem> {
    value.as_u64().ok_or_else(|| wrong(format!("`{key}` is {value}, no rank")))
}

fn alpha(key: &str, value: &Value) -> Result<f64, LoraProblem> {
    value.as_f64().ok_or_else(|| wrong(format!("`{key}` is {value}, no number")))
}

fn wrong(message: String) -> LoraProblem {
    LoraProblem::Metadata { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(json: &str) -> Result<Option<Scaling>, LoraProblem> {
        Scaling::of(&BTreeMap::from([(KEY.to_owned(), json.to_owned())]))
    }

    fn factor(json: &str, module: &str, rank: usize) -> Result<f64, LoraProblem> {
        scaling(json)?.unwrap().factor(module, rank)
    }

    #[test]
    fn alpha_and_rank_come_from_the_configuration() {
        assert!(Scaling::of(&BTreeMap::new()).unwrap().is_none());
        assert_eq!(factor(r#"{"transformer.r": 4, "transformer.lora_alpha": 2}"#, "a", 4), Ok(0.5));
        assert_eq!(factor(r#"{"r": 4, "lora_alpha": 2.0, "use_rslora": true}"#, "a", 4), Ok(1.0));
        assert_eq!(factor(r#"{"r": null}"#, "a", 3), Ok(1.0));
    }

    #[test]
    fn a_pattern_is_the_end_of_a_name() {
        let json =
            r#"{"r": 4, "lora_alpha": 4, "rank_pattern": {"b.c": 2}, "alpha_pattern": {"b.c": 8, "^c": 12, "c": 16}}"#;
        let of = |module, rank| factor(json, module, rank);
        assert_eq!((of("a.b.c", 2), of("b.c", 2)), (Ok(4.0), Ok(4.0)));
        assert_eq!((of("c", 4), of("a.c", 4), of("ac", 4)), (Ok(3.0), Ok(4.0), Ok(1.0)));
        assert_eq!(of("a.b.c", 4), Err(LoraProblem::Rank { module: "a.b.c".into(), declared: 2, found: 4 }));
    }

    #[test]
    fn a_configuration_that_is_none_is_refused() {
        for json in ["", "[]", "{", r#"{"r": -1}"#, r#"{"r": 1.5}"#, r#"{"lora_alpha": "1"}"#, r#"{"rank_pattern": 1}"#]
        {
            assert!(matches!(scaling(json), Err(LoraProblem::Metadata { .. })), "{json}");
        }
        let dora = r#"{"use_dora": true}"#;
        assert!(matches!(scaling(dora), Err(LoraProblem::Unsupported { what: "a DoRA", .. })));
    }
}

//! Scaling of LoRAs whose alpha is not a tensor: what the file's metadata say, or `adapter_config.json` beside it.
//!
//! | source | fields |
//! |---|---|
//! | metadata `lora_adapter_metadata` | JSON of PEFT's `LoraConfig`; in diffusers' files with the prefix `transformer.` |
//! | `adapter_config.json` | the same object |
//! | metadata, one text a field | `lora_alpha`, `alpha`, `network_alpha`, `ss_network_alpha`, and a rank |
//!
//! The first that gives an alpha is used. Patterns give single modules another rank or alpha; they are regular
//! expressions for the end of a module's name. Sources: `get_pattern_key` in PEFT; `networks/lora.py` in
//! kohya-ss/sd-scripts.
//!
//! Read by hand and not through serde, as each field has several names and its errors name the field and the value.

use std::collections::BTreeMap;
use std::fmt;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::LoraProblem;
use crate::tensor_file::MAX_METADATA_TEXT;

/// Key of the configuration in a file's metadata.
const KEY: &str = "lora_adapter_metadata";
/// Name of the configuration beside a file, in folders that PEFT writes.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Names of alpha and of the rank in metadata with one text a field; the first that is given is used.
const ALPHAS: [&str; 4] = ["lora_alpha", "alpha", "network_alpha", "ss_network_alpha"];
const RANKS: [&str; 5] = ["r", "rank", "lora_rank", "network_dim", "ss_network_dim"];
/// Most patterns of a configuration that need a regular expression; PEFT's files have a few.
const MAX_EXPRESSIONS: usize = 256;
/// Ways of starting `init_lora_weights` that change the weights an adapter is added to.
const CHANGES_THE_BASE: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// Where the alpha of a LoRA is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlphaSource {
    /// Tensors of the file.
    Tensors,
    /// The metadata of the file.
    Metadata,
    /// `adapter_config.json` beside the file.
    AdapterConfig,
}

impl fmt::Display for AlphaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AlphaSource::Tensors => "its tensors",
            AlphaSource::Metadata => "its metadata",
            AlphaSource::AdapterConfig => CONFIG_FILE,
        })
    }
}

/// The fields of an adapter's configuration that affect scaling.
#[derive(Debug)]
pub(super) struct Scaling {
    source: AlphaSource,
    rank: Option<u64>,
    alpha: Option<f64>,
    ranks: Vec<(Pattern, u64)>,
    alphas: Vec<(Pattern, f64)>,
    /// Divide alpha by the square root of the rank (rsLoRA).
    by_root: bool,
}

/// The factor of a module, and what gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Factor {
    /// `alpha / rank`.
    pub of_rank: f64,
    /// `None` if nothing gives alpha, which then is the rank.
    pub source: Option<AlphaSource>,
}

impl Scaling {
    /// Reads what the metadata and the text of `adapter_config.json` say; `None` if that is nothing.
    pub fn of(metadata: &BTreeMap<String, String>, beside: Option<&str>) -> Result<Option<Self>, LoraProblem> {
        let of_json = |source, what, json: &str| {
            if json.len() > MAX_METADATA_TEXT {
                return Err(wrong(what, format!("more than {MAX_METADATA_TEXT} bytes long")));
            }
            let object: Map<String, Value> = serde_json::from_str(json).map_err(|e| wrong(what, e.to_string()))?;
            Self::read(source, what, &object)
        };
        let mut found = Vec::new();
        if let Some(json) = metadata.get(KEY) {
            found.push(of_json(AlphaSource::Metadata, "metadata `lora_adapter_metadata`", json)?);
        }
        if let Some(json) = beside {
            found.push(of_json(AlphaSource::AdapterConfig, CONFIG_FILE, json)?);
        }
        let fields = fields(metadata);
        if !fields.is_empty() {
            found.push(Self::read(AlphaSource::Metadata, "metadata", &fields)?);
        }
        let first = found.iter().position(|it| it.alpha.is_some() || !it.alphas.is_empty()).unwrap_or(0);
        Ok(found.into_iter().nth(first))
    }

    /// `what` names the source in errors.
    fn read(source: AlphaSource, what: &'static str, object: &Map<String, Value>) -> Result<Self, LoraProblem> {
        let get = |key: &str| {
            let found = object.get(&format!("transformer.{key}")).or_else(|| object.get(key));
            found.filter(|value| !value.is_null())
        };
        if get("use_dora").and_then(Value::as_bool) == Some(true) {
            return Err(LoraProblem::Unsupported { name: "use_dora".into(), what: "a DoRA" });
        }
        let start = get("init_lora_weights").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        if CHANGES_THE_BASE.iter().any(|way| start.starts_with(way)) {
            let (name, what) = (start, "an adapter of weights that were changed before training");
            return Err(LoraProblem::Unsupported { name, what });
        }
        let rank = |key: &str, value: &Value| {
            value.as_u64().ok_or_else(|| wrong(what, format!("`{key}` is {value}, no rank")))
        };
        let alpha = |key: &str, value: &Value| {
            value.as_f64().ok_or_else(|| wrong(what, format!("`{key}` is {value}, no number")))
        };
        Ok(Scaling {
            source,
            rank: get("r").map(|value| rank("r", value)).transpose()?,
            alpha: match get("lora_alpha") {
                Some(value) => Some(alpha("lora_alpha", value)?),
                // The name in the configurations of LoHa and LoKr.
                None => get("alpha").map(|value| alpha("alpha", value)).transpose()?,
            },
            ranks: patterns("rank_pattern", get("rank_pattern"), what, rank)?,
            alphas: patterns("alpha_pattern", get("alpha_pattern"), what, alpha)?,
            by_root: get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// The factor `alpha / rank` of a module whose tensors have rank `found`, or none.
    pub fn factor(&self, module: &str, found: Option<usize>) -> Result<Factor, LoraProblem> {
        let declared = matching(&self.ranks, module).or(self.rank);
        if let (Some(declared), Some(found)) = (declared, found)
            && declared != found as u64
        {
            return Err(LoraProblem::Rank { module: module.into(), declared, found });
        }
        let alpha = matching(&self.alphas, module).or(self.alpha);
        let rank = found.map(|rank| rank as u64).or(declared).filter(|rank| *rank > 0);
        let Some(rank) = rank.map(|rank| rank as f64) else { return Ok(Factor { of_rank: 1.0, source: None }) };
        let of_rank = alpha.unwrap_or(rank) / if self.by_root { rank.sqrt() } else { rank };
        Ok(Factor { of_rank, source: alpha.map(|_| self.source) })
    }
}

/// The fields of a configuration in metadata that hold one text for each.
fn fields(metadata: &BTreeMap<String, String>) -> Map<String, Value> {
    // kohya-ss/sd-scripts writes None, and Dynamic if ranks differ; the tensors have alpha then.
    let says = |text: &&str| !["", "none", "null", "dynamic"].contains(&text.to_lowercase().as_str());
    let text = |key: &str| {
        let text = metadata.get(&format!("transformer.{key}")).or_else(|| metadata.get(key))?;
        Some(text.trim()).filter(says).filter(|text| text.len() <= MAX_METADATA_TEXT)
    };
    let value = |text: &str| match text {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    // A number may itself be a text of JSON. PyTorch writes whole ranks as floats at times.
    let number = |text: &str| match value(text) {
        Value::String(text) => value(&text),
        value => value,
    };
    let whole = |value: Value| match value.as_f64() {
        Some(n) if n.fract() == 0.0 && (0.0..=1e9).contains(&n) => Value::from(n as u64),
        _ => value,
    };
    let mut fields = Map::new();
    if let Some(alpha) = ALPHAS.into_iter().find_map(text) {
        fields.insert("lora_alpha".into(), number(alpha));
    }
    if let Some(rank) = RANKS.into_iter().find_map(text) {
        fields.insert("r".into(), whole(number(rank)));
    }
    for key in ["rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights"] {
        fields.extend(text(key).map(|text| (key.to_owned(), value(text))));
    }
    fields
}

/// A pattern for the end of a module's name, from a dot on.
#[derive(Debug)]
enum Pattern {
    /// The name, or the end of it.
    End(String),
    /// The whole name.
    Whole(String),
    Expression(Box<Regex>),
}

impl Pattern {
    /// `None` if it is no regular expression.
    fn new(pattern: &str) -> Option<Self> {
        // Names of modules are compared as text. As a regular expression a dot would match any character, but no two
        // names differ only there.
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        Some(match pattern.strip_prefix('^') {
            None if is_plain(pattern) => Pattern::End(pattern.to_owned()),
            Some(whole) if is_plain(whole) => Pattern::Whole(whole.to_owned()),
            _ => {
                let expression = format!(r"^(?:.*\.)?(?:{pattern})$");
                let built = RegexBuilder::new(&expression).backtrack_limit(20_000).delegate_size_limit(1 << 20).build();
                Pattern::Expression(Box::new(built.ok()?))
            }
        })
    }

    fn fits(&self, module: &str) -> bool {
        match self {
            Pattern::Whole(whole) => module == whole,
            Pattern::End(end) => {
                module.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Pattern::Expression(expression) => expression.is_match(module).unwrap_or(false),
        }
    }
}

/// The patterns of a configuration in their order, each with its value.
fn patterns<V>(
    key: &'static str,
    found: Option<&Value>,
    what: &'static str,
    read: impl Fn(&str, &Value) -> Result<V, LoraProblem>,
) -> Result<Vec<(Pattern, V)>, LoraProblem> {
    let map = match found {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(wrong(what, format!("`{key}` is no object"))),
    };
    let mut patterns = Vec::with_capacity(map.len());
    let mut expressions = 0;
    for (pattern, value) in map {
        let problem = |why: &str| wrong(what, format!("`{key}` has the pattern `{pattern}`, {why}"));
        let value = read(pattern, value)?;
        let pattern = Pattern::new(pattern).ok_or_else(|| problem("which is no regular expression"))?;
        expressions += usize::from(matches!(pattern, Pattern::Expression(_)));
        if expressions > MAX_EXPRESSIONS {
            return Err(wrong(what, format!("`{key}` has more than {MAX_EXPRESSIONS} regular expressions")));
        }
        patterns.push((pattern, value));
    }
    Ok(patterns)
}

/// The value of the first pattern that fits, as in PEFT.
fn matching<V: Copy>(patterns: &[(Pattern, V)], module: &str) -> Option<V> {
    patterns.iter().find(|(pattern, _)| pattern.fits(module)).map(|(_, value)| *value)
}

fn wrong(what: &'static str, message: String) -> LoraProblem {
    LoraProblem::Metadata { what, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(json: &str) -> Result<Option<Scaling>, LoraProblem> {
        Scaling::of(&BTreeMap::from([(KEY.to_owned(), json.to_owned())]), None)
    }

    fn factor(json: &str, module: &str, rank: usize) -> Result<f64, LoraProblem> {
        Ok(scaling(json)?.unwrap().factor(module, Some(rank))?.of_rank)
    }

    fn texts(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn alpha_and_rank_come_from_the_configuration() {
        assert!(Scaling::of(&BTreeMap::new(), None).unwrap().is_none());
        assert_eq!(factor(r#"{"transformer.r": 4, "transformer.lora_alpha": 2}"#, "a", 4), Ok(0.5));
        assert_eq!(factor(r#"{"r": 4, "lora_alpha": 2.0, "use_rslora": true}"#, "a", 4), Ok(1.0));
        assert_eq!(factor(r#"{"r": null}"#, "a", 3), Ok(1.0));
        assert_eq!(scaling("{}").unwrap().unwrap().factor("a", Some(3)).unwrap().source, None);
    }

    #[test]
    fn matrices_without_a_rank_take_that_of_the_configuration() {
        let of = |json| scaling(json).unwrap().unwrap().factor("a", None).unwrap();
        let expected = Factor { of_rank: 2.0, source: Some(AlphaSource::Metadata) };
        assert_eq!(of(r#"{"peft_type": "LOKR", "r": 4, "alpha": 8}"#), expected);
        let unsaid = Factor { of_rank: 1.0, source: None };
        assert_eq!([of(r#"{"alpha": 8}"#), of(r#"{"r": 0, "alpha": 8}"#)], [unsaid; 2]);
        assert_eq!(factor(r#"{"peft_type": "LOHA", "r": 4, "alpha": 8}"#, "a", 4), Ok(2.0));
    }

    #[test]
    fn metadata_may_have_a_text_for_each_field() {
        let of =
            |fields: &[(&str, &str)]| Scaling::of(&texts(fields), None).map(|s| s.map(|s| s.factor("b.c", Some(4))));
        let eight = Ok(Factor { of_rank: 2.0, source: Some(AlphaSource::Metadata) });
        for key in ALPHAS {
            assert_eq!(of(&[(key, "8"), ("format", "pt")]).unwrap(), Some(eight.clone()), "{key}");
        }
        for text in ["8.0", " 8 ", "\"8\"", "8e0"] {
            assert_eq!(of(&[("ss_network_alpha", text), ("ss_network_dim", "4")]).unwrap(), Some(eight.clone()));
        }
        let unsaid = Ok(Factor { of_rank: 1.0, source: None });
        assert_eq!(of(&[("ss_network_alpha", "None"), ("ss_network_dim", "4.0")]).unwrap(), Some(unsaid));
        assert!(of(&[("ss_network_alpha", "Dynamic"), ("ss_network_dim", "Dynamic")]).unwrap().is_none());
        assert!(matches!(of(&[("lora_alpha", "8"), ("rank", "2")]).unwrap(), Some(Err(LoraProblem::Rank { .. }))));
        assert!(matches!(of(&[("lora_alpha", "much")]), Err(LoraProblem::Metadata { .. })));
        let pattern = [("lora_alpha", "2"), ("alpha_pattern", r#"{"c": 8}"#), ("use_rslora", "False")];
        assert_eq!(of(&pattern).unwrap(), Some(eight));
        let root = Factor { of_rank: 4.0, source: Some(AlphaSource::Metadata) };
        assert_eq!(of(&[("lora_alpha", "8"), ("use_rslora", "True")]).unwrap(), Some(Ok(root)));
    }

    #[test]
    fn the_first_source_that_gives_alpha_is_used() {
        let of = |fields: &[(&str, &str)], beside| {
            let Factor { of_rank, source } =
                Scaling::of(&texts(fields), beside).unwrap().unwrap().factor("a", Some(4)).unwrap();
            (of_rank, source.unwrap())
        };
        let beside = Some(r#"{"r": 4, "lora_alpha": 12}"#);
        assert_eq!(of(&[], beside), (3.0, AlphaSource::AdapterConfig));
        assert_eq!(of(&[("lora_alpha", "8")], beside), (3.0, AlphaSource::AdapterConfig));
        assert_eq!(of(&[(KEY, r#"{"lora_alpha": 4}"#)], beside), (1.0, AlphaSource::Metadata));
        assert_eq!(of(&[(KEY, r#"{"r": 4}"#)], beside), (3.0, AlphaSource::AdapterConfig));
        assert_eq!(of(&[("lora_alpha", "8")], Some(r#"{"r": 4}"#)), (2.0, AlphaSource::Metadata));
    }

    #[test]
    fn a_pattern_is_a_regular_expression_for_the_end_of_a_name() {
        let json = r#"{"r": 4, "lora_alpha": 4, "rank_pattern": {"b.c": 2},
                       "alpha_pattern": {"b.c": 8, "^c": 12, "c": 16, "x\\.\\d+\\.(?:q|k)": 20, "(?!y).*z": 24}}"#;
        let of = |module, rank| factor(json, module, rank);
        assert_eq!((of("a.b.c", 2), of("b.c", 2)), (Ok(4.0), Ok(4.0)));
        assert_eq!((of("c", 4), of("a.c", 4), of("ac", 4)), (Ok(3.0), Ok(4.0), Ok(1.0)));
        assert_eq!((of("a.x.12.k", 4), of("x.1.q", 4), of("x.1.v", 4)), (Ok(5.0), Ok(5.0), Ok(1.0)));
        assert_eq!((of("ax.1.q", 4), of("x.1.qq", 4), of("xz", 4)), (Ok(1.0), Ok(1.0), Ok(6.0)));
        assert_eq!(of("a.b.c", 4), Err(LoraProblem::Rank { module: "a.b.c".into(), declared: 2, found: 4 }));
        // The first that fits, not the longest.
        let first = |json| factor(json, "a.b", 1);
        assert_eq!(first(r#"{"alpha_pattern": {"b": 2, "a.b": 3}}"#), Ok(2.0));
        assert_eq!(first(r#"{"alpha_pattern": {"a.b": 3, "b": 2}}"#), Ok(3.0));
    }

    #[test]
    fn an_expression_that_takes_forever_does_not_fit() {
        let json = r#"{"alpha_pattern": {"(?=(a+)+$)(a|a)*b\\1": 2}}"#;
        let started = std::time::Instant::now();
        assert_eq!(factor(json, &"a".repeat(200), 1), Ok(1.0));
        assert!(started.elapsed().as_secs() < 5);
        let many: Vec<String> = (0..=MAX_EXPRESSIONS).map(|i| format!(r#""{i}+": 1"#)).collect();
        let many = format!(r#"{{"alpha_pattern": {{{}}}}}"#, many.join(","));
        assert!(matches!(scaling(&many), Err(LoraProblem::Metadata { .. })));
    }

    #[test]
    fn a_configuration_that_is_none_is_refused() {
        for json in [
            "",
            "[]",
            "{",
            r#"{"r": -1}"#,
            r#"{"r": 1.5}"#,
            r#"{"lora_alpha": "1"}"#,
            r#"{"rank_pattern": 1}"#,
            r#"{"rank_pattern": {"a": "b"}}"#,
            r#"{"alpha_pattern": {"(": 1}}"#,
        ] {
            assert!(matches!(scaling(json), Err(LoraProblem::Metadata { .. })), "{json}");
        }
        let unsupported = |json| match scaling(json) {
            Err(LoraProblem::Unsupported { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(unsupported(r#"{"use_dora": true}"#), "a DoRA");
        assert!(unsupported(r#"{"init_lora_weights": "pissa_niter_16"}"#).contains("changed before"));
    }
}

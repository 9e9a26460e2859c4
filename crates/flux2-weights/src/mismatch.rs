//! Missing, unexpected and misshapen tensors of a checkpoint, each with the most similar names.

use std::collections::BTreeMap;

use crate::tensor_file::Printable;

/// All tensors that are wrong in a file, under their stored names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Expected and not stored.
    pub missing: Vec<String>,
    /// Stored and not expected.
    pub unused: Vec<String>,
    /// Stored with another shape.
    pub shapes: Vec<WrongShape>,
    /// Stored with an unsupported element type: name and type.
    pub dtypes: Vec<(String, String)>,
    /// For the first missing and unused names, the most similar name of the other list.
    pub nearest: BTreeMap<String, String>,
}

/// A tensor with the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// Name in the file.
    pub name: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape that the configuration asks for.
    pub expected: Vec<usize>,
}

impl Mismatch {
    /// Number of tensors that are wrong.
    pub(super) fn count(&self) -> usize {
        self.missing.len() + self.unused.len() + self.shapes.len() + self.dtypes.len()
    }

    /// Whether only shapes are wrong.
    pub(super) fn is_of_size(&self) -> bool {
        let Mismatch { missing, unused, shapes, dtypes, .. } = self;
        !shapes.is_empty() && missing.is_empty() && unused.is_empty() && dtypes.is_empty()
    }

    /// Most names of each kind that are printed.
    pub(super) const SHOWN: usize = 500;
    /// Most pairs of names that are compared to find similar ones, which takes a few tenths of a second.
    pub(super) const COMPARED: usize = 100_000;

    /// Finds the most similar name for each name that will be printed: for a missing name among the unused ones and
    /// vice versa. If nothing is missing, the names in `used` are candidates too.
    pub(super) fn suggest_names<'n>(&mut self, used: impl Iterator<Item = &'n String>) {
        let used: Vec<&String> = if self.missing.is_empty() { used.collect() } else { vec![] };
        let mut nearest = BTreeMap::new();
        for (names, others) in [(&self.missing, &self.unused), (&self.unused, &self.missing)] {
            let others_count = (others.len() + used.len()).max(1);
            for name in names.iter().take(Self::SHOWN.min(Self::COMPARED / others_count)) {
                let candidates = others.iter().chain(used.iter().copied()).map(String::as_str);
                nearest.extend(nearest_name(name, candidates).map(|n| (name.clone(), n.to_owned())));
            }
        }
        self.nearest = nearest;
    }
}

/// The most similar of `names`, if one is similar at all. The work is bounded, whatever a hostile file holds.
pub fn nearest_name<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const LONGEST: usize = 200;
    let similar = |n: &&str| n.len() <= LONGEST && *n != name;
    let scored = names.filter(similar).take(4096).map(|n| (strsim::normalized_damerau_levenshtein(name, n), n));
    let best = scored.filter(|_| name.len() <= LONGEST).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score >= 0.5).map(|(_, n)| n)
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nearest =
            |name: &String| self.nearest.get(name).map_or(String::new(), |n| format!(" (nearest: {})", Printable(n)));
        let mut groups: Vec<String> = Vec::new();
        let mut group = |what: &str, lines: &mut dyn Iterator<Item = String>, count: usize| {
            if count > 0 {
                let mut text = format!("{count} {what}:");
                for line in lines.take(Self::SHOWN) {
                    text += &format!("\n  {line}");
                }
                if count > Self::SHOWN {
                    text += &format!("\n  and {} more", count - Self::SHOWN);
                }
                groups.push(text);
            }
        };
        let named = |n: &String| format!("`{}`{}", Printable(n), nearest(n));
        group("missing", &mut self.missing.iter().map(named), self.missing.len());
        group("not used", &mut self.unused.iter().map(named), self.unused.len());
        let shape = |s: &WrongShape| format!("`{}` is {:?}, expected {:?}", Printable(&s.name), s.found, s.expected);
        group("of the wrong shape", &mut self.shapes.iter().map(shape), self.shapes.len());
        let dtype = |(n, d): &(String, String)| format!("`{}` is {d}", Printable(n));
        group("of a dtype that is not supported", &mut self.dtypes.iter().map(dtype), self.dtypes.len());
        f.write_str(&groups.join("\n"))
    }
}

//! What a file should hold and does not, or holds and should not, with the nearest names.

use std::collections::BTreeMap;

use crate::tensor_file::Printable;

/// Tensors a file should have and has not, or has and should not; all of them, under their stored names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Asked for and not there.
    pub missing: Vec<String>,
    /// There and not asked for.
    pub unused: Vec<String>,
    /// There with another shape.
    pub shapes: Vec<WrongShape>,
    /// There with an element type that is not computed with, and which.
    pub dtypes: Vec<(String, String)>,
    /// For the first of the missing and the unused: the most similar name on the other side.
    pub nearest: BTreeMap<String, String>,
}

/// A tensor with the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// Its stored name.
    pub name: String,
    /// The shape it has.
    pub found: Vec<usize>,
    /// The shape it should have.
    pub expected: Vec<usize>,
}

impl Mismatch {
    /// Whether nothing is wrong but shapes.
    pub(super) fn is_of_size(&self) -> bool {
        let Mismatch { missing, unused, shapes, dtypes, .. } = self;
        !shapes.is_empty() && missing.is_empty() && unused.is_empty() && dtypes.is_empty()
    }

    /// How many of each kind are printed: more than any model of the family has, less than a hostile file can hold.
    pub(super) const SHOWN: usize = 500;
    /// Pairs of names that are compared to find neighbours, at most: a few tenths of a second.
    pub(super) const COMPARED: usize = 100_000;

    /// For what will be printed, find the most similar name: of what is missing among what is unused, and the other way
    /// round; if nothing is missing, among the names that are `used`.
    pub(super) fn name_neighbours<'n>(&mut self, used: impl Iterator<Item = &'n String>) {
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

/// The most similar of `names`, if one is similar at all. Bounded work, whatever a hostile file holds.
pub(crate) fn nearest_name<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
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

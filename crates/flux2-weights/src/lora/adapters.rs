//! The tensors of a file, grouped by the matrix they change; their names, shapes and element types are checked here.
//!
//! | kind | update | tensors |
//! |---|---|---|
//! | LoRA | `up · down`, `up · mid · down` | `lora_up`, `lora_down`, `lora_mid` and their names in other dialects |
//! | LoHa | `(w1_a · w1_b) ∘ (w2_a · w2_b)` | `hada_w1_a` to `hada_w2_b`; with `hada_t1`, `hada_t2`: `aᵀ · t · b` |
//! | LoKr | `w1 ⊗ w2` | `lokr_w1`, `lokr_w2`, each whole or as `_a · _b`; with `lokr_t2`: `aᵀ · t · b` |
//! | whole | `diff` | `diff` |
//!
//! Sources: `LoraLayer`, `LoHaLayer` and `LoKrLayer` in PEFT; `functional` in LyCORIS.

use std::collections::BTreeMap;

use flux2_backend::DType;

use super::alpha::scalar_reader;
use super::keys::{self, Key, Target, Targets};
use super::{LoraProblem, transformer_sizes};
use crate::config::TransformerConfig;
use crate::layout::lora::Role;
use crate::mismatch::{Mismatch, WrongShape, nearest_name};
use crate::tensor_file::{StoredDType, StoredTensor, TensorFile};

/// What an update is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lora,
    Loha,
    Lokr,
    Whole,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Lora, Kind::Loha, Kind::Lokr, Kind::Whole];

    fn of(role: Role) -> Option<Self> {
        Some(match role {
            Role::Alpha => return None,
            Role::Down | Role::Up | Role::Mid => Kind::Lora,
            Role::Diff => Kind::Whole,
            Role::HadaW1A | Role::HadaW1B | Role::HadaW2A | Role::HadaW2B | Role::HadaT1 | Role::HadaT2 => Kind::Loha,
            _ => Kind::Lokr,
        })
    }
}

/// The tensors of a file, grouped by module.
pub(super) struct Adapters<'f> {
    pub by_module: BTreeMap<&'f str, Adapter<'f>>,
    /// Names that no adapter has.
    others: Vec<&'f str>,
}

/// The tensors of a module by their roles.
#[derive(Default)]
pub(super) struct Adapter<'f>(BTreeMap<Role, Named<'f>>);

#[derive(Clone, Copy)]
pub(super) struct Named<'f> {
    pub name: &'f str,
    key: Key<'f>,
    pub tensor: &'f StoredTensor,
}

/// An update whose tensors are all there, with names, shapes and dtypes that fit.
pub(super) struct Fitted<'f> {
    pub target: Target,
    pub kind: Kind,
    /// `None` if it has none: whole matrices.
    pub rank: Option<usize>,
    pub module: &'f str,
    tensors: BTreeMap<Role, &'f StoredTensor>,
    pub alpha: Option<&'f StoredTensor>,
}

impl<'f> Fitted<'f> {
    pub fn tensor(&self, role: Role) -> Option<&'f StoredTensor> {
        self.tensors.get(&role).copied()
    }
}

impl<'f> Adapters<'f> {
    pub fn of(file: &'f TensorFile) -> Result<Self, LoraProblem> {
        if file.tensors.is_empty() {
            return Err(LoraProblem::Empty);
        }
        if let Some((name, what)) = file.tensors.keys().find_map(|name| Some((name, keys::unsupported(name)?))) {
            return Err(LoraProblem::Unsupported { name: name.clone(), what });
        }
        let mut adapters = Adapters { by_module: BTreeMap::new(), others: Vec::new() };
        for (name, tensor) in &file.tensors {
            let Some(key) = Key::parse(name) else {
                adapters.others.push(name);
                continue;
            };
            let Adapter(roles) = adapters.by_module.entry(key.module).or_default();
            if let Some(first) = roles.insert(key.role, Named { name, key, tensor }) {
                return Err(LoraProblem::Twice { first: first.name.into(), second: name.clone() });
            }
        }
        Ok(adapters)
    }

    /// Every update with its target, or everything that is wrong.
    pub fn fit(&self, targets: &Targets) -> Result<Vec<Fitted<'f>>, Mismatch> {
        let mut mismatch =
            Mismatch { unused: self.others.iter().map(|n| (*n).to_owned()).collect(), ..Mismatch::default() };
        let mut fitted = Vec::new();
        for (module, adapter) in &self.by_module {
            match targets.find(module) {
                Some(target) => fitted.extend(adapter.fit(module, target, &mut mismatch)),
                None => mismatch.unused.extend(adapter.0.values().map(|named| named.name.to_owned())),
            }
        }
        if mismatch == Mismatch::default() {
            return Ok(fitted);
        }
        mismatch.unused.sort_unstable();
        Err(mismatch)
    }

    /// Finds a similar name that has a target for each name that will be printed.
    pub fn suggest_names(&self, targets: &Targets, mismatch: &mut Mismatch) {
        let shown = Mismatch::SHOWN.min(Mismatch::COMPARED / targets.modules().count().max(1));
        for name in mismatch.unused.iter().take(shown) {
            let nearest = match Key::parse(name) {
                Some(key) => {
                    let modules = targets.modules().filter(|module| key.is_like(module));
                    nearest_name(key.module, modules).map(|module| key.with_module(module))
                }
                None => nearest_name(name, targets.modules()).map(str::to_owned),
            };
            mismatch.nearest.extend(nearest.map(|nearest| (name.clone(), nearest)));
        }
    }

    /// The error that names the model the file was made for, if one is recognized.
    pub fn made_for_another(&self, config: &TransformerConfig, mismatch: &Mismatch) -> Option<LoraProblem> {
        let family = |name: &String| keys::other_family(name);
        if let Some(family) = mismatch.unused.iter().find_map(family) {
            return Some(LoraProblem::OtherFamily { family, mismatch: Box::new(mismatch.clone()) });
        }
        let fits = |other: &TransformerConfig| self.fit(&Targets::of(other)).is_ok();
        let (made_for, other) = transformer_sizes().find(|(_, other)| other != config && fits(other))?;
        Some(LoraProblem::OtherSize { made_for, width: other.hidden(), expected: config.hidden() })
    }
}

impl<'f> Adapter<'f> {
    /// The kinds of updates of this module, each with its rank.
    pub fn ranks(&self) -> impl Iterator<Item = (Kind, Option<usize>)> {
        Kind::ALL.into_iter().filter(|kind| self.has(*kind)).map(|kind| (kind, self.rank(kind)))
    }

    pub fn alpha(&self) -> Option<&'f StoredTensor> {
        self.get(Role::Alpha).map(|alpha| alpha.tensor)
    }

    fn get(&self, role: Role) -> Option<Named<'f>> {
        self.0.get(&role).copied()
    }

    fn has(&self, kind: Kind) -> bool {
        self.0.keys().any(|role| Kind::of(*role) == Some(kind))
    }

    /// The rank of the first factor that exists, at least 1; `None` if there is no factor.
    fn rank(&self, kind: Kind) -> Option<usize> {
        let axis = |role: Role, i: usize| Some(self.get(role)?.tensor.shape.get(i).copied().unwrap_or(1).max(1));
        match kind {
            Kind::Lora => axis(Role::Down, 0).or_else(|| axis(Role::Up, 1)),
            Kind::Loha => axis(Role::HadaW1B, 0).or_else(|| axis(Role::HadaW2B, 0)),
            Kind::Lokr => axis(Role::LokrW1B, 0).or_else(|| axis(Role::LokrW2B, 0)),
            Kind::Whole => None,
        }
    }

    /// The updates of this module whose tensors have the shapes of the target; otherwise extends `mismatch`.
    fn fit(&self, module: &'f str, target: &Target, mismatch: &mut Mismatch) -> Vec<Fitted<'f>> {
        let before = mismatch.count();
        for Named { name, tensor, key } in self.0.values() {
            let is_read = match key.role {
                Role::Alpha => scalar_reader(tensor.dtype).is_some(),
                _ => matches!(tensor.dtype, StoredDType::Known(DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3)),
            };
            if !is_read {
                mismatch.dtypes.push(((*name).to_owned(), tensor.dtype.to_string()));
            }
        }
        let mut fitting = Fitting { adapter: self, mismatch, alike: Role::Alpha };
        fitting.hold(Role::Alpha, &[]);
        if self.ranks().next().is_none() {
            fitting.need(Role::Down);
        }
        for (kind, rank) in self.ranks() {
            fitting.fit(kind, rank.unwrap_or(1), [target.rows.len(), target.cols]);
        }
        if before != mismatch.count() {
            return vec![];
        }
        let fitted = |(kind, rank)| {
            let of_kind = self.0.iter().filter(|(role, _)| Kind::of(**role) == Some(kind));
            let tensors = of_kind.map(|(role, named)| (*role, named.tensor)).collect();
            Fitted { target: target.clone(), kind, rank, module, tensors, alpha: self.alpha() }
        };
        self.ranks().map(fitted).collect()
    }
}

/// Compares the tensors of a module with what an update needs.
struct Fitting<'a, 'f> {
    adapter: &'a Adapter<'f>,
    mismatch: &'a mut Mismatch,
    /// A role that the module has; names of missing tensors are written like its name.
    alike: Role,
}

impl Fitting<'_, '_> {
    fn fit(&mut self, kind: Kind, rank: usize, [rows, cols]: [usize; 2]) {
        let of_kind = self.adapter.0.keys().find(|role| Kind::of(**role) == Some(kind));
        self.alike = *of_kind.expect("the module has this kind");
        match kind {
            Kind::Lora => {
                self.need(Role::Down);
                self.need(Role::Up);
                self.hold(Role::Down, &[rank, cols]);
                self.hold(Role::Up, &[rows, rank]);
                self.hold(Role::Mid, &[rank, rank]);
            }
            Kind::Whole => self.hold(Role::Diff, &[rows, cols]),
            Kind::Loha => {
                let cores = [Role::HadaT1, Role::HadaT2];
                let has_cores = cores.iter().any(|role| self.adapter.get(*role).is_some());
                let sides = [(Role::HadaW1A, Role::HadaW1B), (Role::HadaW2A, Role::HadaW2B)];
                for ((a, b), core) in sides.into_iter().zip(cores) {
                    self.need(a);
                    self.need(b);
                    self.hold(b, &[rank, cols]);
                    match has_cores {
                        true => {
                            self.need(core);
                            self.hold(core, &[rank, rank]);
                            self.hold(a, &[rank, rows]);
                        }
                        false => self.hold(a, &[rows, rank]),
                    }
                }
            }
            Kind::Lokr => self.fit_kronecker(rank, [rows, cols]),
        }
    }

    fn fit_kronecker(&mut self, rank: usize, [rows, cols]: [usize; 2]) {
        let has = |role| self.adapter.get(role).is_some();
        let has_core = has(Role::LokrT2);
        // A matrix is whole or in factors; of two forms, the factors have no place.
        let mut sides = [(Role::LokrW1, Role::LokrW1A, Role::LokrW1B), (Role::LokrW2, Role::LokrW2A, Role::LokrW2B)];
        for (whole, a, b) in &mut sides {
            if has(*whole) {
                let unused = [*a, *b].into_iter().filter_map(|role| self.adapter.get(role));
                self.mismatch.unused.extend(unused.map(|named| named.name.to_owned()));
            } else if has(*a) || has(*b) {
                self.need(*a);
                self.need(*b);
            } else {
                self.need(*whole);
            }
        }
        if let Some(core) = self.adapter.get(Role::LokrT2).filter(|_| has(Role::LokrW2)) {
            self.mismatch.unused.push(core.name.to_owned());
        }
        let [outer, inner] = [(sides[0], false), (sides[1], has_core)].map(|((whole, a, b), is_transposed)| {
            // Zero, which divides nothing, for what is not there.
            let axis = |role, i: usize| Some(self.adapter.get(role)?.tensor.shape.get(i).copied().unwrap_or(0));
            let height = axis(whole, 0).or_else(|| axis(a, usize::from(is_transposed)));
            [height.unwrap_or(0), axis(whole, 1).or_else(|| axis(b, 1)).unwrap_or(0)]
        });
        // The outer matrix decides the size of the inner one, unless that divides the target and the outer does not.
        let divides = |[height, width]: [usize; 2]| rows.is_multiple_of(height) && cols.is_multiple_of(width);
        let (outer, inner) = match (divides(outer), divides(inner)) {
            (true, _) => (outer, [rows / outer[0], cols / outer[1]]),
            (false, true) => ([rows / inner[0], cols / inner[1]], inner),
            (false, false) => ([1, 1], [rows, cols]),
        };
        for ((whole, a, b), [height, width], is_transposed) in [(sides[0], outer, false), (sides[1], inner, has_core)] {
            self.hold(whole, &[height, width]);
            self.hold(a, &if is_transposed { [rank, height] } else { [height, rank] });
            self.hold(b, &[rank, width]);
        }
        self.hold(Role::LokrT2, &[rank, rank]);
    }

    /// Reports a tensor that is not there.
    fn need(&mut self, role: Role) {
        if self.adapter.get(role).is_none() {
            let alike = self.adapter.get(self.alike).or_else(|| self.adapter.0.values().next().copied());
            self.mismatch.missing.extend(alike.map(|named| named.key.sibling(role)));
        }
    }

    /// Reports a tensor of another shape. Axes of length 1 may follow, as in weights of 1x1 convolutions.
    fn hold(&mut self, role: Role, expected: &[usize]) {
        let Some(Named { name, tensor, .. }) = self.adapter.get(role) else { return };
        let found = &tensor.shape;
        let has_shape = found.len() >= expected.len() && found[..expected.len()] == *expected;
        if !has_shape || found[expected.len()..].iter().any(|axis| *axis != 1) {
            let (name, found, expected) = (name.to_owned(), found.clone(), expected.to_vec());
            self.mismatch.shapes.push(WrongShape { name, found, expected });
        }
    }
}

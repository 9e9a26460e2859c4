//! Which words and images the image tokens attend to.
//!
//! Attention is a weighted mean of values, and its weights are what is wanted here. They are read with the model's own
//! op: where row `j` of the values is 1 in column `c` and 0 elsewhere, column `c` of the result is the weight of key
//! `j`. So one more attention with other values gives the weights of as many keys as a head has channels, on every
//! backend, in its number format, and no matrix of all queries by all keys is ever stored. Keys that are of interest
//! only together, such as those of a reference, share a column, which is then their sum.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use flux2_backend::{AttentionInput, AttentionMask, Backend, Tensor, ops};
use serde::Serialize;

use crate::weights::TransformerConfig;
use crate::{Error, Result};

/// A block of the flow transformer by its kind and its number from 0, as in `double.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockName {
    /// A block with separate weights for image and text.
    Double(usize),
    /// A block over the joint sequence.
    Single(usize),
}

impl fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockName::Double(i) => write!(f, "double.{i}"),
            BlockName::Single(i) => write!(f, "single.{i}"),
        }
    }
}

impl FromStr for BlockName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |kind| text.strip_prefix(kind).and_then(|number| number.parse().ok());
        let double = number("double.").map(BlockName::Double);
        double.or_else(|| number("single.").map(BlockName::Single)).ok_or("a block is double.N or single.N, from 0")
    }
}

/// Blocks whose attention is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// All of them.
    #[default]
    All,
    /// None, so that nothing is read.
    None,
    /// These.
    These(Vec<BlockName>),
}

impl Blocks {
    /// Numbers of the blocks in a pass, and their names; double blocks come first.
    ///
    /// # Errors
    /// [`Error::NoSuchBlock`].
    pub(crate) fn of(&self, config: &TransformerConfig) -> Result<Vec<(usize, BlockName)>> {
        let (double, single) = (config.double_blocks, config.single_blocks);
        let names = (0..double).map(BlockName::Double).chain((0..single).map(BlockName::Single)).enumerate();
        if let Blocks::These(these) = self {
            let is_missing = |name: &&BlockName| match name {
                BlockName::Double(i) => *i >= double,
                BlockName::Single(i) => *i >= single,
            };
            if let Some(missing) = these.iter().find(is_missing) {
                return Err(Error::NoSuchBlock { name: missing.to_string(), double, single });
            }
        }
        Ok(names
            .filter(|(_, name)| match self {
                Blocks::All => true,
                Blocks::None => false,
                Blocks::These(these) => these.contains(name),
            })
            .collect())
    }
}

/// Attention of the image tokens, as the mean over the heads of the blocks.
#[derive(Clone, Debug, Serialize)]
pub struct Attention {
    /// Names of the blocks.
    pub blocks: Vec<String>,
    /// Rows and columns of image tokens.
    pub grid: [usize; 2],
    /// What is attended to. The shares of all of them add up to 1.
    pub attended: Vec<Attended>,
    /// One for each denoising step.
    pub steps: Vec<AttentionStep>,
}

/// What image tokens attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "number")]
pub enum Attended {
    /// A token of the prompt or of its template, by its place from 0.
    Token(usize),
    /// All padding tokens together.
    Padding,
    /// All tokens of the picture itself.
    Picture,
    /// All tokens of a source or reference, by its number from 1.
    Image(usize),
}

/// Attention in a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AttentionStep {
    /// The part of the attention that each of `attended` has, as the mean over image tokens and blocks.
    pub shares: Vec<f32>,
    /// The same for each block by itself.
    pub block_shares: Vec<Vec<f32>>,
    /// Weight that each image token gives each of `attended`, as the mean over the blocks: `[attended][tokens]`.
    pub maps: Vec<Vec<f32>>,
}

/// Where the keys of a picture are, in the order of rows: `text | picture | images`, or, where those of images are
/// cached, `text | images | picture`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Text tokens that are not padding.
    pub(crate) valid: usize,
    /// All text tokens.
    pub(crate) text: usize,
    /// Rows and columns of the picture's tokens.
    pub(crate) grid: [usize; 2],
    /// Tokens of each image that the model sees.
    pub(crate) images: Vec<usize>,
    /// Whether keys of images are cached.
    pub(crate) cached: bool,
}

impl Keys {
    fn picture(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    fn all(&self) -> usize {
        self.text + self.picture() + self.images.iter().sum::<usize>()
    }

    /// What is attended to, each with its rows.
    fn columns(&self) -> Vec<(Attended, Range<usize>)> {
        let mut columns: Vec<_> = (0..self.valid).map(|i| (Attended::Token(i), i..i + 1)).collect();
        if self.valid < self.text {
            columns.push((Attended::Padding, self.valid..self.text));
        }
        let images: usize = self.images.iter().sum();
        let picture = self.text + if self.cached { images } else { 0 };
        columns.push((Attended::Picture, picture..picture + self.picture()));
        let mut row = self.text + if self.cached { 0 } else { self.picture() };
        for (i, tokens) in self.images.iter().enumerate() {
            columns.push((Attended::Image(i + 1), row..row + tokens));
            row += tokens;
        }
        columns
    }
}

/// Reads the attention of chosen blocks, step by step.
pub(crate) struct Reader<B: Backend> {
    be: B,
    blocks: Vec<(usize, BlockName)>,
    keys: Keys,
    attended: Vec<Attended>,
    heads: usize,
    head_dim: usize,
    /// Values that give the weights: compute `[keys, hidden]`, of as many of `attended` as a head has channels.
    selecting: Vec<Tensor<B>>,
    step: AttentionStep,
    pub(crate) steps: Vec<AttentionStep>,
}

impl<B: Backend> Reader<B> {
    /// A reader for the attention of one picture; `None` if no block is chosen.
    ///
    /// # Errors
    /// [`Error::NoSuchBlock`], or if the backend has no room.
    pub(crate) fn new(be: &B, config: &TransformerConfig, blocks: &Blocks, keys: Keys) -> Result<Option<Self>> {
        let blocks = blocks.of(config)?;
        if blocks.is_empty() {
            return Ok(None);
        }
        let (heads, head_dim) = (config.heads, config.head_dim);
        let columns = keys.columns();
        let selecting = columns.chunks(head_dim).map(|columns| {
            let mut values = vec![0.0; keys.all() * heads * head_dim];
            for (channel, (_, rows)) in columns.iter().enumerate() {
                for row in rows.clone() {
                    (0..heads).for_each(|head| values[(row * heads + head) * head_dim + channel] = 1.0);
                }
            }
            let values = be.upload(&[keys.all(), heads * head_dim], &values)?;
            Ok(ops::cast(be, &values, be.compute().dtype())?)
        });
        let selecting = selecting.collect::<Result<_>>()?;
        let attended = columns.into_iter().map(|(attended, _)| attended).collect();
        let (be, step) = (be.clone(), AttentionStep::default());
        Ok(Some(Reader { be, blocks, keys, attended, heads, head_dim, selecting, step, steps: Vec::new() }))
    }

    /// Bytes that the reader holds on the device while the model runs.
    pub(crate) fn bytes(&self) -> usize {
        self.selecting.iter().map(|values| values.dtype().bytes(values.rows() * values.cols())).sum()
    }

    /// Whether the attention of this block is read.
    pub(crate) fn reads(&self, block: usize) -> bool {
        self.blocks.iter().any(|(number, _)| *number == block)
    }

    /// Read the weights of a block from the queries and keys of its attention.
    ///
    /// # Errors
    /// If the backend has no room.
    pub(crate) fn read(&mut self, operands: &AttentionInput<B>) -> Result<()> {
        let (n, head_dim, first) = (self.keys.picture(), self.head_dim, self.keys.text);
        let q = operands.q.slice_rows(first..first + n);
        let mut maps: Vec<Vec<f32>> = Vec::with_capacity(self.attended.len());
        for (i, v) in self.selecting.iter().enumerate() {
            let operands = AttentionInput { q: &q, k: operands.k, v, head_dim, mask: AttentionMask::None };
            let weights = self.be.download(&ops::attention(&self.be, &operands)?)?; // [n_img, heads * head_dim]
            let columns = (self.attended.len() - i * head_dim).min(head_dim);
            let of_token = |row: &[f32], channel: usize| {
                let sum: f64 = row.iter().skip(channel).step_by(head_dim).copied().map(f64::from).sum();
                (sum / self.heads as f64) as f32
            };
            let rows = || weights.chunks_exact(self.heads * head_dim);
            maps.extend((0..columns).map(|channel| rows().map(|row| of_token(row, channel)).collect::<Vec<_>>()));
        }
        self.step.block_shares.push(maps.iter().map(|map| mean(map)).collect());
        match self.step.maps.is_empty() {
            true => self.step.maps = maps,
            false => self.step.maps.iter_mut().flatten().zip(maps.iter().flatten()).for_each(|(sum, one)| *sum += one),
        }
        Ok(())
    }

    /// All blocks of a step were read.
    pub(crate) fn end_step(&mut self) {
        let mut step = std::mem::take(&mut self.step);
        let blocks = self.blocks.len() as f32;
        step.maps.iter_mut().flatten().for_each(|sum| *sum /= blocks);
        step.shares = step.maps.iter().map(|map| mean(map)).collect();
        self.steps.push(step);
    }

    /// What was read.
    pub(crate) fn finish(self) -> Attention {
        let blocks = self.blocks.iter().map(|(_, name)| name.to_string()).collect();
        Attention { blocks, grid: self.keys.grid, attended: self.attended, steps: self.steps }
    }
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64) as f32
}

#[cfg(test)]
mod tests;

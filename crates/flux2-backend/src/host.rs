//! Tensors on the host, in their stored format: how weights travel from a checkpoint to a backend.
//!
//! The bytes are shared and may be a window of a memory-mapped file, so they need not be aligned. Values are decoded
//! where they are used (packed for a product, or uploaded), never as a whole in advance.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::quant::{blocks, fp4, fp8};
use crate::{DType, Error, Result};

/// The owner of the memory behind [`HostBytes`].
pub trait ByteOwner: AsRef<[u8]> + Send + Sync {
    /// Hint that `range` will not be read soon: pages of a mapped file may be dropped and read again later.
    fn release_pages(&self, _range: Range<usize>) {}

    /// Whether the memory is backed by a file, so that the system can drop its pages and read them again.
    fn is_mapped(&self) -> bool {
        false
    }
}

impl ByteOwner for Vec<u8> {}

/// Data embedded in the executable, which the system maps from its file.
impl ByteOwner for &'static [u8] {
    fn is_mapped(&self) -> bool {
        true
    }
}

/// Shared, immutable bytes: a window of an owned buffer or of a mapped file.
#[derive(Clone)]
pub struct HostBytes {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl HostBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn ByteOwner>) -> Self {
        let range = 0..(*owner).as_ref().len();
        HostBytes { owner, range }
    }

    /// A window of these bytes; `range` is relative to their start.
    ///
    /// # Panics
    /// If `range` does not lie within these bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "slice {range:?} of {}", self.range.len());
        let range = self.range.start + range.start..self.range.start + range.end;
        HostBytes { owner: Arc::clone(&self.owner), range }
    }

    /// Releases the pages of this window: see [`ByteOwner::release_pages`].
    pub fn release_pages(&self) {
        self.owner.release_pages(self.range.clone());
    }

    /// See [`ByteOwner::is_mapped`].
    pub fn is_mapped(&self) -> bool {
        self.owner.is_mapped()
    }
}

impl std::ops::Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBytes({} bytes)", self.range.len())
    }
}

/// Scales of an 8- or 4-bit matrix `[rows, cols]`: one multiplier per block of `block[0]` x `block[1]` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockScales {
    /// `[ceil(rows / block[0]), ceil(cols / block[1])]`, row-major.
    pub values: Multipliers,
    /// Rows and columns that share a multiplier.
    pub block: [usize; 2],
}

/// The multipliers of [`BlockScales`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Multipliers {
    /// Plain f32 values.
    F32(Arc<[f32]>),
    /// e4m3 values with a common factor, as NVFP4 has them.
    F8E4M3(Arc<[u8]>, f32),
}

impl Multipliers {
    /// Number of multipliers.
    pub fn len(&self) -> usize {
        match self {
            Multipliers::F32(values) => values.len(),
            Multipliers::F8E4M3(bytes, _) => bytes.len(),
        }
    }

    /// Whether there are no multipliers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Multiplier `i`, decoded.
    ///
    /// # Panics
    /// If `i` is out of range.
    #[inline(always)]
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Multipliers::F32(values) => values[i],
            Multipliers::F8E4M3(bytes, factor) => factor * fp8::e4m3_to_f32(bytes[i]),
        }
    }

    /// All multipliers, decoded.
    pub fn iter(&self) -> impl Iterator<Item = f32> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The multipliers in `ranges`, concatenated.
    fn pick(&self, ranges: impl Iterator<Item = Range<usize>>) -> Self {
        match self {
            Multipliers::F32(values) => Multipliers::F32(ranges.flat_map(|r| values[r].iter().copied()).collect()),
            Multipliers::F8E4M3(bytes, factor) => {
                Multipliers::F8E4M3(ranges.flat_map(|r| bytes[r].iter().copied()).collect(), *factor)
            }
        }
    }

    /// Concatenates `parts`; `None` if their variants or factors differ.
    fn join<'m>(parts: impl Iterator<Item = &'m Multipliers> + Clone) -> Option<Self> {
        match parts.clone().next()? {
            Multipliers::F32(_) => {
                let values = parts.map(|m| if let Multipliers::F32(values) = m { Some(&values[..]) } else { None });
                Some(Multipliers::F32(values.collect::<Option<Vec<_>>>()?.concat().into()))
            }
            Multipliers::F8E4M3(_, factor) => {
                let bytes = parts.map(|m| match m {
                    Multipliers::F8E4M3(bytes, other) if other == factor => Some(&bytes[..]),
                    _ => None,
                });
                Some(Multipliers::F8E4M3(bytes.collect::<Option<Vec<_>>>()?.concat().into(), *factor))
            }
        }
    }
}

impl FromIterator<f32> for Multipliers {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        Multipliers::F32(values.into_iter().collect())
    }
}

impl From<Vec<f32>> for Multipliers {
    fn from(values: Vec<f32>) -> Self {
        Multipliers::F32(values.into())
    }
}

/// Where a weight is stored between its uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In the memory of the device that uses it.
    #[default]
    Device,
    /// Offloaded to host memory, in the layout of the device, and copied to the device for every use. The CPU backend
    /// multiplies weights as stored, so there it equals [`File`](Self::File).
    Host,
    /// In its file: read and decoded for every use. The CPU backend [releases](HostBytes::release_pages) the mapped
    /// pages afterwards. Weights that a GPU quantizes are not in any file in that form, so there it equals
    /// [`Host`](Self::Host).
    File,
}

/// A tensor on the host: row-major, little-endian, the first axis outermost.
#[derive(Clone, Debug)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: HostBytes,
    scales: Option<BlockScales>,
    placement: Placement,
}

impl HostTensor {
    /// A tensor over `bytes`.
    ///
    /// # Errors
    /// [`Error::ByteCount`] if the length of `bytes` does not match `shape` and `dtype`, or a row is not whole blocks.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, bytes: HostBytes) -> Result<Self> {
        let shape = shape.into();
        if dtype.bytes_of(&shape) != Some(bytes.len()) {
            return Err(Error::ByteCount { bytes: bytes.len(), dtype, shape });
        }
        Ok(HostTensor { dtype, shape, bytes, scales: None, placement: Placement::default() })
    }

    /// An f32 tensor that owns its values.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(DType::F32, shape, HostBytes::new(Arc::new(bytes))).expect("as many values as the shape says")
    }

    /// Attaches the scales of an [`DType::F8E4M3`], [`DType::F4E2M1`] or [`DType::I8`] matrix.
    ///
    /// # Errors
    /// [`Error::DType`] for any other dtype; [`Error::Shape`] if the tensor is not a matrix or the scales do not cover
    /// it.
    pub fn with_scales(mut self, scales: BlockScales) -> Result<Self> {
        let wrong =
            |expected: String| Error::Shape { what: "block scales", found: vec![scales.values.len()], expected };
        if !matches!(self.dtype, DType::F8E4M3 | DType::F4E2M1 | DType::I8) {
            return Err(Error::DType { what: "block scales", found: self.dtype, expected: DType::F8E4M3 });
        }
        let [rows, cols] = self.shape[..] else { return Err(wrong("a matrix".into())) };
        if scales.block.contains(&0) {
            return Err(wrong(format!("blocks of at least one element, not {:?}", scales.block)));
        }
        let expected = [rows.div_ceil(scales.block[0]), cols.div_ceil(scales.block[1])];
        if scales.values.len() != expected[0] * expected[1] {
            return Err(wrong(format!("{expected:?} multipliers")));
        }
        self.scales = Some(scales);
        Ok(self)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape, outermost axis first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &HostBytes {
        &self.bytes
    }

    /// The same tensor with another placement.
    pub fn placed(self, placement: Placement) -> Self {
        HostTensor { placement, ..self }
    }

    /// Where a device keeps it between uses.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Whether its pages are released after every use and read from the file again.
    pub fn is_streamed(&self) -> bool {
        self.placement != Placement::Device && self.bytes.is_mapped()
    }

    /// Scales of an 8- or 4-bit matrix.
    pub fn scales(&self) -> Option<&BlockScales> {
        self.scales.as_ref()
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the number of elements changes, rows are no longer whole blocks, or the tensor has block scales.
    pub fn reshape(mut self, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        assert!(self.dtype.bytes_of(&shape).is_some(), "rows of {shape:?} are not whole blocks of {}", self.dtype);
        assert!(self.scales.is_none(), "a block-scaled matrix keeps its shape");
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape {:?} to {shape:?}", self.shape);
        self.shape = shape;
        self
    }

    /// Rows `range` of a matrix; shares its bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not a matrix with those rows.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self> {
        let wrong = |expected: String| Error::Shape { what: "slice_rows", found: self.shape.clone(), expected };
        let [rows, cols] = self.shape[..] else { return Err(wrong("a matrix".into())) };
        if range.start > range.end || range.end > rows {
            return Err(wrong(format!("rows {range:?}")));
        }
        let size = self.dtype.bytes(cols);
        let bytes = self.bytes.slice(range.start * size..range.end * size);
        let shape = vec![range.len(), cols];
        let scales = match &self.scales {
            None => None,
            Some(s) => {
                // Blocks start at the first row. A cut within a block needs its multiplier on both sides, so each row
                // gets its own.
                let per_row = cols.div_ceil(s.block[1]);
                let of_row = |r: usize| r / s.block[0] * per_row..(r / s.block[0] + 1) * per_row;
                Some(BlockScales { values: s.values.pick(range.map(of_row)), block: [1, s.block[1]] })
            }
        };
        Ok(HostTensor { dtype: self.dtype, shape, bytes, scales, placement: self.placement })
    }

    /// Stacks matrices of one width into a new buffer. Keeps the stored dtype if all parts share it, else decodes to
    /// f32, which is exact.
    ///
    /// # Errors
    /// [`Error::Shape`] if the parts are not matrices of one width.
    pub fn concat_rows(parts: &[HostTensor]) -> Result<Self> {
        let cols = parts.first().and_then(|p| p.shape.last().copied()).unwrap_or(0);
        if let Some(wrong) = parts.iter().find(|p| p.shape.len() != 2 || p.shape[1] != cols) {
            let expected = format!("[rows, {cols}]");
            return Err(Error::Shape { what: "concat_rows", found: wrong.shape.clone(), expected });
        }
        let shape = vec![parts.iter().map(|p| p.shape[0]).sum(), cols];
        let Some(scales) = concat_scales(parts) else {
            let values: Vec<f32> = parts.iter().flat_map(HostTensor::to_f32).collect();
            return Ok(HostTensor::from_f32(shape, &values));
        };
        let bytes = parts.iter().map(|p| &p.bytes[..]).collect::<Vec<_>>().concat();
        let joined = HostTensor::new(parts[0].dtype, shape, HostBytes::new(Arc::new(bytes)))?;
        match scales {
            Some(scales) => joined.with_scales(scales),
            None => Ok(joined),
        }
    }

    /// Decodes all values to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        let cols = self.shape.last().copied().unwrap_or(1).max(1);
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            self.decode_row(row, 0, out);
        }
        out
    }

    /// Decodes `out.len()` values of row `row` (all axes but the last flattened), starting at column `from`, to f32.
    ///
    /// Inlined, so that it is compiled for the SIMD tier of its caller.
    #[inline(always)]
    pub fn decode_row(&self, row: usize, from: usize, out: &mut [f32]) {
        let cols = self.shape.last().copied().unwrap_or(1);
        let row_bytes = self.dtype.bytes(cols);
        let stored = &self.bytes[row * row_bytes..][..row_bytes];
        match self.dtype {
            DType::F32 => decode(stored, from, out, |b: [u8; 4]| f32::from_le_bytes(b)),
            DType::F16 => decode(stored, from, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
            // Not the `half` crate's conversion: its NaN handling prevents vectorization.
            DType::Bf16 => {
                decode(stored, from, out, |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }
            DType::F8E4M3 => decode(stored, from, out, |[b]: [u8; 1]| fp8::e4m3_to_f32(b)),
            DType::F4E2M1 => fp4::decode(stored, from, out),
            DType::I8 => decode(stored, from, out, |[b]: [u8; 1]| f32::from(b as i8)),
            DType::Q8_0 => blocks::decode::<blocks::Q8_0>(stored, from, out),
            DType::Q4_0 => blocks::decode::<blocks::Q4_0>(stored, from, out),
            DType::Q4_1 => blocks::decode::<blocks::Q4_1>(stored, from, out),
            DType::Q5_0 => blocks::decode::<blocks::Q5_0>(stored, from, out),
            DType::Q5_1 => blocks::decode::<blocks::Q5_1>(stored, from, out),
            DType::Q4K => blocks::decode::<blocks::Q4K>(stored, from, out),
            DType::Q5K => blocks::decode::<blocks::Q5K>(stored, from, out),
            DType::Q6K => blocks::decode::<blocks::Q6K>(stored, from, out),
        }
        if let Some(BlockScales { values, block }) = &self.scales {
            let first = row / block[0] * cols.div_ceil(block[1]);
            let mut column = from;
            let mut rest = out;
            while !rest.is_empty() {
                let (here, behind) = rest.split_at_mut((block[1] - column % block[1]).min(rest.len()));
                let scale = values.get(first + column / block[1]);
                here.iter_mut().for_each(|v| *v *= scale);
                column += here.len();
                rest = behind;
            }
        }
    }
}

/// Scales of stacked matrices: `None` if the parts must be decoded to be stacked, `Some(None)` if they have no scales.
fn concat_scales(parts: &[HostTensor]) -> Option<Option<BlockScales>> {
    let (first, rest) = parts.split_first()?;
    if rest.iter().any(|p| p.dtype != first.dtype || p.scales.is_some() != first.scales.is_some()) {
        return None;
    }
    let Some(BlockScales { block, .. }) = first.scales else { return Some(None) };
    // Only the last part may end within a block.
    let whole = parts[..parts.len() - 1].iter().all(|p| p.shape[0] % block[0] == 0);
    let alike = parts.iter().filter_map(HostTensor::scales).all(|s| s.block == block);
    let values = Multipliers::join(parts.iter().filter_map(HostTensor::scales).map(|s| &s.values))?;
    (whole && alike).then_some(Some(BlockScales { values, block }))
}

#[inline(always)]
fn decode<const N: usize>(row: &[u8], from: usize, out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (b, v) in row[from * N..][..out.len() * N].chunks_exact(N).zip(out) {
        *v = value(b.try_into().expect("chunks are N long"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_scales_multiply() {
        // 0x38 is 1.0 in e4m3; blocks of 2x2 over a 3x3 matrix, the last ones cut.
        let bytes = HostBytes::new(Arc::new(vec![0x38u8; 9]));
        let scales = BlockScales { values: [1.0, 2.0, 3.0, 4.0].into_iter().collect(), block: [2, 2] };
        let t = HostTensor::new(DType::F8E4M3, [3, 3], bytes).unwrap().with_scales(scales).unwrap();
        assert_eq!(t.to_f32(), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn scaled_matrices_join_and_part_by_rows() {
        let matrix = |rows: usize, values: &[f32], block| {
            let bytes = HostBytes::new(Arc::new(vec![0x38u8; rows * 2]));
            let scales = BlockScales { values: values.iter().copied().collect(), block };
            HostTensor::new(DType::F8E4M3, [rows, 2], bytes).unwrap().with_scales(scales).unwrap()
        };
        let joined = HostTensor::concat_rows(&[matrix(2, &[2.0], [2, 2]), matrix(1, &[3.0], [2, 2])]).unwrap();
        assert_eq!((joined.dtype(), joined.to_f32()), (DType::F8E4M3, vec![2.0, 2.0, 2.0, 2.0, 3.0, 3.0]));
        // The first ends within a block: decoded, and no value changes.
        let joined = HostTensor::concat_rows(&[matrix(1, &[2.0], [2, 2]), matrix(2, &[3.0], [2, 2])]).unwrap();
        assert_eq!((joined.dtype(), joined.to_f32()), (DType::F32, vec![2.0, 2.0, 3.0, 3.0, 3.0, 3.0]));
        let cut = matrix(4, &[2.0, 3.0], [2, 2]).slice_rows(1..3).unwrap();
        assert_eq!(cut.to_f32(), [2.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn too_few_bytes_are_refused() {
        let bytes = HostBytes::new(Arc::new(vec![0u8; 7]));
        assert!(matches!(HostTensor::new(DType::F32, [2], bytes), Err(Error::ByteCount { bytes: 7, .. })));
    }

    #[test]
    fn a_shape_whose_product_overflows_is_refused() {
        let bytes = HostBytes::new(Arc::new(Vec::<u8>::new()));
        assert!(HostTensor::new(DType::F32, [usize::MAX, 8], bytes).is_err());
    }
}

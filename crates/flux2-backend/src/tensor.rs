//! Activations ([`Tensor`]) and parameters ([`Weight`]) in a backend's memory.

use std::ops::Range;
use std::sync::Arc;

use crate::{DType, Error, Format, HostTensor, Result, Runtime};

/// Activations: f32 or bf16, row-major, reference-counted.
///
/// Cloning and slicing copy nothing. A slice is a strided window: its rows (all axes but the last) keep their stride in
/// the buffer, so q, k and v can be read directly from a fused projection.
pub struct Tensor<B: Runtime> {
    buffer: Arc<B::Buffer>,
    dtype: DType,
    shape: Vec<usize>,
    offset: usize,
    row_stride: usize,
}

impl<B: Runtime> Clone for Tensor<B> {
    fn clone(&self) -> Self {
        Tensor { buffer: Arc::clone(&self.buffer), shape: self.shape.clone(), ..*self }
    }
}

impl<B: Runtime> Tensor<B> {
    /// A contiguous tensor that starts at the beginning of `buffer`. For backends.
    pub fn from_buffer(buffer: B::Buffer, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let row_stride = *shape.last().expect("a tensor has at least one axis");
        Tensor { buffer: Arc::new(buffer), dtype, shape, offset: 0, row_stride }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of rows: the product of all axes but the last.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Length of the last axis.
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("a tensor has at least one axis")
    }

    /// Distance between rows in the buffer, in elements. For backends.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Index of the first element in the buffer. For backends.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The underlying buffer, which may be shared. For backends.
    pub fn buffer(&self) -> &B::Buffer {
        &self.buffer
    }

    /// The buffer, if no other tensor shares it. For backends.
    pub fn buffer_mut(&mut self) -> Option<&mut B::Buffer> {
        Arc::get_mut(&mut self.buffer)
    }

    /// Whether the elements are adjacent in memory.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.cols() || self.rows() <= 1
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`], about argument `what`, if the number of elements changes, or if the last axis changes and the
    /// tensor is not contiguous.
    pub fn reshape(&self, what: &'static str, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        let keeps_rows = shape.last() == Some(&self.cols());
        if shape.iter().product::<usize>() != self.rows() * self.cols() || !(keeps_rows || self.is_contiguous()) {
            return Err(Error::Shape {
                what,
                found: self.shape.clone(),
                expected: format!("something that reshapes to {shape:?}"),
            });
        }
        let row_stride = if keeps_rows { self.row_stride } else { *shape.last().expect("has as many elements") };
        Ok(Tensor { buffer: Arc::clone(&self.buffer), dtype: self.dtype, shape, offset: self.offset, row_stride })
    }

    /// Rows `range` of a matrix.
    ///
    /// # Panics
    /// If this is not a matrix, or `range` is out of bounds.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        assert!(
            self.shape.len() == 2 && range.start <= range.end && range.end <= self.shape[0],
            "rows {range:?} of {:?}",
            self.shape
        );
        let offset = self.offset + range.start * self.row_stride;
        Tensor { shape: vec![range.len(), self.shape[1]], offset, ..self.clone() }
    }

    /// Item `i` of a batch `[b, n, d]`, as a matrix `[n, d]`; a matrix is a batch of one.
    ///
    /// # Panics
    /// If this is neither, or has no such item.
    pub fn item(&self, i: usize) -> Self {
        let [b, n, d] = self.batch_dims("item").expect("a matrix or a batch of them");
        assert!(i < b, "item {i} of {:?}", self.shape);
        Tensor { shape: vec![n, d], offset: self.offset + i * n * self.row_stride, ..self.clone() }
    }

    /// Columns `range` of every row.
    ///
    /// # Panics
    /// If `range` is out of bounds.
    pub fn slice_cols(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols(), "columns {range:?} of {:?}", self.shape);
        let mut shape = self.shape.clone();
        *shape.last_mut().expect("a tensor has at least one axis") = range.len();
        Tensor { shape, offset: self.offset + range.start, ..self.clone() }
    }

    /// Splits the last axis into `N` equal parts.
    ///
    /// # Panics
    /// If its length is not a multiple of `N`.
    pub fn chunk_cols<const N: usize>(&self) -> [Self; N] {
        assert_eq!(self.cols() % N, 0, "{} columns in {N} parts", self.cols());
        let n = self.cols() / N;
        std::array::from_fn(|i| self.slice_cols(i * n..(i + 1) * n))
    }

    /// The shape as an array of `N` axes.
    ///
    /// # Errors
    /// [`Error::Shape`], about argument `what`, if the tensor has another number of axes.
    pub fn dims<const N: usize>(&self, what: &'static str) -> Result<[usize; N]> {
        self.shape.as_slice().try_into().map_err(|_| self.wrong_shape(what, format!("{N} axes")))
    }

    /// Number of items of a batch, rows of each, and columns: `[b, n, d]`, where a matrix `[n, d]` is a batch of one.
    ///
    /// # Errors
    /// [`Error::Shape`], about argument `what`, if the tensor is neither.
    pub fn batch_dims(&self, what: &'static str) -> Result<[usize; 3]> {
        match self.shape[..] {
            [n, d] => Ok([1, n, d]),
            [b, n, d] => Ok([b, n, d]),
            _ => Err(self.wrong_shape(what, "[n, d], or a batch [b, n, d]")),
        }
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// [`Error::Shape`], about argument `what`, if it differs from `shape`.
    pub fn expect_shape(&self, what: &'static str, shape: &[usize]) -> Result<()> {
        if self.shape == shape { Ok(()) } else { Err(self.wrong_shape(what, format!("{shape:?}"))) }
    }

    /// Checks the dtype.
    ///
    /// # Errors
    /// [`Error::DType`], about argument `what`, if it differs from `expected`.
    pub fn expect_dtype(&self, what: &'static str, expected: DType) -> Result<()> {
        if self.dtype == expected { Ok(()) } else { Err(Error::DType { what, found: self.dtype, expected }) }
    }

    /// The error that argument `what` has this tensor's shape instead of `expected`.
    pub fn wrong_shape(&self, what: &'static str, expected: impl Into<String>) -> Error {
        Error::Shape { what, found: self.shape.clone(), expected: expected.into() }
    }
}

/// A parameter matrix `[out, in]`, in the format and layout that the device multiplies.
pub struct Weight<B: Runtime> {
    shape: [usize; 2],
    matrix: B::Matrix,
}

impl<B: Runtime> Weight<B> {
    /// Loads a matrix in its stored format.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not a matrix or is empty; [`Error::OutOfMemory`] if the device has no room.
    pub fn load(be: &B, matrix: HostTensor) -> Result<Self> {
        Self::load_as(be, matrix, Format::AsStored)
    }

    /// Loads a matrix, converted to `format`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_as(be: &B, matrix: HostTensor, format: Format) -> Result<Self> {
        let &[rows, cols] = matrix.shape() else { return Err(wrong_matrix(&matrix)) };
        if rows == 0 || cols == 0 {
            return Err(wrong_matrix(&matrix));
        }
        let shape = [rows, cols];
        Ok(Weight { shape, matrix: be.load_matrix(matrix, format)? })
    }

    /// Rows and columns, `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The backend's representation. For backends.
    pub fn matrix(&self) -> &B::Matrix {
        &self.matrix
    }
}

fn wrong_matrix(found: &HostTensor) -> Error {
    Error::Shape { what: "weight", found: found.shape().to_vec(), expected: "[out, in], neither of them 0".into() }
}

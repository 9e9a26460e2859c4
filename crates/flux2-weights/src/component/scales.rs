//! Scales of quantized matrices in safetensors files.
//!
//! | matrix `X.weight` | scales | value |
//! |---|---|---|
//! | F8_E4M3, I8 | `X.weight_scale` or `X.scale_weight`, one or one a row | `w * scale` |
//! | F8_E4M3 | `X.weight_scale_inv`, one a block (128 x 128, or as configured) | `w * scale` |
//! | U8 as NVFP4 | `X.weight_scale` (e4m3, one for 16 columns), `X.weight_scale_2` | `w * scale * scale_2` |
//!
//! NVFP4 packs two e2m1 values in a byte. `X.input_scale` or `X.scale_input` is for 8-bit activations and not used
//! here: activations stay in the compute dtype. ComfyUI declares the format of a matrix in `X.comfy_quant`, or of all
//! matrices in the file's metadata. A declared format that is not in the table is refused: rotated int8, for example,
//! differs from int8 in nothing but the declaration.
//!
//! Sources: `integrations/finegrained_fp8.py` in transformers; FLUX.2-klein-4b-fp8; `QUANTIZATION.md`,
//! `comfy/quant_ops.py` and `convert_old_quants` in ComfyUI; `float_utils.py` in comfy-kitchen, which reads the
//! official NVFP4 files.

use std::collections::BTreeMap;

use flux2_backend::DType;
use serde_json::Value;

use super::checkpoint::{Checkpoint, Planner};
use super::{Piece, Scales};
use crate::layout::{Layout, Rule};
use crate::tensor_file::{FileMetadata, FileProblem, MAX_METADATA_TEXT, StoredDType, StoredTensor};
use crate::{Error, Result};

/// Columns of a row that share a scale in NVFP4.
pub(super) const TILE_COLUMNS: usize = 16;
/// Rows and columns of a tile of NVFP4 scales.
const TILE: [usize; 2] = [128, 4];
/// Longest `comfy_quant` that is parsed, in bytes.
const MAX_FORMAT_BYTES: usize = 4096;

/// The storage format of a matrix, as the file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeclaredFormat(String);

impl DeclaredFormat {
    /// From a JSON object such as `{"format": "nvfp4"}`, or from the name alone.
    fn of(value: &Value) -> Self {
        let name = value.get("format").unwrap_or(value).as_str().unwrap_or("unknown");
        let is_rotated = value.get("convrot").is_some_and(|rotated| *rotated != Value::Bool(false));
        DeclaredFormat(if is_rotated { format!("{name}, rotated (convrot)") } else { name.to_owned() })
    }
}

impl Checkpoint {
    /// Declared formats of matrices, by name without `.weight`.
    pub(super) fn formats(&self) -> Result<BTreeMap<String, DeclaredFormat>> {
        let mut formats = BTreeMap::new();
        for file in &self.files {
            if let FileMetadata::Safetensors(metadata) = &file.metadata
                && metadata.get("_quantization_metadata").is_some_and(|json| json.len() > MAX_METADATA_TEXT)
            {
                let message = format!("more than {MAX_METADATA_TEXT} bytes of _quantization_metadata");
                let problem = FileProblem::Json { message };
                return Err(Error::Checkpoint { path: file.location.path().to_owned(), problem });
            }
            if let FileMetadata::Safetensors(metadata) = &file.metadata
                && let Some(json) = metadata.get("_quantization_metadata")
                && let Ok(json) = serde_json::from_str::<Value>(json)
                && let Some(layers) = json.get("layers").and_then(Value::as_object)
            {
                formats.extend(layers.iter().map(|(name, format)| (name.clone(), DeclaredFormat::of(format))));
            }
            let described = || file.tensors.iter().filter_map(|(n, t)| Some((n.strip_suffix(".comfy_quant")?, t)));
            if described().next().is_none() {
                continue;
            }
            let bytes = file.bytes()?;
            for (stem, tensor) in described() {
                let text = &bytes[tensor.range.clone()];
                let json =
                    Some(text).filter(|t| t.len() <= MAX_FORMAT_BYTES).and_then(|t| serde_json::from_slice(t).ok());
                formats.insert(
                    stem.to_owned(),
                    json.as_ref().map_or(DeclaredFormat("unknown".into()), DeclaredFormat::of),
                );
            }
        }
        Ok(formats)
    }

    /// Whether the matrix `name` has the scales of NVFP4.
    pub(super) fn is_nvfp4(&self, name: &str) -> bool {
        let is_bytes = |(_, t): (_, &StoredTensor)| matches!(t.dtype, StoredDType::Other("U8", _));
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        self.get(name).is_some_and(is_bytes) && self.get(&format!("{stem}.weight_scale_2")).is_some()
    }
}

impl Planner<'_> {
    /// The declared format of the matrix `name`, if it is not the one that `dtype` stands for here.
    pub(super) fn unsupported_format(&self, name: &str, dtype: StoredDType) -> Option<String> {
        let stem = name.strip_suffix(".weight")?;
        let bare = stem.strip_prefix(&*self.wants.dialect.prefix).unwrap_or(stem);
        let DeclaredFormat(format) = self.formats.get(stem).or_else(|| self.formats.get(bare))?;
        let known = match dtype {
            StoredDType::Known(DType::F8E4M3) => format == "float8_e4m3fn",
            StoredDType::Known(DType::I8) => format == "int8_tensorwise",
            StoredDType::Known(_) => true,
            StoredDType::Other("U8", _) => format == "nvfp4",
            StoredDType::Other(..) => false,
        };
        (!known).then(|| format!("{dtype} as {format}"))
    }

    pub(super) fn is_nvfp4(&self, name: &str) -> bool {
        // In the diffusers layout other programs pack the two values of a byte in the other order.
        self.wants.dialect.layout != Layout::Diffusers && self.checkpoint.is_nvfp4(name)
    }

    /// The scales of an 8-bit matrix, if the file has any.
    pub(super) fn scales(&mut self, name: &str, [rows, cols]: [usize; 2]) -> Option<Scales> {
        let stem = name.strip_suffix(".weight")?;
        self.mark_as_used(stem);
        let beside = |names: &[&str]| {
            let names = names.iter().map(|name| format!("{stem}.{name}"));
            names.into_iter().find(|name| self.checkpoint.get(name).is_some())
        };
        let (name, block) = match (beside(&["weight_scale_inv"]), beside(&["weight_scale", "scale_weight"])) {
            (Some(blocks), _) => (blocks, self.wants.fp8_block),
            (None, Some(whole)) => {
                let (_, scale) = self.checkpoint.get(&whole)?;
                let is_one = scale.shape.iter().all(|n| *n == 1);
                (whole, if is_one { [rows, cols] } else { [1, cols] })
            }
            (None, None) => return None,
        };
        let [grid_rows, grid_cols] = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        let (_, stored) = self.checkpoint.get(&name)?;
        // A column or a single value is also written with fewer axes.
        let shape = match stored.shape[..] {
            [] if grid_rows == 1 && grid_cols == 1 => vec![],
            [_] if grid_cols == 1 => vec![grid_rows],
            _ => vec![grid_rows, grid_cols],
        };
        let values = self.piece(&name, &shape, &Rule::Same("", ""))?;
        Some(Scales::Blocks { values: Box::new(values), block })
    }

    /// The matrix `name` of `rows` x `cols` values in NVFP4.
    pub(super) fn nvfp4(&mut self, name: &str, [rows, cols]: [usize; 2]) -> Option<Piece> {
        let stem = name.strip_suffix(".weight")?;
        self.mark_as_used(stem);
        let tiles = [rows.div_ceil(TILE[0]), cols.div_ceil(TILE_COLUMNS * TILE[1])];
        let same = Rule::Same("", "");
        let table = [tiles[0] * TILE[0], tiles[1] * TILE[1]];
        let scale = format!("{stem}.weight_scale");
        if let Some((_, found)) =
            self.checkpoint.get(&scale).filter(|(_, t)| t.dtype != StoredDType::Known(DType::F8E4M3))
        {
            self.used.insert(scale.clone());
            self.mismatch.dtypes.push((scale, format!("{} beside NVFP4", found.dtype)));
            return None;
        }
        let values = self.piece(&scale, &table, &same);
        let whole = format!("{stem}.weight_scale_2");
        let shape = self.checkpoint.get(&whole).map_or(vec![], |(_, t)| if t.shape == [1] { vec![1] } else { vec![] });
        let whole = self.piece(&whole, &shape, &same);
        let (file, stored) = self.checkpoint.get(name)?;
        if stored.shape != [rows, cols / 2] || cols % TILE_COLUMNS != 0 {
            self.wrong_shape(name, &stored.shape, &[rows, cols / 2]);
            return None;
        }
        let range = stored.range.clone();
        let scales = Scales::Tiles { values: Box::new(values?), whole: Box::new(whole?) };
        Some(Piece { file, dtype: DType::F4E2M1, shape: vec![rows, cols], range, scales: Some(scales) })
    }

    /// Marks tensors beside the matrix `stem` that are not needed to read it.
    fn mark_as_used(&mut self, stem: &str) {
        for what in ["input_scale", "scale_input", "comfy_quant"] {
            self.used.insert(format!("{stem}.{what}"));
        }
    }
}

/// NVFP4 scales row by row, `[rows, cols]`, from the tiled order in which tensor cores read them: tiles of 128 rows
/// and 4 columns; in a tile, row `r` of the first 32 is followed by rows `r + 32`, `r + 64` and `r + 96`.
pub(super) fn in_order(stored: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let tiles = cols.div_ceil(TILE[1]);
    let place = |row: usize, col: usize| {
        let tile = row / TILE[0] * tiles + col / TILE[1];
        tile * TILE[0] * TILE[1] + row % 32 * 16 + row % TILE[0] / 32 * 4 + col % TILE[1]
    };
    (0..rows).flat_map(|row| (0..cols).map(move |col| place(row, col))).map(|at| stored[at]).collect()
}

#[cfg(test)]
mod tests {
    use flux2_backend::HostTensor;
    use flux2_backend::host::{BlockScales, Multipliers};

    use super::*;
    use crate::tensor_file::TensorFile;

    #[test]
    fn tiles_of_multipliers_are_put_in_order() {
        // Two tiles below each other and two side by side, the last ones not full.
        let (rows, cols) = (130, 6);
        let stored: Vec<u8> = (0..4 * 512).map(|at| (at % 251) as u8).collect();
        let found = in_order(&stored, rows, cols);
        let at = |row: usize, col: usize| found[row * cols + col];
        for (row, col, place) in [
            (0, 0, 0),
            (0, 3, 3),
            (1, 0, 16),
            (31, 2, 498),
            (32, 0, 4),
            (96, 1, 13),
            (127, 3, 511),
            (0, 4, 512),
            (128, 0, 1024),
            (129, 5, 1553),
        ] {
            assert_eq!(at(row, col), (place % 251) as u8, "row {row}, column {col}");
        }
    }

    #[test]
    fn a_matrix_that_fills_no_tile_has_the_values_of_the_reference() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/nvfp4.safetensors");
        let file = TensorFile::open(&golden.into()).unwrap();
        let bytes = file.bytes().unwrap();
        let stored = |name: &str| bytes.slice(file.tensors[&format!("ragged.{name}")].range.clone());
        let f32s = |name: &str| -> Vec<f32> {
            stored(name).chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect()
        };
        let [rows, cols] = [144, 96];
        let values = in_order(&stored("weight_scale"), rows, cols / TILE_COLUMNS);
        let values = Multipliers::F8E4M3(values.into(), f32s("weight_scale_2")[0]);
        let matrix = HostTensor::new(DType::F4E2M1, [rows, cols], stored("weight")).unwrap();
        let matrix = matrix.with_scales(BlockScales { values, block: [1, TILE_COLUMNS] }).unwrap();
        assert!(matrix.to_f32() == f32s("values"));
    }

    #[test]
    fn formats_are_told_apart() {
        let format = |json: &str| DeclaredFormat::of(&serde_json::from_str(json).unwrap()).0;
        assert_eq!(format(r#"{"format": "nvfp4"}"#), "nvfp4");
        assert_eq!(format(r#""float8_e4m3fn""#), "float8_e4m3fn");
        assert_eq!(format(r#"{"format": "int8_tensorwise", "convrot": false}"#), "int8_tensorwise");
        assert_eq!(format(r#"{"format": "int8_tensorwise", "convrot": true}"#), "int8_tensorwise, rotated (convrot)");
        assert_eq!(format("3"), "unknown");
    }
}

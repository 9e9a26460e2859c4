//! klein-mini with weights in a format whose blocks are longer than its rows: each row is filled up with zeros,
//! rounded, and cut again. What the format does to the values is seen; that the loader would leave such rows alone is
//! not.

use std::fs;
use std::path::Path;

use flux2_backend::{DType, HostTensor, Threads, encode};
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

/// Copies the model in `folder`, with the matrices of its layers rounded to `dtype` and stored as f32.
pub fn padded(folder: &Path, dtype: DType) -> std::io::Result<TempDir> {
    let out = TempDir::new()?;
    for part in [".", "transformer", "text_encoder", "vae", "tokenizer"] {
        fs::create_dir_all(out.path().join(part))?;
        for entry in fs::read_dir(folder.join(part))? {
            let path = entry?.path();
            if path.is_file() {
                let bytes = fs::read(&path)?;
                let is_rounded = part.starts_with('t') && path.extension().is_some_and(|end| end == "safetensors");
                let bytes = if is_rounded { rounded(&bytes, dtype) } else { bytes };
                fs::write(out.path().join(part).join(path.file_name().expect("a file has a name")), bytes)?;
            }
        }
    }
    Ok(out)
}

/// Rounds the matrices of the layers in a safetensors file of bf16 tensors.
fn rounded(file: &[u8], dtype: DType) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).expect("a file of klein-mini");
    let rounded = tensors.tensors().into_iter().map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
        let values = tensor.data().chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
        let mut values: Vec<f32> = values.collect();
        let in_layer = name.contains("blocks.") || name.contains("layers.");
        if let ([_, cols], true) = (tensor.shape(), in_layer) {
            let (rows, width) = (values.len() / cols, cols.next_multiple_of(dtype.block_len()));
            let whole = |row: &[f32]| [row, &vec![0.0; width - cols]].concat();
            let whole: Vec<f32> = values.chunks_exact(*cols).flat_map(whole).collect();
            let rounded = encode(
                &HostTensor::from_f32([rows, width], &whole),
                dtype,
                &Threads::new(None).expect("threads can be started"),
            )
            .expect("whole blocks");
            for (i, row) in values.chunks_exact_mut(*cols).enumerate() {
                rounded.decode_row(i, 0, row);
            }
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name, tensor.shape().to_vec(), bytes)
    });
    let rounded: Vec<_> = rounded.collect();
    let views = rounded.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    safetensors::serialize(views, None).expect("names and shapes that were read")
}

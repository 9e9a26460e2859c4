//! The contents of a network's file: its header, and the bytes of every tensor in its new format and name.

use std::ops::Range;

use flux2_backend::host::BlockScales;
use flux2_backend::{DType, Format, HostTensor, Threads, encode};
use flux2_base::Part;
use flux2_base::digest::hex;

use super::{Conversion, ConvertProblem, is_gguf, refuse};
use crate::Result;
use crate::component::{Component, MappedWeights};
use crate::config::{LostValue, TextConfig, TransformerConfig, VaeConfig};
use crate::layout::{Dialect, Layout, Rule};
use crate::quantize::is_rounded;
use crate::tensor_file::NewTensor;
use crate::{WeightSource, gguf, safetensors};

/// Values that are decoded at a time, which bounds memory.
const PIECE: usize = 4 << 20;

/// A network to write.
pub(super) struct Network {
    weights: MappedWeights,
    pub(super) header: Vec<u8>,
    /// Alignment of each tensor in bytes, from the end of the header.
    alignment: usize,
    pub(super) tensors: Vec<Outgoing>,
    /// Matrices in the requested format.
    pub(super) rounded: usize,
    /// Matrices that keep their format, as their rows are not whole blocks.
    pub(super) left: usize,
}

/// A tensor of the file; an I8 matrix is followed by its scales.
pub(super) struct Outgoing {
    /// Rows of the canonical tensor it is made of, in this order; the second range is often empty.
    canonical: String,
    rows: [Range<usize>; 2],
    new: NewTensor,
    scales: Option<NewTensor>,
}

impl Network {
    /// `has_config`: a configuration is written beside it.
    pub(super) fn transformer(
        to: &Conversion,
        from: &Component<TransformerConfig>,
        layout: Layout,
        has_config: bool,
    ) -> Result<Self> {
        refuse_lost_value(Part::Transformer, from.config.lost_without_config().filter(|_| !has_config))?;
        let packed = is_gguf(to.format);
        // Other programs use this architecture for FLUX.1 and FLUX.2 and tell them apart by tensor names.
        let metadata = if packed { vec![("general.architecture", gguf::Value::from("flux"))] } else { vec![] };
        Self::new(to, from, Part::Transformer, layout, metadata)
    }

    pub(super) fn text_encoder(
        to: &Conversion,
        from: &Component<TextConfig>,
        layout: Layout,
        has_config: bool,
    ) -> Result<Self> {
        let c = &from.config;
        refuse_lost_value(Part::TextEncoder, c.lost_without_config().filter(|_| !has_config && !is_gguf(to.format)))?;
        let metadata = vec![
            ("general.architecture", gguf::Value::from("qwen3")),
            ("qwen3.block_count", c.used_layers().into()),
            ("qwen3.context_length", 40_960.into()),
            ("qwen3.embedding_length", c.hidden.into()),
            ("qwen3.feed_forward_length", c.intermediate.into()),
            ("qwen3.attention.head_count", c.heads.into()),
            ("qwen3.attention.head_count_kv", c.kv_heads.into()),
            ("qwen3.attention.key_length", c.head_dim.into()),
            ("qwen3.attention.value_length", c.head_dim.into()),
            ("qwen3.attention.layer_norm_rms_epsilon", gguf::Value::F32(c.rms_eps)),
            ("qwen3.rope.freq_base", gguf::Value::F32(c.rope_theta as f32)),
        ];
        Self::new(to, from, Part::TextEncoder, layout, if is_gguf(to.format) { metadata } else { vec![] })
    }

    pub(super) fn vae(to: &Conversion, from: &Component<VaeConfig>, dtype: DType) -> Result<Self> {
        match to.format {
            Format::Bf16 => {
                refuse_lost_value(Part::Vae, from.config.lost_without_config())?;
                Self::new(to, from, Part::Vae, Layout::Diffusers, vec![])
            }
            _ => refuse(ConvertProblem::Vae { format: dtype }),
        }
    }

    fn new<C>(
        to: &Conversion,
        from: &Component<C>,
        part: Part,
        layout: Layout,
        mut metadata: Vec<(&'static str, gguf::Value)>,
    ) -> Result<Self> {
        let dialect = Dialect::of(part, layout).expect("networks are written in layouts they have");
        let packed = is_gguf(to.format);
        let (mut rounded, mut left, mut tensors) = (0, 0, vec![]);
        for (name, shape, stored) in from.tensors() {
            let is_matrix = shape.len() == 2;
            let is_wanted = match part {
                Part::Vae => shape.len() > 1,
                _ => is_matrix && is_rounded(to.format, part, name),
            };
            let wanted = to.format.dtype().filter(|_| is_wanted);
            let fits = |dtype: &DType| shape[shape.len() - 1].is_multiple_of(dtype.block_len());
            let dtype = match wanted.filter(fits) {
                Some(dtype) => {
                    rounded += 1;
                    dtype
                }
                None => {
                    left += usize::from(wanted.is_some());
                    match stored {
                        // Vectors in GGUF files are f32, as other programs add to them in f32.
                        _ if !is_matrix && packed => DType::F32,
                        DType::F32 | DType::F16 | DType::Bf16 => stored,
                        _ if !is_matrix => DType::F32,
                        // Stored blocks stay; GGUF has no other packed format and no separate scales.
                        _ if packed && stored.block_len() > 1 && stored != DType::F4E2M1 => stored,
                        _ => DType::Bf16,
                    }
                }
            };
            tensors.extend(outgoing(&dialect, name, shape, dtype));
        }
        let news: Vec<NewTensor> =
            tensors.iter().flat_map(|t| [Some(&t.new), t.scales.as_ref()]).flatten().cloned().collect();
        let origin = [
            ("dj-flux2.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("dj-flux2.source", to.model.stem().unwrap_or_default()),
            ("dj-flux2.source_fingerprint", hex(&from.fingerprint()?)),
            ("dj-flux2.format", to.format.dtype().map_or(String::new(), |dtype| dtype.to_string())),
        ];
        let (header, alignment) = match packed {
            true => {
                metadata.push(("general.quantization_version", 2.into()));
                metadata.extend(origin.map(|(key, value)| (key, gguf::Value::Text(value))));
                (gguf::header(&news, &metadata), gguf::ALIGNMENT as usize)
            }
            false => {
                let format = [("format", "pt".to_owned())];
                (safetensors::header(&news, &[&format[..], &origin].concat()), 1)
            }
        };
        Ok(Network { weights: from.map()?, header, alignment, tensors, rounded, left })
    }

    /// Length of the whole file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.header.len() + self.tensors.iter().map(|t| self.size(t)).sum::<usize>()) as u64
    }

    /// Bytes of a tensor, its scales and the padding behind them.
    pub(super) fn size(&self, tensor: &Outgoing) -> usize {
        let scales = tensor.scales.as_ref().map_or(0, NewTensor::bytes);
        (tensor.new.bytes() + scales).next_multiple_of(self.alignment)
    }

    /// Passes the bytes that [`size`](Self::size) counts to `each`, in pieces.
    pub(super) fn encode(
        &self,
        tensor: &Outgoing,
        threads: &Threads,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Outgoing { canonical, rows, new, scales } = tensor;
        let host = self.weights.tensor(canonical)?;
        let (mut all_scales, mut written) = (vec![], 0);
        let mut put = |bytes: &[u8]| {
            written += bytes.len();
            each(bytes)
        };
        if host.shape().len() == 2 {
            let at_once = (PIECE / host.shape()[1].max(1)).max(1);
            for range in rows {
                for from in range.clone().step_by(at_once) {
                    let piece = host.slice_rows(from..(from + at_once).min(range.end))?;
                    let piece = in_dtype(&piece, new.dtype, threads)?;
                    all_scales.extend(piece.scales().into_iter().flat_map(|s| s.values.iter()));
                    put(piece.bytes())?;
                }
            }
        } else {
            put(in_dtype(&host, new.dtype, threads)?.bytes())?;
        }
        if scales.is_some() {
            put(&all_scales.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        host.bytes().release_pages();
        if written != new.bytes() + scales.as_ref().map_or(0, NewTensor::bytes) {
            // The header promises another length: every tensor behind this one would be read from the wrong offset.
            let (dtype, shape) = (new.dtype, new.shape.clone());
            return Err(flux2_backend::Error::ByteCount { bytes: written, dtype, shape }.into());
        }
        each(&vec![0; self.size(tensor) - written])
    }
}

fn refuse_lost_value(part: Part, lost: Option<LostValue>) -> Result<()> {
    match lost {
        None => Ok(()),
        Some(LostValue { key, found, default }) => refuse(ConvertProblem::LostValue { part, key, found, default }),
    }
}

/// Rows of a matrix, or another tensor, in another dtype.
fn in_dtype(host: &HostTensor, dtype: DType, threads: &Threads) -> Result<HostTensor> {
    // I8 matrices are written with one scale for each row.
    let is_told = |scales: &BlockScales| dtype == DType::I8 && scales.values.len() == host.shape()[0];
    if host.dtype() == dtype && host.scales().is_none_or(is_told) {
        return Ok(host.clone());
    }
    match dtype {
        DType::I8 if host.dtype() == dtype => {
            Ok(encode(&HostTensor::from_f32(host.shape(), &host.to_f32()), dtype, threads)?)
        }
        DType::F32 => Ok(HostTensor::from_f32(host.shape(), &host.to_f32())),
        _ => {
            let rows = host.clone();
            let rows = if host.shape().len() == 2 { rows } else { rows.reshape([1, host.len()]) };
            Ok(encode(&rows, dtype, threads)?)
        }
    }
}

/// How `dialect` stores a canonical tensor: the inverse of reading it.
fn outgoing(dialect: &Dialect, canonical: &str, shape: &[usize], dtype: DType) -> Vec<Outgoing> {
    let (rule, names) = dialect.find(canonical);
    let rows = shape[0];
    let run = |from: usize, to: usize| [from..to, to..to];
    let parts = match rule {
        Rule::Same(..) | Rule::Flatten(..) => vec![run(0, rows)],
        Rule::ConcatRows(_, names) => (0..names.len()).map(|i| run(i * rows / 3, (i + 1) * rows / 3)).collect(),
        Rule::SwapHalves(..) => vec![[rows / 2..rows, 0..rows / 2]],
    };
    let new = |(name, rows): (String, [Range<usize>; 2])| {
        let mut shape = shape.to_vec();
        shape[0] = rows.iter().map(ExactSizeIterator::len).sum();
        let scales = (dtype == DType::I8).then(|| NewTensor {
            name: format!("{}_scale", name),
            dtype: DType::F32,
            shape: vec![shape[0]],
        });
        Outgoing { canonical: canonical.to_owned(), rows, new: NewTensor { name, dtype, shape }, scales }
    };
    names.into_iter().zip(parts).map(new).collect()
}

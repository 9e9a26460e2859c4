//! Blocks and the whole pass against golden tensors; mistakes in reading the weights must change the result.

use std::path::Path;

use flux2_backend::{CpuBackend, HostTensor, Runtime as _};

use super::*;
use crate::golden::{Golden, assert_absolute, assert_relative, f32_backend, fixture};
use crate::latents::PositionId;
use crate::weights::{Component, MappedWeights};

/// The tiny transformer and the noise level, text and ids of the golden pass.
fn golden() -> (Golden, FlowTransformer<CpuBackend>, Modulations<CpuBackend>, Rope<CpuBackend>) {
    let golden = Golden::open("seams");
    let part = Component::<TransformerConfig>::open(Path::new(&fixture("tiny/klein/transformer"))).unwrap();
    let model = FlowTransformer::load(&f32_backend(), &part.config, &part.map().unwrap()).unwrap();
    let modulations = Modulations::new(&rows(&model, &golden).0);
    let ids: Vec<PositionId> =
        golden.values("rope.ids").chunks_exact(4).map(|id| [0, 1, 2, 3].map(|i| id[i] as u32)).collect();
    let rope = model.rope(&ids).unwrap();
    (golden, model, modulations, rope)
}

/// The modulations at the noise level of the golden pass.
fn rows(model: &FlowTransformer<CpuBackend>, golden: &Golden) -> ModulationRows<CpuBackend> {
    model.modulations(&golden.values("timestep")).unwrap().remove(0)
}

/// A pass of one picture.
fn pass<'a>(model: &'a FlowTransformer<CpuBackend>, m: &'a Modulations<CpuBackend>) -> Pass<'a, CpuBackend> {
    model.pass(m, 1, Batching::SameBytes)
}

fn upload(be: &CpuBackend, golden: &Golden, name: &str) -> Tensor<CpuBackend> {
    be.upload(&golden.shape(name), &golden.values(name)).unwrap()
}

#[test]
fn rope_matches_the_reference() {
    let (golden, model, _, rope) = golden();
    for (name, table) in [("rope.cos", &rope.cos), ("rope.sin", &rope.sin)] {
        // The reference holds every value twice, once for each channel of a pair.
        let expected: Vec<f32> = golden.values(name).into_iter().step_by(2).collect();
        assert_absolute(name, &model.be.download(table).unwrap(), &expected, 2e-6);
    }
}

#[test]
fn time_embedding_matches_the_reference() {
    let (golden, model, ..) = golden();
    let sigma = golden.values("timestep")[0];
    let waves = timestep_embedding(sigma, model.config.time_channels);
    assert_absolute("sinusoid", &waves, &golden.values("time_embedding.sinusoid"), 2e-6);
}

#[test]
fn modulations_are_shift_scale_gate() {
    let (golden, model, m, _) = golden();
    let be = &model.be;
    let row = |parts: &[&Modulation<CpuBackend>]| -> Vec<f32> {
        parts.iter().flat_map(|m| [&m.shift, &m.scale, &m.gate]).flat_map(|t| be.download(t).unwrap()).collect()
    };
    for (name, got) in [
        ("double_block_0.mod_img", row(&[&m.img[0], &m.img[1]])),
        ("double_block_0.mod_txt", row(&[&m.txt[0], &m.txt[1]])),
        ("single_block_0.mod", row(&[&m.single])),
    ] {
        assert_relative(name, &got, &golden.values(name), 2e-6);
    }
}

#[test]
fn final_layer_reads_shift_before_scale() {
    let (golden, model, m, _) = golden();
    // The golden row is in the order of diffusers: scale, then shift.
    let expected = golden.values("output_head.mod");
    let (scale, shift) = expected.split_at(expected.len() / 2);
    assert_relative("shift", &model.be.download(&m.final_shift).unwrap(), shift, 2e-6);
    assert_relative("scale", &model.be.download(&m.final_scale).unwrap(), scale, 2e-6);
    let out = model.head(&pass(&model, &m), &upload(&model.be, &golden, "output_head.in")).unwrap();
    assert_relative("head", &model.be.download(&out).unwrap(), &golden.values("output_head.out"), 2e-6);
}

#[test]
fn double_block_matches_the_reference() {
    let (golden, model, m, rope) = golden();
    let be = &model.be;
    let mut text = upload(be, &golden, "double_block_0.in_txt");
    let mut image = upload(be, &golden, "double_block_0.in_img");
    let pass = pass(&model, &m);
    let ropes = Ropes::new(&pass, &rope.cos, &rope.sin, text.rows()).unwrap();
    model.double_blocks[0].forward(&pass, &ropes, [&mut text, &mut image], &[]).unwrap();
    assert_relative("text", &be.download(&text).unwrap(), &golden.values("double_block_0.out_txt"), 1e-6);
    assert_relative("image", &be.download(&image).unwrap(), &golden.values("double_block_0.out_img"), 1e-6);
}

#[test]
fn single_block_matches_the_reference() {
    let (golden, model, m, rope) = golden();
    let be = &model.be;
    let mut x = upload(be, &golden, "single_block_0.in");
    let n_txt = golden.shape("double_block_0.in_txt")[0];
    let pass = pass(&model, &m);
    let ropes = Ropes::new(&pass, &rope.cos, &rope.sin, n_txt).unwrap();
    model.single_blocks[0].forward(&pass, &ropes, &mut x, &[]).unwrap();
    assert_relative("stream", &be.download(&x).unwrap(), &golden.values("single_block_0.out"), 1e-6);
}

#[test]
fn one_pass_matches_the_reference() {
    let (golden, model, ..) = golden();
    let (be, m) = (&model.be, rows(&model, &golden));
    let none = References::Tokens(&[], &[]);
    let text = upload(be, &golden, "text_embedding");
    let conditioning = model.condition(&text, [4, 6], &none).unwrap();
    let latents = upload(be, &golden, "transformer.in");
    let velocity = model.forward(&latents, &conditioning, &m, &mut || Ok(())).unwrap();
    assert_relative("velocity", &be.download(&velocity).unwrap(), &golden.values("transformer.out"), 3e-6);
}

/// Pictures in one pass attend each to itself, so that one that is not finite does not reach another.
#[test]
fn pictures_of_a_pass_do_not_see_each_other() {
    let (golden, model, ..) = golden();
    let (be, m) = (&model.be, rows(&model, &golden));
    let (text, latents) = (upload(be, &golden, "text_embedding"), upload(be, &golden, "transformer.in"));
    let (n, c) = (latents.rows(), latents.cols());
    let conditioning = model.condition(&text, [4, 6], &References::Tokens(&[], &[])).unwrap();
    let alone = be.download(&model.forward(&latents, &conditioning, &m, &mut || Ok(())).unwrap()).unwrap();
    let nan = be.upload(&[n, c], &vec![f32::NAN; n * c]).unwrap();
    for batching in [Batching::SameBytes, Batching::Fast] {
        let joined = model.join(&[conditioning.clone(), conditioning.clone(), conditioning.clone()], batching).unwrap();
        let all = ops::concat_rows(be, &[&latents, &nan, &latents]).unwrap();
        let all = be.download(&model.forward(&all, &joined, &m, &mut || Ok(())).unwrap()).unwrap();
        assert!(all[..n * c] == alone && all[2 * n * c..] == alone, "{batching:?}");
        assert!(all[n * c..2 * n * c].iter().all(|v| v.is_nan()), "{batching:?}");
    }
}

/// Weights changed by a function of name and tensor.
struct Tampered<F>(MappedWeights, F);

impl<F: Fn(&str, HostTensor) -> HostTensor> WeightSource for Tampered<F> {
    fn tensor(&self, name: &str) -> crate::weights::Result<HostTensor> {
        Ok((self.1)(name, self.0.tensor(name)?))
    }
}

/// Relative L2 distance of the golden velocity if the weights are read with `mistake`.
fn moved_by(mistake: impl Fn(&str, HostTensor) -> HostTensor) -> f64 {
    let golden = Golden::open("seams");
    let part = Component::<TransformerConfig>::open(Path::new(&fixture("tiny/klein/transformer"))).unwrap();
    let weights = Tampered(part.map().unwrap(), mistake);
    let model = FlowTransformer::load(&f32_backend(), &part.config, &weights).unwrap();
    let none = References::Tokens(&[], &[]);
    let text = upload(&model.be, &golden, "text_embedding");
    let conditioning = model.condition(&text, [4, 6], &none).unwrap();
    let m = rows(&model, &golden);
    let latents = upload(&model.be, &golden, "transformer.in");
    let got = model.forward(&latents, &conditioning, &m, &mut || Ok(())).unwrap();
    let (got, expected) = (model.be.download(&got).unwrap(), golden.values("transformer.out"));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(&expected).map(|(g, e)| g - e)) / norm(&mut expected.iter().copied())
}

/// A matrix with the rows `first` and `second` exchanged.
fn swap_rows(matrix: &HostTensor, first: std::ops::Range<usize>, second: std::ops::Range<usize>) -> HostTensor {
    let (mut values, cols) = (matrix.to_f32(), matrix.shape()[1]);
    for (a, b) in first.zip(second) {
        (0..cols).for_each(|c| values.swap(a * cols + c, b * cols + c));
    }
    HostTensor::from_f32(matrix.shape(), &values)
}

#[test]
fn weights_as_they_are_move_nothing() {
    assert!(moved_by(|_, tensor| tensor) < 3e-6);
}

#[test]
fn swiglu_gate_is_the_first_half() {
    let double = |name: &str, t: HostTensor| match name.ends_with(".mlp_in") {
        true => swap_rows(&t, 0..t.shape()[0] / 2, t.shape()[0] / 2..t.shape()[0]),
        false => t,
    };
    assert!(moved_by(double) > 1e-2);
    let single = |name: &str, t: HostTensor| match name.ends_with(".qkv_mlp") {
        true => {
            let (rows, hidden) = (t.shape()[0], t.shape()[1]);
            let mlp = (rows - 3 * hidden) / 2;
            swap_rows(&t, 3 * hidden..rows - mlp, rows - mlp..rows)
        }
        false => t,
    };
    assert!(moved_by(single) > 1e-2);
}

#[test]
fn single_block_output_reads_attention_before_mlp() {
    let mlp_first = |name: &str, t: HostTensor| match name.starts_with("single.") && name.ends_with(".out") {
        true => {
            let hidden = t.shape()[0];
            let mut values = t.to_f32();
            values.chunks_exact_mut(t.shape()[1]).for_each(|row| row.rotate_left(hidden));
            HostTensor::from_f32(t.shape(), &values)
        }
        false => t,
    };
    assert!(moved_by(mlp_first) > 1e-2);
}

#[test]
fn q_and_k_norms_have_learned_scales() {
    let ones = |name: &str, t: HostTensor| match name.ends_with("_norm") {
        true => HostTensor::from_f32(t.shape(), &vec![1.0; t.len()]),
        false => t,
    };
    assert!(moved_by(ones) > 1e-3);
}

#[test]
fn blocks_have_no_modulation_and_no_layer_norm_of_their_own() {
    let config = Component::<TransformerConfig>::open(Path::new(&fixture("tiny/klein/transformer"))).unwrap().config;
    let own = |name: &str| name.starts_with("double.") || name.starts_with("single.");
    let parts = ["qkv", "proj", "mlp_in", "mlp_out", "qkv_mlp", "out", "q_norm", "k_norm"];
    for (name, _) in config.expected_tensors().iter().filter(|(name, _)| own(name)) {
        assert!(parts.contains(&name.rsplit('.').next().unwrap()), "{name}");
    }
}

#[test]
fn text_tokens_come_before_image_tokens() {
    let golden = Golden::open("seams");
    let mut ids = crate::latents::text_ids(48);
    ids.extend(crate::latents::image_ids(4, 6));
    let ids: Vec<f32> = ids.iter().flatten().map(|id| *id as f32).collect();
    assert_eq!(ids, golden.values("rope.ids"));
}

//! The weights that are read against softmax in f64, and against what the model computes with them.

use std::path::Path;

use flux2_backend::{CpuBackend, Runtime as _};

use super::*;
use crate::golden::{Golden, f32_backend, fixture};
use crate::models::flow_transformer::{FlowTransformer, References};
use crate::weights::Component;

/// Weights of all heads for query `i`: `[heads][keys]`.
fn weights(q: &[f32], k: &[f32], i: usize, heads: usize, head_dim: usize) -> Vec<Vec<f64>> {
    let hidden = heads * head_dim;
    let of_head = |head: usize| {
        let row = |x: &[f32], row: usize| x[row * hidden + head * head_dim..][..head_dim].to_vec();
        let query = row(q, i);
        let scores: Vec<f64> = (0..k.len() / hidden)
            .map(|j| {
                let dot = query.iter().zip(row(k, j)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum::<f64>();
                dot / (head_dim as f64).sqrt()
            })
            .collect();
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        scores.iter().map(|score| score.exp() / total).collect()
    };
    (0..heads).map(of_head).collect()
}

/// The tiny transformer, and a conditioning of 48 text tokens for an image of 4x6 tokens with an image of 2x3.
fn check(is_cached: bool) {
    let golden = Golden::open("seams");
    let part = Component::<TransformerConfig>::open(Path::new(&fixture("tiny/klein/transformer"))).unwrap();
    let (be, config) = (f32_backend(), part.config.clone());
    let model = FlowTransformer::load(&be, &config, &part.map().unwrap()).unwrap();
    let upload = |name: &str| be.upload(&golden.shape(name), &golden.values(name)).unwrap();
    let ids = crate::latents::reference_ids(0, 2, 3);
    let tokens: Vec<f32> = (0..6 * config.in_channels).map(|i| (i as f32 * 0.37).sin()).collect();
    let references = match is_cached {
        true => References::Cached(model.reference_cache(&tokens, &ids, &mut || Ok(())).unwrap().into()),
        false => References::Tokens(&tokens, &ids),
    };
    let conditioning = model.condition(&upload("text_embedding"), [4, 6], &references).unwrap();
    let modulation = model.modulations(&golden.values("timestep")).unwrap().remove(0);
    let latents = upload("transformer.in");

    let keys = Keys { valid: 9, text: 48, grid: [4, 6], images: vec![6], cached: is_cached };
    let chosen = Blocks::These(vec![BlockName::Double(0), BlockName::Single(1)]);
    let mut reader = Reader::new(&be, &config, &chosen, keys).unwrap().unwrap();
    let (heads, head_dim) = (config.heads, config.head_dim);
    let mut expected: Vec<Vec<f64>> = Vec::new();
    let mut blocks = 0;
    let mut watch = |block: usize, operands: &AttentionInput<CpuBackend>| -> Result<()> {
        blocks += 1;
        if !reader.reads(block) {
            return Ok(());
        }
        reader.read(operands)?;
        let [q, k, v] = [operands.q, operands.k, operands.v].map(|x| be.download(x).unwrap());
        let attended: Vec<f32> = be.download(&ops::attention(&be, operands)?)?;
        for i in 0..24 {
            let weights = weights(&q, &k, 48 + i, heads, head_dim);
            // The model's own result is these weights times the values.
            for (head, weights) in weights.iter().enumerate() {
                for channel in 0..head_dim {
                    let column = head * head_dim + channel;
                    let values = v.iter().skip(column).step_by(heads * head_dim).copied().map(f64::from);
                    let sum: f64 = weights.iter().zip(values).map(|(weight, value)| weight * value).sum();
                    let own = f64::from(attended[(48 + i) * heads * head_dim + column]);
                    assert!((sum - own).abs() < 2e-6, "token {i}, column {column}: {own}, expected {sum}");
                }
            }
            let mean = |rows: Range<usize>| -> f64 {
                weights.iter().map(|weights| weights[rows.clone()].iter().sum::<f64>()).sum::<f64>() / heads as f64
            };
            let (picture, image) = if is_cached { (54..78, 48..54) } else { (48..72, 72..78) };
            let columns = (0..9).map(|j| j..j + 1).chain([9..48, picture, image]);
            expected.push(columns.map(mean).collect());
        }
        Ok(())
    };
    let watched = model.forward_watched(&latents, &conditioning, &modulation, &mut watch, &mut || Ok(())).unwrap();
    assert_eq!(blocks, config.double_blocks + config.single_blocks);
    let plain = model.forward(&latents, &conditioning, &modulation, &mut || Ok(())).unwrap();
    assert_eq!(be.download(&watched).unwrap(), be.download(&plain).unwrap(), "watching changes nothing");

    reader.end_step();
    let attention = reader.finish();
    assert_eq!(attention.blocks, ["double.0", "single.1"]);
    let tokens = (0..9).map(Attended::Token);
    let all: Vec<_> = tokens.chain([Attended::Padding, Attended::Picture, Attended::Image(1)]).collect();
    assert_eq!(attention.attended, all);
    let step = &attention.steps[0];
    for i in 0..24 {
        for (column, map) in step.maps.iter().enumerate() {
            let mean = (expected[i][column] + expected[24 + i][column]) / 2.0;
            // Sums of f32 in the op; weights are at most 1.
            assert!((f64::from(map[i]) - mean).abs() < 1e-6, "token {i}, column {column}: {}, expected {mean}", map[i]);
        }
        let sum: f32 = step.maps.iter().map(|map| map[i]).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
    for (column, share) in step.shares.iter().enumerate() {
        let mean = |block: usize| (0..24).map(|i| expected[24 * block + i][column]).sum::<f64>() / 24.0;
        let of_block = |block: usize| f64::from(step.block_shares[block][column]);
        assert!((of_block(0) - mean(0)).abs() < 1e-6 && (of_block(1) - mean(1)).abs() < 1e-6, "column {column}");
        assert!((f64::from(*share) - (mean(0) + mean(1)) / 2.0).abs() < 1e-6, "column {column}");
    }
}

#[test]
fn weights_are_those_of_a_softmax_in_f64() {
    check(false);
}

#[test]
fn keys_of_cached_images_come_before_those_of_the_picture() {
    check(true);
}

#[test]
fn a_block_that_is_not_there_is_named() {
    let part = Component::<TransformerConfig>::open(Path::new(&fixture("tiny/klein/transformer"))).unwrap();
    let keys = Keys { valid: 1, text: 1, grid: [1, 1], images: vec![], cached: false };
    let new = |blocks: &str| {
        let blocks = Blocks::These(vec![blocks.parse().unwrap()]);
        Reader::new(&f32_backend(), &part.config, &blocks, keys.clone()).map(|reader| reader.is_some())
    };
    assert!(new("double.0").unwrap());
    let error = new("single.99").unwrap_err();
    assert!(error.to_string().starts_with("the model has no block single.99: it has "), "{error}");
    for wrong in ["double", "double.", "double.-1", "triple.0", ""] {
        assert!(wrong.parse::<BlockName>().is_err(), "{wrong}");
    }
    assert!(Reader::new(&f32_backend(), &part.config, &Blocks::None, keys).unwrap().is_none());
}

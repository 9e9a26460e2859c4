use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::any_file::file_of_zeros;

fn open(path: &Path) -> Result<PreviewDecoderFile> {
    PreviewDecoderFile::open(&Location::from(path))
}

const SMALL: PreviewDecoderConfig = PreviewDecoderConfig { latent_channels: 8, features: 4, pool: Some(8) };

fn renamed(config: PreviewDecoderConfig, name: impl Fn(&str) -> String) -> Vec<(String, Vec<usize>)> {
    config.expected_tensors().into_iter().map(|(old, shape)| (name(&old), shape)).collect()
}

fn of_diffusers(name: &str) -> String {
    let (number, rest) = name.split_once('.').unwrap();
    format!("decoder.layers.{}.{rest}", number.parse::<usize>().unwrap() - 1)
}

#[test]
fn the_published_decoder_has_the_published_number_of_tensors_and_parameters() {
    let taef2 = PreviewDecoderConfig { latent_channels: 32, features: 64, pool: Some(256) }.expected_tensors();
    let parameters: usize = taef2.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!((taef2.len(), parameters), (79, 1_338_499));
}

#[test]
fn every_scheme_of_names_is_the_same_network() {
    let folder = TempDir::new().unwrap();
    for config in [SMALL, PreviewDecoderConfig { pool: None, ..SMALL }] {
        let encoder = vec![("encoder.0.weight".to_owned(), vec![4, 3, 3, 3])];
        let schemes = [
            renamed(config, str::to_owned),
            [renamed(config, |name| format!("decoder.{name}")), encoder.clone()].concat(),
            [renamed(config, of_diffusers), encoder].concat(),
        ];
        for (i, tensors) in schemes.iter().enumerate() {
            let file = open(&file_of_zeros(&folder, "a.safetensors", tensors)).unwrap();
            assert_eq!(file.config, config, "{i}");
            for (tensor, shape) in config.expected_tensors() {
                assert_eq!(file.tensor(&tensor).unwrap().shape(), shape, "{i}: {tensor}");
            }
        }
    }
}

#[test]
fn what_is_no_decoder_is_named() {
    let folder = TempDir::new().unwrap();
    let problem = |tensors: &[(String, Vec<usize>)]| match open(&file_of_zeros(&folder, "a.safetensors", tensors)) {
        Err(Error::PreviewDecoder { problem, .. }) => problem.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(problem(&[("x".into(), vec![1])]).contains("no decoder for previews"));
    assert!(problem(&[]).contains("no decoder for previews"));
    let encoder = ["0.weight", "1.conv.0.weight", "14.weight"].map(|name| (name.to_owned(), vec![4, 4, 3, 3]));
    assert!(problem(&encoder).contains("the encoder"));
    let wide = PreviewDecoderConfig { pool: Some(6), ..SMALL };
    assert!(problem(&renamed(wide, str::to_owned)).contains("6 channels"));
    let flat = renamed(SMALL, str::to_owned).into_iter().map(|(name, shape)| match name.as_str() {
        "1.weight" => (name, vec![4, 8]),
        _ => (name, shape),
    });
    assert!(problem(&flat.collect::<Vec<_>>()).contains("no decoder for previews"));
}

#[test]
fn every_tensor_is_used_or_named() {
    let folder = TempDir::new().unwrap();
    let mismatch = |tensors: &[(String, Vec<usize>)]| match open(&file_of_zeros(&folder, "a.safetensors", tensors)) {
        Err(error @ Error::Tensors { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let all = renamed(SMALL, str::to_owned);
    let without = |name: &str| all.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
    assert!(mismatch(&without("18.conv.4.bias")).contains("1 missing:\n  `18.conv.4.bias`"));
    // Pools are in all of the first three blocks, or in none.
    assert!(mismatch(&without("4.pool.1.weight")).contains("`4.pool.1.weight`"));
    let more = [all.clone(), vec![("7.bias".into(), vec![4])]].concat();
    assert!(mismatch(&more).contains("1 not used:\n  `7.bias`"));
    let mut shape = all;
    shape[1].1 = vec![5];
    assert!(mismatch(&shape).contains("is [5], expected [4]"));
}

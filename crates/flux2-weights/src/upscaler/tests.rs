use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::any_file::file_of_zeros;

fn open(path: &Path) -> Result<UpscalerFile> {
    UpscalerFile::open(&Location::from(path))
}

const RRDB: RrdbConfig = RrdbConfig { blocks: 2, features: 8, growth: 4, unshuffle: 1, stages: 2 };

fn tensors(config: RrdbConfig) -> Vec<(String, Vec<usize>)> {
    UpscalerConfig::Rrdb(config).expected_tensors()
}

/// Names of the first ESRGAN.
fn first_names(config: RrdbConfig) -> Vec<(String, Vec<usize>)> {
    let last = 3 * config.stages + 4;
    let rename = |name: &str| {
        let (layer, kind) = name.rsplit_once('.').unwrap();
        let layer = match layer {
            "conv_first" => "model.0".into(),
            "conv_body" => format!("model.1.sub.{}", config.blocks),
            "conv_hr" => format!("model.{}", last - 2),
            "conv_last" => format!("model.{last}"),
            _ => match layer.strip_prefix("conv_up") {
                Some(stage) => format!("model.{}", 3 * stage.parse::<usize>().unwrap()),
                None => format!("model.1.sub.{}.0", layer.strip_prefix("body.").unwrap().replace("rdb", "RDB")),
            },
        };
        format!("{layer}.{kind}")
    };
    tensors(config).into_iter().map(|(name, shape)| (rename(&name), shape)).collect()
}

/// Names of BSRGAN.
fn bsrgan_names(config: RrdbConfig) -> Vec<(String, Vec<usize>)> {
    let rename = |name: &str| {
        let name = name.replace("conv_body", "trunk_conv").replace("conv_hr", "HRconv").replace("conv_up", "upconv");
        match name.strip_prefix("body.") {
            Some(rest) => format!("RRDB_trunk.{}", rest.replace("rdb", "RDB")),
            None => name,
        }
    };
    tensors(config).into_iter().map(|(name, shape)| (rename(&name), shape)).collect()
}

#[test]
fn every_scheme_of_names_is_the_same_network() {
    let folder = TempDir::new().unwrap();
    for stages in 0..=3 {
        let config = RrdbConfig { stages, ..RRDB };
        let with_prefix =
            |prefix: &str| tensors(config).into_iter().map(|(n, s)| (format!("{prefix}{n}"), s)).collect();
        let schemes: [(&str, Vec<_>); 5] = [
            ("new", tensors(config)),
            ("first", first_names(config)),
            ("bsrgan", bsrgan_names(config)),
            ("module", with_prefix("module.")),
            ("netG", with_prefix("netG.")),
        ];
        for (name, tensors) in schemes {
            let file = open(&file_of_zeros(&folder, &format!("{name}.safetensors"), &tensors)).unwrap();
            assert_eq!(file.config, UpscalerConfig::Rrdb(config), "{name}");
            assert_eq!(file.config.scale(), 1 << stages);
            for (tensor, shape) in file.config.expected_tensors() {
                assert_eq!(file.tensor(&tensor).unwrap().shape(), shape, "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn published_sizes_have_the_published_numbers_of_parameters() {
    let parameters = |config: UpscalerConfig| {
        config.expected_tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>()
    };
    let rrdb =
        |blocks, unshuffle| UpscalerConfig::Rrdb(RrdbConfig { blocks, features: 64, growth: 32, unshuffle, stages: 2 });
    let srvgg = |convolutions| UpscalerConfig::Srvgg(SrvggConfig { convolutions, features: 64, scale: 4 });
    assert_eq!(parameters(rrdb(23, 1)), 16_697_987);
    assert_eq!(parameters(rrdb(6, 1)), 4_467_779);
    assert_eq!(parameters(rrdb(23, 2)), 16_703_171);
    assert_eq!([parameters(srvgg(16)), parameters(srvgg(32))], [621_424, 1_213_296]);
    assert_eq!([rrdb(23, 1), rrdb(23, 2), rrdb(6, 4)].map(|config| config.scale()), [4, 2, 1]);
    assert_eq!([rrdb(23, 1), rrdb(6, 1), rrdb(23, 2), srvgg(16)].map(|c| c.radius()), [349, 94, 698, 18]);
}

#[test]
fn what_is_not_supported_is_named() {
    let folder = TempDir::new().unwrap();
    let problem = |file: &str, tensors: &[(String, Vec<usize>)]| match open(&file_of_zeros(&folder, file, tensors)) {
        Err(Error::Upscaler { problem, .. }) => problem.to_string(),
        other => panic!("{file}: {other:?}"),
    };
    let with = |name: &str, shape: Vec<usize>| [tensors(RRDB), vec![(name.to_owned(), shape)]].concat();
    assert!(problem("a.safetensors", &with("body.0.rdb1.conv1x1.weight", vec![4, 8, 1, 1])).contains("ESRGAN+"));
    assert!(problem("a.safetensors", &with("body.0.norm.weight", vec![8])).contains("norms"));
    let gray = |name: &str, shape: [usize; 4]| -> Vec<_> {
        tensors(RRDB).into_iter().map(|(n, s)| if n == name { (n, shape.to_vec()) } else { (n, s) }).collect()
    };
    let found = problem("a.safetensors", &gray("conv_first.weight", [8, 1, 3, 3]));
    assert!(found.contains("from 1 to 3 channels"), "{found}");
    let found = problem("a.safetensors", &gray("conv_last.weight", [1, 8, 3, 3]));
    assert!(found.contains("from 3 to 1 channels"), "{found}");
    let once = RrdbConfig { stages: 1, ..RRDB };
    assert!(problem("3x_Model.safetensors", &first_names(once)).contains("3x by its name"));
    assert!(problem("a.safetensors", &[("x".into(), vec![1])]).starts_with("no upscaler that is known"));
    // An empty file, and one of too many blocks.
    assert!(problem("a.safetensors", &[]).starts_with("no upscaler that is known"));
    let far = [tensors(RRDB), vec![("body.999999.rdb1.conv1.weight".into(), vec![4, 8, 3, 3])]].concat();
    assert!(problem("a.safetensors", &far).contains("1000000 blocks"));
}

#[test]
fn every_tensor_is_used_or_named() {
    let folder = TempDir::new().unwrap();
    let mismatch = |tensors: &[(String, Vec<usize>)]| match open(&file_of_zeros(&folder, "a.safetensors", tensors)) {
        Err(error @ Error::Tensors { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let mut missing = tensors(RRDB);
    missing.retain(|(name, _)| name != "conv_hr.bias");
    assert!(mismatch(&missing).contains("1 missing:\n  `conv_hr.bias`"));
    let left = [tensors(RRDB), vec![("conv_extra.weight".into(), vec![1])]].concat();
    assert!(mismatch(&left).contains("1 not used:\n  `conv_extra.weight`"));
    // Two stored names of one layer.
    let twice = [first_names(RRDB), vec![("model.1.sub.9.weight".into(), vec![8, 8, 3, 3])]].concat();
    assert!(mismatch(&twice).contains("1 not used"));
    let mut shape = tensors(RRDB);
    shape[3].1 = vec![7];
    assert!(mismatch(&shape).contains("is [7], expected [4]"));
}

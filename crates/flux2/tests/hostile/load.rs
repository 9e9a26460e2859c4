//! Replaces files of the tiny model and opens them with the loader in charge. Shared with the targets of `fuzz/`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::canvas::{Outpaint, Rule, Side};
use flux2::image;
use flux2::marks::Found;
use flux2::text::Tokenizer;
use flux2::weights::{
    Component, Lora, LoraPath, ModelFiles, ModelPaths, PreviewDecoderFile, TextConfig, TransformerConfig, UpscalerFile,
    VaeConfig, WeightSource, WithLoras,
};
use flux2::{Result, Source, SourceOptions};
use tempfile::TempDir;

use super::corpus::Kind;

/// The tiny model, in a folder where its files can be replaced.
pub struct Model {
    temp: TempDir,
}

impl Model {
    /// Copies the tiny model from the repository's `fixtures`.
    pub fn new(fixtures: &Path) -> Self {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
                if from.is_dir() { copy(&from, &to) } else { fs::write(to, fs::read(from).unwrap()).unwrap() }
            }
        }
        let temp = TempDir::new().unwrap();
        copy(&fixtures.join("tiny/klein"), temp.path());
        fs::create_dir(temp.path().join("adapter")).unwrap();
        fs::copy(fixtures.join("tiny/lora.safetensors"), temp.path().join("adapter/adapter_model.safetensors"))
            .unwrap();
        Model { temp }
    }

    pub fn path(&self, place: &str) -> PathBuf {
        self.temp.path().join(place)
    }

    /// Runs `use_it` while the file at `place` consists of `bytes`; returns its result.
    pub fn with<T>(&self, place: &str, bytes: &[u8], use_it: impl FnOnce() -> T) -> T {
        let path = self.path(place);
        let whole = fs::read(&path).ok();
        fs::write(&path, bytes).unwrap();
        let result = use_it();
        match whole {
            Some(whole) => fs::write(&path, whole).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        result
    }
}

/// The result of a loader, before its values are read.
pub enum Opened {
    Transformer(Component<TransformerConfig>),
    TextEncoder(Component<TextConfig>),
    Vae(Component<VaeConfig>),
    Model(Box<ModelFiles>),
    Tokenizer(Tokenizer),
    Picture,
    Upscaler(UpscalerFile),
}

/// A source of 100x75 pixels, in the smallest file.
fn wide() -> Vec<u8> {
    let image = image::RgbImage::new(100, 75, vec![90; 3 * 100 * 75]).unwrap();
    image::encode(&image, image::ImageFormat::Png, None).unwrap()
}

/// Paints black into a source.
fn paint(source: &[u8], mask: &[u8], rule: Rule) -> Result<()> {
    let outpaint = Outpaint::new([Side::Px(7), Side::Percent(10.0), Side::Px(0), Side::Px(1)]);
    let options = match rule {
        Rule::Own => {
            SourceOptions { mask_grow: 40, outpaint: Some(outpaint), area: Some(64 * 64), ..Default::default() }
        }
        Rule::Diffusers => SourceOptions { mask_invert: true, rule, ..Default::default() },
    };
    Source::reading_bytes_of(source, "source", Some((mask, "mask")), &options)?;
    let placed = Source::from_bytes(source, "source", Some((mask, "mask")), options)?.place(1024 * 1024);
    placed.work()?;
    let [width, height] = placed.region().drawn;
    let black = image::RgbImage::new(width, height, vec![0; 3 * width as usize * height as usize])?;
    placed.paste(black).map(drop)
}

impl Opened {
    /// Opens the file of `kind` at `place` in the folder `model`, or the component that it belongs to.
    pub fn open(kind: Kind, model: &Path, place: &str) -> Result<Self> {
        let path = model.join(place);
        let folder = path.parent().unwrap();
        let paths = ModelPaths { model: model.into(), ..ModelPaths::default() };
        Ok(match (kind, place.split_once('/').map(|(folder, _)| folder)) {
            (Kind::Safetensors, _) if place == "vae.safetensors" => Opened::Vae(Component::<VaeConfig>::open(path)?),
            (Kind::Safetensors | Kind::Gguf, _) if place == "text.safetensors" || place == "text.gguf" => {
                Opened::TextEncoder(Component::<TextConfig>::open(path)?)
            }
            (Kind::Safetensors | Kind::Gguf, _) => Opened::Transformer(Component::<TransformerConfig>::open(path)?),
            // The tokenizer is found beside it.
            (Kind::WholeModel, _) => {
                Opened::Model(ModelFiles::open(&ModelPaths { model: path.into(), ..paths })?.into())
            }
            (Kind::Lora | Kind::Adapter | Kind::AdapterConfig, _) => {
                // The folder of an adapter stands for its file.
                let path = if kind == Kind::AdapterConfig { folder.to_owned() } else { path };
                let loras = vec![LoraPath { location: path.into(), scale: 0.5 }];
                Opened::Model(ModelFiles::open(&ModelPaths { loras, ..paths })?.into())
            }
            (Kind::Mask, _) => {
                let mask = image::codec::read_file(&path)?;
                paint(&wide(), &mask, Rule::Diffusers).and(paint(&wide(), &mask, Rule::Own))?;
                Opened::Picture
            }
            (Kind::Picture, _) => {
                let bytes = image::codec::read_file(&path)?;
                Found::of(&bytes, None);
                if place == "picture" {
                    // As a source, whose mask it is too. What cannot be one may still be a picture.
                    let _ = [Rule::Own, Rule::Diffusers].map(|rule| paint(&bytes, &bytes, rule).is_ok());
                }
                image::metadata::read_any(&bytes)?;
                image::metadata::read_sheet(&bytes)?;
                if place == "picture" {
                    Found::of(&bytes, Some(&image::decode(&bytes, place)?));
                }
                Opened::Picture
            }
            (Kind::Pth, _) => {
                // The other network in such files.
                if let Ok(file) = PreviewDecoderFile::open(&path.clone().into()) {
                    for (name, _) in file.config.expected_tensors() {
                        file.tensor(&name)?.to_f32();
                    }
                }
                Opened::Upscaler(UpscalerFile::open(&path.into())?)
            }
            (Kind::Tokenizer, _) => Opened::Tokenizer(Tokenizer::from_file(path)?),
            (_, Some("transformer")) => Opened::Transformer(Component::<TransformerConfig>::open(folder)?),
            (_, Some("text_encoder")) => Opened::TextEncoder(Component::<TextConfig>::open(folder)?),
            (_, Some(_)) => Opened::Vae(Component::<VaeConfig>::open(folder)?),
            (_, None) => Opened::Model(ModelFiles::open(&paths)?.into()),
        })
    }

    /// Reads all values: a file that was accepted must be readable as a whole.
    pub fn read(&self) -> Result<()> {
        fn whole<C>(component: &Component<C>, loras: &[Lora]) -> Result<()> {
            let base = &component.map()?;
            let weights = WithLoras { base, loras, threads: NonZeroUsize::MIN };
            Ok(component.names().try_for_each(|name| weights.tensor(name).map(|tensor| drop(tensor.to_f32())))?)
        }
        match self {
            Opened::Transformer(part) => whole(part, &[]),
            Opened::TextEncoder(part) => whole(part, &[]),
            Opened::Vae(part) => whole(part, &[]),
            Opened::Model(files) => {
                whole(&files.transformer, &files.loras)?;
                whole(&files.text_encoder, &[])?;
                whole(&files.vae, &[])
            }
            Opened::Picture => Ok(()),
            Opened::Upscaler(file) => {
                let mut names = file.config.expected_tensors().into_iter().map(|(name, _)| name);
                Ok(names.try_for_each(|name| file.tensor(&name).map(|tensor| drop(tensor.to_f32())))?)
            }
            Opened::Tokenizer(tokenizer) => {
                tokenizer.encode_prompt("a red fox, ein Fuchs \u{1f98a}", 64);
                Ok(())
            }
        }
    }
}

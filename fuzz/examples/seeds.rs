//! Writes the hostile files of the test suite, and the valid files they derive from, to `corpus/TARGET`.

use std::fs;
use std::path::Path;

use flux2_fuzz::{Kind, corpus, fixtures, places};

fn main() -> std::io::Result<()> {
    for kind in Kind::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{kind:?}").to_lowercase());
        fs::create_dir_all(&folder)?;
        for (i, hostile) in corpus(kind, &fixtures()).iter().enumerate() {
            fs::write(folder.join(format!("hostile-{i}")), &hostile.bytes)?;
        }
        let whole = match kind {
            Kind::Safetensors => vec!["klein-bfl/transformer.safetensors".to_owned()],
            Kind::Lora => vec!["lora.safetensors".to_owned()],
            Kind::Gguf
            | Kind::Adapter
            | Kind::AdapterConfig
            | Kind::WholeModel
            | Kind::Picture
            | Kind::Mask => vec![],
            _ => places(kind).iter().map(|place| format!("klein/{place}")).collect(),
        };
        for (i, path) in whole.iter().enumerate() {
            fs::copy(fixtures().join("tiny").join(path), folder.join(format!("whole-{i}")))?;
        }
    }
    Ok(())
}

//! The command line's words for what the library says as data: flags, subcommands and environment variables.

use flux2::{Part, Remedy, Warning};

/// What to do about an error, as one sentence.
pub fn remedy(remedy: &Remedy) -> String {
    match remedy {
        Remedy::ChooseSize { axis, low, high } if low == high => format!("use --{axis} {low}"),
        Remedy::ChooseSize { axis, low, high } => format!("use --{axis} {low} or --{axis} {high}"),
        Remedy::UseDefaultSteps => "leave --steps out for the number the model was made for".into(),
        Remedy::UseAsSeed(seed) => format!("if you meant the seed, use -S {seed}"),
        Remedy::UseDefaultGuidance => "leave --guidance out for the scale the model was made for".into(),
        Remedy::ScaleLoraFinitely => "use a finite number, as in FILE:0.8".into(),
        Remedy::OverwritePicture => "choose another name, or leave --no-clobber out".into(),
        Remedy::OmitParameters => "shorten it, write a .png, which holds more than a .jpg, or use --no-metadata".into(),
        Remedy::KeepParameters => "leave --no-metadata out to say so in the picture".into(),
        Remedy::AddWatermark => "add --watermark to put one into the picture too".into(),
        Remedy::SignPicture => "sign it with --c2pa-key and --c2pa-cert to name what it was made from".into(),
        Remedy::ListVocabulary if cfg!(feature = "hub") => "`dj-flux2 models klein-mini` lists what it draws".into(),
        Remedy::ListVocabulary => "its page docs/mini.md shows what it draws".into(),
        Remedy::ChooseDevice => "use --device auto or --device cpu".into(),
        Remedy::ListDevices => "run `dj-flux2 doctor` to see the GPUs and their numbers".into(),
        Remedy::ComputeInF32 => "check the files of the model, or try --dtype f32".into(),
        Remedy::UseInt8OrBf16 => "use --dtype int8, or bf16".into(),
        Remedy::UseInt8OnProcessor => "fp8 is for GPUs; on a processor --dtype int8 is as small, and fast".into(),
        Remedy::ReduceMemory => "ask for a smaller picture or fewer reference images, or use --dtype bf16".into(),
        Remedy::AllowQuantizing { formats } => {
            let (needs, or) = (Remedy::needs_of_formats(formats), Remedy::AllowMemory);
            format!("with --allow-quantize it takes {needs}; or {or}")
        }
        Remedy::NameModel => {
            "pass --model with the folder of a FLUX.2 [klein] model or its transformer as a file".into()
        }
        Remedy::NameModelFolder => "pass the folder of the model with --model, or only one of the two".into(),
        Remedy::GivePart(part) => format!("add {} with the path of the {part}", flag_of(*part)),
        Remedy::ReplacePart(part) => format!("{remedy} with {}", flag_of(*part)),
        Remedy::MatchLora => "pass a LoRA made for this model, or with -m the model it was made for".into(),
        Remedy::CorrectVariant => "leave --variant out, or name the one the file is".into(),
        Remedy::ReplaceConverted => "name another place, or add --force to replace it".into(),
        Remedy::ConvertVaeToBf16 => "use --to bf16, or leave it as it is: it is a small part of a model".into(),
        Remedy::GoOnline => "unset HF_HUB_OFFLINE to use the network".into(),
        Remedy::CheckNetwork => "check the network, HF_ENDPOINT and the proxies, then run it again".into(),
        Remedy::CheckEndpoint => "check HF_ENDPOINT, and whether a login page is in the way".into(),
        Remedy::CorrectRepository => {
            "correct the name; if the repository is private, pass a token with HF_TOKEN".into()
        }
        Remedy::AcceptLicense { page, tokens_page: Some(tokens) } => format!(
            "accept the license at {page}, make a token at {tokens} and pass it with HF_TOKEN=hf_… or `hf auth login`"
        ),
        Remedy::ReplaceToken => {
            "make another on the page of your tokens and pass it with HF_TOKEN, or pass none for what is open to all"
                .into()
        }
        Remedy::MoveCache => "free some room, or set HF_HUB_CACHE to a folder on another disk".into(),
        Remedy::Advice(_)
        | Remedy::AllowMemory
        | Remedy::UseVariant { .. }
        | Remedy::AcceptLicense { tokens_page: None, .. } => remedy.to_string(),
    }
}

/// A warning, followed by what to do about it.
pub fn warning(warning: &Warning) -> String {
    match warning.remedy() {
        Some(advice) => format!("{warning}; {}", remedy(&advice)),
        None => warning.to_string(),
    }
}

fn flag_of(part: Part) -> &'static str {
    match part {
        Part::Transformer => "--model",
        Part::TextEncoder => "--text-encoder",
        Part::Vae => "--vae",
    }
}

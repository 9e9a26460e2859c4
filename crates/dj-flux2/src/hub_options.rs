//! How the Hugging Face hub is reached and where its cache is, from the variables that all its clients read.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use flux2::Variant;
use flux2::environment::path_of;
use flux2::hub::environment::{cache_folder, home};
use flux2::hub::{Hub, HubOptions, Proxies, Token};

use crate::failure::{Failure, Result};

/// How the hub is reached, with the options of the environment of this process.
pub fn hub_options(cache: PathBuf) -> HubOptions {
    options(|name: &str| std::env::var_os(name), cache)
}

/// The hub, with the options of the environment of this process.
pub fn hub() -> Result<Hub> {
    let env = |name: &str| std::env::var_os(name);
    let folder = cache_folder(env).ok_or_else(|| {
        Failure::usage(
            "no folder for models: neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set",
            "set HF_HUB_CACHE to a folder with room for them",
        )
    })?;
    Ok(Hub::new(options(env, folder))?)
}

fn options(env: impl Fn(&str) -> Option<OsString>, cache: PathBuf) -> HubOptions {
    let text = |name: &str| env(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    // HTTP_PROXY in capitals is ignored, as curl does: a CGI server sets it from a request's `Proxy` header.
    let either = |name: &str| text(name).or_else(|| text(&name.to_ascii_uppercase()));
    let all = || either("all_proxy");
    let license_of = |repo: &str| Variant::by_repo(repo).map(|variant| variant.license);
    let mut options = HubOptions { license_of, ..HubOptions::new(cache) };
    if let Some(endpoint) = text("HF_ENDPOINT") {
        options.endpoint = endpoint;
    }
    let file = || {
        let path = path_of(&env, "HF_TOKEN_PATH").or_else(|| Some(home(&env)?.join("token")))?;
        fs::read_to_string(path).ok()
    };
    let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(file);
    options.token = token.as_deref().and_then(Token::new);
    let offline = text("HF_HUB_OFFLINE").map(|value| value.to_ascii_uppercase());
    options.offline = offline.is_some_and(|value| matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE"));
    options.proxies = Proxies {
        https: either("https_proxy").or_else(all),
        http: text("http_proxy").or_else(all),
        except: either("no_proxy").unwrap_or_default(),
    };
    options
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn env<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    }

    #[test]
    fn the_rest_is_read_too() {
        let read = |variables: &[(&str, &str)]| options(env(variables), "cache".into());
        let options = read(&[("HF_ENDPOINT", "https://mirror.org"), ("HF_TOKEN", "hf_a"), ("HF_HUB_OFFLINE", "true")]);
        assert!(options.endpoint == "https://mirror.org" && options.token.is_some() && options.offline);
        let options = read(&[("HF_HUB_OFFLINE", "0"), ("HTTPS_PROXY", "http://a"), ("HTTP_PROXY", "http://b")]);
        assert!(options.endpoint == "https://huggingface.co" && options.token.is_none() && !options.offline);
        assert_eq!((options.proxies.https.as_deref(), options.proxies.http), (Some("http://a"), None));
        let options = read(&[("http_proxy", "http://b"), ("ALL_PROXY", "http://c"), ("NO_PROXY", "d")]);
        let Proxies { https, http, except } = options.proxies;
        assert_eq!((https.as_deref(), http.as_deref(), except.as_str()), (Some("http://c"), Some("http://b"), "d"));
    }

    #[test]
    fn a_token_may_lie_in_a_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let home = folder.path().to_str().unwrap();
        assert!(options(env(&[("HF_HOME", home)]), "cache".into()).token.is_none());
        fs::write(folder.path().join("token"), "hf_a\n").unwrap();
        assert!(options(env(&[("HF_HOME", home)]), "cache".into()).token.is_some());
        let elsewhere = [("HF_HOME", "/nowhere"), ("HF_TOKEN_PATH", &format!("{home}/token"))];
        assert!(options(env(&elsewhere), "cache".into()).token.is_some());
    }
}

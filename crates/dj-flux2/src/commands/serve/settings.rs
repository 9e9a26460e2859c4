//! What the flags of `serve` mean, besides the models. Reads nothing but what is passed in.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use flux2::engine::MAX_USEFUL_BATCH;
use flux2_jobs::{Options, Retention};
use flux2_server::{Key, KeySource, Limits, ServerOptions, Times, TlsFiles};

use crate::args::{BackendKind, ServeArgs};
use crate::cache_folder::user_state;
use crate::credentials;
use crate::failure::{Failure, Result};

/// The variable with an API key, for containers.
const KEY_VARIABLE: &str = "DJ_FLUX2_API_KEY";
/// Name of the key of that variable.
const KEY_NAME: &str = "default";

/// A server, decided.
#[derive(Debug)]
pub struct Settings {
    pub keys: KeySource,
    pub options: ServerOptions,
    pub jobs: Options,
    pub tls: Option<TlsFiles>,
}

/// Decides a server. `env` looks up a variable.
pub fn resolve(args: &ServeArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
    let key = env(KEY_VARIABLE).filter(|key| !key.is_empty()).map(|key| {
        let text = key.into_string();
        text.map_err(|_| Failure::usage(format!("{KEY_VARIABLE} is not UTF-8"), "use a key of ASCII characters"))
    });
    let extra = key.transpose()?.map(|key| Key::new(KEY_NAME, &key));
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    Ok(Settings {
        keys: KeySource { file: args.api_key_file.clone(), extra },
        options: server_options(args),
        jobs: Options {
            folder: state_folder(args, env)?,
            max_queued: args.max_queue,
            max_wait: Duration::from_secs(args.max_wait),
            max_count: args.max_count,
            max_batch: args.max_batch.map_or(default_batch(args.backend), usize::from),
            idle_unload: args.idle_unload.map(Duration::from_secs),
            retention: Retention {
                age: Duration::from_secs(24 * 3600 * u64::from(args.keep_days)),
                bytes: args.keep_bytes as u64,
                ..Retention::default()
            },
            reuse_pictures: args.reuse_pictures,
            watermark: args.marks.watermark,
            signer: credentials::signer(
                args.marks.c2pa_key.as_deref().zip(args.marks.c2pa_cert.as_deref()),
                HashMap::new(),
            )?,
            ..Options::default()
        },
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
    })
}

/// Most pictures of a pass, where no flag says so. For the fake several take as long as one, which is no model's speed.
fn default_batch(backend: BackendKind) -> usize {
    match backend {
        BackendKind::Engine => MAX_USEFUL_BATCH,
        BackendKind::Fake => 1,
    }
}

fn server_options(args: &ServeArgs) -> ServerOptions {
    let limits = Limits::default();
    ServerOptions {
        limits: Limits {
            body_bytes: args.max_body,
            image_bytes: limits.image_bytes.min(args.max_body),
            pixels: args.max_pixels,
            prompt_chars: args.max_prompt,
            count: args.max_count,
            references: args.max_references.into(),
            connections: args.max_connections as usize,
            ..limits
        },
        aliases: args.alias.iter().cloned().collect(),
        origins: args.cors_origin.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect(),
        hosts: args.allow_host.clone(),
        times: Times { drain: Duration::from_secs(args.drain_timeout), ..Times::default() },
        is_fake: args.backend == BackendKind::Fake,
    }
}

/// The folder of the journal. A fake draws no pictures worth keeping, unless a folder is named.
fn state_folder(args: &ServeArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>> {
    #[cfg(feature = "fleet")]
    if args.fleet.is_some() {
        return Ok(None);
    }
    if args.no_journal || (args.state.is_none() && args.backend == BackendKind::Fake) {
        return Ok(None);
    }
    let folder = args.state.clone().or_else(|| Some(user_state(env)?.join("dj-flux2").join("server")));
    folder.map(Some).ok_or_else(|| {
        let message = "nothing says where the journal is kept: neither XDG_STATE_HOME nor HOME is set";
        Failure::usage(message, "add --state FOLDER, or --no-journal to lose jobs when the server ends")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn settings(flags: &[&str], env: &[(&str, &str)]) -> Result<Settings> {
        let args = Args::try_parse_from(["dj-flux2", "serve"].iter().chain(flags)).unwrap();
        let Command::Serve(args) = args.command else { panic!("not serve") };
        resolve(&args, |name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_flags_say_what_the_library_does_without_them() {
        let settings = settings(&["--no-journal"], &[]).unwrap();
        assert_eq!(settings.options.limits, Limits::default());
        assert_eq!(settings.options.times, Times::default());
        assert_eq!((settings.jobs.folder, settings.jobs.max_queued), (None, Options::default().max_queued));
        assert_eq!(
            (settings.jobs.retention, settings.jobs.max_wait),
            (Retention::default(), Options::default().max_wait)
        );
        assert!(settings.tls.is_none() && settings.keys.load().unwrap().is_empty());
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn the_journal_is_in_the_state_folder_unless_a_fake_draws() {
        let folder = |flags: &[&str], env: &[(&str, &str)]| Ok::<_, Failure>(settings(flags, env)?.jobs.folder);
        let home = [("HOME", "/home/a")];
        assert_eq!(folder(&[], &home).unwrap(), Some("/home/a/.local/state/dj-flux2/server".into()));
        assert_eq!(folder(&["--backend", "fake"], &home).unwrap(), None);
        assert_eq!(folder(&["--backend", "fake", "--state", "s"], &home).unwrap(), Some("s".into()));
        assert!(folder(&[], &[]).unwrap_err().message.contains("XDG_STATE_HOME"));
    }

    #[test]
    fn a_key_may_come_from_the_environment() {
        let with = settings(&["--no-journal"], &[("DJ_FLUX2_API_KEY", "secret")]).unwrap().keys.load().unwrap();
        assert_eq!(with.find("secret").unwrap().name, "default");
        assert!(settings(&["--no-journal"], &[("DJ_FLUX2_API_KEY", "")]).unwrap().keys.load().unwrap().is_empty());
    }
}

//! `dj-flux2 serve`: the HTTP server, from flags to its end.

#[cfg(feature = "fleet")]
pub mod fleet;
pub mod log;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;

use flux2_jobs::{Jobs, ModelChoice, Options, Queue};
use flux2_server::{Ended, Listener, RunError, Server};
use listenfd::ListenFd;

use crate::args::ServeArgs;
use crate::failure::{Failure, Result, code};
use crate::host::{self, Offer};
use crate::wording;
use settings::Settings;

/// Serves until a signal ends it.
pub fn run(args: &ServeArgs) -> Result<()> {
    let settings = settings::resolve(args, |name| std::env::var_os(name))?;
    let keys = settings.keys.load().map_err(|error| {
        Failure::new(code::FAILURE, error.to_string(), "write a line for each key: a name and the SHA-256 of the key")
    })?;
    let listeners = listeners(args)?;
    if let Some(public) = listeners.iter().find(|listener| !listener.is_local())
        && keys.is_empty()
        && !args.insecure
    {
        let message = format!("everybody who reaches {} could use the server", public.address());
        return Err(Failure::usage(message, "add --api-key-file FILE; or --insecure, if that is meant"));
    }
    log::start(args.log_format, args.log_level);
    let Settings { keys, options, jobs, tls } = settings;
    let (jobs, preload) = queue(args, jobs)?;
    let server = Server { listeners, jobs, keys, tls, preload, options };
    match server.run().map_err(failed)? {
        Ended::Drained(_) => Ok(()),
        Ended::AtOnce => exit_now(),
    }
}

/// What draws: an engine in this process, or a fleet; and the models to load at the start.
fn queue(args: &ServeArgs, options: Options) -> Result<(Arc<dyn Queue>, Vec<ModelChoice>)> {
    #[cfg(feature = "fleet")]
    if let Some(addresses) = &args.fleet {
        let front = fleet::front(args, addresses, options)?;
        return Ok((Arc::new(front), Vec::new()));
    }
    let host = host::open(&Offer::from(args))?;
    check_aliases(args, &host.names)?;
    let preload = preload(args, &host.names)?;
    let jobs = Jobs::start(options, host.host).map_err(|failure| Failure {
        code: code::FAILURE,
        message: failure.message,
        hint: failure.remedy.as_ref().map(wording::remedy),
    })?;
    Ok((Arc::new(jobs), preload))
}

#[expect(clippy::exit, reason = "a second signal must end a run whose threads are still at work")]
fn exit_now() -> ! {
    std::process::exit(code::CANCELLED.into())
}

fn failed(error: RunError) -> Failure {
    let hint = match &error {
        RunError::Tls(_) => Some("pass a certificate and its private key as PEM files".into()),
        _ => None,
    };
    Failure { code: code::FAILURE, message: error.to_string(), hint }
}

/// Sockets that systemd has opened, else the one of the flags.
fn listeners(args: &ServeArgs) -> Result<Vec<Listener>> {
    let mut inherited = ListenFd::from_env();
    if inherited.len() > 0 {
        return (0..inherited.len()).map(|index| inherited_socket(&mut inherited, index)).collect();
    }
    #[cfg(unix)]
    if let Some(file) = &args.unix {
        let listener = Listener::unix(file);
        let listener = listener.map_err(|error| not_listening(&file.display().to_string(), &error))?;
        return Ok(vec![listener]);
    }
    let address = SocketAddr::new(args.bind, args.port);
    Listener::tcp(address).map(|listener| vec![listener]).map_err(|error| not_listening(&address.to_string(), &error))
}

fn not_listening(address: &str, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there: end it, or choose another --port",
        std::io::ErrorKind::PermissionDenied => "choose a --port from 1024",
        _ => "choose another --bind and --port",
    };
    Failure::new(code::FAILURE, format!("cannot listen on {address}: {error}"), hint)
}

fn inherited_socket(inherited: &mut ListenFd, index: usize) -> Result<Listener> {
    if let Ok(Some(socket)) = inherited.take_tcp_listener(index) {
        return Ok(Listener::Tcp(socket));
    }
    #[cfg(unix)]
    if let Ok(Some(socket)) = inherited.take_unix_listener(index) {
        return Ok(Listener::Unix { socket, file: None });
    }
    Err(Failure::new(
        code::FAILURE,
        format!("socket {index} that this process was started with is no TCP or Unix stream socket"),
        "use ListenStream= in the systemd socket unit",
    ))
}

/// Aliases lead to models that are served.
fn check_aliases(args: &ServeArgs, names: &[String]) -> Result<()> {
    match args.alias.iter().find(|(_, model)| !names.contains(model)) {
        None => Ok(()),
        Some((alias, model)) => {
            let message = format!("--alias {alias}={model}: no model of this name is served");
            Err(Failure::usage(message, format!("use one of {}", names.join(", "))))
        }
    }
}

/// Models to load at the start: those of the flag, else the first.
fn preload(args: &ServeArgs, names: &[String]) -> Result<Vec<ModelChoice>> {
    let wanted = if args.preload.is_empty() { &names[..1] } else { &args.preload };
    let choice = |name: &String| match names.contains(name) {
        true => Ok(ModelChoice { name: Some(name.clone()), ..Default::default() }),
        false => {
            let message = format!("--preload {name}: no model of this name is served");
            Err(Failure::usage(message, format!("use one of {}", names.join(", "))))
        }
    };
    wanted.iter().map(choice).collect()
}

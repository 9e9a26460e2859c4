//! `dj-flux2 fleet`: a fleet as an operator sees it.

mod status;

use flux2_fleet::{DeadLetter, FleetError, Operator, Server};
use serde::Serialize;

use crate::args::{CredentialArgs, DeadCommand, FleetArgs, FleetCommand, FleetServerArgs};
use crate::failure::{Failure, Result, code};
use crate::report::{json, print};

/// Runs one of its subcommands.
pub fn run(args: &FleetArgs) -> Result<()> {
    match &args.command {
        FleetCommand::Status(args) => status::run(args),
        FleetCommand::Drain(args) => {
            let only = (!args.all).then_some(args.worker.as_slice());
            let told = open(&args.server)?.drain(only).map_err(failed)?;
            if told.is_empty() {
                return Err(Failure::new(code::FAILURE, "no worker is there", "see `dj-flux2 fleet status`"));
            }
            let missing: Vec<&str> =
                args.worker.iter().filter(|name| !told.contains(name)).map(String::as_str).collect();
            if args.server.json {
                print(&json(&told))?;
            } else {
                told.iter().try_for_each(|name| print(&format!("{name} drains")))?;
            }
            match missing.as_slice() {
                [] => Ok(()),
                names => {
                    let message = format!("there is no worker {}", names.join(", "));
                    Err(Failure::new(code::FAILURE, message, "see `dj-flux2 fleet status`"))
                }
            }
        }
        FleetCommand::Dead(DeadCommand::List(args)) => list(args),
        FleetCommand::Dead(DeadCommand::Requeue(args)) => {
            let operator = open(&args.server)?;
            let is_wanted = |letter: &DeadLetter| args.all || letter.id.is_some_and(|id| args.job.contains(&id));
            let mut again = Vec::new();
            for letter in operator.dead_letters().map_err(failed)?.iter().filter(|letter| is_wanted(letter)) {
                if operator.requeue(letter).map_err(failed)? {
                    again.extend(letter.id);
                }
            }
            let missing: Vec<_> = args.job.iter().filter(|id| !again.contains(id)).copied().collect();
            if args.server.json {
                print(&json(&again))?;
            } else {
                again.iter().try_for_each(|id| print(&format!("{id} waits again")))?;
            }
            match missing.first() {
                None => Ok(()),
                Some(id) => {
                    let message = format!("{id} is no dead letter");
                    Err(Failure::new(code::FAILURE, message, "see `dj-flux2 fleet dead list`"))
                }
            }
        }
    }
}

/// A dead letter, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    id: Option<flux2_jobs::JobId>,
    reason: &'a str,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
}

fn list(args: &FleetServerArgs) -> Result<()> {
    let letters = open(args)?.dead_letters().map_err(failed)?;
    for letter in &letters {
        let record = letter.record.as_ref();
        let model = record.map(|record| record.spec.model.name.as_str());
        let owner = record.map(|record| record.owner.as_str());
        let DeadLetter { id, reason, at_ms, .. } = letter;
        if args.json {
            print(&json(&Row { id: *id, reason, at_ms: *at_ms, model, owner }))?;
            continue;
        }
        let id = id.map_or("-".to_owned(), |id| id.to_string());
        let at = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_millis(*at_ms));
        print(&format!("{id:<36}  {at}  {:<12}  {reason}", model.unwrap_or("-")))?;
    }
    Ok(())
}

/// Where the NATS server of a fleet is.
pub fn server(addresses: &str, args: &CredentialArgs) -> Server {
    Server {
        addresses: addresses.to_owned(),
        credentials: args.fleet_creds.clone(),
        authority: args.fleet_ca.clone(),
        certificate: args.fleet_cert.clone().zip(args.fleet_key.clone()),
    }
}

/// A failure of a fleet, with what helps.
pub fn failed(error: FleetError) -> Failure {
    let hint = match &error {
        FleetError::Connect { .. } => {
            "check the address after --fleet, and that nats-server runs there with JetStream: \
                                       `nats-server -js`"
        }
        FleetError::File { .. } => "pass a file that can be read",
        FleetError::Objects { .. } => "check the place after --objects",
        _ => "see the log of the NATS server",
    };
    Failure::new(code::FAILURE, error.to_string(), hint)
}

fn open(args: &FleetServerArgs) -> Result<Operator> {
    Operator::connect(&server(&args.fleet, &args.credentials)).map_err(failed)
}

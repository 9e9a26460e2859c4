//! A client of `dj-flux2 serve`: `cargo run --release -p dj-flux2 --example server_client -- URL PROMPT OUTPUT`.
//!
//! A job is submitted, its events are followed, and its image is saved: three requests of the native API.

use std::io::{BufRead as _, BufReader, Write};

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>(), &mut std::io::stdout().lock())
}

/// Draws on a server, as at http://127.0.0.1:8190.
pub fn run(args: &[String], out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let [url, prompt, output] = args else { return Err("usage: server_client URL PROMPT OUTPUT".into()) };

    let request = ureq::post(format!("{url}/api/v1/jobs")).content_type("application/json");
    let body = json!({ "prompt": prompt, "seed": 42 }).to_string();
    let answer = request.send(body)?.into_body().read_to_string()?;
    let job: Value = serde_json::from_str(&answer)?;
    let path = job["links"]["self"].as_str().ok_or("the answer has no link")?;

    // Server-sent events: a line with the name, a line with the data, an empty line.
    let events = ureq::get(format!("{url}{path}/events?previews=false")).call()?.into_body();
    let mut name = String::new();
    for line in BufReader::new(events.into_reader()).lines() {
        let line = line?;
        if let Some(event) = line.strip_prefix("event: ") {
            name = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data)?;
            match name.as_str() {
                "step" => writeln!(out, "step {} of {}", data["step"], data["steps"])?,
                "failed" => return Err(data["message"].as_str().unwrap_or("the job failed").into()),
                "cancelled" => return Err("somebody cancelled the job".into()),
                _ => {}
            }
        }
    }

    let file = ureq::get(format!("{url}{path}/images/0")).call()?.into_body().read_to_vec()?;
    std::fs::write(output, file)?;
    writeln!(out, "{output}")?;
    Ok(())
}

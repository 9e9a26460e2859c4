//! The example of a client, on a server that draws with klein-mini.

use crate::cli::Cli;
use crate::serve::Server;

#[expect(dead_code, reason = "its `main`")]
#[path = "../../examples/server_client.rs"]
mod server_client;

#[test]
fn a_client_gets_the_picture_that_generate_draws() {
    let cli = Cli::without_model();
    let flags = ["serve", "--port", "0", "--log-format", "json", "--no-journal", "--device", "cpu"];
    let mut command = cli.command(flags);
    command.env("DJ_FLUX2_TEXT_CACHE", "off").env("HOME", cli.path("."));
    let server = Server::start(command);
    let prompt = "a cat on a blue background";
    let file = cli.path("client.png");
    let args = [format!("http://{}", server.address), prompt.to_owned(), file.display().to_string()];
    let mut told = Vec::new();
    server_client::run(&args, &mut told).unwrap();
    assert!(String::from_utf8(told).unwrap().ends_with(&format!("step 4 of 4\n{}\n", file.display())));
    cli.stdout([prompt, "-m", "klein-mini", "-S", "42", "--device", "cpu", "-o", "here.png", "-q"]);
    assert_eq!(cli.read("client.png"), cli.read("here.png"));

    let wrong = [format!("http://{}", server.address), "x".repeat(40_000), "no.png".to_owned()];
    assert!(server_client::run(&wrong, &mut Vec::new()).is_err());
    assert!(!cli.path("no.png").exists());
}

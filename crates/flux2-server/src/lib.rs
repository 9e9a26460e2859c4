//! An HTTP server for images of FLUX.2 \[klein\], on the job engine of `flux2-jobs`.
//!
//! Four APIs lead to the same jobs: a native one, OpenAI's images, a part of AUTOMATIC1111's, and that of the Python
//! program dj-flux2. Each converts a request to an `Order` (module `drawing`), and a job to its answer.
//!
//! | room | holds |
//! |---|---|
//! | [`Server`] | a server from its start to its end: listening, reloading, drain |
//! | `listen`, `connection`, `tls`, `signals` | sockets; limits and patience of connections; TLS; signals |
//! | `router`, `document` | all routes with all layers; the OpenAPI document and its page |
//! | `observe`, `access`, `keys` | request ids and the log; `Host`, `Origin` and keys of a request; key files |
//! | `app`, `links`, `options` | what handlers share; links to pictures; limits |
//! | `body`, `extract`, `values`, `error` | bodies within limits; paths, queries; values of fields; errors |
//! | `drawing` | from an order to a job and to its end |
//! | `native`, `openai`, `automatic1111`, `origin` | the four APIs |
//! | `mcp` | tools for agents, by the Model Context Protocol |
//! | `page` | the page of the browser, from files in the program |
//! | `health`, `metrics` | readiness; numbers for Prometheus |
//!
//! It reads no environment, and no path of a request reaches the file
//! system. Prompts are never logged.

#![forbid(unsafe_code)]

mod access;
mod app;
mod automatic1111;
mod body;
mod connection;
mod document;
mod drawing;
mod error;
mod extract;
mod health;
mod keys;
mod links;
mod listen;
mod mcp;
mod metrics;
mod native;
mod observe;
mod openai;
mod options;
mod origin;
mod page;
mod router;
mod run;
mod signals;
mod tls;
mod values;

pub use app::App;
pub use keys::{Key, Keys, ParseKeysError};
pub use listen::Listener;
pub use options::{Limits, ServerOptions, Times};
pub use router::{openapi, router};
pub use run::{Ended, KeySource, KeysError, RunError, Server};
pub use tls::{TlsError, TlsFiles};

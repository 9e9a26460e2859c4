//! The server as a client sees it, over a pair of pipes in memory, with a host that draws no model.

mod client;
mod fuzz;
mod hostile;
mod tools;

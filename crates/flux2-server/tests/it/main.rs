//! Tests of the routes with the fake host: no model, no network.

mod access;
mod automatic1111;
mod bad_input;
mod document;
mod gallery;
mod mcp;
mod native;
mod openai;
mod origin;
mod page;
mod site;

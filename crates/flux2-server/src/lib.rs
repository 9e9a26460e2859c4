//! HTTP server.
use axum as _;

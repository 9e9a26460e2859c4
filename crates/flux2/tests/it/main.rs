//! Integration tests.

mod batch;
mod cancel;
mod canvas;
mod compat;
mod convert;
mod documents;
mod embedded;
mod evaluation;
#[cfg(feature = "mini")]
mod examples;
mod explain;
mod gguf;
mod golden;
mod gpu;
mod gpu_memory;
mod hostile_files;
mod hostile_gguf;
mod house;
mod how_it_works;
#[cfg(feature = "hub")]
mod hub;
mod images;
mod inpaint;
mod jpegs;
mod kernels;
mod layouts;
mod library;
mod lora;
mod lora_kinds;
mod marks;
mod metadata;
mod mini;
mod mini_canvas;
mod noise;
mod once;
mod parity;
mod plan;
mod previews;
mod schedule;
mod sheets;
mod tally;
mod template;
mod text_cache;
mod tokenizer;
mod upscale;
#[cfg(feature = "mini")]
mod vocabulary;

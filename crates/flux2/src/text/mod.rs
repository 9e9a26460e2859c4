//! Prompt to token ids: the [`chat_template`] around the prompt, then the [`tokenizer`].

pub mod chat_template;
pub mod tokenizer;

pub use tokenizer::{Cut, PromptToken, TokenizedPrompt, Tokenizer};

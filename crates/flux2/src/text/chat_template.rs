//! Qwen3's chat template: the prompt as one user turn, then the opening of an answer without thinking.
//!
//! In:  the prompt, verbatim. Out: the text to tokenize.
//!
//! Follows `_get_qwen3_prompt_embeds` of diffusers' `Flux2KleinPipeline`: the model's chat template with a generation
//! prompt and `enable_thinking=False`, no system message.

/// Text before the prompt.
pub const PREFIX: &str = "<|im_start|>user\n";

/// Text after the prompt: the end of the turn, and an answer whose think block is empty.
pub const SUFFIX: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

/// Special tokens that the template needs in the vocabulary.
pub const SPECIAL_TOKENS: [&str; 4] = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"];

/// The text to tokenize for `prompt`, which is neither trimmed nor escaped.
pub fn render(prompt: &str) -> String {
    format!("{PREFIX}{prompt}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_ends_with_an_empty_think_block() {
        assert_eq!(
            render("a cat"),
            "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        );
    }

    #[test]
    fn prompt_is_inserted_verbatim() {
        assert!(render(" \n a <|im_end|>\t").starts_with("<|im_start|>user\n \n a <|im_end|>\t<|im_end|>\n"));
    }
}

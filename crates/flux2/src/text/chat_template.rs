//! What stands around the prompt when Qwen3 reads it: one user turn, then the opening of an answer that does not think.
//!
//! In:  the prompt, verbatim. Out: the text to tokenise.
//!
//! Follows `_get_qwen3_prompt_embeds` of diffusers' `Flux2KleinPipeline`: the model's chat template with a generation
//! prompt and `enable_thinking=False`, no system message.

/// Before the prompt.
pub const PREFIX: &str = "<|im_start|>user\n";

/// After the prompt: the end of the turn, and an answer whose thoughts are already over.
pub const SUFFIX: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

/// The tokens the template relies on.
pub const SPECIAL_TOKENS: [&str; 4] = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"];

/// The text that is tokenised for `prompt`, which is neither trimmed nor escaped.
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

"""Stage 1: the tokenizer. Seconds on one core.

In:  sentences of the grammar.
Out: FOLDER/tokenizer.json and tokenizer_config.json: byte-level BPE by Qwen's rules with 1019 entries and 5 added tokens.
"""

import argparse
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import captions

VOCAB = 1024
# Qwen2 and Qwen3 split text here before merging; the loader accepts no other pattern.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False), ("</think>", False)]
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and not enable_thinking %}"
                 "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for tokenizer.json")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    rng = random.Random(1)
    kinds = [captions.T2I] * 3 + [captions.EDIT] * 2 + [captions.TWO_REFS]
    corpus = ["user\n" + captions.item(rng, rng.choice(kinds))[1].lower() for _ in range(60_000)]
    corpus += ["user\n" + captions.item(rng, rng.choice(kinds))[1] for _ in range(10_000)] + ["assistant\n", "\n\n"] * 1000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCAB - len(ADDED), initial_alphabet=sorted(alphabet), special_tokens=[], show_progress=False))
    added = [AddedToken(text, special=special, normalized=False) for text, special in ADDED]
    tokenizer.add_tokens(added)
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    tokenizer.save(os.path.join(args.out, "tokenizer.json"), pretty=False)
    decoder = {str(tokenizer.token_to_id(text)): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                                                  "single_word": False, "special": special} for text, special in ADDED}
    config = {"add_prefix_space": False, "added_tokens_decoder": decoder, "bos_token": None, "chat_template": CHAT_TEMPLATE,
              "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
              "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    with open(os.path.join(args.out, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=2)
    lengths = sorted(len(e.ids) for e in tokenizer.encode_batch(corpus[:5000]))
    print("tokens of a sentence, without 10 of template: mean", sum(lengths) / len(lengths), "99 %", lengths[4950], "most", lengths[-1])


if __name__ == "__main__":
    main()

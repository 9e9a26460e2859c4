"""Stage 1: the tokenizer. Seconds on one core.

In:  sentences of the grammar; the most common English words, from the package wordfreq.
Out: WORK/tokenizer with tokenizer.json and tokenizer_config.json: byte-level BPE with Qwen's rules, 2043 entries and 5
     added tokens; WORK/words.txt: common words, the filler of loose sentences; WORK/unknown.txt: words that the model
     is taught not to know; WORK/glyphs.npz: the glyphs, for machines without the font.
"""

import argparse
import json
import os
import random
import re
import shutil

import wordfreq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import captions
import data
from models import VOCAB
from subjects import ALIASES, COLOR_NAMES, NAMES, plural

COMMON = 2000
# Words with a meaning in captions, and some that do not belong in one.
TAKEN = """background backdrop gradient stripe stripes striped plain solid small little tiny medium sized large big
huge top bottom left right center centre centered middle corner upper lower edge side one two three four five six
pair couple second third another more both each several many replace instead swap turn change make put move add give
bigger smaller larger shrink enlarge image picture not no never none nothing without neither nor jewish muslim
islamic christian black white terrorist terrorism gun guns war weapons weapon isn't don't doesn't didn't wasn't won't
can't wouldn't couldn't shouldn't aren't ain't grey fuck fucking shit sex sexual sexy porn bitch ass damn hell dick
pussy nigga rape nude naked cock cum kill killed killing murder suicide nazi hitler slut whore cunt""".split()

# Pre-tokenization of Qwen2 and Qwen3; the loader accepts no other pattern.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False), ("</think>", False)]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)


def common_words():
    """The most common words, except names, colors, sizes, places, numbers and parts of them."""
    taken = (
        set(TAKEN)
        | set(COLOR_NAMES)
        | {part for name in NAMES for form in (name, plural(name)) for part in form.split()}
    )
    words = [
        w for w in wordfreq.top_n_list("en", 2 * COMMON) if re.fullmatch(r"[a-z']+", w) and (len(w) > 1 or w in "ai")
    ]
    return [w for w in words if w not in taken][:COMMON]


def unknown_words(common):
    """Less common words of several languages that are no part of a known name, except those of the evaluation."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "unknown_captions.txt")) as f:
        tested = set(re.findall(r"[^\W\d]+", f.read().lower()))
    names = [*NAMES, *(plural(name) for name in NAMES), *(alias for aliases in ALIASES.values() for alias in aliases)]
    taken = tested | set(TAKEN) | set(COLOR_NAMES) | set(common) | {part for name in names for part in name.split()}
    words = []
    for language, count in (("en", 25_000), ("de", 4000), ("fr", 3000), ("es", 3000), ("it", 2000), ("nl", 1000)):
        words += [w for w in wordfreq.top_n_list(language, count) if re.fullmatch(r"[^\W\d_]{3,}", w)]
    return sorted({w for w in words if w not in taken and w.rstrip("s") not in taken})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder of the training run")
    parser.add_argument("--keep", help="folder of a tokenizer to use instead of making one")
    args = parser.parse_args()
    out = os.path.join(args.work, "tokenizer")
    os.makedirs(out, exist_ok=True)
    words = common_words()
    for name, listed in (("words.txt", words), ("unknown.txt", unknown_words(words))):
        with open(os.path.join(args.work, name), "w") as f:
            f.write("\n".join(listed) + "\n")
    data.save_glyphs(os.path.join(args.work, "glyphs.npz"))
    if args.keep:
        shutil.copytree(args.keep, out, dirs_exist_ok=True)
        return

    rng = random.Random(1)
    kinds = [captions.T2I] * 3 + [captions.EDIT] * 2 + [captions.TWO_REFS]
    sentence = lambda: "user\n" + captions.item(rng, rng.choice(kinds), words)[1]
    corpus = (
        [sentence().lower() for _ in range(100_000)]
        + [sentence() for _ in range(15_000)]
        + ["assistant\n", "\n\n"] * 1000
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCAB - len(ADDED), initial_alphabet=sorted(alphabet), special_tokens=[], show_progress=False
        ),
    )
    added = [AddedToken(text, special=special, normalized=False) for text, special in ADDED]
    tokenizer.add_tokens(added)
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    tokenizer.save(os.path.join(out, "tokenizer.json"), pretty=False)
    decoder = {
        str(tokenizer.token_to_id(text)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": special,
        }
        for text, special in ADDED
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
        json.dump(config, f, indent=2)
    lengths = sorted(len(e.ids) for e in tokenizer.encode_batch(corpus[:5000]))
    print(
        "tokens of a sentence, without 10 of template: mean",
        sum(lengths) / len(lengths),
        "99 %",
        lengths[4950],
        "most",
        lengths[-1],
    )


if __name__ == "__main__":
    main()

"""What klein-mini knows, as data for the program: `vocabulary.json` beside the weights.

In:  the tables of subjects.py, and captions of captions.py for the words between them.
Out: assets/mini/vocabulary.json. `crates/flux2/tests/it/vocabulary.rs` compares it with the tables.

    python vocabulary.py --out ../../assets/mini
"""

import argparse
import json
import os
import random
import re

import captions
import subjects

SAMPLES = 30_000
# Sizes of pictures that training covered. `longest_by_shortest` is the largest ratio of two sides.
PICTURES = {"smallest": 128, "largest": 256, "longest_by_shortest": 1}
EDITS = [
    "make the background red",
    "replace the cat with a dog",
    "make it bigger",
    "make it smaller",
    "add a second one",
    "move it to the top left",
]
TWO_REFERENCES = ["the subject of image 1 on the background of image 2", "the frogs from image 1 ..."]
# Words between the others, which captions.loose has as filler: they mean nothing for the picture.
FILLER = """about above all also and are as be behind below but by can could do everything front has have here his her i
if is its just like my no not of only or our please same so some that their there these they this those under very
want was we were what where which while who would you your""".split()


def words_of(texts):
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}


def is_made_up(word):
    """Whether it may be a word without meaning, which captions.filler makes of syllables."""
    syllables = "|".join(captions.SYLLABLES)
    return re.fullmatch(f"({syllables}){{1,3}}", word) is not None


def vocabulary():
    aliases = getattr(subjects, "ALIASES", {})
    named = [[name, subjects.plural(name), *aliases.get(i, [])] for i, name in enumerate(subjects.NAMES)]
    shapes = [[shape, subjects.plural(shape)] for shape in subjects.SHAPES]
    tables = [word for names in named + shapes for word in names]
    tables += subjects.COLOR_NAMES + ["grey"] + captions.PREFIXES
    tables += [word for words in captions.SIZE_WORDS + captions.PLACE_WORDS for word in words]
    tables += [word for words in captions.NUMBERS.values() for word in words]
    known = words_of(tables + EDITS + TWO_REFERENCES + FILLER)
    rng = random.Random(0)
    kinds = [captions.T2I, captions.EDIT, captions.TWO_REFS]
    said = words_of(captions.item(rng, rng.choice(kinds))[1] for _ in range(SAMPLES))
    return {
        "subjects": [names for i, names in enumerate(named) if i < subjects.SHAPE_START],
        "shapes": shapes,
        "shape_colors": subjects.SHAPE_COLORS,
        "colors": subjects.COLOR_NAMES,
        "patterns": subjects.PATTERNS,
        "sizes": [list(dict.fromkeys(words)) for words in captions.SIZE_WORDS],
        "places": [words[0] for words in captions.PLACE_WORDS],
        "counts": ["one", *(words[0] for words in captions.NUMBERS.values())],
        "edits": EDITS,
        "two_references": TWO_REFERENCES,
        "pictures": PICTURES,
        "words": sorted(known | {word for word in said if not is_made_up(word)}),
    }


def write(folder):
    with open(os.path.join(folder, "vocabulary.json"), "w") as f:
        json.dump(vocabulary(), f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()

"""Prompts for the pictures of klein-mini that train and judge the upscaler.

In:  the grammar of captions.py.
Out: OUT/train.txt and OUT/heldout.txt, one prompt a line for `dj-flux2 --prompt-file`. The pairs of subject and
     background color of the second are those held out of klein-mini's training too, and never in the first.
"""

import argparse
import os
import random

import captions


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--train", type=int, default=900)
    parser.add_argument("--heldout", type=int, default=64)
    args = parser.parse_args()
    rng = random.Random(18)
    os.makedirs(args.out, exist_ok=True)
    for name, count, held_out in (("train", args.train, False), ("heldout", args.heldout, True)):
        pictures = [captions.picture(rng, held_out) for _ in range(count)]
        with open(os.path.join(args.out, name + ".txt"), "w") as f:
            f.writelines(captions.describe(rng, p, everything=True)[0] + "\n" for p in pictures)


if __name__ == "__main__":
    main()

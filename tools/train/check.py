"""Stage 5: checks that the exported folder works in diffusers' own pipeline.

In:  the exported folder.
Out: a contact sheet as PNG; an error if the pipeline's picture differs from that of the training code.
"""

import argparse
import os

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

import data
import models

SHEET = """a cat on a blue background|a dog, green stripes|a red circle on a white background
two apples, yellow gradient|a small penguin at the top left on a pink background|three frogs on a white background
a large lion, orange background|robot|a rocket on a black background
a small house at the bottom right, turquoise background|an owl on a purple gradient|a pizza|cat
two small cars on a gray background|a big yellow square on a blue background|unicorn, pink stripes|a snowman on red
a castle in the middle|a shark at the left on a turquoise background|strawberry on a white background
there is a fox and everything behind it is green|a ghost at the top"""
EDITS = ["make the background red", "replace the cat with a dog", "make it smaller", "add a second one"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sheet", required=True)
    parser.add_argument("--work", help="also compare with the training code over the checkpoint here")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = Flux2KleinPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt, image=None, seed=1, side=128):
        return pipe(
            prompt=prompt,
            image=image,
            height=side,
            width=side,
            num_inference_steps=4,
            guidance_scale=1.0,
            max_sequence_length=data.MAX_TOKENS,
            text_encoder_out_layers=models.TAPS,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]

    if args.work:
        import evaluate

        model = evaluate.Model(args.work, torch.device("cpu"))
        noise = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(1)).flatten(2).transpose(1, 2)
        ids = torch.from_numpy(data.encode(model.tokenizer, ["a cat on a blue background"])).long()
        with torch.no_grad():
            context = models.text_states(model.encoder, ids, model.pad)
            x = models.sample(
                model.transformer, context, noise, None, models.position_ids(128, 128, 0, "cpu", data.MAX_TOKENS), 4
            )
            ours = models.decode_tokens(model.vae, x, 128, 128).clamp(-1, 1)[0]
        ours = ((ours / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy()
        theirs = np.asarray(draw("a cat on a blue background"), dtype=np.float32)
        print("largest difference to the training code, of 255:", np.abs(ours - theirs).max())
        assert np.abs(ours - theirs).max() <= 2
    prompts = [p for line in SHEET.split("\n") for p in line.split("|")]
    pictures = [draw(p) for p in prompts]
    cat = draw("a large cat on a blue background")
    small = draw("a small cat on a yellow background", seed=2)
    stripes = draw("a dog, green stripes")
    pictures += [cat] + [draw(e, [small if "add" in e else cat]) for e in EDITS]
    pictures += [draw("the subject of image 1 on the background of image 2", [cat, stripes])]
    pictures += [draw("cat", seed=s) for s in range(5)]
    pictures += [draw("a fox on a green background", side=s) for s in (64, 96, 192, 256)]
    columns = 8
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 132, rows * 132), "white")
    for i, p in enumerate(pictures):
        sheet.paste(
            p.resize((128, 128)) if p.size != (128, 128) else p, (i % columns * 132 + 2, i // columns * 132 + 2)
        )
    sheet.save(args.sheet)
    print(len(pictures), "pictures in", args.sheet)


if __name__ == "__main__":
    main()

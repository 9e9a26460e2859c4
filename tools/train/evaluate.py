"""A quick evaluation, on pictures of held-out subject x background pairs.

In:  WORK with tokenizer, vae.pt and flow_ema.pt.
Out: a table on standard output.

Answers are nearest neighbors. Subject: among all glyphs, also mirrored, on the known background inside the known boxes.
Background: among all colors and patterns, outside the boxes. Layout: among all counts, sizes and places of the true
subject.
"""

import argparse
import os
import random

import torch

import captions
import data
import models
import transformer as stage
from subjects import COLOR_NAMES, NAMES, PATTERNS, SIZES, visible, held_out


class Judge:
    def __init__(self, device):
        self.atlas, self.device = data.Atlas(device), device
        layouts = [(s, 1, p) for s in range(3) for p in range(9)] + [(s, c, 4) for s in range(2) for c in (2, 3)]
        self.layouts = torch.tensor(layouts, device=device)
        whole = self.atlas.rows.float() / 127.5
        ends = self.atlas.bases[1:] + [len(whole)]
        sized = [whole[a:b].view(-1, px, px, 4) for a, b, px in zip(self.atlas.bases, ends, data.SIZE_PX)]
        # A glyph over a background b is g + b (1 - a); its squared distance expands to a few products with these.
        self.glyphs = []
        for glyphs in sized:
            both = torch.cat([glyphs, glyphs.flip(2)]).flatten(1, 2)
            g, a = both[..., :3], both[..., 3] / 2
            self.glyphs.append((g.flatten(1), a, (g * a[..., None]).flatten(1), g.square().sum((1, 2)), a.square()))

    def boxes(self, specs, margin=0):
        """Mask of the subjects' boxes: [B, 1, 128, 128] of 0 and 1."""
        corner, there = data.places(self.atlas, specs, 128, 128)
        y = torch.arange(128, device=self.device)[None, :, None]
        x = torch.arange(128, device=self.device)[None, None, :]
        px = self.atlas.px[specs[:, 3]][:, None, None]
        mask = torch.zeros(len(specs), 128, 128, dtype=torch.bool, device=self.device)
        for k in range(3):
            cx, cy = corner[:, k, :1, None], corner[:, k, 1:, None]
            mask |= (
                (x >= cx - margin)
                & (x < cx + px + margin)
                & (y >= cy - margin)
                & (y < cy + px + margin)
                & there[:, k, None, None]
            )
        return mask[:, None].float()

    def variants(self, spec, column, values):
        """Copies of a spec with other values, not mirrored and mirrored: [2 n, 7]."""
        n = len(values)
        out = spec.repeat(2 * n, 1)
        out[:, column] = torch.as_tensor(values, device=self.device).repeat(
            2, *([1] * (torch.as_tensor(values).ndim - 1))
        )
        out[:n, 6], out[n:, 6] = 0, 1
        return out

    def errors(self, image, background, spec):
        """Squared error of a picture for every possible subject, plain and mirrored, minus that of the bare background.

        Returns [2, subjects]. Only the boxes are compared: outside of them the difference is zero.
        """
        corner, there = data.places(self.atlas, spec[None], 128, 128)
        px, (g, a, ga, g2, a2) = data.SIZE_PX[int(spec[3])], self.glyphs[int(spec[3])]
        total = 0
        for (x, y), is_there in zip(corner[0].tolist(), there[0].tolist()):
            if is_there:
                seen, bare = (
                    t[0, :, y : y + px, x : x + px].movedim(0, -1).reshape(-1, 3) for t in (image, background)
                )
                gap, bare = bare - seen, bare + 1
                total = (
                    total
                    + g2
                    + a2 @ bare.square().sum(1)
                    - 2 * ga @ bare.flatten()
                    + 2 * g @ gap.flatten()
                    - 2 * a @ (bare * gap).sum(1)
                )
        return total.view(2, -1)

    def nearest(self, image, specs):
        """Index of the nearest candidate, regardless of mirroring."""
        return int((data.compose(self.atlas, specs) - image).square().flatten(1).sum(1).argmin()) % (len(specs) // 2)

    def __call__(self, images, specs):
        """Whether (subject, background, layout) are right for each picture, [B, 3]."""
        out = torch.zeros(len(specs), 3)
        colors = torch.arange(len(COLOR_NAMES), device=self.device).repeat_interleave(len(PATTERNS))
        patterns = torch.arange(len(PATTERNS), device=self.device).repeat(len(COLOR_NAMES))
        plain = data.backgrounds(self.atlas, colors, patterns, 128, 128) / 127.5 - 1
        for i, spec in enumerate(specs):
            image = images[i : i + 1]
            background = data.backgrounds(self.atlas, spec[:1], spec[1:2], 128, 128) / 127.5 - 1
            subject = int(self.errors(image, background, spec).amin(0).argmin())
            outside = 1 - self.boxes(spec[None], 4)
            back = int(((plain - image).square() * outside).flatten(1).sum(1).argmin())
            near = self.variants(spec, slice(3, 6), self.layouts)
            layout = self.layouts[self.nearest(image, near)]
            out[i, 0] = subject == int(spec[2])
            out[i, 1] = back == int(spec[0]) * len(PATTERNS) + int(spec[1])
            out[i, 2] = bool((layout == spec[3:6]).all())
        return out

    def anywhere(self, image, color, pattern):
        """The subject of a picture whose size and place are unknown: the best over all sizes and places."""
        background = (
            data.backgrounds(self.atlas, *torch.tensor([[color], [pattern]], device=self.device), 128, 128) / 127.5 - 1
        )
        specs = torch.tensor(
            [[color, pattern, 0, size, 1, place, 0] for size, _, place in self.layouts[:27].tolist()],
            device=self.device,
        )
        return int(torch.stack([self.errors(image, background, spec) for spec in specs]).amin((0, 1)).argmin())


class Model:
    def __init__(self, work, device, weights="ema"):
        self.device = device
        self.tokenizer = data.load_tokenizer(os.path.join(work, "tokenizer"))
        self.pad = self.tokenizer.token_to_id("<|endoftext|>")
        self.vae = stage.load_vae(work, device)
        self.transformer, self.encoder = models.make_transformer().to(device), models.make_text_encoder().to(device)
        state = torch.load(os.path.join(work, f"flow_{weights}.pt"))
        load_flow(state, weights, self.transformer, self.encoder)
        self.generator = torch.Generator(device).manual_seed(7)

    @torch.no_grad()
    def draw(self, texts, references=(), steps=4):
        """Draws pictures [B, 3, 128, 128]; `references` is a list of batches of pictures."""
        ids = torch.from_numpy(data.encode(self.tokenizer, texts)).long().to(self.device)
        context = models.text_states(self.encoder, ids, self.pad)
        refs = torch.cat([models.encode_tokens(self.vae, r) for r in references], 1) if references else None
        noise = torch.randn(len(texts), 64, 64, device=self.device, generator=self.generator)
        where = models.position_ids(128, 128, len(references), self.device, data.MAX_TOKENS)
        x = models.sample(self.transformer, context, noise, refs, where, steps)
        return models.decode_tokens(self.vae, x, 128, 128).clamp(-1, 1)


def load_flow(state, key, transformer, encoder):
    """Loads a checkpoint's parameters into the networks, rounded to bf16 as shipped."""
    own = {
        **{f"transformer.{n}": p for n, p in transformer.named_parameters()},
        **{f"text_encoder.{n}": p for n, p in encoder.named_parameters()},
    }
    with torch.no_grad():
        for name, value in zip(state["names"], state[key]):
            own[name].copy_(value.bfloat16())


def percent(values):
    return "  -  " if len(values) == 0 else f"{100 * values.float().mean().item():5.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--weights", default="ema", choices=["ema", "params"])
    parser.add_argument("--steps", type=int, nargs="*", default=[4])
    parser.add_argument("--captions", action="store_true", help="name the captions that came out wrong")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge, model = Judge(device), Model(args.work, device, args.weights)
    tensor = lambda specs: torch.tensor(specs, device=device)

    rng = random.Random(11)
    chosen = [captions.picture(rng, True) for _ in range(args.count)]
    specs = tensor(chosen)
    truth = data.compose(judge.atlas, specs)
    texts = [captions.describe(rng, p, everything=True)[0] for p in chosen]
    easy = ((specs[:, 3] > 0) & (specs[:, 4] == 1)).cpu()

    def row(name, result):
        s = result[:, 0]
        print(
            f"{name:22} subject large+medium {percent(s[easy])} small+several {percent(s[~easy])} "
            f"background {percent(result[:, 1])} "
            f"layout {percent(result[:, 2])}",
            flush=True,
        )

    with torch.no_grad():
        again = torch.cat(
            [
                models.decode_tokens(model.vae, models.encode_tokens(model.vae, t), 128, 128).clamp(-1, 1)
                for t in truth.split(64)
            ]
        )
    row("VAE alone", judge(again, specs))
    for steps in args.steps:
        images = torch.cat([model.draw(texts[i : i + 64], steps=steps) for i in range(0, len(texts), 64)])
        row(f"{steps} steps", judge(images, specs))
    # Captions with only subject and background; size and place are left to the seed.
    few = chosen[: args.count // 4]
    for steps in args.steps:
        said = [f"{data.captions.article(NAMES[p[2]])} on a {COLOR_NAMES[p[0]]} background" for p in few]
        images = model.draw(said, steps=steps)
        right = [judge.anywhere(images[i : i + 1], p[0], 0) == p[2] for i, p in enumerate(few)]
        print(f"{steps} steps, unplaced: subject {percent(torch.tensor(right))}", flush=True)

    for kind in ("background", "replace", "size", "add", "move"):
        edits = []
        while len(edits) < args.count // 4:
            e = captions.edit(rng, kind, allow=True)
            if e and held_out(e[2][2], e[2][0]):
                edits.append(e)
        source = data.compose(judge.atlas, tensor([e[1] for e in edits]))
        result = judge(model.draw([e[3] for e in edits], [source]), tensor([e[2] for e in edits]))
        print(
            f"edit {kind:10} all right {percent(result.all(1))} subject {percent(result[:, 0])} "
            f"background {percent(result[:, 1])} "
            f"layout {percent(result[:, 2])}",
            flush=True,
        )
    pairs = [captions.two_refs(rng, True) for _ in range(args.count // 4)]
    refs = [data.compose(judge.atlas, tensor([p[k] for p in pairs])) for k in (0, 1)]
    result = judge(model.draw([p[3] for p in pairs], refs), tensor([p[2] for p in pairs]))
    print(
        f"two references: both right {percent(result[:, 0] * result[:, 1])} subject {percent(result[:, 0])} background "
        f"{percent(result[:, 1])} layout {percent(result[:, 2])}",
        flush=True,
    )

    for name in ("heldout_captions.txt", "tuning_captions.txt"):
        wordings(judge, model, name, args.captions)


def wordings(judge, model, name, show):
    """Evaluates captions in words that training never saw: a file of `caption | subject | color | pattern` lines."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)) as f:
        lines = [[part.strip() for part in line.split("|")] for line in f if line.strip() and line[0] != "#"]
    images = model.draw([line[0] for line in lines])
    colors = torch.arange(len(COLOR_NAMES), device=judge.device).repeat_interleave(len(PATTERNS))
    patterns = torch.arange(len(PATTERNS), device=judge.device).repeat(len(COLOR_NAMES))
    plain = data.backgrounds(judge.atlas, colors, patterns, 128, 128) / 127.5 - 1
    good, wrong = 0, []
    for i, (text, subject, color, pattern) in enumerate(lines):
        image = images[i : i + 1]
        # The background fills most of the picture, so compare a low quantile of the error over pixels.
        back = int((plain - image).square().mean(1).flatten(1).quantile(0.4, dim=1).argmin())
        got = judge.anywhere(image, back // len(PATTERNS), back % len(PATTERNS))
        answer = (NAMES[got], COLOR_NAMES[back // len(PATTERNS)], PATTERNS[back % len(PATTERNS)])
        good += answer == (subject, color, pattern)
        wrong += [] if answer == (subject, color, pattern) else [(text, answer)]
    print(f"{name}: subject and background right {100 * good / len(lines):.1f}", flush=True)
    for text, answer in wrong if show else []:
        print("   ", text, "->", *answer)


if __name__ == "__main__":
    main()

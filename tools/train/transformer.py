"""Stage 3: the transformer and the text encoder, together, from scratch.

In:  WORK/tokenizer, WORK/vae.pt.
Out: WORK/flow_{params,ema,optimizer}.pt to go on from; flow_ema.pt is what is exported.

Flow matching on normalised latents: x_t = (1 - t) x + t n, the network gives n - x. Sentences come from worker processes,
pictures and latents from the card; latents are kept in rings, so that one is encoded once and used some tens of times.
Text-to-image, edits, two references and a larger size are mixed in every stretch of four steps.
"""

import argparse
import os
import time

import torch

import captions
import data
import models

# What is trained on: (sentences, side in px, share of a step, in which of four steps).
TASKS = [
    (captions.T2I, 128, 6, (0, 1, 2, 3)),
    (captions.EDIT, 128, 2, (0, 1, 2, 3)),
    (captions.TWO_REFS, 128, 1, (0, 2, 3)),
    (captions.T2I, 192, 1, (1,)),
]
FEED = (12, 4, 2)  # chunks of sentences of each kind in turn
CHUNK = 1024  # sentences; on a CPU 32


class Ring:
    """Latents [capacity, pictures, I, 64] and token ids of one task on the device; new ones replace the oldest."""

    def __init__(self, capacity, pictures, tokens, device):
        self.latents = torch.empty(capacity, pictures, tokens, 4 * models.LATENT, dtype=torch.bfloat16, device=device)
        self.ids = torch.empty(capacity, data.MAX_TOKENS, dtype=torch.int16, device=device)
        self.next = self.filled = 0

    def add(self, latents, ids):
        n = min(len(latents), len(self.latents) - self.next)
        self.latents[self.next : self.next + n] = latents[:n]
        self.ids[self.next : self.next + n] = ids[:n]
        self.filled = max(self.filled, self.next + n)
        self.next = (self.next + n) % len(self.latents)

    def draw(self, n):
        at = torch.randint(self.filled, (n,), device=self.ids.device)
        return self.latents[at].float(), self.ids[at].long()


class Feeder:
    """Turns sentences and specs into latents."""

    def __init__(self, args, source, vae, device, chunk):
        self.atlas, self.vae, self.device = data.Atlas(device), vae, device
        sizes = [args.pool, int(args.pool * 0.7), int(args.pool * 0.3), args.pool // 10]
        self.rings = [Ring(c, t + 1 if t != captions.T2I else 1, (side // 16) ** 2, device) for c, (t, side, _, _) in zip(sizes, TASKS)]
        self.chunk = chunk
        self.source = source
        self.turn = 0

    @torch.no_grad()
    def feed(self):
        """One chunk of sentences; returns how many pictures were encoded."""
        kind, specs, ids = next(self.source)
        task = kind
        if kind == captions.T2I:
            self.turn += 1
            task = 3 if self.turn % 10 == 5 else 0
        specs = torch.from_numpy(specs).to(self.device, non_blocking=True).long()
        ids = torch.from_numpy(ids).to(self.device, non_blocking=True)
        side = TASKS[task][1]
        flat = specs.reshape(-1, 7)
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = torch.cat([models.encode_tokens(self.vae, data.compose(self.atlas, part, side, side))
                                 for part in flat.split(self.chunk // 2)])
        self.rings[task].add(latents.view(len(specs), -1, *latents.shape[1:]), ids)
        return len(flat)


def times(n, tokens, device):
    """Half at random as the pipeline's schedule is spaced, a quarter exactly its four levels, a quarter uniform."""
    u = torch.rand(n, device=device)
    e = 2.718281828459045 ** models.pipeline_mu(tokens, 4)
    shifted = e * u / (1 + (e - 1) * u)
    levels = torch.tensor(models.sigmas(tokens, 4)[:-1], device=device)
    exact = levels[torch.randint(4, (n,), device=device)]
    r = torch.rand(n, device=device)
    return torch.where(r < 0.5, shifted, torch.where(r < 0.75, exact, u)).clamp(1e-3, 1)


def split_parameters(transformer, encoder):
    """(names, matrices for Muon, the rest). The layer behind the last tap is not trained."""
    used = [(f"transformer.{n}", p) for n, p in transformer.named_parameters()]
    used += [(f"text_encoder.{n}", p) for n, p in encoder.named_parameters()
             if not n.startswith(("lm_head", "model.norm", f"model.layers.{max(models.TAPS)}"))]
    muon = lambda n, p: p.ndim == 2 and ("blocks" in n or "layers" in n)
    matrices = [(n, p) for n, p in used if muon(n, p)]
    rest = [(n, p) for n, p in used if not muon(n, p)]
    return [n for n, _ in matrices + rest], [p for _, p in matrices], [p for _, p in rest]


def load_vae(work, device):
    vae = models.make_vae()
    vae.load_state_dict(torch.load(os.path.join(work, "vae.pt")))
    return vae.to(device).requires_grad_(False).eval()


def save(folder, trainer, names, seconds, step):
    state = trainer.state()
    base = {"names": names, "seconds": seconds, "step": step}
    torch.save({**base, "params": state.pop("params")}, os.path.join(folder, "flow_params.pt"))
    torch.save({**base, "ema": state.pop("ema")}, os.path.join(folder, "flow_ema.pt"))
    torch.save({**base, **state}, os.path.join(folder, "flow_optimizer.pt"))


def resume(work, trainer):
    """(seconds, step) of the checkpoint in `work`, or zeros."""
    if not os.path.exists(os.path.join(work, "flow_params.pt")):
        return 0.0, 0
    state = {}
    for part in ("params", "ema", "optimizer"):
        state |= torch.load(os.path.join(work, f"flow_{part}.pt"))
    trainer.load(state)
    return state["seconds"], state["step"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder with tokenizer and vae.pt; checkpoints go here")
    parser.add_argument("--copy", help="also save the checkpoint here")
    parser.add_argument("--seconds", type=float, default=6 * 3600, help="training time over all calls")
    parser.add_argument("--stop-after", type=float, default=1e9, help="end this call after so many seconds, preparation included")
    parser.add_argument("--batch", type=int, default=0, help="samples of 9 shares per step (0: 1152 on a GPU, 36 else)")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--pool", type=int, default=0, help="latents kept of text-to-image (0: 500000 on a GPU, 6000 else)")
    parser.add_argument("--first", type=int, default=0, help="pictures encoded before the first step")
    parser.add_argument("--feed-every", type=int, default=2, help="steps per freshly encoded chunk")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    began = time.time()
    resumed = torch.load(os.path.join(args.work, "flow_params.pt"))["step"] if os.path.exists(os.path.join(args.work, "flow_params.pt")) else 0
    chunk = CHUNK if torch.cuda.is_available() else 32
    source = data.stream(os.path.join(args.work, "tokenizer"), args.seed + resumed, FEED, chunk, args.workers)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.pool = args.pool or (500_000 if gpu else 6000)
    batch = args.batch or (1152 if gpu else 36)
    unit = batch // 9
    args.first = args.first or (150_000 if gpu else 600)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    feeder = Feeder(args, source, load_vae(args.work, device), device, chunk)
    transformer, encoder = models.make_transformer().to(device), models.make_text_encoder().to(device)
    names, matrices, rest = split_parameters(transformer, encoder)
    trainer = models.Trainer(matrices, rest)
    spent, step = resume(args.work, trainer)
    if step:
        torch.manual_seed(args.seed + step)
    pad = data.load_tokenizer(os.path.join(args.work, "tokenizer")).token_to_id("<|endoftext|>")
    text = models.text_states
    if gpu:
        torch._dynamo.config.suppress_errors = True  # a block that does not compile runs as it is
        torch._dynamo.config.cache_size_limit = 64
        for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
            block.compile(dynamic=False)
    ids = {(t, side): models.position_ids(side, side, t if t != captions.T2I else 0, device, data.MAX_TOKENS) for t, side, _, _ in TASKS}

    made = 0
    while made < args.first or any(r.filled == 0 for r in feeder.rings):
        made += feeder.feed()
    if gpu:
        torch.cuda.synchronize()
    print(f"{made} pictures in {time.time() - began:.0f} s; resumed at step {step}, {spent:.0f} s", flush=True)

    start = last = time.time()
    seen, losses = 0, torch.zeros(len(TASKS), 2, device=device)
    while spent + time.time() - start < args.seconds and time.time() - began < args.stop_after:
        progress = (spent + time.time() - start) / args.seconds
        active = [(i, task) for i, task in enumerate(TASKS) if step % 4 in task[3]]
        total = sum(unit * task[2] for _, task in active)
        for i, (kind, side, share, _) in active:
            n = unit * share
            pictures, tokens = feeder.rings[i].draw(n)
            x, refs = pictures[:, 0], pictures[:, 1:].flatten(1, 2)
            count = x.shape[1]
            t = times(n, count, device)
            noise = torch.randn_like(x)
            inputs = torch.lerp(x, noise, t[:, None, None])
            if refs.shape[1]:
                inputs = torch.cat([inputs, refs], 1)
            with torch.autocast(device.type, torch.bfloat16):
                context = text(encoder, tokens, pad)
                v = transformer(hidden_states=inputs, encoder_hidden_states=context, timestep=t, txt_ids=ids[kind, side][0],
                                img_ids=ids[kind, side][1], return_dict=False)[0][:, :count]
            loss = (v.float() - (noise - x)).square().mean()
            (loss * (n / total)).backward()
            losses[i] += torch.stack([loss.detach(), torch.ones_like(loss)])
            seen += n
        rate = models.schedule(progress, step, 200)
        trainer.step(args.lr * rate, 0.5 * args.lr * rate, min(0.999, (step + 1) / (step + 10)))
        step += 1
        if step % args.feed_every == 0:
            made += feeder.feed()
        if time.time() - last > (15 if gpu else 10):
            mean = (losses[:, 0] / losses[:, 1]).tolist()
            print(f"step {step} {spent + time.time() - start:.0f} s loss {' '.join(f'{m:.4f}' for m in mean)} "
                  f"{seen / (time.time() - last):.0f}/s grad {trainer.norm.item():.2f} made {made}", flush=True)
            last, seen = time.time(), 0
            losses.zero_()
    spent += time.time() - start
    for folder in filter(None, [args.work, args.copy]):
        save(folder, trainer, names, spent, step)
    print(f"saved at step {step}, {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()

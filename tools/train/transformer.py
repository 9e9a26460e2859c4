"""Stage 3: trains transformer and text encoder together, from scratch or from an exported model.

In:  WORK/tokenizer, WORK/{words,unknown}.txt, WORK/glyphs.npz, WORK/vae.pt (or that of --init).
Out: WORK/flow_{params,ema,optimizer}.pt, to resume from; flow_ema.pt is exported. WORK/vae.pt, if it was not there.

Flow matching on normalized latents: x_t = (1 - t) x + t n, the network predicts n - x. Unsaid fields are coupled to the
noise (data.couple). Worker processes write sentences; the GPU composes and encodes pictures. Latents are kept in ring
buffers and used several times. PERIOD steps mix the TASKS: text-to-image, edits, two references, all sizes. Several
GPUs (`torchrun --nproc-per-node N transformer.py …`) are data-parallel: each has its own batch, gradients are averaged.
"""

import argparse
import itertools
import math
import os
import random
import time
from typing import NamedTuple

import torch
import torch.distributed as dist

import captions
import data
import models
import optimizer


class Task(NamedTuple):
    """A kind of sample at sizes with one number of tokens, so that a step has one shape for all of them."""

    kind: int
    sizes: tuple  # (height, width)
    units: int  # of samples in a step
    turns: tuple  # the steps of PERIOD in which it takes part
    feed: int  # chunks of sentences per cycle
    pool: float  # capacity of its rings, relative to --pool

    @property
    def references(self):
        return self.kind if self.kind != captions.T2I else 0

    @property
    def tokens(self):
        """Tokens of one picture."""
        return self.sizes[0][0] * self.sizes[0][1] // 256


def turned(height, width):
    return ((height, width), (width, height))


ALL, ODD, EVEN = (0, 1, 2, 3, 4, 5, 6, 7), (1, 3, 5, 7), (0, 2, 4, 6)
PERIOD = 8
TASKS = [
    Task(captions.T2I, ((128, 128),), 4, ALL, 12, 1.0),
    Task(captions.EDIT, ((128, 128),), 4, ALL, 12, 0.8),
    Task(captions.TWO_REFS, ((128, 128),), 1, EVEN, 3, 0.25),
    Task(captions.T2I, ((256, 256),), 3, ODD, 8, 0.3),
    Task(captions.T2I, turned(128, 256), 1, EVEN, 4, 0.15),
    Task(captions.T2I, ((192, 192), *turned(144, 256)), 1, ODD, 5, 0.12),
    Task(captions.T2I, turned(192, 256), 1, (2, 6), 3, 0.1),
    Task(captions.T2I, turned(96, 192), 1, (0, 4), 3, 0.1),
    Task(captions.T2I, ((96, 96),), 1, (2, 6), 2, 0.15),
    Task(captions.T2I, ((320, 320),), 1, (3,), 1, 0.05),
    Task(captions.EDIT, ((256, 256),), 1, ODD, 4, 0.12),
    Task(captions.EDIT, turned(128, 256), 1, (0, 4), 3, 0.08),
    Task(captions.EDIT, ((192, 192),), 1, (2, 6), 2, 0.12),
]
FEED = tuple(sum(task.feed for task in TASKS if task.kind == kind) for kind in range(3))  # chunks per cycle, by kind
CHUNK = 1024  # sentences per chunk of the smallest pictures; 16 on a CPU
# Noise in the latents of references, at most: at inference they are pictures that the model drew.
REFERENCE_NOISE = 0.08
# A picture with unsaid fields is coupled to its noise, except some at noise levels below this one: masked edits show
# them what they do not say.
FREE_BELOW, FREE_SHARE = 0.8, 0.1


class Ring:
    """Ring buffer of a task at one size: latents [capacity, pictures, I, 64], token ids, choices, unsaid fields."""

    def __init__(self, capacity, pictures, tokens, device):
        empty = lambda *shape, dtype=torch.int16: torch.empty(capacity, *shape, dtype=dtype, device=device)
        self.parts = [
            empty(pictures, tokens, 4 * models.LATENT, dtype=torch.bfloat16),
            empty(data.MAX_TOKENS),
            empty(7),
            empty(),
        ]
        self.capacity, self.next, self.filled = capacity, 0, 0

    def add(self, *parts):
        n = min(len(parts[0]), self.capacity - self.next)
        for mine, new in zip(self.parts, parts):
            mine[self.next : self.next + n] = new[:n]
        self.filled = max(self.filled, self.next + n)
        self.next = (self.next + n) % self.capacity


class Feeder:
    """Encodes pictures of new sentences into the rings of all tasks."""

    def __init__(self, pool, source, vae, atlas, device, chunk):
        self.atlas, self.vae, self.device, self.chunk, self.source = atlas, vae, device, chunk, source
        ring = lambda task: Ring(
            max(64, int(pool * task.pool / len(task.sizes))), task.references + 1, task.tokens, device
        )
        self.rings = [[ring(task) for _ in task.sizes] for task in TASKS]
        # The rings that sentences of a kind go to, in turn.
        places = {kind: [] for kind in range(3)}
        for turn in range(max(task.feed for task in TASKS)):
            for i, task in enumerate(TASKS):
                if turn < task.feed:
                    places[task.kind].append((i, turn % len(task.sizes)))
        self.places = {kind: itertools.cycle(these) for kind, these in places.items()}

    @torch.no_grad()
    def feed(self):
        """Encodes one chunk of sentences; returns the number of encoded pictures."""
        kind, *parts = next(self.source)
        i, size = next(self.places[kind])
        task = TASKS[i]
        height, width = task.sizes[size]
        # Fewer of the larger pictures.
        count = max(1, len(parts[0]) * 64 // max(64, task.tokens))
        scenes, ids, choices, unsaid = (torch.from_numpy(p[:count]).to(self.device, non_blocking=True) for p in parts)
        flat = scenes.flatten(0, 1).long()
        with models.autocast(self.device):
            latents = torch.cat(
                [
                    models.encode_tokens(self.vae, data.compose(self.atlas, part, height, width))
                    for part in flat.split(max(1, self.chunk // 2 * 64 // max(64, task.tokens)))
                ]
            )
        self.rings[i][size].add(latents.view(count, -1, *latents.shape[1:]), ids, choices, unsaid)
        return len(flat)


class Lesson:
    """A task's part of a training step: samples, loss, gradients. On a GPU it is a CUDA graph."""

    def __init__(self, task, rings, unit, weight, networks, pad, device):
        self.task, self.rings, self.weight, self.pad, self.device = task, rings, weight, pad, device
        self.transformer, self.encoder = networks
        self.n = unit * task.units
        self.loss = torch.zeros((), device=device)
        # Inputs of the graph.
        self.inputs = [torch.zeros(self.n, *part.shape[1:], dtype=part.dtype, device=device) for part in rings[0].parts]
        places = [models.position_ids(*size, task.references, device, data.MAX_TOKENS) for size in task.sizes]
        self.text_ids, self.image_ids = places[0][0], places[0][1].clone()
        self.places = [image for _, image in places]
        self.mu = models.pipeline_mu(task.tokens, 4)
        self.levels = torch.tensor(models.sigmas(task.tokens, 4)[:-1], device=device)
        self.graph = None

    def draw(self):
        """Fills the inputs with random samples of one size."""
        size = random.randrange(len(self.rings))
        ring = self.rings[size]
        at = torch.randint(ring.filled, (self.n,), device=self.device)
        for mine, part in zip(self.inputs, ring.parts):
            torch.index_select(part, 0, at, out=mine)
        self.image_ids.copy_(self.places[size])

    def _run(self):
        pictures, tokens, choices, unsaid = self.inputs
        pictures, tokens, choices, unsaid = pictures.float(), tokens.long(), choices.long(), unsaid.long()
        x, refs = pictures[:, 0], pictures[:, 1:].flatten(1, 2)
        count = x.shape[1]
        t = times(self.n, self.levels, self.mu)
        free = (torch.rand_like(t) < FREE_SHARE) & (t < FREE_BELOW)
        noise = data.couple(torch.randn_like(x), choices, torch.where(free, 0, unsaid))
        inputs = torch.lerp(x, noise, t[:, None, None])
        if refs.shape[1]:
            inputs = torch.cat(
                [inputs, refs + REFERENCE_NOISE * torch.rand_like(t)[:, None, None] * torch.randn_like(refs)], 1
            )
        with models.autocast(self.device):
            context = models.text_states(self.encoder, tokens, self.pad)
            v = self.transformer(
                hidden_states=inputs,
                encoder_hidden_states=context,
                timestep=t,
                txt_ids=self.text_ids,
                img_ids=self.image_ids,
                return_dict=False,
            )[0][:, :count]
        loss = (v.float() - (noise - x)).square().mean()
        (loss * self.weight).backward()
        self.loss += loss.detach()

    def run(self):
        self.draw()
        self.graph.replay() if self.graph else self._run()

    def capture(self):
        """Captures the CUDA graph: thousands of small kernels take longer to launch than to run."""
        self.draw()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run()
        self.graph = graph


def times(n, levels, mu):
    """Random timesteps: half spaced as the pipeline's schedule, a quarter exactly its `levels`, a quarter uniform."""
    u = torch.rand(n, device=levels.device)
    shifted = math.exp(mu) * u / (1 + (math.exp(mu) - 1) * u)
    exact = levels[torch.randint(len(levels), (n,), device=levels.device)]
    r = torch.rand(n, device=levels.device)
    return torch.where(r < 0.5, shifted, torch.where(r < 0.75, exact, u)).clamp(1e-3, 1)


def split_parameters(transformer, encoder):
    """Returns (names, matrices for Muon, the rest). The layer after the last tap is not trained."""
    used = [(f"transformer.{n}", p) for n, p in transformer.named_parameters()]
    used += [
        (f"text_encoder.{n}", p)
        for n, p in encoder.named_parameters()
        if not n.startswith(("lm_head", "model.norm", f"model.layers.{max(models.TAPS)}"))
    ]
    muon = lambda n, p: p.ndim == 2 and ("blocks" in n or "layers" in n)
    matrices = [(n, p) for n, p in used if muon(n, p)]
    rest = [(n, p) for n, p in used if not muon(n, p)]
    return [n for n, _ in matrices + rest], [p for _, p in matrices], [p for _, p in rest]


def load_vae(work, device, exported=None):
    """The autoencoder of WORK, or of an exported model if WORK has none."""
    vae, path = models.make_vae(), os.path.join(work, "vae.pt")
    if exported and not os.path.exists(path):
        from safetensors.torch import load_file

        vae.load_state_dict(load_file(os.path.join(exported, "vae", "diffusion_pytorch_model.safetensors")))
    else:
        vae.load_state_dict(torch.load(path))
    return vae.to(device).requires_grad_(False).eval()


def save(folder, trainer, names, seconds, step):
    state = trainer.state()
    base = {"names": names, "seconds": seconds, "step": step}
    parts = {"params": {"params": state.pop("params")}, "ema": {"ema": state.pop("ema")}, "optimizer": state}
    for part, values in parts.items():
        path = os.path.join(folder, f"flow_{part}.pt")
        torch.save({**base, **values}, path + ".new")
        os.replace(path + ".new", path)


def resume(work, trainer):
    """Loads the checkpoint in `work`, of which the averaged weights suffice; returns (seconds, step), zeros without."""
    state = {}
    for part in ("ema", "params", "optimizer"):
        path = os.path.join(work, f"flow_{part}.pt")
        state |= torch.load(path) if os.path.exists(path) else {}
    if not state:
        return 0.0, 0
    trainer.load({"params": state["ema"], **state})
    return state["seconds"], state["step"]


@torch.no_grad()
def start_from(folder, transformer, encoder, tokenizer):
    """Loads an exported model. Embeddings are matched by token text; those of new tokens keep their initial values."""
    from safetensors.torch import load_file

    transformer.load_state_dict(
        {
            n: t.float()
            for n, t in load_file(os.path.join(folder, "transformer", "diffusion_pytorch_model.safetensors")).items()
        }
    )
    weights = {n: t.float() for n, t in load_file(os.path.join(folder, "text_encoder", "model.safetensors")).items()}
    old, known = (
        data.load_tokenizer(os.path.join(folder, "tokenizer")).get_vocab(),
        weights.pop("model.embed_tokens.weight"),
    )
    for token, row in tokenizer.get_vocab().items():
        if token in old:
            encoder.model.embed_tokens.weight[row] = known[old[token]]
    encoder.load_state_dict(weights, strict=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder with tokenizer and vae.pt; checkpoints go here")
    parser.add_argument("--init", help="exported model whose weights the first call begins with")
    parser.add_argument("--seconds", type=float, default=6 * 3600, help="training time over all calls")
    parser.add_argument(
        "--stop-after", type=float, default=1e9, help="end this call after so many seconds, preparation included"
    )
    parser.add_argument("--save-every", type=float, default=600, help="seconds between checkpoints")
    parser.add_argument(
        "--unit", type=int, default=0, help="samples of a unit of the tasks, per device (0: 128 on a GPU, 2 else)"
    )
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--pool", type=int, default=0, help="latents kept of text-to-image (0: 400000 on a GPU, 6000 else)"
    )
    parser.add_argument("--first", type=int, default=0, help="pictures encoded before the first step")
    parser.add_argument("--feed-every", type=int, default=3, help="steps per freshly encoded chunk")
    parser.add_argument("--workers", type=int, default=0, help="processes that write sentences, of each device")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--finish", action="store_true", help="end the schedule with this call, at --stop-after")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    began = time.time()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    averaged = os.path.join(args.work, "flow_ema.pt")
    resumed = torch.load(averaged)["step"] if os.path.exists(averaged) else 0
    seed = args.seed + 1000 * rank + resumed
    # Counting GPUs does not initialize CUDA, so workers can still be forked.
    gpu = torch.cuda.device_count() > 0
    chunk = CHUNK if gpu else 16
    source = data.stream(args.work, seed, FEED, chunk, args.workers)
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    if args.threads:
        torch.set_num_threads(args.threads)
    unit = args.unit or (128 if gpu else 2)
    args.first = args.first or (100_000 if gpu else 600)
    random.seed(seed)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    atlas = data.Atlas(device, os.path.join(args.work, "glyphs.npz"))
    vae, vae_path = load_vae(args.work, device, args.init), os.path.join(args.work, "vae.pt")
    if rank == 0 and not os.path.exists(vae_path):
        torch.save(vae.state_dict(), vae_path)
    feeder = Feeder(args.pool or (400_000 if gpu else 6000), source, vae, atlas, device, chunk)
    transformer, encoder = models.make_transformer(), models.make_text_encoder()
    tokenizer = data.load_tokenizer(os.path.join(args.work, "tokenizer"))
    if args.init:
        start_from(args.init, transformer, encoder, tokenizer)
    transformer, encoder = transformer.to(device), encoder.to(device)
    names, matrices, rest = split_parameters(transformer, encoder)
    trainer = optimizer.Trainer(matrices, rest)
    spent, step = resume(args.work, trainer)
    torch.manual_seed(seed)
    if gpu:
        torch._dynamo.config.suppress_errors = True  # a block that fails to compile runs eagerly
        torch._dynamo.config.cache_size_limit = 64
        for block in [
            *transformer.transformer_blocks,
            *transformer.single_transformer_blocks,
            *encoder.model.layers[: max(models.TAPS)],
        ]:
            block.compile(dynamic=True)  # the tasks have ten shapes

    made = 0
    while made < args.first or any(ring.filled == 0 for rings in feeder.rings for ring in rings):
        made += feeder.feed()
    pad = tokenizer.token_to_id("<|endoftext|>")
    units = sum(task.units * len(task.turns) for task in TASKS) / PERIOD
    lessons = [
        Lesson(task, rings, unit, task.units / units, (transformer, encoder), pad, device)
        for task, rings in zip(TASKS, feeder.rings)
    ]
    if gpu:
        torch.cuda.synchronize()
        print(
            f"{rank}: {made} pictures in {time.time() - began:.0f} s; resumed at step {step}, {spent:.0f} s", flush=True
        )
        for lesson in lessons:
            try:
                lesson.capture()
                print(f"{rank}: task captured, {time.time() - began:.0f} s", flush=True)
            except Exception as error:
                print(f"{rank}: not captured: {error}", flush=True)
        trainer.flat.zero_()
        for lesson in lessons:
            lesson.loss.zero_()

    start = last = saved = time.time()
    if args.finish:
        args.seconds = spent + args.stop_after - (start - began)
    seen, taught = 0, [0] * len(lessons)
    # All processes use the clock of the first, so that they anneal and stop together.
    clock = torch.zeros(2, dtype=torch.float64, device=device)
    while True:
        if (step - resumed) % 20 == 0:
            now = time.time()
            clock.copy_(torch.tensor([spent + now - start, now - began]))
            if world > 1:
                dist.broadcast(clock, 0)
            elapsed, in_call = clock.tolist()
        if elapsed >= args.seconds or in_call >= args.stop_after:
            break
        for i, lesson in enumerate(lessons):
            if step % PERIOD in lesson.task.turns:
                lesson.run()
                taught[i] += 1
                seen += lesson.n * world
        if world > 1:
            dist.all_reduce(trainer.flat)
            trainer.flat /= world
        rate = optimizer.schedule(elapsed / args.seconds, step - resumed, 200)
        trainer.step(args.lr * rate, 0.5 * args.lr * rate, min(0.999, (step + 1) / (step + 10)))
        step += 1
        if step % args.feed_every == 0:
            made += feeder.feed()
        if rank == 0 and time.time() - last > (15 if gpu else 10):
            means = " ".join(f"{lesson.loss.item() / max(1, n):.3f}" for lesson, n in zip(lessons, taught))
            print(
                f"step {step} {elapsed:.0f} s loss {means} {seen / (time.time() - last):.0f}/s "
                f"grad {trainer.norm.item():.2f} "
                f"made {made * world}",
                flush=True,
            )
            last, seen, taught = time.time(), 0, [0] * len(lessons)
            for lesson in lessons:
                lesson.loss.zero_()
        if rank == 0 and time.time() - saved > args.save_every:
            save(args.work, trainer, names, spent + time.time() - start, step)
            saved = time.time()
    if rank == 0:
        save(args.work, trainer, names, elapsed, step)
        print(f"saved at step {step}, {elapsed:.0f} s", flush=True)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

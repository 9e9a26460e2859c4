"""Trains the upscaler: SRVGGNetCompact, four times larger, with 16 inner convolutions of 64 channels.

In:  the archive of upscaler_sprites.py, klein-mini's autoencoder.
Out: OUT/upscaler_state.pt, to resume from; OUT/upscaler.safetensors: the averaged weights in f16 under the keys of
     Real-ESRGAN's SRVGG files; OUT/upscaler.json: the run and its loss.

A pool of painted pictures and their low-resolution versions lies on the device and is renewed while training runs. A
step sees crops of it at random places, turned and mirrored. A part of each batch is reduced only two times: there the
network's output is reduced two times by Lanczos, as the program does for other factors, before it is compared.
"""

import argparse
import json
import os
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import optimizer
import upscaler_data
import upscaler_degrade
from upscaler_vae import Vae

SCALE = 4
INNER = 16
FEATURES = 64
CROP = 48  # side of low-resolution crops; the receptive field is 37
TWICE_SHARE = 0.2  # of a batch: pictures reduced two times
SIDE = upscaler_data.SIDE
LANCZOS = 2  # of upscaler_degrade.FILTERS


class Srvgg(nn.Module):
    """Pictures [B, 3, h, w] in 0..1 to [B, 3, 4h, 4w], not clamped: a residual on nearest-neighbor enlargement."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, FEATURES, 3, padding=1), nn.PReLU(FEATURES)]
        for _ in range(INNER):
            layers += [nn.Conv2d(FEATURES, FEATURES, 3, padding=1), nn.PReLU(FEATURES)]
        layers.append(nn.Conv2d(FEATURES, 3 * SCALE**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        with torch.no_grad():
            for conv in self.body[:-1:2]:
                nn.init.kaiming_normal_(conv.weight, a=0.25)
                conv.bias.zero_()
            self.body[-1].weight.mul_(0.1)
            self.body[-1].bias.zero_()

    def forward(self, x):
        residual = F.pixel_shuffle(self.body(x).float(), SCALE)
        return residual + F.interpolate(x, scale_factor=float(SCALE), mode="nearest")


class Pool:
    """Sharp pictures with two low-resolution versions each, as bytes on the device; the oldest are replaced."""

    def __init__(self, painter, vae, capacity):
        self.painter, self.vae = painter, vae
        empty = lambda side: torch.empty(capacity, 3, side, side, dtype=torch.uint8, device=painter.device)
        self.sharp, self.half, self.quarter = empty(SIDE), empty(SIDE // 2), empty(SIDE // 4)
        self.next = self.filled = self.painted = 0

    def renew(self):
        """Paints one chunk."""
        kind, pictures = self.painter.paint()
        drawn = kind in upscaler_data.DRAWN
        rows = slice(self.next, self.next + len(pictures))
        self.sharp[rows] = (pictures * 255).round().byte()
        self.half[rows] = (upscaler_degrade.degraded(pictures, 2, self.vae, drawn) * 255).round().byte()
        self.quarter[rows] = (upscaler_degrade.degraded(pictures, 4, self.vae, drawn) * 255).round().byte()
        self.filled = max(self.filled, rows.stop)
        self.next = rows.stop % len(self.sharp)
        self.painted += len(pictures)

    def crops(self, low, factor, count):
        """(low [count, 3, CROP, CROP], sharp [count, 3, factor * CROP, …]) at random places, turned and mirrored."""
        device = low.device
        rows = torch.randint(self.filled, (count,), device=device)
        corner = torch.randint(low.shape[-1] - CROP + 1, (2, count), device=device)
        out = []
        flip, turn = int(torch.randint(2, ())), int(torch.randint(4, ()))
        for pictures, scale in ((low, 1), (self.sharp, factor)):
            span = torch.arange(CROP * scale, device=device)
            y, x = corner[0, :, None] * scale + span, corner[1, :, None] * scale + span
            crop = pictures[rows[:, None, None], :, y[:, :, None], x[:, None, :]]  # [count, h, w, 3]
            crop = crop.permute(0, 3, 1, 2).float() / 255
            crop = crop.flip(3) if flip else crop
            out.append(torch.rot90(crop, turn, (2, 3)))
        return out


def charbonnier(a, b, epsilon=4e-3):
    return ((a - b).square() + epsilon**2).sqrt().mean() - epsilon


def loss_of(a, b):
    """Pixels, and with a small weight their differences to the neighbors, which keeps edges sharp."""
    edges = charbonnier(a.diff(dim=-1), b.diff(dim=-1)) + charbonnier(a.diff(dim=-2), b.diff(dim=-2))
    return charbonnier(a, b) + 0.1 * edges


def batch_loss(network, quarter, sharp_of_quarter, half, sharp_of_half):
    out = network(torch.cat([quarter, half]))
    loss = loss_of(out[: len(quarter)], sharp_of_quarter) * (1 - TWICE_SHARE)
    twice = upscaler_degrade.reduced(out[len(quarter) :], 2, LANCZOS)
    return loss + loss_of(twice, sharp_of_half) * TWICE_SHARE


class Steps:
    """Training steps. On a GPU in f16, with a loss scale that halves where gradients overflow."""

    def __init__(self, network, device):
        self.network, self.device = network, device
        self.gpu = device.type == "cuda"
        convolutions = [m.weight for m in network.body if isinstance(m, nn.Conv2d)]
        matrices = convolutions[1:-1]
        rest = [p for p in network.parameters() if not any(p is m for m in matrices)]
        self.trainer = optimizer.Trainer(matrices, rest, weight_decay=0.0)
        self.scale = torch.tensor(2.0**12 if self.gpu else 1.0, device=device)
        self.run = network

    def compile(self):
        self.run = torch.compile(self.network)

    def forward(self, x):
        with torch.autocast(self.device.type, torch.float16, enabled=self.gpu):
            return self.run(x.contiguous(memory_format=torch.channels_last))

    def __call__(self, batch, lr, ema_decay):
        loss = batch_loss(self.forward, *batch)
        (loss * self.scale).backward()
        if self.gpu:
            gradients = self.trainer.flat
            finite = torch.isfinite(gradients).all()
            gradients.copy_(torch.where(finite, gradients / self.scale, 0.0))
            self.scale.copy_(torch.where(finite, (self.scale * 1.001).clamp(max=2.0**16), self.scale / 2))
        self.trainer.step(lr, 0.5 * lr, ema_decay)
        return loss.detach()


def export(network, path):
    """Writes the weights in f16; returns the size of the file."""
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})
    size = os.path.getsize(path)
    assert size <= 1_300_000, "too large for the program"
    return size


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", required=True, help="made by upscaler_sprites.py")
    parser.add_argument("--vae", required=True, help="assets/mini/vae/diffusion_pytorch_model.safetensors")
    parser.add_argument("--out", required=True)
    parser.add_argument("--resume", help="upscaler_state.pt of an earlier call")
    parser.add_argument("--seconds", type=float, default=480, help="training time over all calls")
    parser.add_argument("--stop-after", type=float, default=1e9, help="end this call after so many seconds in all")
    parser.add_argument("--finish", action="store_true", help="end the learning-rate schedule with this call")
    parser.add_argument("--batch", type=int, default=0, help="crops a step (0: 128 on a GPU, 8 else)")
    parser.add_argument("--pool", type=int, default=0, help="pictures in the pool (0: 8192 on a GPU, 48 else)")
    parser.add_argument("--chunk", type=int, default=0, help="pictures painted at a time (0: 64 on a GPU, 8 else)")
    parser.add_argument("--paint", type=float, default=0.25, help="share of the time for painting")
    parser.add_argument("--lr", type=float, default=2e-3)
    return parser.parse_args()


def main():
    began = time.time()
    args = parse()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    wait = torch.cuda.synchronize if gpu else lambda: None
    batch, chunk = args.batch or (128 if gpu else 8), args.chunk or (64 if gpu else 8)
    torch.manual_seed(3)
    torch.backends.cudnn.benchmark = True
    os.makedirs(args.out, exist_ok=True)

    network = Srvgg().to(device)
    if gpu:
        network = network.to(memory_format=torch.channels_last)
    steps = Steps(network, device)
    spent, step, painted = 0.0, 0, 0
    if args.resume and os.path.exists(args.resume):
        state = torch.load(args.resume)
        steps.trainer.load(state["trainer"])
        spent, step, painted = state["seconds"], state["step"], state["painted"]
        torch.manual_seed(3 + step)
    vae = Vae(args.vae, device)
    painter = upscaler_data.Painter(args.archive, vae, device, chunk)
    painter.turn = step
    pool = Pool(painter, vae, (args.pool or (8192 if gpu else 48)) // chunk * chunk)
    while pool.filled < len(pool.sharp) // 4 or pool.filled < chunk * min(8, len(pool.sharp) // chunk):
        pool.renew()
    wait()
    print(f"{pool.filled} pictures after {time.time() - began:.0f} s, {pool.painted / (time.time() - began):.0f}/s")

    twice = max(1, round(batch * TWICE_SHARE))
    draw = lambda: (*pool.crops(pool.quarter, 4, batch - twice), *pool.crops(pool.half, 2, twice))
    if gpu:
        steps.compile()
        try:
            for _ in range(3):  # without effect: the learning rate is zero
                steps(draw(), 0.0, 1.0)
            wait()
        except Exception as error:
            print(f"not compiled: {type(error).__name__}: {str(error)[:300]}")
            steps.run = network
            steps.trainer.flat.zero_()
        print(f"compiled after {time.time() - began:.0f} s", flush=True)

    # Steps between two chunks, so that painting takes its share of the time: measured again every 10 s.
    every, paint_time, paint_count = 8, 0.0, 0
    start = last = time.time()
    shown, total, log, first_step = step, torch.zeros((), device=device), [], step
    total_time = spent + args.stop_after - (start - began) if args.finish else args.seconds
    while time.time() - start + spent < total_time and time.time() - began < args.stop_after:
        progress = (spent + time.time() - start) / total_time
        if step % every == 0:
            measured = paint_count < 3
            if measured:
                wait()
            at = time.time()
            pool.renew()
            if measured:
                wait()
                paint_time, paint_count = paint_time + time.time() - at, paint_count + 1
        lr = args.lr * optimizer.schedule(progress, step, 200, flat=0.3, floor=0.005)
        total += steps(draw(), lr, min(0.999, (step + 1) / (step + 20)))
        step += 1
        if time.time() - last > 10 or step == first_step + 20:
            mean, count = total.item() / (step - shown), step - shown
            if paint_count and step > first_step + 20:
                # Three measured chunks among the others give the time of all.
                chunk_time = paint_time / paint_count
                step_time = max(1e-4, (time.time() - last) / count - chunk_time / every)
                every = min(400, max(2, round(chunk_time * (1 - args.paint) / (args.paint * step_time))))
            log.append([round(spent + time.time() - start, 1), step, round(mean, 6)])
            print(
                f"step {step} {spent + time.time() - start:.0f} s loss {mean:.5f} {count / (time.time() - last):.1f}/s "
                f"lr {lr:.2e} painted {painted + pool.painted} chunk each {every} steps "
                f"scale {steps.scale.item():.0f} norm {steps.trainer.norm.item():.3f}",
                flush=True,
            )
            last, shown, paint_time, paint_count = time.time(), step, 0.0, 0
            total.zero_()
    wait()
    spent += time.time() - start
    state = {"trainer": steps.trainer.state(), "seconds": spent, "step": step, "painted": painted + pool.painted}
    torch.save(state, os.path.join(args.out, "upscaler_state.pt"))
    steps.trainer.swap_ema()
    size = export(network, os.path.join(args.out, "upscaler.safetensors"))
    name = torch.cuda.get_device_name() if gpu else "CPU"
    run = {"device": name, "torch": torch.__version__, "seconds": round(spent), "steps": step, "batch": batch}
    run |= {"pictures": painted + pool.painted, "bytes": size, "loss": log}
    with open(os.path.join(args.out, "upscaler.json"), "w") as f:
        json.dump(run, f, indent=1)
    print(f"{step} steps in {spent:.0f} s, {size} bytes, after {time.time() - began:.0f} s in all")


if __name__ == "__main__":
    main()

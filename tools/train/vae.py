"""Stage 2: trains the autoencoder.

In:  the font.
Out: WORK/vae.pt: the averaged weights rounded to bf16, as shipped, and their latent statistics;
     WORK/vae_state.pt, to resume from.

The first 55 % of the time train on 64 px windows around the subjects, the rest on whole pictures. Squared error
dominates the loss, since the target is a signal-to-noise ratio. Latents get a little noise, so that the decoder
tolerates the errors of sampling.
"""

import argparse
import os
import random
import time

import torch

import data
import models
import optimizer

SPECS = 400_000
WINDOW = 64
WINDOW_SHARE = 0.55


def psnr(a, b):
    """Peak signal-to-noise ratio of each picture, in dB; pictures are in [-1, 1]."""
    mse = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return -10 * torch.log10(mse)


def loss_of(vae, x, noise, squared):
    z = models.encode_mean(vae, x)
    y = vae.decoder(vae.post_quant_conv(models.unpatchify(z + 0.1 * noise))).float()
    d = y - x
    edges = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return (
        d.abs().mean() * (1 - squared)
        + (2 + 8 * squared) * d.square().mean()
        + 0.5 * edges * (1 - squared)
        + 1e-3 * z.float().square().mean()
    )


def window_origin(atlas, specs, generator_device):
    """Top left corners (y, x) of windows that show a part of the first subject."""
    corner, px, _ = data.boxes(atlas, data.from_pictures(atlas, specs), data.FULL, data.FULL)
    middle = corner[:, 0].flip(-1) + px[:, :1] // 2
    jitter = torch.randint(-28, 29, middle.shape, device=generator_device)
    return (middle - WINDOW // 2 + jitter).clamp(0, data.FULL - WINDOW)


@torch.no_grad()
def latent_statistics(vae, atlas, pool, batch, batches):
    total = count = square = 0
    for _ in range(batches):
        specs = pool[torch.randint(len(pool), (batch,), device=pool.device)]
        z = models.encode_mean(vae, data.compose(atlas, specs)).double()
        total, square, count = total + z.sum((0, 2, 3)), square + z.square().sum((0, 2, 3)), count + z[:, 0].numel()
    mean = total / count
    vae.bn.running_mean.copy_(mean)
    vae.bn.running_var.copy_(square / count - mean.square())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder for checkpoints")
    parser.add_argument("--seconds", type=float, default=3600, help="training time over all calls")
    parser.add_argument("--stop-after", type=float, default=1e9, help="end this call after so many seconds")
    parser.add_argument(
        "--batch", type=int, default=0, help="windows per step; whole pictures: a quarter (0: 320 on a GPU, 24 else)"
    )
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--specs", type=int, default=SPECS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    batch = args.batch or (320 if gpu else 24)
    os.makedirs(args.work, exist_ok=True)
    torch.manual_seed(2)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True

    atlas = data.Atlas(device)
    pool = data.random_specs(random.Random(2), args.specs, device)
    vae = models.make_vae().to(device)
    if gpu:
        vae = vae.to(memory_format=torch.channels_last)
    trained = [(n, p) for n, p in vae.named_parameters()]
    matrices = [p for n, p in trained if p.ndim >= 2 and not n.endswith(("conv_in.weight",))]
    rest = [p for n, p in trained if not any(p is m for m in matrices)]
    trainer = optimizer.Trainer(matrices, rest)
    path = os.path.join(args.work, "vae_state.pt")
    spent, step = 0.0, 0
    if os.path.exists(path):
        state = torch.load(path)
        trainer.load(state["trainer"])
        spent, step = state["seconds"], state["step"]
        torch.manual_seed(2 + step)

    start = last = time.time()
    shown = step
    phase = None
    while spent + time.time() - start < args.seconds and time.time() - start < args.stop_after:
        progress = (spent + time.time() - start) / args.seconds
        windows = progress < WINDOW_SHARE
        n = batch if windows else batch // 4
        specs = pool[torch.randint(len(pool), (n,), device=device)]
        with torch.no_grad():
            shift = torch.randint(-8, 9, (n, 2), device=device) * (torch.rand(n, 1, device=device) < 0.2)
            if windows:
                x = data.compose(atlas, specs, WINDOW, WINDOW, window_origin(atlas, specs, device), shift, data.FULL)
            else:
                x = data.compose(atlas, specs, shift=shift)
            side = x.shape[-1] // 16
            noise = torch.randn(n, 4 * models.LATENT, side, side, device=device)
        if phase != windows:
            phase, squared = windows, torch.tensor(0.0 if windows else 1.0, device=device)
        with models.autocast(device):
            loss = loss_of(vae, x, noise, squared)
        loss.backward()
        rate = optimizer.schedule(progress, step, 50, flat=0.5, floor=0.01)
        trainer.step(args.lr * rate, args.lr * rate, min(0.998, (step + 1) / (step + 20)))
        step += 1
        if time.time() - last > 10:
            print(
                f"step {step} {spent + time.time() - start:.0f} s loss {loss.item():.4f} "
                f"{n * (step - shown) / (time.time() - last):.0f}/s "
                f"grad {trainer.norm.item():.2f}",
                flush=True,
            )
            last, shown = time.time(), step
    spent += time.time() - start
    torch.save({"trainer": trainer.state(), "seconds": spent, "step": step}, path)

    trainer.swap_ema()
    with torch.no_grad():
        for p in vae.parameters():
            p.copy_(p.bfloat16().float())
        latent_statistics(vae, atlas, pool, batch // 8, 64 if gpu else 8)
        import captions
        from subjects import SIZES

        torch.backends.cuda.matmul.allow_tf32 = False
        rng = random.Random(99)
        held = torch.tensor([captions.picture(rng, True) for _ in range(768 if gpu else 48)], device=device)
        values = torch.cat(
            [
                psnr(models.decode_tokens(vae, models.encode_tokens(vae, x), 128, 128), x)
                for x in data.compose(atlas, held).split(48)
            ]
        )
        by_size = {
            s: round(values[(held[:, 3] == i) & (held[:, 4] == 1)].mean().item(), 2) for i, s in enumerate(SIZES)
        }
        print(
            f"steps {step} seconds {spent:.0f} PSNR mean {values.mean().item():.2f} min {values.min().item():.2f} "
            f"by size {by_size} "
            f"several {values[held[:, 4] > 1].mean().item():.2f}; "
            f"latent std {models.bn_std(vae).min().item():.2f}..{models.bn_std(vae).max().item():.2f}"
        )
    torch.save({k: v.cpu() for k, v in vae.state_dict().items()}, os.path.join(args.work, "vae.pt"))


if __name__ == "__main__":
    main()

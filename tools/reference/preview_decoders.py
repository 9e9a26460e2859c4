"""Golden cases of decoders for previews: tiny random weights of TAESD's family.

`taesd.safetensors` is diffusers' own AutoencoderTiny. `taef2_decoder.pth` has the names and the pools of TAEF2, which
diffusers has not; its blocks are diffusers' own, with the pool of github.com/madebyollin/taesd written out. Both have
the latent channels of the tiny klein.

`values.safetensors` holds for each `NAME.tokens` [h/2 * w/2, 4 * c], normalized latents as the flow transformer makes
them, and `NAME.output` [3, 8 * h, 8 * w], nominally in 0..1.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from files import write_safetensors

LATENT_CHANNELS = 8
FEATURES = 4
POOL = 8
SIZE = (6, 4)


def decoder():
    """The decoder half of an AutoencoderTiny, and its weights by name."""
    widths = (FEATURES,) * 4
    vae = AutoencoderTiny(
        latent_channels=LATENT_CHANNELS, encoder_block_out_channels=widths, decoder_block_out_channels=widths
    )
    return vae.eval()


def tokens_of(latents):
    """[c, h, w] to [h/2 * w/2, 4 * c]: the four pixels of a channel one after the other, by rows."""
    c, h, w = latents.shape
    return latents.reshape(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(h * w // 4, 4 * c).contiguous()


def decode(layers, pools, latents):
    """Through the layers of diffusers, with a pool before each of the first blocks. The result is in 0..1."""
    x = torch.tanh(latents[None] / 3) * 3
    block = 0
    for layer in layers:
        if type(layer).__name__ == "AutoencoderTinyBlock":
            if block < len(pools):
                x = x + pools[block](x)
            block += 1
        x = layer(x)
    return x[0].contiguous()


def write(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(LATENT_CHANNELS, *SIZE, generator=generator) * 1.2
    torch.manual_seed(1)
    vae = decoder()
    write_safetensors(out / "taesd.safetensors", vae.state_dict())
    own = vae.decode(latents[None]).sample[0] / 2 + 0.5
    assert torch.allclose(decode(vae.decoder.layers, [], latents), own, atol=1e-6)
    values = {"taesd.tokens": tokens_of(latents), "taesd.output": own.contiguous()}

    torch.manual_seed(2)
    vae = decoder().half().float()
    pools = []
    for _ in range(3):
        pool = torch.nn.Sequential(
            torch.nn.Conv2d(FEATURES, POOL, 1, bias=False),
            torch.nn.GroupNorm(4, POOL),
            torch.nn.ReLU(),
            torch.nn.Conv2d(POOL, FEATURES, 1, bias=False),
        )
        pool[1].weight.copy_(1 + 0.3 * torch.randn(POOL))
        pool[1].bias.copy_(0.3 * torch.randn(POOL))
        pools.append(pool.half().float().eval())
    # The published file counts the first layer, which bounds the latents and has no weights.
    weights = {}
    for name, value in vae.decoder.layers.state_dict().items():
        number, rest = name.split(".", 1)
        weights[f"{int(number) + 1}.{rest}"] = value.half()
    for i, pool in enumerate(pools):
        weights |= {f"{3 + i}.pool.{name}": value.half() for name, value in pool.state_dict().items()}
    torch.save(weights, out / "taef2_decoder.pth")
    values |= {"taef2.tokens": tokens_of(latents), "taef2.output": decode(vae.decoder.layers, pools, latents)}
    write_safetensors(out / "values.safetensors", values, {"oracle": "diffusers, torch CPU f32"})

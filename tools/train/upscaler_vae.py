"""klein-mini's autoencoder in plain PyTorch, for training machines without diffusers.

In:  diffusion_pytorch_model.safetensors of assets/mini/vae.
Out: pictures encoded and decoded again, with the artifacts of the decoder. Equal to diffusers' AutoencoderKLFlux2 up to
     rounding (`python upscaler_vae.py FILE` compares them).
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

GROUPS = 8
LATENT = 16


class Vae:
    """Functions over the tensors of the file, in f32; pictures are [B, 3, H, W] in -1..1, H and W multiples of 8."""

    def __init__(self, path, device):
        self.w = {k: v.float().to(device) for k, v in load_file(path).items()}

    def conv(self, name, x, stride=1, padding=1):
        return F.conv2d(x, self.w[name + ".weight"], self.w[name + ".bias"], stride=stride, padding=padding)

    def norm(self, name, x):
        return F.group_norm(x, GROUPS, self.w[name + ".weight"], self.w[name + ".bias"], eps=1e-6)

    def resnet(self, name, x):
        y = self.conv(name + ".conv1", F.silu(self.norm(name + ".norm1", x)))
        y = self.conv(name + ".conv2", F.silu(self.norm(name + ".norm2", y)))
        shortcut = name + ".conv_shortcut"
        return y + (self.conv(shortcut, x, padding=0) if shortcut + ".weight" in self.w else x)

    def attention(self, name, x):
        b, c, h, w = x.shape
        tokens = self.norm(name + ".group_norm", x).flatten(2).transpose(1, 2)
        linear = lambda part, t: F.linear(t, self.w[f"{name}.{part}.weight"], self.w[f"{name}.{part}.bias"])
        q, k, v = (linear(part, tokens)[:, None] for part in ("to_q", "to_k", "to_v"))
        y = linear("to_out.0", F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + y.transpose(1, 2).reshape(b, c, h, w)

    def middle(self, name, x):
        x = self.attention(name + ".attentions.0", self.resnet(name + ".resnets.0", x))
        return self.resnet(name + ".resnets.1", x)

    def resnets(self, name, x):
        i = 0
        while f"{name}.resnets.{i}.conv1.weight" in self.w:
            x = self.resnet(f"{name}.resnets.{i}", x)
            i += 1
        return x

    def encode(self, x):
        """Latent means [B, LATENT, H/8, W/8], not normalized."""
        x = self.conv("encoder.conv_in", x)
        for i in range(4):
            x = self.resnets(f"encoder.down_blocks.{i}", x)
            if i < 3:
                x = self.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", F.pad(x, (0, 1, 0, 1)), 2, 0)
        x = F.silu(self.norm("encoder.conv_norm_out", self.middle("encoder.mid_block", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x), padding=0)[:, :LATENT]

    def decode(self, z):
        x = self.middle("decoder.mid_block", self.conv("decoder.conv_in", self.conv("post_quant_conv", z, padding=0)))
        for i in range(4):
            x = self.resnets(f"decoder.up_blocks.{i}", x)
            if i < 3:
                x = self.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", F.interpolate(x, scale_factor=2.0))
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.conv_norm_out", x)))

    @torch.no_grad()
    def round_trip(self, pictures, noise):
        """Pictures in 0..1 as klein-mini would draw them: with `noise` (standard deviation) in the latents."""
        z = self.encode(pictures * 2 - 1)
        return (self.decode(z + noise * torch.randn_like(z)) / 2 + 0.5).clamp(0, 1)


def main():
    import os

    from diffusers import AutoencoderKLFlux2

    path = sys.argv[1]
    theirs = AutoencoderKLFlux2.from_pretrained(os.path.dirname(path), torch_dtype=torch.float32)
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        z = theirs.encode(x * 2 - 1).latent_dist.mean
        y = (theirs.decode(z).sample / 2 + 0.5).clamp(0, 1)
    difference = (Vae(path, "cpu").round_trip(x, 0.0) - y).abs().max().item()
    print(f"largest difference to diffusers: {difference:.1e}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()

"""Networks and sampling.

In:  nothing.
Out: classes of diffusers and transformers in klein-mini's sizes, the pipeline's schedule.
"""

import math

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

TAPS = (1, 2, 3)
LATENT = 16
HIDDEN = 96
VOCAB = 2048


def make_vae():
    return AutoencoderKLFlux2(
        block_out_channels=(16, 32, 48, 64),
        decoder_block_out_channels=(24, 40, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT,
        sample_size=128,
        patch_size=(2, 2),
    )


def make_transformer():
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT,
        num_layers=2,
        num_single_layers=5,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=3 * HIDDEN,
        mlp_ratio=2.0,
        axes_dims_rope=(8, 8, 8, 8),
        rope_theta=2000,
        guidance_embeds=False,
    )


def make_text_encoder():
    # The fourth layer only exists so that the third tap is not normalized: transformers normalizes the last state.
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=40960,
        rope_theta=1_000_000.0,
        rms_norm_eps=1e-6,
        attention_bias=False,
        tie_word_embeddings=True,
        hidden_act="silu",
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    return model


def autocast(device):
    """Autocast to bf16 where it is fast: on GPUs, and on processors with AVX-512."""
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


# ---- text ----


def text_states(encoder, ids, pad_id):
    """Text embedding [B, T, 3 * HIDDEN], as in the pipeline: taps 1, 2, 3 side by side, including padding rows."""
    model = encoder.model
    h = model.embed_tokens(ids)
    position = torch.arange(ids.shape[1], device=ids.device)[None]
    rope = model.rotary_emb(h, position)
    causal = position[0][:, None] >= position[0][None, :]
    # The template ends every text, so padding rows are exactly those with the padding token.
    mask = (causal[None] & (ids != pad_id)[:, None, :])[:, None]
    taps = []
    for layer in model.layers[: max(TAPS)]:
        h = layer(h, attention_mask=mask, position_embeddings=rope)
        h = h[0] if isinstance(h, tuple) else h
        taps.append(h)
    return torch.cat([taps[t - 1] for t in TAPS], dim=-1)


# ---- latents ----


def patchify(z):
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def unpatchify(z):
    b, c, h, w = z.shape
    return z.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


def encode_mean(vae, pixels):
    """Patchified latent means [B, 64, h, w], not normalized."""
    moments = vae.quant_conv(vae.encoder(pixels))
    return patchify(moments[:, :LATENT])


def bn_std(vae):
    return torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)


def encode_tokens(vae, pixels):
    """Normalized tokens [B, I, 64], row-major."""
    z = encode_mean(vae, pixels).float()
    z = (z - vae.bn.running_mean[:, None, None]) / bn_std(vae)[:, None, None]
    return z.flatten(2).transpose(1, 2)


def decode_tokens(vae, tokens, height, width):
    z = tokens.transpose(1, 2).reshape(len(tokens), 4 * LATENT, height // 16, width // 16)
    z = z * bn_std(vae)[:, None, None] + vae.bn.running_mean[:, None, None]
    return vae.decoder(vae.post_quant_conv(unpatchify(z)))


def position_ids(height, width, references, device, text):
    """Returns (text position ids, image position ids), as in the pipeline; references have the picture's size."""
    txt = torch.zeros(text, 4, device=device)
    txt[:, 3] = torch.arange(text, device=device)
    gh, gw = height // 16, width // 16
    grids = []
    for k in range(references + 1):
        g = torch.zeros(gh, gw, 4, device=device)
        g[..., 0] = 10.0 * k
        g[..., 1] = torch.arange(gh, device=device)[:, None]
        g[..., 2] = torch.arange(gw, device=device)[None]
        grids.append(g.view(-1, 4))
    return txt, torch.cat(grids)


# ---- schedule ----


def pipeline_mu(tokens, steps):
    a1, b1, a2, b2 = 8.73809524e-05, 1.89833333, 0.00016927, 0.45666666
    m200, m10 = a2 * tokens + b2, a1 * tokens + b1
    slope = (m200 - m10) / 190
    return slope * steps + m200 - 200 * slope


def sigmas(tokens, steps):
    mu = pipeline_mu(tokens, steps)
    return [math.exp(mu) / (math.exp(mu) + 1 / (1 - i / steps) - 1) for i in range(steps)] + [0.0]


@torch.no_grad()
def sample(transformer, context, noise, references, ids, steps, hold=None):
    """Denoises `noise` [B, I, 64] to normalized tokens, in Euler steps.

    With `hold` (tokens of a picture [B, I, 64], mask [B, I, 1]) only tokens where the mask is 1 are redrawn.
    """
    x, n = noise, noise.shape[1]
    levels = sigmas(n, steps)
    for now, then in zip(levels, levels[1:]):
        tokens = torch.cat([x, references], 1) if references is not None else x
        t = torch.full((len(x),), now, device=x.device)
        v = transformer(
            hidden_states=tokens,
            encoder_hidden_states=context,
            timestep=t,
            txt_ids=ids[0],
            img_ids=ids[1],
            return_dict=False,
        )[0][:, :n]
        x = x + (then - now) * v.float()
        if hold is not None:
            x = torch.lerp(torch.lerp(hold[0], noise, then), x, hold[1])
    return x

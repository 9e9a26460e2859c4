"""Networks, sampling and optimizer.

In:  nothing.
Out: classes of diffusers and transformers in klein-mini's sizes, Muon with AdamW, EMA, the pipeline's schedule.
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


# ---- optimizer ----


def newton_schulz(g):
    """Approximately the nearest orthogonal matrices of a stack [N, r, c]."""
    x = g.bfloat16() if g.is_cuda else g.float()
    wide = x.shape[-1] >= x.shape[-2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x if wide else x.mT).float()


class Trainer:
    """Muon for matrices, AdamW for the rest, gradient clipping and EMA; one CUDA graph on a GPU.

    `matrices` and `rest` are lists of parameters. Convolutions count as matrices out x (in * 9). Muon's update is
    scaled by 0.2 * sqrt of the longer side, to the rms of AdamW's, so one learning rate fits both.
    """

    def __init__(self, matrices, rest, weight_decay=0.01, betas=(0.9, 0.99), momentum=0.95):
        self.matrices, self.rest = matrices, rest
        self.params = matrices + rest
        self.device = self.params[0].device
        self.weight_decay, self.betas, self.momentum = weight_decay, betas, momentum
        # All gradients are views of one tensor, so that a single all-reduce exchanges them.
        self.flat = torch.zeros(sum(p.numel() for p in self.params), device=self.device)
        for p, part in zip(self.params, self.flat.split([p.numel() for p in self.params])):
            p.grad = part.view(p.shape)
        zeros = lambda ps: [torch.zeros_like(p) for p in ps]
        self.buffers, self.first, self.second = zeros(matrices), zeros(rest), zeros(rest)
        self.ema = [p.detach().clone() for p in self.params]
        tensor = lambda v: torch.tensor(v, device=self.device, dtype=torch.float32)
        self.muon_lr, self.adam_lr, self.ema_step, self.count, self.norm = (
            tensor(0.0),
            tensor(0.0),
            tensor(1.0),
            tensor(0.0),
            tensor(0.0),
        )
        groups = {}
        for i, p in enumerate(matrices):
            groups.setdefault((p.shape[0], p[0].numel()), []).append(i)
        self.groups = groups
        self.graph = None

    @torch.no_grad()
    def _step(self):
        grads = [p.grad for p in self.params]
        self.norm.copy_(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
        torch._foreach_mul_(grads, (1.0 / (self.norm + 1e-6)).clamp(max=1.0))
        self.count += 1
        for (rows, cols), members in self.groups.items():
            g = torch.stack([self.matrices[i].grad.reshape(rows, cols) for i in members])
            m = torch.stack([self.buffers[i].reshape(rows, cols) for i in members]).lerp_(g, 1 - self.momentum)
            update = newton_schulz(g.lerp(m, self.momentum)) * (0.2 * math.sqrt(max(rows, cols)))
            for j, i in enumerate(members):
                p = self.matrices[i]
                self.buffers[i].copy_(m[j].view(p.shape))
                p.mul_(1 - self.muon_lr * self.weight_decay).sub_(self.muon_lr * update[j].view(p.shape))
        b1, b2 = self.betas
        grads = [p.grad for p in self.rest]
        torch._foreach_lerp_(self.first, grads, 1 - b1)
        torch._foreach_mul_(self.second, b2)
        torch._foreach_addcmul_(self.second, grads, grads, 1 - b2)
        c1, c2 = 1 - b1**self.count, torch.sqrt(1 - b2**self.count)
        denominator = torch._foreach_sqrt(self.second)
        torch._foreach_div_(denominator, c2)
        torch._foreach_add_(denominator, 1e-8)
        step = torch._foreach_div(self.first, denominator)
        torch._foreach_mul_(step, self.adam_lr / c1)
        torch._foreach_sub_(self.rest, step)
        gap = torch._foreach_sub(self.params, self.ema)
        torch._foreach_mul_(gap, self.ema_step)
        torch._foreach_add_(self.ema, gap)
        self.flat.zero_()

    def step(self, muon_lr, adam_lr, ema_decay):
        self.muon_lr.fill_(muon_lr)
        self.adam_lr.fill_(adam_lr)
        self.ema_step.fill_(1 - ema_decay)
        if self.device.type != "cuda":
            return self._step()
        if self.graph is None:
            # Warm-up steps before the capture; their effects are undone.
            saved = [t.clone() for t in self.params + self.buffers + self.first + self.second + self.ema]
            grads = [p.grad.clone() for p in self.params]
            count = self.count.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step()
                self._step()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self._step()
            for t, s in zip(self.params + self.buffers + self.first + self.second + self.ema, saved):
                t.data.copy_(s)
            for p, g in zip(self.params, grads):
                p.grad.copy_(g)
            self.count.copy_(count)
        self.graph.replay()

    def state(self):
        half = lambda ts: [t.to(torch.bfloat16).cpu() for t in ts]
        return {
            "params": [p.detach().cpu() for p in self.params],
            "ema": [e.cpu() for e in self.ema],
            "count": self.count.item(),
            "buffers": half(self.buffers),
            "first": half(self.first),
            "second": [t.cpu() for t in self.second],
        }

    @torch.no_grad()
    def load(self, state):
        for mine, name in (
            (self.params, "params"),
            (self.ema, "ema"),
            (self.buffers, "buffers"),
            (self.first, "first"),
            (self.second, "second"),
        ):
            for a, b in zip(mine, state.get(name, ())):
                a.data.copy_(b)
        self.count.fill_(state.get("count", 0.0))

    @torch.no_grad()
    def swap_ema(self):
        """Swaps weights and their EMA; call before and after an evaluation."""
        for p, e in zip(self.params, self.ema):
            t = p.detach().clone()
            p.data.copy_(e)
            e.copy_(t)


def schedule(progress, step, warmup, flat=0.45, floor=0.02):
    """Learning rate factor: warm-up by steps, constant, then linear to `floor`."""
    down = 1.0 if progress < flat else max(floor, 1 - (1 - floor) * (progress - flat) / (1 - flat))
    return min(1.0, (step + 1) / warmup) * down

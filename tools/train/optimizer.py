"""Muon with AdamW, gradient clipping and EMA; the learning-rate schedule.

In:  parameters with gradients.
Out: updated parameters and their average.
"""

import math

import torch


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

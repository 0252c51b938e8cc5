"""TimeSformer a second time, straight from the description: a function of a state dict, written out and slow.

It shares nothing with the package, so that made-up cases can be answered where no published numbers lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def nearest_rows(count: int, wanted: int) -> np.ndarray:
    """The published 1-D rule: target row i takes source row floor(i * count / wanted)."""
    return np.array([i * count // wanted for i in range(wanted)])


def timesformer(state: State, clips: Tensor, num_heads: int, attention: str, patch: tuple[int, int]) -> Tensor:
    """Clips (B, C, T, H, W) -> logits (B, K)."""
    B, _, T, height, width = clips.shape
    rows, cols = height // patch[0], width // patch[1]
    D = state["cls_token"].shape[-1]

    clips = clips[..., : rows * patch[0], : cols * patch[1]]
    cut = clips.reshape(B, -1, T, rows, patch[0], cols, patch[1]).permute(0, 2, 3, 5, 1, 4, 6)
    kernel = state["patch_embed.proj.weight"].reshape(D, -1)
    patches = cut.reshape(B, T, rows * cols, -1) @ kernel.T + state["patch_embed.proj.bias"]

    table = state["pos_embed"][0]
    if len(table) != rows * cols + 1:
        side = round((len(table) - 1) ** 0.5)
        from_row, from_col = nearest_rows(side, rows), nearest_rows(side, cols)
        taken = [1 + r * side + c for r in from_row for c in from_col]
        table = table[[0, *taken]]
    patches = patches + table[1:]
    cls = (state["cls_token"][0] + table[:1]).expand(B, 1, D)
    if attention == "space_only":
        x = torch.cat([cls.repeat_interleave(T, 0), patches.flatten(0, 1)], dim=1)
    else:
        times = state["time_embed"][0]
        patches = patches + times[nearest_rows(len(times), T)][:, None]
        x = torch.cat([cls, patches.transpose(1, 2).flatten(1, 2)], dim=1)  # position major, time minor

    for own in blocks(state):
        if attention == "divided_space_time":
            x = _divided(own, x, T, num_heads)
        else:
            x = x + attend(own, "attn", norm(own, "norm1", x), num_heads)
        hidden = F.gelu(linear(own, "mlp.fc1", norm(own, "norm2", x)))
        x = x + linear(own, "mlp.fc2", hidden)
    if attention == "space_only":
        x = x.reshape(B, T, *x.shape[1:]).mean(1)
    x = norm(state, "norm", x)[:, 0]
    return linear(state, "head", x) if "head.weight" in state else x


def blocks(state: State) -> Iterator[State]:
    """The weights of each block, under their names inside it."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for number in range(depth):
        start = f"blocks.{number}."
        yield {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def _divided(own: State, x: Tensor, T: int, num_heads: int) -> Tensor:
    B, _, D = x.shape
    cls, patches = x[:, :1], x[:, 1:]
    S = patches.shape[1] // T
    series = patches.reshape(B * S, T, D)
    update = attend(own, "temporal_attn", norm(own, "temporal_norm1", series), num_heads)
    patches = patches + linear(own, "temporal_fc", update).reshape(B, S * T, D)
    outputs = []
    for t in range(T):
        frame = torch.cat([cls, patches.reshape(B, S, T, D)[:, :, t]], dim=1)
        outputs.append(attend(own, "attn", norm(own, "norm1", frame), num_heads))
    update = torch.stack(outputs, dim=2)  # (B, 1 + S, T, D)
    cls = cls + update[:, :1].mean(2)
    return torch.cat([cls, patches + update[:, 1:].reshape(B, S * T, D)], dim=1)


def attend(own: State, name: str, x: Tensor, num_heads: int) -> Tensor:
    qkv = linear(own, f"{name}.qkv", x)
    q, k, v = qkv.chunk(3, dim=-1)
    width = q.shape[-1] // num_heads
    mixed = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(-1, -2) / width**0.5, dim=-1)
        mixed.append(weights @ v[..., part])
    return linear(own, f"{name}.proj", torch.cat(mixed, dim=-1))


def linear(own: State, name: str, x: Tensor) -> Tensor:
    y = x @ own[f"{name}.weight"].T
    return y + own[f"{name}.bias"] if f"{name}.bias" in own else y


def norm(own: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return centred / scale * own[f"{name}.weight"] + own[f"{name}.bias"]

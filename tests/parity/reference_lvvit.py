"""LV-ViT a second time, straight from the description: a function of a state dict that shares nothing with the package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from reference_timesformer import State, attend, blocks, linear, norm
from torch import Tensor

EPS = 1e-5


def lvvit(state: State, images: Tensor, num_heads: int, skip_lam: float, kernel: tuple[int, int]) -> dict[str, Tensor]:
    """Pictures (B, C, H, W) -> logits of both heads and the prediction; `kernel` is half a patch."""
    x = embed(state, images, kernel)
    for own in blocks(state):
        x = x + attend(own, "attn", norm(own, "norm1", x, EPS), num_heads) / skip_lam
        hidden = F.gelu(linear(own, "mlp.fc1", norm(own, "norm2", x, EPS)))
        x = x + linear(own, "mlp.fc2", hidden) / skip_lam
    return answer(state, x)


def embed(state: State, images: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Pictures (B, C, H, W) -> tokens (B, 1 + S, D) before the first block."""
    half = images
    for number, (stride, padding) in enumerate([(2, 3), (1, 1), (1, 1)], start=1):
        weight = state[f"patch_embed.conv{number}.weight"]
        half = F.conv2d(half, weight, stride=stride, padding=padding)
        half = _batch_norm(state, f"patch_embed.bn{number}", half).clamp(min=0)
    B, chans, height, width = half.shape
    rows, cols = height // kernel[0], width // kernel[1]
    half = half[..., : rows * kernel[0], : cols * kernel[1]]
    cut = half.reshape(B, chans, rows, kernel[0], cols, kernel[1]).permute(0, 2, 4, 1, 3, 5)
    weight = state["patch_embed.proj.weight"].flatten(1)
    x = cut.reshape(B, rows * cols, -1) @ weight.T + state["patch_embed.proj.bias"]

    return torch.cat([state["cls_token"].expand(B, 1, -1), x], dim=1) + state["pos_embed"]


def answer(state: State, x: Tensor) -> dict[str, Tensor]:
    """Tokens after the last block -> logits of both heads and the prediction."""
    x = norm(state, "norm", x, EPS)
    whole, patches = linear(state, "head", x[:, 0]), linear(state, "aux_head", x[:, 1:])
    best = patches.max(dim=1).values
    return {"logits": whole + 0.5 * best, "logits_cls": whole, "logits_aux": patches, "logits_aux_max": best}


def _batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, scale, shift = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

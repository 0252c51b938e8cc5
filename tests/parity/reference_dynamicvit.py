"""DynamicViT's evaluation a second time, straight from the description: tokens are sorted and cut, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

import reference_lvvit
import torch
import torch.nn.functional as F
from reference_timesformer import State, attend, blocks, linear, norm
from torch import Tensor


def dynamicvit(
    state: State,
    images: Tensor,
    num_heads: int,
    kernel: tuple[int, int],
    stages: Sequence[int],
    rates: Sequence[float],
    skip_lam: float | None = None,
) -> dict[str, Tensor]:
    """Pictures (B, C, H, W) -> logits, and of every stage which tokens were kept and the first scores.

    With `skip_lam` an LV-ViT, whose `kernel` is half a patch, else a DeiT.
    """
    is_lvvit = skip_lam is not None
    eps, divisor = (1e-5, skip_lam) if is_lvvit else (1e-6, 1.0)
    x = reference_lvvit.embed(state, images, kernel) if is_lvvit else _patches(state, images, kernel)
    original = x.shape[1] - 1
    found: dict[str, Tensor] = {}
    for number, own in enumerate(blocks(state)):
        if number in stages:
            stage = list(stages).index(number)
            scores = torch.stack([_scores(state, f"score_predictor.{stage}", one[1:]) for one in x])
            found[f"score_{stage}"] = scores
            count = int(original * rates[stage])
            best = torch.stack([one[:, 0].sort(descending=True).indices[:count] for one in scores])
            found[f"keep_{stage}"] = best
            x = torch.stack([torch.cat([one[:1], one[1:][own_best]]) for one, own_best in zip(x, best)])
        x = x + attend(own, "attn", norm(own, "norm1", x, eps), num_heads) / divisor
        hidden = F.gelu(linear(own, "mlp.fc1", norm(own, "norm2", x, eps)))
        x = x + linear(own, "mlp.fc2", hidden) / divisor
    if is_lvvit:
        return found | {"logits": reference_lvvit.answer(state, x)["logits"]}
    return found | {"logits": linear(state, "head", norm(state, "norm", x, eps)[:, 0])}


def _scores(state: State, name: str, tokens: Tensor) -> Tensor:
    """One sample's (S, D) -> (S, 2)"""
    hidden = F.gelu(linear(state, f"{name}.in_conv.1", norm(state, f"{name}.in_conv.0", tokens, 1e-5)))
    half = hidden.shape[1] // 2
    mean = hidden[:, half:].mean(dim=0)
    joined = torch.stack([torch.cat([one[:half], mean]) for one in hidden])
    for layer in (0, 2):
        joined = F.gelu(linear(state, f"{name}.out_conv.{layer}", joined))
    return linear(state, f"{name}.out_conv.4", joined).log_softmax(dim=-1)


def _patches(state: State, images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> tokens (B, 1 + S, D) before the first block"""
    B = len(images)
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    maps = F.unfold(images, patch, stride=patch)  # (B, C * patch, S)
    x = maps.transpose(1, 2) @ weight.flatten(1).T + bias
    return torch.cat([state["cls_token"].expand(B, 1, -1), x], dim=1) + state["pos_embed"]

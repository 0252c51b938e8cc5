"""A second As-ViT, straight from its description, from a state dict with the published names; and its measures the slow way,
one angle and one picture after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp

Weights = Mapping[str, Tensor]


def shapes_of(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """The published names and shapes of a configuration with `stages` (kernel, splits, expansion, depth) x 4."""
    width, heads, classes = config["width"], config["last_heads"], config["num_classes"]
    chans = config.get("in_channels", 3)
    dims = [min(1024, width * 2**n) for n in range(4)]
    shapes: dict[str, list[int]] = {}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = [out, into]
        if bias:
            shapes[f"{name}.bias"] = [out]

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [size], [size]

    kernel = config["stages"][0][0]
    shapes |= {"patch_embed.proj.weight": [width, chans, kernel, kernel], "patch_embed.proj.bias": [width]}
    norm("patch_embed.norm", width)
    for n, (_, _, expansion, depth) in enumerate(config["stages"]):
        inner = dims[n] // (heads >> (3 - n)) * (heads >> (3 - n))
        for b in range(depth):
            block = f"layers.{n}.blocks.{b}"
            norm(f"{block}.norm1", dims[n])
            linear(f"{block}.attn.qkv", 3 * inner, dims[n])
            linear(f"{block}.attn.proj", dims[n], inner)
            norm(f"{block}.mlps.0.0", dims[n])
            linear(f"{block}.mlps.0.1.fc1", expansion * dims[n], dims[n])
            linear(f"{block}.mlps.0.1.fc2", dims[n], expansion * dims[n])
        if n < 3:
            size = config["stages"][n + 1][0] ** 2 * dims[n]
            linear(f"layers.{n}.downsample.reduction", dims[n + 1], size, bias=False)
            norm(f"layers.{n}.downsample.norm", size)
    norm("norm", dims[-1])
    linear("head.0", dims[-1], dims[-1])
    linear("head.2", classes, dims[-1])
    return shapes


def last_map(config: Mapping[str, Any], weights: Weights, images: Tensor, norms: bool = True) -> Tensor:
    """(B, C, H, W) -> (B, R, R, D) of the last stage, before the final norm; sides that halve evenly."""

    def norm(name: str, x: Tensor) -> Tensor:
        if not norms:
            return x
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    kernel = config["stages"][0][0]
    left, right = (kernel - 4) // 2, (kernel - 3) // 2
    stem = F.conv2d(
        F.pad(images, (left, right, left, right)),
        weights["patch_embed.proj.weight"],
        weights["patch_embed.proj.bias"],
        stride=4,
    )
    x = norm("patch_embed.norm", stem.movedim(1, -1))
    for n, (_, splits, _, depth) in enumerate(config["stages"]):
        heads = config["last_heads"] >> (3 - n)
        side = x.shape[1] // splits
        for b in range(depth):
            block = f"layers.{n}.blocks.{b}"
            y, mixed = norm(f"{block}.norm1", x), torch.zeros_like(x)
            for i in range(splits):
                for j in range(splits):
                    at = (slice(None), slice(i * side, i * side + side), slice(j * side, j * side + side))
                    window = y[at].reshape(len(x), side * side, -1)
                    q, k, v = linear(f"{block}.attn.qkv", window).chunk(3, dim=-1)
                    size = q.shape[-1] // heads
                    each = []
                    for h in range(heads):
                        part = slice(h * size, h * size + size)
                        scores = q[..., part] @ k[..., part].mT / math.sqrt(size)
                        each.append(torch.softmax(scores, -1) @ v[..., part])
                    out = linear(f"{block}.attn.proj", torch.cat(each, -1)).reshape(len(x), side, side, -1)
                    mixed = mixed.clone()
                    mixed[at] = out
            x = x + mixed
            hidden = linear(f"{block}.mlps.0.1.fc1", norm(f"{block}.mlps.0.0", x))
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + linear(f"{block}.mlps.0.1.fc2", hidden)
        if n < 3:
            K, half = config["stages"][n + 1][0], x.shape[1] // 2
            before, behind = (K - 2) // 2, (K - 1) // 2
            padded = F.pad(x, (0, 0, before, behind, before, behind))
            windows = torch.stack(
                [
                    padded[:, 2 * r : 2 * r + K, 2 * c : 2 * c + K].permute(0, 3, 1, 2).flatten(1)
                    for r in range(half)
                    for c in range(half)
                ],
                dim=1,
            )
            windows = norm(f"layers.{n}.downsample.norm", windows)
            x = linear(f"layers.{n}.downsample.reduction", windows).unflatten(1, (half, half))
    return x


def answers(config: Mapping[str, Any], weights: Weights, images: Tensor) -> dict[str, Tensor]:
    """Logits, and the mean over the tokens before and after the final norm."""
    last = last_map(config, weights, images)
    normed = F.layer_norm(last, last.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-5)
    pooled = normed.mean((1, 2))
    hidden = torch.tanh(F.linear(pooled, weights["head.0.weight"], weights["head.0.bias"]))
    logits = F.linear(hidden, weights["head.2.weight"], weights["head.2.bias"])
    return {"logits": logits, "pooled_before_final_norm": last.mean((1, 2)), "pooled": pooled}


def derivatives(
    config: Mapping[str, Any], weights: Weights, u0: Tensor, u1: Tensor, radius: float, thetas: Tensor
) -> tuple[Tensor, Tensor]:
    """v and a, (n, D) each, one angle after the other."""

    def out(theta: Tensor) -> Tensor:
        image = radius * (u0 * theta.cos() + u1 * theta.sin())
        return last_map(config, weights, image[None], norms=False).mean((1, 2))[0]

    def slope(theta: Tensor) -> Tensor:
        return jvp(out, (theta,), (torch.ones_like(theta),))[1]

    both = [jvp(slope, (theta,), (torch.ones_like(theta),)) for theta in thetas]
    return torch.stack([v for v, _ in both]), torch.stack([a for _, a in both])


def kernel(config: Mapping[str, Any], weights: Weights, images: Tensor) -> Tensor:
    """(B, B) of the NTK."""
    own = {name: weight.clone().requires_grad_("weight" in name) for name, weight in weights.items()}
    names = [name for name in own if "weight" in name and not name.startswith(("norm.", "head."))]
    rows = []
    with torch.enable_grad():
        for image in images:
            total = last_map(config, own, image[None]).mean((1, 2)).sum()
            grads = torch.autograd.grad(total, [own[name] for name in names])
            rows.append(torch.cat([grad.flatten() for grad in grads]))
    matrix = torch.stack(rows)
    return matrix @ matrix.T

"""The condition of a network's neural tangent kernel before training: how evenly it can learn single pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from revit.image.models.asvit import AsViT
from revit.image.search.complexity import pooled


def weight_gradients(model: AsViT, images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, M): per picture the gradient of the sum of its pooled features, norms on, with respect to every
    parameter called "weight" that takes part in them: no biases, not the final norm, not the head (published code).

    One picture after the other: the definition, which `ntk` is tested against.
    """
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    weights = [model.get_parameter(name) for name in names]
    rows = []
    for image in images.split(1):
        grads = torch.autograd.grad(pooled(model, image).sum(), weights, allow_unused=True)
        rows.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    return torch.stack(rows)


def ntk(model: AsViT, images: Tensor) -> Tensor:
    """(B, C, H, W) -> the Gram matrix (B, B) of the pictures' `weight_gradients`.

    One pass for all pictures: as no picture acts on another, what reaches a layer's output in the backward pass of their
    common sum is each picture's own gradient, and with the layer's input it gives the products without the gradients.
    """
    kernel = images.new_zeros(len(images), len(images))
    with torch.enable_grad(), _seen(model) as seen:
        total = pooled(model, images).sum()
        layers, inputs, outputs = zip(*seen)
        reached = torch.autograd.grad(total, outputs, allow_unused=True)
    with torch.no_grad():
        for layer, x, delta in zip(layers, inputs, reached):
            if delta is not None:
                kernel += _products(layer, x, delta)
    return kernel


def condition(kernel: Tensor) -> float:
    """Largest over smallest eigenvalue of a symmetric matrix (B, B); infinite where the smallest is not positive, as
    rounding makes it for pictures that the network cannot tell apart, and NaN where an entry is not finite.

    The published code answers -1 for NaN, which a ranking would take for the best of all.
    """
    if not bool(kernel.isfinite().all()):
        return float("nan")
    eigenvalues = torch.linalg.eigvalsh(kernel)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > 0 else float("inf")


@contextmanager
def _seen(model: AsViT) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Inside, a forward pass of the model notes every layer with a weight that was called, its input and its output. The
    stem is one layer: it uses its convolution's weight by itself."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((layer, inputs[0].detach(), output))

    stem = model.patch_embed
    inside = set(stem.modules())
    layers = [
        one for one in model.modules() if isinstance(one, nn.Linear | nn.LayerNorm) and one not in inside
    ]
    hooks = [layer.register_forward_hook(note) for layer in [stem, *layers]]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@functools.singledispatch
def _products(layer: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Inputs and gradients at the outputs of a layer, both (B, ...) -> (B, B), the products of the pictures' gradients with
    respect to the layer's weights. This one differentiates the layer picture by picture."""
    weights = {name: weight for name, weight in layer.named_parameters() if "weight" in name}

    def pull(image: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        return vjp(lambda values: functional_call(layer, values, (image[None],)), weights)[1](gradient[None])[
            0
        ]

    rows = torch.cat([each.flatten(1) for each in vmap(pull)(x, delta).values()], dim=1)
    return rows @ rows.T


@_products.register
def _of_norm(layer: nn.LayerNorm, x: Tensor, delta: Tensor) -> Tensor:
    normal = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    rows = (normal * delta).flatten(1, -2).sum(dim=1)  # (B, D)
    return rows @ rows.T


@_products.register
def _of_linear(layer: nn.Linear, x: Tensor, delta: Tensor) -> Tensor:
    x, delta = x.flatten(1, -2), delta.flatten(1, -2)  # (B, T, D) and (B, T, D')
    (B, T, D), wide = x.shape, delta.shape[2]
    # The gradients (D', D) of all pictures and their products, or the products of all pairs of tokens.
    if B * T**2 * (D + wide) > (T + B) * D * wide:
        rows = (delta.transpose(1, 2) @ x).flatten(1)
        return rows @ rows.T
    x, delta = x.flatten(0, 1), delta.flatten(0, 1)
    pairs = (x @ x.T) * (delta @ delta.T)  # (B * T, B * T)
    return pairs.view(B, T, B, T).sum(dim=(1, 3))

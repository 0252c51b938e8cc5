"""Neural tangent kernel of an untrained network; its condition number tells how evenly it can learn single pictures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from revit.image.models.asvit import AsViT
from revit.image.search.complexity import pooled


def weight_gradients(model: AsViT, images: Tensor) -> Tensor:
    """Return the gradients (B, M) of the sum of each picture's pooled features, norms on, with respect to every parameter
    called "weight" that takes part in them: no biases, not the final norm, not the head (published code).

    One picture after the other: the definition, which `ntk` is tested against.
    """
    weights = [parameter for name, parameter in model.named_parameters() if "weight" in name]
    rows = []
    for image in images.split(1):
        grads = torch.autograd.grad(pooled(model, image).sum(), weights, allow_unused=True)
        rows.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    return torch.stack(rows)


def ntk(model: AsViT, images: Tensor) -> Tensor:
    """Return the Gram matrix (B, B) of the `weight_gradients` of pictures (B, C, H, W).

    One pass for all pictures: as no picture acts on another, what reaches a layer's output in the backward pass of their
    common sum is each picture's own gradient, and with the layer's input it gives the products without the gradients.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].detach(), output))

    # The stem is one layer: it uses its convolution's weight by itself.
    stem, inside = model.patch_embed, set(model.patch_embed.modules())
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | nn.LayerNorm) and one not in inside]
    hooks = [layer.register_forward_hook(note) for layer in [stem, *layers]]
    try:
        with torch.enable_grad():
            total = pooled(model, images).sum()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(total, [output for *_, output in calls], allow_unused=True)
    kernel = images.new_zeros(len(images), len(images))
    with torch.no_grad():
        for (layer, x, _), gradient in zip(calls, gradients):
            if gradient is not None:
                kernel += _products(layer, x, gradient)
    return kernel


def condition(kernel: Tensor) -> float:
    """Return the largest over the smallest eigenvalue of a symmetric matrix (B, B); infinite where the smallest is not
    positive, as rounding makes it for pictures that the network cannot tell apart, and NaN where an entry is not finite.

    The published code answers -1 for NaN, which a ranking would take for the best of all.
    """
    if not bool(kernel.isfinite().all()):
        return math.nan
    eigenvalues = torch.linalg.eigvalsh(kernel)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > 0 else math.inf


def _products(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the products (B, B) of the pictures' gradients with respect to the layer's weights, from its inputs and the
    gradients at its outputs, both (B, ...)."""
    if isinstance(layer, nn.LayerNorm):
        normal = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        rows = (normal * gradient).flatten(1, -2).sum(dim=1)  # (B, D)
    elif isinstance(layer, nn.Linear):
        x, gradient = x.flatten(1, -2), gradient.flatten(1, -2)  # (B, T, D) and (B, T, D')
        (B, T, D), wide = x.shape, gradient.shape[2]
        if B * T**2 * (D + wide) <= (T + B) * D * wide:  # the products of all pairs of tokens cost less
            x, gradient = x.flatten(0, 1), gradient.flatten(0, 1)
            pairs = (x @ x.T) * (gradient @ gradient.T)  # (B * T, B * T)
            return pairs.view(B, T, B, T).sum(dim=(1, 3))
        rows = (gradient.transpose(1, 2) @ x).flatten(1)
    else:
        weights = {name: weight for name, weight in layer.named_parameters() if "weight" in name}

        def pull(image: Tensor, at_output: Tensor) -> dict[str, Tensor]:
            back = vjp(lambda values: functional_call(layer, values, (image[None],)), weights)[1]
            return back(at_output[None])[0]

        rows = torch.cat([each.flatten(1) for each in vmap(pull)(x, gradient).values()], dim=1)
    return rows @ rows.T

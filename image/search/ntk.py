"""The condition of a network's neural tangent kernel before training: how evenly it can learn single pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from revit.image.models.asvit import AsViT
from revit.image.search.complexity import pooled


def weight_gradients(model: AsViT, images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, M): per picture the gradient of the sum of its pooled features, norms on, with respect to every
    parameter called "weight" that takes part in them: no biases, not the final norm, not the head (published code)."""
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    weights = [model.get_parameter(name) for name in names]
    rows = []
    for image in images.split(1):
        grads = torch.autograd.grad(pooled(model, image).sum(), weights, allow_unused=True)
        rows.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    return torch.stack(rows)


def ntk(model: AsViT, images: Tensor) -> Tensor:
    """(B, C, H, W) -> the Gram matrix (B, B) of the gradients."""
    with torch.enable_grad():
        gradients = weight_gradients(model, images)
    return gradients @ gradients.T


def condition(kernel: Tensor) -> float:
    """Largest over smallest eigenvalue of a symmetric matrix (B, B); NaN where it holds a value that is not finite.

    The published code answers -1 for NaN, which a ranking would take for the best of all.
    """
    if not bool(kernel.isfinite().all()):
        return float("nan")
    eigenvalues = torch.linalg.eigvalsh(kernel)
    return float(eigenvalues[-1] / eigenvalues[0])

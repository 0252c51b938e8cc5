"""Fewer tokens from the same kernel: a larger stride, and dilation so that the kernel still spans it (As-ViT section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn


def re_tokenized(kernel: int, stride: int, times: int) -> tuple[int, int, int]:
    """Return dilation, and zeros before and behind, with which a kernel made for `stride` runs at `times` that stride.

    Dilation as in As-ViT's footnote 3. The paper gives no padding: in all max(0, dilation * (K - 1) + 1 - new stride), the
    smaller half in front, which at `times` 1 is the published stem's own and gives maps of exactly picture / stride.
    """
    dilation = round((times - 1) * kernel / (kernel - 1)) + 1 if kernel > 1 else 1
    total = max(0, dilation * (kernel - 1) + 1 - times * stride)
    return dilation, total // 2, total - total // 2


def strided_convolution(images: Tensor, conv: nn.Conv2d, times: int) -> Tensor:
    """Embed (B, C, H, W) -> (B, D, ceil(H / (times * stride)), ceil(W / ...)) at `times` the convolution's own stride.

    What fills no stride at the right and lower border gets zeros.
    """
    (down, top, bottom), (across, left, right) = (
        re_tokenized(kernel, stride, times) for kernel, stride in zip(conv.kernel_size, conv.stride)
    )
    steps = (times * conv.stride[0], times * conv.stride[1])
    rest = [-side % step for side, step in zip(images.shape[-2:], steps)]
    images = F.pad(images, (left, right + rest[1], top, bottom + rest[0]))
    return F.conv2d(images, conv.weight, conv.bias, stride=steps, dilation=(down, across))


class ReTokenizing(nn.Module):
    """A patch embedding that can be told to make fewer tokens while it trains. In evaluation it makes all of them."""

    coarser: int = 1
    """Factor of its own stride, per side."""
    in_evaluation: bool = False
    """Makes fewer tokens in evaluation as well: to count what they cost."""

    @property
    def times(self) -> int:
        """Factor of the stride as it is now."""
        return self.coarser if self.training or self.in_evaluation else 1

    @contextmanager
    def held_at(self, coarser: int) -> Iterator[None]:
        """Make it so much coarser inside, in training and in evaluation."""
        before = self.coarser, self.in_evaluation
        self.coarser, self.in_evaluation = coarser, True
        try:
            yield
        finally:
            self.coarser, self.in_evaluation = before

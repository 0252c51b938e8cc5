"""A policy over the choices, improved by policy gradient (REINFORCE; As-ViT algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Policy:
    """Independent categorical distributions, one for each choice, with logits that start near 0.

    What step t draws depends on the seed, t and the logits alone, so that a policy that took the same updates goes on
    alike.
    """

    def __init__(self, sizes: Sequence[int], seed: int, lr: float = 0.08) -> None:
        """`sizes`: number of values of each choice. Logits start as 0.001 * normal (published code)."""
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.logits = [
            (0.001 * torch.randn(size, generator=generator, dtype=torch.float64)).requires_grad_()
            for size in sizes
        ]
        self.optimizer = torch.optim.Adam(self.logits, lr=lr)

    def draw(self, step: int) -> tuple[int, ...]:
        """The position of the value drawn for every choice."""
        uniform = np.random.default_rng([self.seed, step]).random(len(self.logits))
        return tuple(
            min(
                int(np.searchsorted(probabilities.cumsum(0).numpy(), number, "right")), len(probabilities) - 1
            )
            for probabilities, number in zip(self._probabilities(), uniform)
        )

    def update(self, drawn: Sequence[int], advantage: float) -> None:
        """One step of Adam on -log probability of `drawn` * `advantage`."""
        chosen = [logits.log_softmax(0)[place] for logits, place in zip(self.logits, drawn, strict=True)]
        self.optimizer.zero_grad()
        (-advantage * torch.stack(chosen).sum()).backward()
        self.optimizer.step()

    def best(self) -> tuple[int, ...]:
        """The position of every choice's most probable value."""
        return tuple(int(logits.argmax()) for logits in self.logits)

    def entropy(self) -> float:
        """Nats."""
        return float(sum(-(p * p.log()).sum() for p in self._probabilities()))

    def _probabilities(self) -> list[Tensor]:
        return [logits.detach().softmax(0) for logits in self.logits]

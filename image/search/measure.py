"""One repeat of a measurement: a network drawn from seeds, and a number."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from revit.image.models.asvit import AsViT
from revit.image.models.genotype import Genotype
from revit.image.search.complexity import Circle, curve_of, thetas_of
from revit.image.search.ntk import condition, ntk
from revit.image.search.options import MeasureOptions


def seed_of(*parts: object) -> int:
    """A seed that belongs to these parts and to no others."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "little")


@dataclass(frozen=True)
class Measurer:
    """Measures untrained networks. What it finds depends on its fields, the genotype, the seed and the repeat, and on
    nothing that was measured before."""

    options: MeasureOptions
    images: Tensor
    """(B, C, H, W), normalised: what the NTK sees. Their size is that of the circle."""

    def complexity(self, genotype: Genotype, seed: int, repeat: int) -> float:
        """The complexity of one drawn network. A repeat's circle is the same for all genotypes."""
        options, shape = self.options, self.images.shape[1:]
        generator = torch.Generator().manual_seed(seed_of("circle", seed, repeat))
        circle = Circle.draw((shape[0], shape[1], shape[2]), generator, options.radius, dtype=torch.float32)
        thetas = thetas_of(options.thetas, options.theta_grid).float()
        model = self.network(genotype, seed, repeat, "complexity")
        curve = curve_of(model, circle, thetas, second=options.complexity != "length")
        return curve.measure(options.complexity)

    def condition(self, genotype: Genotype, seed: int, repeat: int) -> float:
        """The condition of the NTK of one drawn network, another one than complexity's (published code)."""
        return condition(ntk(self.network(genotype, seed, repeat, "ntk"), self.images))

    def network(self, genotype: Genotype, seed: int, repeat: int, purpose: str) -> AsViT:
        """A network with the weights that belong to all this. It has no head: nothing here asks for logits."""
        own = (seed, repeat, purpose, str(genotype))
        stem = (seed, str(genotype)) if self.options.redraw == "linear" else own
        height, width = self.images.shape[-2:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("stem", *stem))
            model = AsViT(genotype, (height, width), num_classes=0, in_chans=self.images.shape[1])
            torch.manual_seed(seed_of("linear", *own))
            model.init_weights()
        return model.train()

    def fingerprint(self) -> dict[str, object]:
        """What makes measurements comparable, as JSON values."""
        pictures = hashlib.sha256(self.images.numpy().tobytes()).hexdigest()[:16]
        return {
            **self.options.model_dump(mode="json"),
            "input": list(self.images.shape[1:]),
            "seen": pictures,
        }

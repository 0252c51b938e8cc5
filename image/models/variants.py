"""Published sizes of DeiT, LV-ViT and As-ViT, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from revit.image.models.asvit import AsViT
from revit.image.models.genotype import PUBLISHED
from revit.image.models.transformers import DeiT, LVViT


@dataclass(frozen=True)
class Variant:
    """A model class and the constructor arguments in which a published model differs from the class's defaults."""

    model_class: type[DeiT] | type[LVViT] | type[AsViT]
    arguments: Mapping[str, Any]

    def build(self, **overrides: Any) -> DeiT | LVViT | AsViT:
        """Build the untrained model, at 224 pixels with one grid unless overridden. Raises ValueError as its class does."""
        return self.model_class(**{**self.arguments, **overrides})


def _deit(embed_dim: int, num_heads: int, **changes: Any) -> Variant:
    return Variant(DeiT, {"embed_dim": embed_dim, "num_heads": num_heads, **changes})


def _lvvit(embed_dim: int, depth: int, num_heads: int, **changes: Any) -> Variant:
    return Variant(LVViT, {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, **changes})


VARIANTS: Mapping[str, Variant] = {
    "deit_tiny": _deit(192, 3),
    "deit_small": _deit(384, 6),
    "deit_base": _deit(768, 12),
    "deit_tiny_distilled": _deit(192, 3, distillation="every_grid"),
    "deit_small_distilled": _deit(384, 6, distillation="every_grid"),
    "deit_base_distilled": _deit(768, 12, distillation="every_grid"),
    "lvvit_t": _lvvit(240, 12, 4, skip_lam=1.0),
    "lvvit_s": _lvvit(384, 16, 6),
    "lvvit_m": _lvvit(512, 20, 8, drop_path_rate=0.2),
    "lvvit_l": _lvvit(768, 24, 12, skip_lam=3.0, drop_path_rate=0.3, stem_widths=(128, 128, 128)),
    **{name: Variant(AsViT, {"genotype": genotype}) for name, genotype in PUBLISHED.items()},
}

"""FlexiViT: one model that runs at any patch size."""

from revit.common.methods.flexivit.method import METHOD

__all__ = ["METHOD"]

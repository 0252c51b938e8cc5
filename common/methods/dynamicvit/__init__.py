"""DynamicViT: train a model to do without most of its patch tokens."""

from revit.common.methods.dynamicvit.method import METHOD

__all__ = ["METHOD"]

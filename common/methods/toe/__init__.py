"""Token Expansion (ToE): trains faster on part of the tokens, and changes nothing else."""

from revit.common.methods.toe.method import METHOD

__all__ = ["METHOD"]

"""What an engine takes, and what is wrong with it where it cannot be answered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revit.common.serving.answer import Answer
from revit.common.serving.batches import InFlight
from revit.common.serving.reading import Reading

Input = str | os.PathLike[str] | Tensor | Answer
"""A file, pixels uint8 (V, C, ...) as the model is to see them (resized and cropped), or what is answered already."""


def named(item: Any) -> Any:
    """A path as text; anything else as it is."""
    return os.fspath(item) if isinstance(item, os.PathLike) else item


def opened(reading: Reading, wanted: Sequence[int]) -> InFlight:
    """What was read, ready to be computed: with views, or with the reason why not. wanted: C, ... of a view."""
    if isinstance(reading.item, Tensor):
        reading.views = reading.item
    return InFlight(reading, error=reading.error or _fault(reading.item) or _fault_of_pixels(reading.views, wanted))


def _fault(item: Any) -> str | None:
    if isinstance(item, Answer):
        return "it was answered before"
    if not isinstance(item, str | Tensor):
        return f"it is a {type(item).__name__}; give the path of a file, or pixels as a tensor"
    return None


def _fault_of_pixels(views: Tensor | None, wanted: Sequence[int]) -> str | None:
    if views is None:
        return None
    if views.layout != torch.strided or views.is_meta:
        return f"its pixels are a {'meta' if views.is_meta else 'sparse'} tensor; give a plain one"
    if views.dtype == torch.uint8 and views.ndim and len(views) and tuple(views.shape[1:]) == tuple(wanted):
        return None
    shape = " x ".join(map(str, wanted))
    return f"its pixels are {views.dtype} {tuple(views.shape)}; the model wants uint8 V x {shape}"

"""DeepSpeed itself: imported quietly, asked what it thinks of its settings, and its hooks put aside for a while."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from revit.common.system.errors import UserError

_NOTHING = object()


def import_deepspeed(device: torch.device) -> Any:
    """Import the library, quietly. Raises UserError that says what to install where it is missing."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as error:
        raise UserError(
            f"parallel.backend deepspeed, which several processes take by default, needs DeepSpeed, and it cannot be "
            f'imported ({error}). Install it on Linux with: pip install "revit-video[train]" (or pip install deepspeed); '
            "without it one process trains: parallel.backend=local, started by python alone"
        ) from error
    logger.setLevel(logging.WARNING)
    # For inference on CPUs only. It would be compiled at the start, behind a lock that a killed process leaves closed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_settings(deepspeed: Any, settings: Mapping[str, Any], path: Path | None) -> None:
    """Raise UserError, on one line, where the library refuses its settings; `path` is the user's part of them."""
    # The arithmetic of batches is compared before, and depends on processes that the library may not know of yet.
    config = {key: value for key, value in settings.items() if key != "train_batch_size"}
    refusals = (AssertionError, AttributeError, KeyError, TypeError, ValueError)
    try:
        deepspeed.DeepSpeedConfig(config)
    except (*refusals, deepspeed.runtime.config.DeepSpeedConfigError) as error:
        whose = "They are made from parallel, train and run." if path is None else f"See {path}."
        raise UserError(f"DeepSpeed refuses its settings: {_reasons(error, config)}. {whose}") from error


def _reasons(error: Exception, config: Mapping[str, Any]) -> str:
    if not isinstance(error, ValidationError):
        text = re.sub(r"(\b[Ss]ee\s+)?https?://\S+", "", str(error))
        return " ".join(text.split()).rstrip(".") or type(error).__name__
    return "; ".join(
        f"{_key(one['loc'], one['input'], config)}: {one['msg'][:1].lower()}{one['msg'][1:]}, found {one['input']!r:.60}"
        for one in error.errors(include_url=False)
    )


def _key(place: tuple[int | str, ...], value: Any, config: Mapping[str, Any]) -> str:
    """Find the path of a key that one of the library's classes refused, which do not know their section:
    the first section that has this value there."""
    paths = [path for path in _sections(config) if _at(config, (*path, *place)) == value]
    return ".".join(map(str, (*(paths[0] if paths else ()), *place)))


def _sections(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, values in config.items():
        if isinstance(values, Mapping):
            yield from _sections(values, (*path, name))


def _at(config: Any, path: tuple[int | str, ...]) -> Any:
    for name in path:
        if not isinstance(config, Mapping) or name not in config:
            return _NOTHING
        config = config[name]
    return config


@contextmanager
def without_hooks(network: nn.Module) -> Iterator[None]:
    """Take DeepSpeed's hooks off inside: those of ZeRO 3 would wait for other ranks and split the weights."""
    kept = [(module, module._forward_pre_hooks, module._forward_hooks) for module in network.modules()]
    try:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = type(before)(), type(after)()
        yield
    finally:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = before, after

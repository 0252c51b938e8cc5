"""Reading weight files of other projects without running their code."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from revit.common.system.errors import UserError

# The keys under which training scripts keep the weights, the first one found counts: TimeSformer and SlowFast; timm's
# and LV-ViT's averaged weights, then the raw ones; DeiT and MAE; DeepSpeed.
WRAPPERS = ("model_state", "state_dict_ema", "state_dict", "model", "module")
EMA = "state_dict_ema"
# What wrapping modules put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of one file, under the names the network itself would give them."""

    tensors: dict[str, Tensor]
    wrapper: str | None = None
    """Key the tensors were found under; None in a plain dictionary."""
    cfg: str | None = None
    """Configuration that some training scripts store as text."""
    notes: tuple[str, ...] = ()
    """Choices made where the file leaves them."""


def read_weights(path: Path) -> WeightFile:
    """Read `.safetensors`, or what `torch.save` wrote (any other suffix), on the CPU, never executing code.

    `WRAPPERS` and name prefixes common to all tensors are taken off; what is no tensor is ignored (epoch, optimiser).
    Raise UserError: missing, unreadable, damaged, without tensors, or with objects that only code could rebuild.
    """
    content = _load(path)
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    named = content if wrapper is None else content[wrapper]
    tensors = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(list(map(str, content))[:8]) or "nothing"
        raise UserError(f"{path}: no weights in this file; it holds {keys}")
    cfg = content.get("cfg")
    notes: tuple[str, ...] = ()
    if wrapper == EMA and isinstance(content.get("state_dict"), Mapping):
        notes = ("the file holds raw and averaged (EMA) weights; the averaged were taken, as timm does",)
    return WeightFile(strip_prefixes(tensors), wrapper, cfg if isinstance(cfg, str) else None, notes)


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off every prefix of `PREFIXES` that all names share, repeatedly."""
    result = dict(tensors)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in result)), None):
        result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return result


def _load(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        raise UserError(
            f"{path}: no such file; give a weight file, the folder of a run or of Hugging Face, or hf-hub:NAME"
        )
    if path.is_dir():
        raise UserError(f"{path}: a folder, where one weight file is wanted")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: an empty file; copy or download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        # A Namespace is a bag of values: many training scripts store their arguments in one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_why_refused(path, error)}") from error
    except Exception as error:  # bytes that are no pickle break its reader in any way there is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a weight file, or a damaged one ({reason}); copy or download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _why_refused(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02"):
        found = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        return (
            "holds Python objects besides tensors, and rebuilding them would run code from the file"
            f"{f' ({found.strip()[:120]})' if found else ''}; where you trust it, save its state dict alone and use that"
        )
    return "not a weight file, or a damaged one; give a .safetensors, .pth or .pyth file"

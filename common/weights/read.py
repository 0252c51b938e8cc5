"""Reading weight files of other projects without running their code, and folders as the Hugging Face hub keeps them: weights
beside config.json. Neither `transformers` nor the network is needed."""

from __future__ import annotations

import argparse
import json
import pickle
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor

from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import IN_RUN

# The keys under which training scripts keep the weights, the first one found counts: TimeSformer and SlowFast; timm's
# and LV-ViT's averaged weights, then the raw ones; DeiT and MAE; DeepSpeed.
WRAPPERS = ("model_state", "state_dict_ema", "state_dict", "model", "module")
EMA = "state_dict_ema"
# What wrapping modules put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
FILES = ("model.safetensors", "pytorch_model.bin")

CONNECT_SECONDS = 5.0
"""Seconds the hub may take to answer before it counts as out of reach."""


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
        raise UserError(f"{path}: not a weight file, or a damaged one ({reason}); copy or download it again") from error
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


def read_folder(folder: Path) -> tuple[WeightFile, dict[str, Any]]:
    """Read the weights (whole or in shards; safetensors first) and config.json of a folder, preprocessor included.

    Raise UserError: no config.json or no weights in it, a shard is missing, or a file is damaged; a run's folder.
    """
    if (folder / "stages.json").exists():
        raise UserError(
            f"{folder}: the folder of a run without a result so far ({IN_RUN}); let the run end, or give a weight file in "
            "it, such as its model.safetensors"
        )
    hint = f"; a Hugging Face folder has config.json beside its weights, the folder of a run has {IN_RUN}"
    config = _json(folder / "config.json", hint)
    if (folder / "preprocessor_config.json").exists():
        config["preprocessor"] = _json(folder / "preprocessor_config.json")
    for name in FILES:
        if (folder / name).exists():
            return read_weights(folder / name), config
        index = folder / f"{name}.index.json"
        if index.exists():
            return _read_shards(folder, index), config
    raise UserError(
        f"{folder}: no weights in this folder; wanted {' or '.join(FILES)}, or {FILES[0]}.index.json with its shards"
    )


def _read_shards(folder: Path, index: Path) -> WeightFile:
    where = _json(index).get("weight_map")
    if not isinstance(where, Mapping) or not where:
        raise UserError(f"{index}: has no weight_map; download the folder again")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(map(str, where.values()))):
        if Path(shard).name != shard:
            raise UserError(f"{index}: names the shard {shard!r}, which is outside the folder")
        tensors.update(read_weights(folder / shard).tensors)
    lost = [name for name in strip_prefixes(dict.fromkeys(where)) if name not in tensors]  # type: ignore[arg-type]
    if lost:
        raise UserError(f"{index}: {len(lost)} tensors are in no shard, {lost[0]} for one; download the folder again")
    return WeightFile(tensors)


def download(where: str) -> Path:
    """Fetch `hf-hub:NAME` from the hub or its cache and return the local folder. Raise UserError where that fails."""
    name = where.removeprefix("hf-hub:")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{where}: this needs huggingface_hub: pip install huggingface_hub") from error
    patterns = ["*.json", "*.safetensors", "pytorch_model*.bin"]
    try:
        with cache_if_offline():
            return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, requests' and OS errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: cannot be fetched ({reason}); check the name and the network") from error


@contextmanager
def cache_if_offline() -> Iterator[None]:
    """Let the hub's client look only into its cache if the hub cannot be reached: it would try again for most of a minute
    for every file before it does. Raise ConnectionError if neither has what was asked for."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    host = urlsplit(constants.ENDPOINT).netloc
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if before:  # the user's own setting, which the error names
            raise
        raise ConnectionError(f"{host} cannot be reached, and its cache on this machine has no copy") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Say whether somebody listens at the host of `url`; through a proxy only the client can tell."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme in urllib.request.getproxies():
        return True
    try:
        socket.create_connection((parts.hostname, parts.port or 443), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _json(path: Path, hint: str = "") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content

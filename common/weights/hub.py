"""Folders as the Hugging Face hub keeps them: weights beside config.json. Neither `transformers` nor the network is needed."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import IN_RUN
from revit.common.weights.read import WeightFile, read_weights, strip_prefixes

FILES = ("model.safetensors", "pytorch_model.bin")

CONNECT_SECONDS = 5.0
"""Seconds the hub may take to answer before it counts as out of reach."""


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
        raise UserError(
            f"{index}: {len(lost)} tensors are in no shard, {lost[0]} for one; download the folder again"
        )
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
        with asked_once():
            return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, requests' and OS errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: cannot be fetched ({reason}); check the name and the network") from error


@contextmanager
def asked_once() -> Iterator[None]:
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
        raise ConnectionError(
            f"{host} cannot be reached, and its cache on this machine has no copy"
        ) from error
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

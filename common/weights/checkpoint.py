"""The project's model file: one safetensors file with a JSON header. Reading it executes nothing.

Parts lie side by side under their prefix: `model.*`, and `assigner.*` where there is one. The header says what is needed
to build them: format version, kind of run, the whole configuration, class names, and facts such as the distribution of
token lengths.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from revit.common.models.load_report import shorten
from revit.common.system.errors import UserError, reason_of

FORMAT = "revit"
VERSION = 1
IN_RUN = "checkpoint.safetensors"
"""Name of the result in a run's folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, with everything needed to use it elsewhere."""

    kind: str
    """`video` or `image`."""
    config: Mapping[str, Any]
    """Configuration of the run, as JSON values."""
    label_names: Sequence[str]
    """Class names, position = class number."""
    parts: Mapping[str, Mapping[str, Tensor]]
    """State dictionaries by part: "model", and "assigner" where there is one. Where an average of the weights was kept,
    "ema" is that average, or "raw" the trained weights if the average is the model."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Facts as JSON values, such as `length_shares`."""

    def load_into(self, part: str, module: nn.Module, source: str, trained: str = "") -> None:
        """Put a part into the module it came from, strictly. `trained`: how the file's training is known to differ, for the
        message. Raise UserError if `source`, the file, has no such part, or one of another architecture."""
        if part not in self.parts:
            raise UserError(f"{source}: holds no {part}; it has {', '.join(self.parts)}")
        state, own = self.parts[part], module.state_dict()
        for name, tensor in state.items():
            # torch would round or widen without a word; weights of less precision are still weights.
            if name in own and tensor.is_floating_point() != own[name].is_floating_point():
                raise UserError(
                    f"{source}: its {part} does not fit: {name} is {tensor.dtype}, not {own[name].dtype}; copy it again, or "
                    "train again"
                )
        try:
            module.load_state_dict(dict(state))
        except RuntimeError as error:
            why = _misfits(state, own) or str(error).splitlines()[-1].strip()
            raise UserError(
                f"{source}{f' was trained {trained}' if trained else ''}: its {part} does not fit the configuration it is "
                f"loaded with ({why}); use the configuration it was trained with"
            ) from error


def _misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say what keeps `state` from a module with the tensors `own`, at most a few names of each kind."""

    def shape(tensor: Tensor) -> str:
        return " x ".join(map(str, tensor.shape)) or "scalar"

    kinds = {
        "without a place there": [name for name in state if name not in own],
        "missing": [name for name in own if name not in state],
        "of another size": [
            f"{name} ({shape(tensor)}, there {shape(own[name])})"
            for name, tensor in state.items()
            if name in own and tensor.shape != own[name].shape
        ],
    }
    return "; ".join(
        f"{len(names)} tensor{'s' if len(names) > 1 else ''} {kind}: {shorten(names, 2)}"
        for kind, names in kinds.items()
        if names
    )


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all; make the folder. Raise UserError if the place cannot be written to."""
    header = {
        "version": VERSION,
        "kind": checkpoint.kind,
        "config": checkpoint.config,
        "label_names": list(checkpoint.label_names),
        "parts": list(checkpoint.parts),
        "extra": checkpoint.extra,
    }
    tensors = {f"{part}.{name}": tensor for part, state in checkpoint.parts.items() for name, tensor in state.items()}
    text = json.dumps(header, ensure_ascii=False, allow_nan=False)
    write_tensors(path, "the model", tensors, {FORMAT: text})


def write_tensors(path: str | Path, what: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all; make the folder. Raise UserError, which names `what` it was to hold, if
    the place cannot be written to."""
    path = Path(path)
    # Copies: safetensors refuses tensors that share memory or are not contiguous.
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(whole, temporary, metadata=metadata)
        os.chmod(temporary, mode)  # safetensors makes files that only their owner can read
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: {what} cannot be written ({reason_of(error)}); free space, make the folder writable or choose another "
            "one"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def checkpoint_file(where: str | Path) -> str:
    """Return the file meant by `where`: of a run's folder the result in it; anything else as it is."""
    file = Path(where).expanduser() / IN_RUN
    return str(file) if file.is_file() else str(where)


def is_checkpoint(path: str | Path) -> bool:
    """Say whether the file is one of ours, of whatever version."""
    try:
        return _header_text(Path(path)) is not None
    except (OSError, SafetensorError):
        return False


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read header and tensors, the tensors on the CPU. Raise UserError: no such file, not a safetensors file or a damaged
    one, not ours, of a newer version, or with a header that cannot be understood."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; give a checkpoint, such as RUN_DIR/checkpoint.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the checkpoint file in it")
    try:
        text = _header_text(path)
        if text is None:
            raise UserError(
                f"{path}: a safetensors file of another project; to start training from it set start.source"
            )
        header = _checked(path, text)
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        size = path.stat().st_size
        raise UserError(
            f"{path}: not a checkpoint, or a damaged one ({size} bytes; {error}); copy it again, or train again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in header["parts"]}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise UserError(f"{path}: damaged: its header does not know the part of {name}; copy it again")
        parts[part][rest] = tensor
    return Checkpoint(header["kind"], header["config"], tuple(header["label_names"]), parts, header["extra"])


def _header_text(path: Path) -> str | None:
    with safe_open(path, framework="pt", device="cpu") as file:
        return (file.metadata() or {}).get(FORMAT)


def _checked(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its header is no JSON ({error}); copy it again, or train again") from error
    version = header.get("version") if isinstance(header, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path}: checkpoint format {version}, this program reads {VERSION}; use the version of this project that "
            "wrote it, or update this one"
        )
    wanted = {"kind": str, "config": dict, "label_names": list, "parts": list, "extra": dict}
    lacking = [key for key, kind in wanted.items() if not isinstance(header.get(key), kind)]
    fault = f" lacks {', '.join(lacking)}" if lacking else ""
    for key in () if lacking else ("label_names", "parts"):
        if not all(isinstance(entry, str) for entry in header[key]):
            fault = f"'s {key} are not all text"
        elif repeated := [entry for entry, count in Counter(header[key]).items() if count > 1]:
            fault = f"'s {key} repeats {repeated[0]!r}"
    if fault:
        raise UserError(f"{path}: its header{fault}; copy it again, or train again")
    return header

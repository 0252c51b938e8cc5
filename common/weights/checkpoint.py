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
"""What a run's folder calls its result."""
Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, with everything needed to use it elsewhere."""

    kind: str
    """`video` or `image`."""
    config: Mapping[str, Any]
    """The run's configuration as JSON values."""
    label_names: Sequence[str]
    """Class names, position = class number."""
    parts: Parts
    """State dictionaries by part: "model", and "assigner" where there is one. Where an average of the weights was kept,
    "ema" is that average, or "raw" the trained weights if the average is the model."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Facts as JSON values, such as `length_shares`."""

    def load_into(self, part: str, module: nn.Module, source: str, trained: str = "") -> None:
        """Puts a part into the module it came from, strictly.

        `trained`: what is known to be different of the file's training, for the message after "FILE was trained".

        Raises:
            UserError: `source` (the file, for the message) has no such part, or it was made by another architecture.
        """
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
    """What keeps `state` from a module with the tensors `own`, at most a few names of each kind."""
    shapes = {
        name: [" x ".join(map(str, tensors[name].shape)) or "scalar" for tensors in (state, own)]
        for name in state
        if name in own and state[name].shape != own[name].shape
    }
    kinds = {
        "without a place there": [name for name in state if name not in own],
        "missing": [name for name in own if name not in state],
        "of another size": [f"{name} ({theirs}, there {ours})" for name, (theirs, ours) in shapes.items()],
    }
    return "; ".join(
        f"{len(names)} tensor{'s' if len(names) > 1 else ''} {kind}: {shorten(names, 2)}"
        for kind, names in kinds.items()
        if names
    )


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes the file whole or not at all; makes the folder.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
        ValueError: a header that JSON cannot hold.
    """
    path = Path(path)
    header = {
        "version": VERSION,
        "kind": checkpoint.kind,
        "config": checkpoint.config,
        "label_names": list(checkpoint.label_names),
        "parts": list(checkpoint.parts),
        "extra": checkpoint.extra,
    }
    text = json.dumps(header, ensure_ascii=False, allow_nan=False)
    # Copies: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part, state in checkpoint.parts.items()
        for name, tensor in state.items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={FORMAT: text})
        os.chmod(temporary, mode)  # safetensors makes files that only their owner can read
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: the model cannot be written ({reason_of(error)}); free space, make the folder writable or choose "
            "another one"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def checkpoint_file(where: str | Path) -> str:
    """The file meant by `where`: of a run's folder the result in it; anything else as it is."""
    file = Path(where).expanduser() / IN_RUN
    return str(file) if file.is_file() else str(where)


def is_checkpoint(path: str | Path) -> bool:
    """Whether the file is one of ours, of whatever version."""
    try:
        return _header_text(Path(path)) is not None
    except (OSError, SafetensorError):
        return False


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads header and tensors, the tensors on the CPU.

    Raises:
        UserError: no such file, not a safetensors file or a damaged one, not ours, of a newer version, or with a
            header that cannot be understood.
    """
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
    wrong = [key for key, kind in wanted.items() if not isinstance(header.get(key), kind)]
    if wrong:
        raise UserError(f"{path}: its header lacks {', '.join(wrong)}; copy it again, or train again")
    for key in ("label_names", "parts"):
        if not all(isinstance(entry, str) for entry in header[key]):
            raise UserError(f"{path}: its header's {key} are not all text; copy it again, or train again")
        repeated = [entry for entry, count in Counter(header[key]).items() if count > 1]
        if repeated:
            raise UserError(
                f"{path}: its header's {key} repeats {repeated[0]!r}; copy it again, or train again"
            )
    return header

"""The training state on disk: what an interrupted stage needs to go on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from revit.common.data.dataset import sample_seed
from revit.common.engine.distributed import ALONE, World
from revit.common.errors import UserError

PREFIX = "update-"
FORMAT = 2
"""Of the states that `Trainer` saves. 1: by number, not by name, and of one process."""


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy: the libraries behind augmentation draw from all three."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm's mixing draws from this global generator


def random_states() -> dict[str, Any]:
    """The states of the global generators, as tensors, numbers and lists: they are read back without executing code.

    Loaders draw from seeds of their own and have no state.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    version, internal, gauss = random.getstate()
    keys = np.random.get_state(legacy=False)  # noqa: NPY002  # as above
    assert isinstance(keys, dict)
    words = torch.from_numpy(keys["state"]["key"].astype(np.int64))
    return {
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
        "python": [version, list(internal), gauss],
        "numpy": [words, int(keys["state"]["pos"]), int(keys["has_gauss"]), float(keys["gauss"])],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators to what `random_states` found; those it did not save stay as they are."""
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "python" in states:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
    if "numpy" in states:
        words, *rest = states["numpy"]
        np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above


def seed_data_rank(seed: int, data_rank: int) -> None:
    """Let processes that train on different samples draw different numbers; the first goes on with those it has."""
    if data_rank:
        seed_all(sample_seed(seed, 0, data_rank))


def seed_anew(num_updates: int) -> None:
    """Other numbers than at the start, where those to go on with are not known."""
    seed_all(sample_seed(torch.initial_seed() % 2**63, num_updates, 0))


def save_state(folder: Path, num_updates: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/update-NNNNNNNN.pt`, whole or not at all, and remove all but the `keep` newest.

    Raises UserError if it cannot be written; what was there before stays.
    """
    path = folder / f"{PREFIX}{num_updates:08d}.pt"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{path}: the training state cannot be written ({error}); free space or choose another run.dir, "
            "then start the same command again: it goes on from the last state"
        ) from error
    for old in sorted(folder.glob(f"{PREFIX}*.pt"))[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_newest_state(folder: Path, world: World = ALONE) -> dict[str, Any] | None:
    """The newest state that can be read, or None where there is none. Executes no code from the file.

    Rank 0 chooses, so that all ranks take the same one.
    """
    path, state = _newest_readable(folder) if world.is_main else (None, None)
    path = world.broadcast(path)
    if path is not None and state is None:
        state = _read(path)
    return state


def _newest_readable(folder: Path) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    for path in sorted(folder.glob(f"{PREFIX}*.pt"), reverse=True):
        try:
            return path, _read(path)
        except Exception as error:
            # A damaged file is named and passed over: an older state, or the start, is still good.
            print(f"{path}: not readable ({type(error).__name__}: {error}); trying an older state")
    return None, None


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def remove_states(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

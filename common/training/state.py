"""The training state on disk: what an interrupted stage needs to go on as if nothing had happened."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from revit.common.data.dataset import sample_seed
from revit.common.data.loader import dead_workers_explained
from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.errors import UserError, reason_of

LOG = logging.getLogger("revit.training")

PREFIX = "update-"
FORMAT = 2
"""Version of the states that `Trainer` saves."""


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy: the libraries behind augmentation draw from all three."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm's mixing draws from this global generator


def random_states() -> dict[str, Any]:
    """Return the states of the global generators, as tensors, numbers and lists: they are read back without executing code.

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
    """Draw other numbers than at the start, where those to go on with are not known."""
    seed_all(sample_seed(torch.initial_seed() % 2**63, num_updates, 0))


def save_state(folder: Path, num_updates: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/update-NNNNNNNN.pt`, whole or not at all, and remove all but the `keep` newest and what was begun.

    Raises UserError if it cannot be written; what was there before stays.
    """
    path = folder / f"{PREFIX}{num_updates:08d}.pt"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with dead_workers_explained(), open(part, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(
            f"{path}: the training state cannot be written ({reason_of(error)}); free space or make the folder writable, "
            "then start the same command again: it goes on from the last state"
        ) from error
    for old in [*sorted(folder.glob(f"{PREFIX}*.pt"))[:-keep], *folder.glob(f"{PREFIX}*.part")]:
        old.unlink(missing_ok=True)
    return path


def load_newest_state(folder: Path, context: DistributedContext = ALONE) -> dict[str, Any] | None:
    """Load the newest state that is whole; None where there is none. Executes no code from the file.

    A damaged one is named, passed over and called `.damaged`, so that it does not count as one of the last. UserError if
    all are damaged: to start over without a word could throw away weeks.

    Rank 0 chooses, so that all ranks take the same one.
    """
    mine: dict[Path, dict[str, Any]] = {}

    def choose() -> Path | None:
        mine.update(_newest_readable(folder))
        return next(iter(mine), None)

    path = context.on_main(choose)
    return None if path is None else mine[path] if path in mine else _read(path)


def _newest_readable(folder: Path) -> dict[Path, dict[str, Any]]:
    paths = sorted(folder.glob(f"{PREFIX}*.pt"), reverse=True)
    damaged = [path.name for path in sorted(folder.glob(f"{PREFIX}*.damaged"))]
    for path in paths:
        try:
            return {path: _read(path)}
        except MemoryError:
            raise
        except Exception as error:
            LOG.warning("%s: damaged (%s); taking an older state", path, reason_of(error))
            damaged.append(path.name)
            if not isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))
    if damaged:
        raise UserError(
            f"{folder}: none of its states can be read ({', '.join(sorted(damaged))}); put a good copy of one there under its name, "
            "or delete the folder to do this training from its start"
        )
    return {}


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:  # torch compares no check sums
        bad = file.testzip()
    if bad is not None:
        raise ValueError(f"check sum of {bad}")
    return torch.load(path, map_location="cpu", weights_only=True)


def states_folder(run_folder: Path, stage: str) -> Path:
    """Return where the states of a stage's training are."""
    return run_folder / "states" / stage


def remove_states(folder: Path) -> None:
    """Remove the states of a training, if there are any."""
    shutil.rmtree(folder, ignore_errors=True)

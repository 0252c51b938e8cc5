"""Batches of a `RobustDataset`, loaded by worker processes; failures are recorded and dead workers explained."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import signal
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from revit.common.data.batch import Batch, collate
from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset
from revit.common.data.sampler import EpochSampler
from revit.common.system.errors import OwnError, UserError


class Loader:
    """Batches of one epoch per `for` loop: the one that was set, or the same again. Failures are recorded in `broken`.

    Batches hold what (seed, epoch, position) say, whatever the number of workers.
    """

    def __init__(
        self,
        dataset: RobustDataset,
        sampler: EpochSampler,
        broken: BrokenFiles,
        batch_size: int,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        num_views: int = 1,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is not positive; give 1 or more")
        self.dataset = dataset
        self.sampler = sampler
        self.broken = broken
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._loader = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=partial(collate, num_views=num_views),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch if num_workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker,
            # Its own, or every new iteration would draw from the global generator and shift a resumed run's numbers.
            generator=torch.Generator(),
        )
        if num_workers > 0:
            atexit.register(_end_workers, weakref.ref(self._loader))

    @property
    def num_samples(self) -> int:
        """Number of samples of the whole list (all ranks)."""
        return self.dataset.num_samples

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches that this rank reads in a whole epoch."""
        samples = self.sampler.samples_per_epoch
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def samples_in(self, num_batches: int) -> int:
        """Return the samples in that many whole batches of every rank: how far they come in the epoch's order."""
        return num_batches * self.batch_size * self.sampler.num_ranks

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Read `epoch` next, from batch `start_batch` on."""
        self.set_position(epoch, self.samples_in(start_batch))

    def set_position(self, epoch: int, num_samples: int) -> None:
        """Read `epoch` next, without the first `num_samples` of its order, whatever ranks read them."""
        self.sampler.set_position(epoch, min(num_samples, self.num_samples))

    def __len__(self) -> int:
        """Return the number of batches that the next loop yields."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches. UserError if too many samples are broken or a worker process was killed."""
        with dead_workers_explained():
            iterator = iter(self._loader)
            try:
                for batch in iterator:
                    self.broken.record(batch.ids.tolist(), batch.failures, batch.remarks)
                    yield batch
            except (RuntimeError, ConnectionError, EOFError) as error:
                self._forget(iterator)
                if not isinstance(error, RuntimeError) and _killed(iterator):
                    # Killed while it handed a batch over: the main process met the broken connection first.
                    raise RuntimeError("DataLoader worker killed while it handed over a batch") from error
                raise

    def _forget(self, iterator: Any) -> None:
        """Drop the workers: torch would go on raising for a dead one whenever any child process ends."""
        self._loader._iterator = None
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is None:
            return
        with contextlib.suppress(RuntimeError):  # torch's signal handler may raise in here too
            shut_down()
        with contextlib.suppress(RuntimeError, ValueError):  # ValueError: done already
            torch._C._remove_worker_pids(id(iterator))


def _killed(iterator: Any) -> bool:
    """Return whether a worker of a forgotten iterator ended by something else than being told to."""
    exits = [worker.exitcode for worker in getattr(iterator, "_workers", ())]
    return any(exit_ not in (None, 0, -signal.SIGTERM) for exit_ in exits)


@contextlib.contextmanager
def dead_workers_explained() -> Iterator[None]:
    """Turn torch's error about a killed loading worker into a UserError.

    torch raises it from a signal handler, wherever the main process happens to be: put whole stages inside.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OwnError(
            "a loading worker was killed by the system, most often for want of memory (or of /dev/shm in a "
            "container). Lower num_workers, prefetch or the batch size, or give the machine more memory. "
            f"({str(error).splitlines()[0]})"
        ) from error


M_MMAP_THRESHOLD = -3
"""glibc's name for the size from which a buffer gets pages of its own, which go back to the system when it is freed."""


def _end_workers(loader: weakref.ref[DataLoader[Any]]) -> None:
    """End the workers of a loader that outlives the program's last line; runs before Python's own exit handlers.

    Python would send one SIGTERM, which they take for a launcher's, and wait for them for ever.
    """
    if (left := loader()) is not None:
        left._iterator = None  # its end shuts the workers down


def _prepare_worker(worker: int) -> None:
    """Give a worker one compute thread, no signals and memory that stays flat.

    Ctrl-C and SIGTERM go to every process of a run and mean the main one, which still needs its batches. Workers ignore
    them but for a second SIGTERM, by which torch ends one that does not end by itself.

    glibc raises the threshold to 32 MB by itself; buffers of a few megabytes, each a little different, then leave holes: a
    worker grew by 1.2 MB a clip for its first 300 clips. Fixed at 1 MB it does not grow.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    with contextlib.suppress(AttributeError, OSError):  # other C libraries do not know it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)

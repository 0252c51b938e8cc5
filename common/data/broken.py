"""Samples that cannot be read: named once, counted, and a limit on how many a run may have.

Nothing here imports torch: the helper process that decodes frames imports this too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")


class BrokenSample(UserError):
    """A sample that cannot be read: its file, and one line that says why. A run goes on without it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read, as it travels from a loading worker to the main process."""

    id: int
    """Position in the sample list."""
    path: str
    """File of the sample."""
    reason: str
    """One line saying what is wrong with it."""


class BrokenFiles:
    """The unreadable samples of one run over a list of `num_samples`, kept in the main process.

    Each is logged when it fails for the first time and counted once, however many epochs meet it again. `max_share` is the
    largest bearable share of broken samples among the distinct ones tried, judged after `min_samples` of them or the whole
    list; None never stops (evaluation reports failures with the accuracy instead).
    """

    def __init__(
        self, num_samples: int, max_share: float | None = None, min_samples: int = 50, name: str = "data"
    ) -> None:
        self.max_share = max_share
        self.name = name
        self._failures: dict[int, Failure] = {}
        self._remarked: set[int] = set()
        self._seen = bytearray(num_samples)  # one byte a sample: flat for lists of any length
        self._num_seen = 0
        self._min_samples = min(min_samples, num_samples)

    @property
    def failures(self) -> list[Failure]:
        """Broken samples in the order in which they were met."""
        return list(self._failures.values())

    @property
    def num_broken(self) -> int:
        """Number of broken samples."""
        return len(self._failures)

    @property
    def num_seen(self) -> int:
        """Number of samples that were tried, broken ones included."""
        return self._num_seen

    def record(self, ids: Iterable[int], failures: Iterable[Failure], remarks: Iterable[Failure] = ()) -> None:
        """Note the samples of one batch. UserError with the list once more than `max_share` are broken.

        `remarks` are samples that were read, but not whole; each is logged once and is not broken.
        """
        for remark in remarks:
            if remark.id not in self._remarked:
                self._remarked.add(remark.id)
                LOG.warning("%s: %s: %s", self.name, remark.path, remark.reason)
        failures = list(failures)
        for id_ in [*ids, *(failure.id for failure in failures)]:
            self._num_seen += not self._seen[id_]
            self._seen[id_] = 1
        self._add(failures)
        if self.max_share is None or self._num_seen < self._min_samples:
            return
        if self.num_broken > self.max_share * self._num_seen:
            raise UserError(
                f"{self.name}: {self.num_broken} of the {self._num_seen} samples seen so far cannot be read, more "
                f"than the share of {self.max_share:g} that max_broken_share allows. Repair or remove these files, "
                f"or raise max_broken_share:\n{self.report()}"
            )

    def report(self, limit: int = 20) -> str:
        """Return a line for every broken sample, at most `limit`, then how many more there are."""
        lines = [f"  {failure.path}: {failure.reason}" for failure in self.failures[:limit]]
        if self.num_broken > limit:
            lines.append(f"  ... and {self.num_broken - limit} more")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on counting, as plain values."""
        return {"seen": bytes(self._seen), "failures": [astuple(failure) for failure in self.failures]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an earlier run over the same list. UserError if the list's length changed."""
        if len(state["seen"]) != len(self._seen):
            raise UserError(
                f"{self.name}: the interrupted run had {len(state['seen'])} samples, the list now has "
                f"{len(self._seen)}; restore the list or start a new run"
            )
        self._seen = bytearray(state["seen"])
        self._num_seen = sum(self._seen)
        self._failures = {id_: Failure(id_, path, reason) for id_, path, reason in state["failures"]}

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Add what all processes found, each given by its state over the same list."""
        for state in states:
            self._add(Failure(*failure) for failure in state["failures"])
            both = int.from_bytes(self._seen, "little") | int.from_bytes(state["seen"], "little")
            self._seen = bytearray(both.to_bytes(len(self._seen), "little"))
        self._num_seen = sum(self._seen)

    def _add(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            if failure.id not in self._failures:
                self._failures[failure.id] = failure
                LOG.warning("%s: cannot read %s: %s", self.name, failure.path, failure.reason)

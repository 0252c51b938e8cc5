"""Advice from measured rates of loading and computing: keys to set, who is waited for, and a sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from revit.common.report.tables import print_table
from revit.common.speed.loading_rates import CheckedFiles, DecoderRate, best_decoder

EVEN = "even mix"
"""Every token grid for the same share of the inputs, the assigner included."""
NEARLY = 0.95
"""Share of the best rate with which fewer workers are as good."""
AMPLE = 1.5
"""Times the model's rate at which more workers are of no use."""


@dataclass(frozen=True)
class ModelRates:
    """Inputs per second; an input is one view of a sample."""

    dtype: str
    batch: int
    grids: dict[str, float]
    """The longest grid and, where there are several, `EVEN`."""


@dataclass(frozen=True)
class LoaderRate:
    """Samples per second with so many workers."""

    workers: int
    train: float
    test: float


@dataclass(frozen=True)
class DataSpeed:
    """Measured rates, and what follows from them."""

    listed: int
    files: CheckedFiles
    decoders: list[DecoderRate]
    loaders: list[LoaderRate]
    model: ModelRates
    num_views: int
    training: float | None
    """Samples per second; None: not measured."""
    no_training: str | None
    device: str
    key: str | None
    """Of the decoder."""
    remedy: str
    seconds: float

    @property
    def decoder(self) -> str | None:
        """The decoder to set; None where there is nothing to choose."""
        return best_decoder(self.decoders)

    @property
    def test_rate(self) -> float:
        """Samples per second that the model takes in a test at its fastest: adaptive where it is."""
        return max(self.model.grids.values()) / self.num_views

    @property
    def best(self) -> LoaderRate:
        """The fewest workers that are nearly as good as any, or more than the model can use. Not 0 if there is a choice:
        without workers the model waits for every file."""
        choice = [rate for rate in self.loaders if rate.workers] or self.loaders
        train, test = (max(getattr(rate, name) for rate in choice) for name in ("train", "test"))
        enough_train = min(NEARLY * train, AMPLE * self.training if self.training else train)
        enough_test = min(NEARLY * test, AMPLE * self.test_rate)
        good = [rate for rate in choice if rate.train >= enough_train and rate.test >= enough_test]
        fallback = max(choice, key=lambda rate: rate.train * rate.test)
        return min(good, key=lambda rate: rate.workers, default=fallback)

    @property
    def settings(self) -> dict[str, Any]:
        """Keys of the configuration and what to set them to."""
        decoder = {self.key: self.decoder} if self.key and self.decoder else {}
        return {**decoder, "data.loading.num_workers": self.best.workers}

    @property
    def bottleneck(self) -> dict[str, str | None]:
        """ "loader" or "model", of testing and of training; None where it was not measured."""
        training = None
        if self.training is not None:
            training = "loader" if self.best.train < self.training else "model"
        return {"testing": "loader" if self.best.test < self.test_rate else "model", "training": training}

    @property
    def advice(self) -> str:
        """One sentence."""
        best, who = self.best, self.bottleneck
        keys = " ".join(f"{key}={value}" for key, value in self.settings.items())
        test = f"{rate_text(best.test)} samples/s come for testing and the model takes {rate_text(self.test_rate)}"
        if self.training is None:
            result = f"{test}, so the {who['testing']} is the bottleneck"
        else:
            train = f"{rate_text(best.train)} for training, of which it takes {rate_text(self.training)}"
            same = who["testing"] == who["training"]
            end = (
                f"the {who['testing']} is the bottleneck of both"
                if same
                else f"the {who['testing']} is the bottleneck of testing and the {who['training']} that of training"
            )
            result = f"{test}, {train}, so {end}"
        help_ = f" ({self.remedy})" if "loader" in who.values() and self.remedy else ""
        return f"Set {keys}: {result}{help_}."

    def as_json(self) -> dict[str, Any]:
        """Return what `throughput.py --data --json` writes."""
        return {
            "device": self.device,
            "files": {
                "listed": self.listed,
                "read": len(self.files.good),
                "broken": [{"path": path, "reason": reason} for path, reason in self.files.broken.items()],
            },
            "decoders": [
                {
                    "name": one.name,
                    "ms": one.ms,
                    "same_frames": not one.differs_on,
                    "differs_on": one.differs_on,
                    "compared_with_a_plain_decode": one.num_compared,
                }
                for one in self.decoders
            ],
            "loader": [
                {"workers": one.workers, "train_per_second": one.train, "test_per_second": one.test}
                for one in self.loaders
            ],
            "model": {
                "dtype": self.model.dtype,
                "batch": self.model.batch,
                "views": self.num_views,
                "inputs_per_second": self.model.grids,
                "training_per_second": self.training,
                "not_trained": self.no_training,
            },
            "bottleneck": self.bottleneck,
            "set": self.settings,
            "advice": self.advice,
            "seconds": round(self.seconds, 3),
        }


def rate_text(rate: float) -> str:
    """Return two or three digits of a rate."""
    return f"{rate:.0f}" if rate >= 20 else f"{rate:.3g}"


COLUMNS = {"what": "measured", "test": "samples/s in tests", "train": "in training", "note": ""}
SHOWN_BROKEN = 5


def print_data(found: DataSpeed) -> None:
    """Print the table, what is odd about the files, and the advice."""
    print_table(f"Loading and computing on {found.device}, on the files given", COLUMNS, rows(found))
    for one in found.decoders:
        for path in one.differs_on[:SHOWN_BROKEN]:
            print(f"{one.name} returns other frames than a plain decode of {path}")
    if found.files.broken:
        tried = len(found.files.good) + len(found.files.broken)
        print(f"{len(found.files.broken)} of the {tried} files tried cannot be read:")
        for path, reason in list(found.files.broken.items())[:SHOWN_BROKEN]:
            print(f"  {path}: {reason}")
    if found.no_training is not None:
        print(f"A training step was not measured: {found.no_training}")
    print(found.advice)


def rows(found: DataSpeed) -> list[dict[str, Any]]:
    """Return the table: what was measured, at what rate."""
    table: list[dict[str, Any]] = []
    for one in found.decoders:
        note = f"as a plain decode on {one.num_compared} files"
        if one.differs_on:
            note = f"other frames than a plain decode on {len(one.differs_on)} of {one.num_compared} files"
        rate = None if one.ms is None else 1e3 / one.ms
        table.append({"what": f"decoding, {one.name}", "test": rate, "note": note})
    for loader in found.loaders:
        count = f"loading, {loader.workers} worker{'s' if loader.workers != 1 else ''}"
        table.append({"what": count, "test": loader.test, "train": loader.train})
    views = f"{found.num_views} views a sample, {found.model.dtype}, batch {found.model.batch}"
    for grid, rate in found.model.grids.items():
        name = "model, lengths in an even mix" if grid == EVEN else f"model at {grid}"
        table.append({"what": name, "test": rate / found.num_views, "note": views})
    if found.training is not None:
        table.append({"what": "training step", "train": found.training})
    return table

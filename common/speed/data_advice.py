"""Advice from measured rates of loading and computing: keys to set, who is waited for, and a sentence that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    """Speed of the model; an input is one view of a sample."""

    dtype: str
    batch: int
    views: int
    """Views of a sample in the test."""
    inputs_per_second: dict[str, float]
    """At the longest grid and, where there are several, `EVEN`."""
    training_per_second: float | None = None
    """Samples; None where it was not measured."""
    not_trained: str | None = None
    """Why it was not."""

    @property
    def test_rate(self) -> float:
        """Samples per second in a test at its fastest: adaptive where it is."""
        return max(self.inputs_per_second.values()) / self.views


@dataclass(frozen=True)
class LoaderRate:
    """Samples per second with so many workers."""

    workers: int
    train_per_second: float
    test_per_second: float


@dataclass(frozen=True)
class DataSpeed:
    """Measured rates, and what follows from them."""

    listed: int
    files: CheckedFiles
    decoders: list[DecoderRate]
    loaders: list[LoaderRate]
    model: ModelRates
    device: str
    key: str | None
    """Key of the decoder in the configuration."""
    remedy: str
    seconds: float

    @property
    def best(self) -> LoaderRate:
        """The fewest workers that are nearly as good as any, or more than the model can use. Not 0 if there is a choice:
        without workers the model waits for every file."""
        choice = [rate for rate in self.loaders if rate.workers] or self.loaders
        train = NEARLY * max(rate.train_per_second for rate in choice)
        test = NEARLY * max(rate.test_per_second for rate in choice)
        if self.model.training_per_second:
            train = min(train, AMPLE * self.model.training_per_second)
        test = min(test, AMPLE * self.model.test_rate)
        good = [rate for rate in choice if rate.train_per_second >= train and rate.test_per_second >= test]
        fallback = max(choice, key=lambda rate: rate.train_per_second * rate.test_per_second)
        return min(good, key=lambda rate: rate.workers, default=fallback)

    @property
    def settings(self) -> dict[str, Any]:
        """Keys of the configuration and what to set them to."""
        decoder = best_decoder(self.decoders)
        chosen = {self.key: decoder} if self.key and decoder else {}
        return {**chosen, "data.loading.num_workers": self.best.workers}

    @property
    def bottleneck(self) -> dict[str, str | None]:
        """ "loader" or "model", of testing and of training; None where it was not measured."""
        rate, training = self.model.training_per_second, None
        if rate is not None:
            training = "loader" if self.best.train_per_second < rate else "model"
        testing = "loader" if self.best.test_per_second < self.model.test_rate else "model"
        return {"testing": testing, "training": training}

    @property
    def advice(self) -> str:
        """One sentence."""
        best, model, bottleneck = self.best, self.model, self.bottleneck
        keys = " ".join(f"{key}={value}" for key, value in self.settings.items())
        rates = f"{rate_text(best.test_per_second)} samples/s come for testing and the model takes {rate_text(model.test_rate)}"
        result = f"the {bottleneck['testing']} is the bottleneck"
        if model.training_per_second is not None:
            takes = rate_text(model.training_per_second)
            rates += f", {rate_text(best.train_per_second)} for training, of which it takes {takes}"
            same = bottleneck["testing"] == bottleneck["training"]
            result += " of both" if same else f" of testing and the {bottleneck['training']} that of training"
        remedy = f" ({self.remedy})" if "loader" in bottleneck.values() and self.remedy else ""
        return f"Set {keys}: {rates}, so {result}{remedy}."

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
            "loader": [asdict(one) for one in self.loaders],
            "model": asdict(self.model),
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
    if found.model.not_trained is not None:
        print(f"A training step was not measured: {found.model.not_trained}")
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
        table.append({"what": count, "test": loader.test_per_second, "train": loader.train_per_second})
    model = found.model
    for grid, rate in model.inputs_per_second.items():
        name = "model, lengths in an even mix" if grid == EVEN else f"model at {grid}"
        note = f"{model.views} views a sample, {model.dtype}, batch {model.batch}"
        table.append({"what": name, "test": rate / model.views, "note": note})
    if model.training_per_second is not None:
        table.append({"what": "training step", "train": model.training_per_second})
    return table

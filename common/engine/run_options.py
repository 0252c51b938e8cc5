"""The top level of a configuration, as far as pictures and clips agree."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import Field

from revit.common.engine.options import (
    AssignerOptions,
    DistillOptions,
    LengthOptions,
    RunOptions,
    StartOptions,
    TestOptions,
    TrainOptions,
)
from revit.common.options import Options


class RecipeOptions(Options):
    """What the recipe needs to know of a run. A package adds its own `data` and `model`."""

    kind: str
    start: StartOptions = StartOptions()
    train: TrainOptions = TrainOptions()
    distill: DistillOptions = DistillOptions()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    lengths: LengthOptions = LengthOptions()
    assigner: AssignerOptions = AssignerOptions()
    test: TestOptions = TestOptions()
    run: RunOptions

    @property
    @abstractmethod
    def makes_data(self) -> bool:
        """Whether the project makes the data set itself, as a stage of its own."""

    @property
    @abstractmethod
    def has_lengths(self) -> bool:
        """Whether the model runs at several token lengths, and so wants labels and an assigner."""

    @abstractmethod
    def data_settings(self) -> dict[str, Any]:
        """The part of `data` that decides what a run computes (not how fast)."""

    def settings_of(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on, as JSON values; each stage includes those before it."""
        everything = self.model_dump(mode="json")
        settings: dict[str, Any] = {"data": self.data_settings()}
        if stage == "data":
            return settings
        for key in ("model", "start", "train", "distill", "label_smoothing"):
            settings[key] = everything[key]
        settings["run"] = {key: everything["run"][key] for key in ("seed", "dtype")}
        if stage != "model":
            settings["lengths"] = everything["lengths"]
        if stage in ("assigner", "evaluate"):
            settings["assigner"] = everything["assigner"]
        if stage == "evaluate":
            settings["test"] = everything["test"]
        return settings

"""The configuration of a search: `kind: asvit_search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.image.models.genotype import SEED_TOPOLOGY, Genotype
from revit.image.options import ImageData, ImageRun
from revit.image.search.options import (
    BaselineOptions,
    GrowOptions,
    MeasureOptions,
    SearchOptions,
    SearchRunOptions,
)


class AsViTSearchRun(Options):
    """Search, grow, and train what was found."""

    kind: Literal["asvit_search"] = "asvit_search"
    data: ImageData
    """Pictures as in an image run; their size is that at which networks are measured."""
    measure: MeasureOptions = MeasureOptions()
    search: SearchOptions = SearchOptions()
    grow: GrowOptions | None = GrowOptions()
    """Null: the topology is the result."""
    baselines: BaselineOptions = BaselineOptions()
    train: dict[str, Any] | None = None
    """An image run without kind and data, with which the result is trained; null: nothing is trained. `model` needs no name
    and no genotype, `run` no folder."""
    run: SearchRunOptions

    @model_validator(mode="after")
    def _train_fits(self) -> Self:
        try:
            self.image_run(SEED_TOPOLOGY)
        except ValidationError as error:
            found = "; ".join(
                f"train.{'.'.join(str(key) for key in item['loc'])}: {item['msg']}"
                for item in error.errors(include_url=False)
            )
            raise ValueError(found) from None
        height, width = self.data.pixels.size
        if height % 32 or width % 32:
            raise ValueError(
                f"data.pixels.img_size {self.data.pixels.img_size}: the last of the four maps has a 32nd of each side; choose "
                "a multiple of 32"
            )
        if self.grow is not None and self.baselines.growths and self.grow.budget.steps is not None:
            raise ValueError("baselines.growths are compared with a whole growth; remove grow.budget.steps")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.run.dir)

    def image_run(self, genotype: Genotype) -> ImageRun:
        """The image run that trains `genotype`; also where the pictures come from. ValidationError for what does not fit."""
        given = dict(self.train or {})
        if taken := [key for key in ("kind", "data") if key in given]:
            raise ValueError(f"train.{taken[0]}: is the search's own; leave it out")
        model = {"name": "asvit_seed", "genotype": str(genotype), **(given.get("model") or {})}
        folder = self.folder / "trained" if self.train is not None else self.folder
        run = {"seed": self.run.seed, "evaluate_every": None, **(given.get("run") or {}), "dir": str(folder)}
        return ImageRun.model_validate({**given, "data": self.data, "model": model, "run": run})

"""What a package of pictures and one of clips do alike."""

from __future__ import annotations

from revit.common.engine.run_options import RecipeOptions
from revit.common.engine.task import BatchAugment, ResizableTask, Task
from revit.common.losses.distill import SelfDistillation


class ListedPackage:
    """The shared half of a `revit.common.engine.package.Package` whose samples are files in lists."""

    def task(self, options: RecipeOptions) -> Task:
        """All grids, the shorter ones taught by the longest."""
        distill = options.distill
        return ResizableTask(
            SelfDistillation(distill.weight, distill.temperature, distill.hard, options.label_smoothing)
        )

    def batch_augment(self, options: RecipeOptions, num_classes: int) -> BatchAugment | None:
        """Nothing."""
        return None

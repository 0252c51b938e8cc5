"""What the methods of a run make of its task and its optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from revit.common.config.sections import OptimOptions, StartOptions
from revit.common.methods.base import ModelSource, Setting
from revit.common.methods.task import Task
from revit.common.models.base import GridModel

if TYPE_CHECKING:
    from revit.common.methods.run_options import RecipeOptions


def start_of(options: RecipeOptions) -> StartOptions:
    """Where the model's weights come from."""
    start = options.start
    for method in options.active_methods:
        start = method.start(start)
    return start


def task_of(options: RecipeOptions, task: Task, models: ModelSource, model: GridModel) -> Task:
    """The losses of training `model`, which has its starting weights; `task` is what they are without methods."""
    for method in options.active_methods:
        task = method.task(task, model, Setting(options, models))
    return task


def optim_of(options: RecipeOptions) -> OptimOptions:
    """How the model is optimised."""
    optim = options.train.optim
    for method in options.active_methods:
        optim = method.optim(optim, options)
    return optim

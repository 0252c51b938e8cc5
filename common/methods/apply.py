"""What the methods of a run make of its task and its optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from revit.common.engine.options import OptimOptions, StartOptions
from revit.common.engine.task import Task
from revit.common.grid_model import GridModel
from revit.common.methods.method import Setting

if TYPE_CHECKING:
    from revit.common.engine.package import Package
    from revit.common.engine.run_options import RecipeOptions


def start_of(options: RecipeOptions) -> StartOptions:
    """Where the model's weights come from."""
    start = options.start
    for method in options.active_methods:
        start = method.start(start)
    return start


def task_of(options: RecipeOptions, package: Package, model: GridModel) -> Task:
    """The losses of training `model`, which has its starting weights."""
    task = package.task(options)
    for method in options.active_methods:
        task = method.task(task, model, Setting(options, package))
    return task


def optim_of(options: RecipeOptions) -> OptimOptions:
    """How the model is optimised."""
    optim = options.train.optim
    for method in options.active_methods:
        optim = method.optim(optim, options)
    return optim

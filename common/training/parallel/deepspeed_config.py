"""DeepSpeed: imported quietly, its settings made from ours and a JSON file of the user's, and asked what it thinks of them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import Optimizer

from revit.common.config.sections import ParallelOptions
from revit.common.system.errors import UserError
from revit.common.training.parallel.backend import LOWEST_SCALE

Json = dict[str, Any]

GOVERNED_BY = {
    "train_batch_size": "train.effective_batch",
    "train_micro_batch_size_per_gpu": "train.batch_size",
    "gradient_accumulation_steps": "train.effective_batch",
    "gradient_clipping": "train.clip_grad_norm",
    "zero_optimization.stage": "parallel.zero_stage",
    "zero_optimization.offload_optimizer": "parallel.offload",
    "zero_optimization.offload_param": "parallel.offload",
    "bf16": "run.dtype",
    "fp16": "run.dtype",
    "torch_autocast": "run.dtype",
    "optimizer": "train.optim",
    "scheduler": "train.schedule",
}
"""Where a value of DeepSpeed's is set here; the longest matching key counts."""
SCALER_ARGUMENTS = {
    "initial_scale_power": "init_scale",
    "loss_scale_window": "scale_window",
    "hysteresis": "delayed_shift",
    "consecutive_hysteresis": "consecutive_hysteresis",
}
"""Key of DeepSpeed's `fp16` section -> argument of its loss scaler."""
WITHOUT_EFFECTIVE_BATCH = {
    "train_batch_size": "train.batch_size times the processes",
    "gradient_accumulation_steps": "default, as train.effective_batch is not given",
}
"""Replacements of `GOVERNED_BY` where only `batch_size` says how many samples are in an update."""


def our_settings(
    options: ParallelOptions,
    *,
    batch_size: int,
    accumulate: int,
    world_size: int,
    clip_grad_norm: float | None,
    dtype: str,
) -> Json:
    """Say what our keys mean in DeepSpeed's words.

    bfloat16 and float16 are torch's autocast, as without DeepSpeed: weights, their averages and the sums of gradients
    stay float32 (DeepSpeed's own `bf16` and `fp16` would convert the network, its buffers and its losses).
    """
    return {
        "train_batch_size": batch_size * accumulate * world_size,
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulate,
        # All grids of a batch, and all batches of an update, are added up before one step; we say when.
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip_grad_norm or 0.0,  # written in any case: left out, it is 1.0
        "zero_optimization": {
            "stage": options.zero_stage,
            "offload_optimizer": {"device": "none" if options.offload == "none" else "cpu"},
            "offload_param": {"device": "cpu" if options.offload == "parameters" else "none"},
        },
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16", "loss_scale": 0},
        "torch_autocast": {
            "enabled": dtype != "float32",
            "dtype": dtype,
            "lower_precision_safe_modules": [],  # gradients travel in float32
        },
    }


def read_config(path: Path) -> Json:
    """Read the user's file. Raises UserError where it is not a JSON object or names a key twice."""

    def without_repeats(pairs: list[tuple[str, Any]]) -> Json:
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} given twice")
        return dict(pairs)

    try:
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=without_repeats)
    except (OSError, ValueError) as error:
        raise UserError(f"parallel.deepspeed_config: {path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f'parallel.deepspeed_config: {path} is not a JSON object like {{"zero_optimization": ...}}')
    return content


def merge(
    ours: Json,
    theirs: Json,
    path: Path | None,
    optimizer: Optimizer,
    device_type: str,
    training: str = "train",
    effective_given: bool = True,
) -> tuple[Json, Json]:
    """Merge both; return DeepSpeed's settings and the arguments of its dynamic loss scaler.

    What only the file says is taken over; what both say must be equal, or "auto" in the file, which takes ours. Its
    `bf16` and `fp16` sections are read as the dtype and its `optimizer` section is compared with ours. Raises UserError
    that names every contradiction: key, theirs, ours, and the key of ours; `training` is the section of its own,
    `effective_given` whether it says `effective_batch`.
    """
    theirs = dict(theirs)
    differing = [*_optimizer_differences(theirs.pop("optimizer", {}), optimizer)]
    problems = []
    if theirs.pop("scheduler", None):
        problems.append(f"scheduler: the learning rate follows {training}.schedule; remove it from the file")
    differing += _differences(theirs, ours)
    governed = GOVERNED_BY if effective_given else GOVERNED_BY | WITHOUT_EFFECTIVE_BATCH
    problems += [_contradiction(*one, training, governed) for one in differing]
    for section, known in (
        ("bf16", {"enabled"}),
        ("fp16", {"enabled", "loss_scale", "min_loss_scale", "auto_cast", *SCALER_ARGUMENTS}),
    ):
        for key in sorted(set(_section(theirs, section)) - known):
            problems.append(f"{section}.{key}: has no meaning where weights stay float32; remove it from the file")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"parallel.deepspeed_config: {path} contradicts the settings of the run; change one of the two, or write "
            f'"auto" in the file to take ours:{listed}'
        )
    defaults: Json = {
        "steps_per_print": 10**9,  # our own log speaks
        "zero_allow_untested_optimizer": True,  # which is every one but Adam
        "zero_force_ds_cpu_optimizer": False,
        # A CPU has no streams to overlap.
        "zero_optimization": {"overlap_comm": False} if device_type == "cpu" else {},
    }
    both = _merged(_merged(defaults, ours), theirs)
    scaling = _scaler_arguments(both.pop("fp16"))
    del both["bf16"]
    for name in ("offload_optimizer", "offload_param"):
        if both["zero_optimization"][name]["device"] == "none":
            del both["zero_optimization"][name]
    return both, scaling


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the key paths that both have with different values: path, theirs, ours."""
    for key in theirs.keys() & ours.keys():
        where, value = f"{path}{key}", theirs[key]
        if isinstance(ours[key], Mapping) and isinstance(value, Mapping):
            yield from _differences(value, ours[key], f"{where}.")
        elif isinstance(ours[key], Mapping) and value is None:
            continue  # DeepSpeed's way to leave a section out
        elif where == "torch_autocast.dtype" and _dtype(value) == ours[key]:
            continue
        elif value not in (ours[key], "auto"):
            yield where, value, ours[key]


def _dtype(name: Any) -> str:
    name = str(name).removeprefix("torch.")
    return {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}.get(name, name)


def _contradiction(where: str, theirs: Any, ours: Any, training: str, governed: Mapping[str, str]) -> str:
    keys = [key for key in governed if where == key or where.startswith(f"{key}.")]
    by = f" by {governed[max(keys, key=len)]}".replace(" train.", f" {training}.") if keys else ""
    return f"{where}: {json.dumps(theirs)} in the file, {json.dumps(ours)} here{by}"


def _optimizer_differences(theirs: Mapping[str, Any], optimizer: Optimizer) -> Iterator[tuple[str, Any, Any]]:
    ours = type(optimizer).__name__
    kind = theirs.get("type", "auto")
    if kind != "auto" and str(kind).casefold() != ours.casefold():
        yield "optimizer.type", kind, ours
    for key, value in _section(theirs, "params").items():
        # Of the learning rate what it is before the schedule moves it; some parameters may be spared the decay.
        name = "initial_lr" if key == "lr" and "initial_lr" in optimizer.param_groups[0] else key
        used = [group.get(name) for group in optimizer.param_groups]
        used = [list(one) if isinstance(one, tuple) else one for one in used]
        spared = [0.0] if key == "weight_decay" else []
        if value != "auto" and (value not in used or any(one not in (value, *spared) for one in used)):
            yield f"optimizer.params.{key}", value, max(used, key=str)


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Json:
    """Return `ours` with what `theirs` says instead or besides; "auto" and an empty section say nothing."""
    both = dict(ours)
    for key, value in theirs.items():
        if isinstance(both.get(key), Mapping) and isinstance(value, Mapping):
            both[key] = _merged(both[key], value)
        elif value != "auto" and not (value is None and isinstance(both.get(key), Mapping)):
            both[key] = value
    return both


def import_deepspeed(device: torch.device) -> Any:
    """Import the library, quietly. Raises UserError that says what to install where it is missing."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError as error:
        raise UserError(
            f"parallel.backend deepspeed, which several processes take by default, needs DeepSpeed, and it cannot be "
            f'imported ({error}). Install it on Linux with: pip install "revit-video[train]" (or pip install deepspeed); '
            "without it one process trains: parallel.backend=local, started by python alone"
        ) from error
    logger.setLevel(logging.WARNING)
    # For inference on CPUs only. It would be compiled at the start, behind a lock that a killed process leaves closed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_settings(deepspeed: Any, settings: Mapping[str, Any], path: Path | None) -> None:
    """Raise UserError, on one line, where the library refuses its settings; `path` is the user's part of them."""
    # The arithmetic of batches is compared before, and depends on processes that the library may not know of yet.
    config = {key: value for key, value in settings.items() if key != "train_batch_size"}
    refusals = (AssertionError, AttributeError, KeyError, TypeError, ValueError)
    try:
        deepspeed.DeepSpeedConfig(config)
    except (*refusals, deepspeed.runtime.config.DeepSpeedConfigError) as error:
        whose = "They are made from parallel, train and run." if path is None else f"See {path}."
        raise UserError(f"DeepSpeed refuses its settings: {_reasons(error, config)}. {whose}") from error


def _reasons(error: Exception, config: Mapping[str, Any]) -> str:
    if not isinstance(error, ValidationError):
        text = re.sub(r"(\b[Ss]ee\s+)?https?://\S+", "", str(error))
        return " ".join(text.split()).rstrip(".") or type(error).__name__
    return "; ".join(
        f"{'.'.join(map(str, _key(one['loc'], one['input'], config) or one['loc']))}: {one['msg'][:1].lower()}{one['msg'][1:]}, found {one['input']!r:.60}"
        for one in error.errors(include_url=False)
    )


def _key(place: tuple[int | str, ...], value: Any, config: Mapping[str, Any]) -> tuple[int | str, ...] | None:
    """Find the path of a key that one of the library's classes refused, which do not know their section:
    the first section that has this value there."""
    there: Any = config
    for name in place:
        there = there.get(name, _key) if isinstance(there, Mapping) else _key  # itself: what no configuration holds
    if there == value:
        return place
    for name, section in config.items():
        if isinstance(section, Mapping) and (inner := _key(place, value, section)) is not None:
            return name, *inner
    return None


def _scaler_arguments(fp16: Mapping[str, Any]) -> Json:
    """Return the arguments of DeepSpeed's dynamic loss scaler for an `fp16` section; PyTorch's numbers where it is silent."""
    given = {SCALER_ARGUMENTS[key]: value for key, value in fp16.items() if key in SCALER_ARGUMENTS and value != "auto"}
    return {
        "scale_window": 2000,
        "min_scale": LOWEST_SCALE / 2,  # reached only to be reported
        "delayed_shift": 1,
        "consecutive_hysteresis": False,
        "raise_error_at_min_scale": False,
        **given,
        "init_scale": 2.0 ** given.get("init_scale", 16),
    }


@contextmanager
def without_hooks(network: nn.Module) -> Iterator[None]:
    """Take DeepSpeed's hooks off inside: those of ZeRO 3 would wait for other ranks and split the weights."""
    kept = [(module, module._forward_pre_hooks, module._forward_hooks) for module in network.modules()]
    try:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = type(before)(), type(after)()
        yield
    finally:
        for module, before, after in kept:
            module._forward_pre_hooks, module._forward_hooks = before, after

"""What a training runs on, in one line at its start: how many processes, where, by what, and how large an update is."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from revit.common.config.sections import ParallelOptions, TrainOptions
from revit.common.system.distributed import World
from revit.common.training.parallel.backend import Backend
from revit.common.training.parallel.backends import Division

Facts = dict[str, Any]


def start_facts(
    division: Division, backend: Backend, parallel: ParallelOptions, train: TrainOptions, world: World
) -> Facts:
    """For a log that programs read. Called by all processes."""
    places = world.gather((socket.gethostname(), _device_name(backend.device, world)))
    facts: Facts = {
        "processes": world.size,
        "machines": len({host for host, _ in places}),
        "devices": dict(Counter(device for _, device in places)),
        "backend": division.backend,
        "dtype": backend.dtype,
        "batch_size": train.batch_size,
        "reading": division.num_ranks,
        "accumulate": backend.accumulate,
        "effective_batch": train.batch_size * division.num_ranks * backend.accumulate,
    }
    if division.backend == "deepspeed":
        facts |= {"zero_stage": parallel.zero_stage, "offload": parallel.offload}
    if division.dealing is not None and division.dealing.ranks_per_group > 1:
        facts["groups"] = str(division.dealing)
    return facts


def start_line(facts: Mapping[str, Any]) -> str:
    """For people: `2 processes on 1 machine, cpu, DeepSpeed ZeRO 1, bfloat16; an update is 32 samples = 16 x 2 processes
    x 1`, where the last number counts accumulated batches; of one process without what there is one of."""
    processes, devices = facts["processes"], facts["devices"]
    where = f"{_counted(processes, 'process')} on {_counted(facts['machines'], 'machine')}"
    parts = [
        "1 process" if processes == 1 else where,
        " and ".join(name if len(devices) == 1 else f"{number} x {name}" for name, number in devices.items()),
        _backend_name(facts),
        facts["dtype"],
    ]
    return f"{', '.join(parts)}; an update is {_update(facts)}"


def _update(facts: Mapping[str, Any]) -> str:
    size, accumulate = facts["batch_size"], facts["accumulate"]
    samples = _counted(facts["effective_batch"], "sample")
    if facts["processes"] > 1:
        readers = _counted(facts["reading"], "group" if "groups" in facts else "process")
        return f"{samples} = {size} x {readers} x {accumulate}"
    return samples if accumulate == 1 else f"{samples} = {size} x {accumulate}"


def _backend_name(facts: Mapping[str, Any]) -> str:
    if facts["backend"] == "local":
        return "plain PyTorch"
    if facts["backend"] == "replicas":
        return f"replicas ({facts['groups']})" if "groups" in facts else "replicas"
    offload = facts["offload"]
    return f"DeepSpeed ZeRO {facts['zero_stage']}" + ("" if offload == "none" else f" with offload {offload}")


def _device_name(device: torch.device, world: World) -> str:
    if device.type != "cuda":
        return device.type
    name, visible = torch.cuda.get_device_name(device), torch.cuda.device_count()
    return f"{name} (1 of {visible} GPUs)" if world.size == 1 and visible > 1 else name


def _counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"

"""The processes of one run: who they are, whichever launcher started them, and what they say to each other."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from revit.common.system.errors import OwnError, SaidElsewhere, Stopped, UserError

Value = TypeVar("Value")
LISTEN_S = 1.0
"""Seconds a rank waits before it exits, so that rank 0 can print first; torchrun kills all ranks at the first exit."""
FIRST_PORT, NUM_PORTS = 15000, 15000
"""Ports where Slurm's jobs meet, by job number: above the services' ports, below those the system hands out."""
HOSTS = r"(?:[\w.-]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+"
HOST_LIST = re.compile(rf"{HOSTS}(?:,{HOSTS})*")
TASKS = {
    "SLURM_NTASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "torchrun, deepspeed or srun",
    "PMI_SIZE": "torchrun, deepspeed or srun",
}
"""Variables with a number of processes -> what starts this program as so many; mpirun's are not read."""


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run, and which of them this is. Every call below is made by all of them, in the same order.

    Alone (size 1) every call is free and torch.distributed is not needed.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""
    group: Any = field(default=None, repr=False, compare=False)
    """Process group of objects and single numbers (gloo), apart from the gradients'; None until `start_distributed`."""

    @property
    def is_main(self) -> bool:
        """True for rank 0, which speaks and writes for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for everyone."""
        self.gather(None)

    def gather(self, value: Value) -> list[Value]:
        """Return everyone's `value`, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def gather_to_main(self, value: Value) -> list[Value]:
        """Return what `gather` does on rank 0, an empty list elsewhere; for what is too large for every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def broadcast(self, value: Value) -> Value:
        """Return rank 0's `value`."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]  # type: ignore[return-value]  # rank 0's

    def largest(self, value: int) -> int:
        """Return the largest of everyone's numbers."""
        if self.size == 1:
            return value
        number = torch.tensor([value])
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group)
        return int(number)

    def any(self, flag: bool) -> bool:
        """Say whether `flag` is set on any rank."""
        return bool(self.largest(int(flag)))

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up everyone's tensors, by way of the CPU, so for small ones."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to("cpu", copy=True)
        dist.all_reduce(total, group=self.group)
        return total.to(tensor.device)

    def on_main(self, work: Callable[[], Value]) -> Value:
        """Let rank 0 do `work` while the others wait; everyone gets what it returns.

        A UserError there ends all: the others raise SaidElsewhere.
        """
        if self.size == 1:
            return work()
        if not self.is_main:
            value, failed = self.broadcast((None, False))
            if failed:
                raise SaidElsewhere("rank 0 says what is wrong")
            return value  # type: ignore[return-value]  # rank 0's
        try:
            value = work()
        except (UserError, Stopped):
            self.broadcast((None, True))
            raise
        return self.broadcast((value, False))[0]

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Print once, by the first process of each machine, what ends every process alike.

        The end of a connection, which is how the end of another process shows, becomes an OwnError that says so.
        """
        try:
            yield
        except Stopped:
            if self.is_main:
                raise
            raise Stopped("") from None
        except OwnError:
            raise
        except UserError as error:
            if self.local_rank == 0:
                raise
            time.sleep(LISTEN_S)
            raise SaidElsewhere(str(error)) from error
        except RuntimeError as error:
            if self.size == 1 or not is_lost_connection(error):
                raise
            raise OwnError(
                f"rank {self.rank}: another process ended, or did not answer in time (parallel.timeout_minutes); what it said "
                "is the reason. If it said nothing it may have been killed, for instance for lack of memory (dmesg on its "
                "machine says so). The same command goes on from the last state"
            ) from error

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Mark a UserError inside as this process's alone, such as its files': it names the rank and is never withheld."""
        try:
            yield
        except (OwnError, SaidElsewhere):
            raise
        except UserError as error:
            if self.size == 1:
                raise
            raise OwnError(f"rank {self.rank} on {socket.gethostname()}: {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> DistributedContext:
        """Read what torchrun and the deepspeed launcher (RANK, WORLD_SIZE, LOCAL_RANK) or Slurm's srun say; one process where
        nothing is said.

        Raises UserError where only a part of it is there, or several tasks were asked of Slurm and not started by srun.
        """
        if "WORLD_SIZE" in environment:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        elif "SLURM_PROCID" in environment:
            size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
            names = ("SLURM_PROCID", size, "SLURM_LOCALID")
        else:
            return cls()
        num_tasks = environment.get(names[1], "1")
        if num_tasks == "1":
            return cls()
        if (
            names[1] != "WORLD_SIZE"
            and environment.get("ENVIRONMENT") == "BATCH"
            and "SLURM_STEP_ID" not in environment
        ):
            raise UserError(
                f"the Slurm job has {num_tasks} tasks, but this process was not started by srun: put srun before the "
                "command in the job's script, or use torchrun with --ntasks-per-node=1"
            )
        missing = [name for name in names if not environment.get(name, "").isdigit()]
        if missing:
            raise UserError(
                f"{names[1]} says {num_tasks} processes, but {', '.join(missing)} is not set to a number; start them "
                "by torchrun, deepspeed or srun"
            )
        context = cls(*(int(environment[name]) for name in names))
        if context.rank >= context.size:
            raise UserError(f"{names[0]} is {context.rank}, but there are only {context.size} processes ({names[1]})")
        return context


ALONE = DistributedContext()
"""Context of a run of one process."""


def start_distributed(
    device: torch.device, timeout_minutes: float = 30, context: DistributedContext | None = None
) -> DistributedContext:
    """Connect the processes of this run; `device` says of what kind theirs are. Alone, nothing is started.

    gloo on the CPU; with CUDA, NCCL too, and this process gets the GPU of its number on its machine. Waits at most
    `timeout_minutes` for the others, here and in every later call. UserError where they cannot be found.
    """
    context = DistributedContext.from_environment() if context is None else context
    if context.size == 1:
        return context
    local_rank = context.local_rank
    if device.type == "cuda":
        local_rank = _gpu_of(context)
        torch.cuda.set_device(local_rank)
    address = address_of(os.environ)
    os.environ.update(address)
    # DeepSpeed reads them too, and takes the GPU of this number.
    os.environ.update(RANK=str(context.rank), WORLD_SIZE=str(context.size), LOCAL_RANK=str(local_rank))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    try:
        dist.init_process_group(backend, rank=context.rank, world_size=context.size, timeout=timeout)
        group = dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        place = f"{address['MASTER_ADDR']}:{address['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise OwnError(
            f"rank {context.rank} cannot meet the {context.size} processes of this run at {place} ({reason}); start all of them "
            "within parallel.timeout_minutes, and let the machines reach each other at MASTER_ADDR and MASTER_PORT"
        ) from error
    return replace(context, group=group)


def stop_distributed() -> None:
    """Leave the process group, once all work is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Say whether torch.distributed means by this error that another process is gone or late."""
    words = ("connection closed", "connection reset", "connection refused", "timed out", "broken pipe", "nccl")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _gpu_of(context: DistributedContext) -> int:
    """Return the number of this process's GPU. A launcher may show each process its own alone."""
    visible = torch.cuda.device_count()
    if context.local_rank >= visible > 1 or visible == 0:
        raise OwnError(
            f"process {context.local_rank} of {socket.gethostname()} finds {visible} GPUs; start as many processes on a "
            "machine as it has GPUs"
        )
    return context.local_rank % visible


def address_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT: the launcher's, under Slurm the job's first machine and a port of the job.

    Raises UserError where neither says.
    """
    address = environment.get("MASTER_ADDR")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if address is None and nodes:
        address = first_host(nodes)
    job = environment.get("SLURM_JOB_ID", "")
    port = environment.get("MASTER_PORT") or (str(FIRST_PORT + int(job) % NUM_PORTS) if job.isdigit() else None)
    if address is None or port is None:
        raise UserError(
            "several processes, but MASTER_ADDR and MASTER_PORT do not say where they meet; start them by torchrun, "
            "deepspeed or srun, or set both"
        )
    return {"MASTER_ADDR": address, "MASTER_PORT": port}


def first_host(nodes: str) -> str:
    """Return the first machine of a Slurm list: `gpu[07-09,12],big1` -> `gpu07`. UserError for what is no such list."""
    if not HOST_LIST.fullmatch(nodes.strip()):
        raise UserError(
            f"Slurm's list of machines reads {nodes!r}, which is not of the form node1,gpu[07-09,12]; set MASTER_ADDR and "
            "MASTER_PORT to where the processes are to meet"
        )
    first = re.split(r",(?![^\[]*\])", nodes.strip())[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def overlooked(environment: Mapping[str, str]) -> str | None:
    """Say why this program, which runs as one process, may have been meant to be several; None where nothing says so."""
    for name, who in TASKS.items():
        if environment.get(name, "").isdigit() and int(environment[name]) > 1:
            return f"{name} says {environment[name]}, but this is one process that trains by itself; for several start it by {who}"
    return None

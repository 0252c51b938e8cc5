"""What launchers tell the processes they start: which of how many each is, and where they meet."""

from __future__ import annotations

import re
from collections.abc import Mapping

from revit.common.system.errors import UserError

ALONE = (0, 1, 0)
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


def place_of(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Read rank, number of processes and rank on the machine, as set by torchrun and the deepspeed launcher (RANK, WORLD_SIZE,
    LOCAL_RANK) or Slurm's srun; one process where none says anything.

    Raises UserError where only a part of it is there, or several tasks were asked of Slurm and not started by srun.
    """
    if "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if environment["WORLD_SIZE"] == "1":
            return ALONE
    elif "SLURM_PROCID" in environment:
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        if environment.get(size, "1") == "1":
            return ALONE
        if environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment:
            raise UserError(
                f"the Slurm job has {environment[size]} tasks, but this process was not started by srun: put srun before the "
                "command in the job's script, or use torchrun with --ntasks-per-node=1"
            )
        names = ("SLURM_PROCID", size, "SLURM_LOCALID")
    else:
        return ALONE
    missing = [name for name in names if not environment.get(name, "").isdigit()]
    if missing:
        raise UserError(
            f"{names[1]} says {environment[names[1]]} processes, but {', '.join(missing)} is not set to a number; start them "
            "by torchrun, deepspeed or srun"
        )
    rank, size_, local_rank = (int(environment[name]) for name in names)
    if rank >= size_:
        raise UserError(f"{names[0]} is {rank}, but there are only {size_} processes ({names[1]})")
    return rank, size_, local_rank


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

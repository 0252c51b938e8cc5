"""Who the processes of a run are, under every launcher, and what they say to each other (two processes)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from revit.common.system import distributed
from revit.common.system.distributed import DistributedContext, address_of, first_host, overlooked, start_distributed
from revit.common.system.errors import OwnError, SaidElsewhere, Stopped, UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu[07-09,12],big1",
}


def test_nothing_in_the_environment_is_one_process():
    assert DistributedContext.from_environment({}) == DistributedContext(0, 1, 0)
    assert DistributedContext.from_environment({"WORLD_SIZE": "1"}) == DistributedContext()
    assert DistributedContext.from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == DistributedContext()


def test_torchrun_and_deepspeed_say_it_alike():
    assert DistributedContext.from_environment(TORCHRUN) == DistributedContext(3, 4, 1)
    assert address_of(TORCHRUN) == {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}


def test_slurm_says_it_in_its_own_words():
    assert DistributedContext.from_environment(SLURM) == DistributedContext(5, 8, 1)
    assert address_of(SLURM) == {"MASTER_ADDR": "gpu07", "MASTER_PORT": "19711"}
    assert address_of({**SLURM, "MASTER_ADDR": "me", "MASTER_PORT": "1"})["MASTER_ADDR"] == "me"
    # A step of fewer tasks than the job; a launcher inside a task.
    assert DistributedContext.from_environment({**SLURM, "SLURM_STEP_NUM_TASKS": "6"}) == DistributedContext(5, 6, 1)
    assert DistributedContext.from_environment({**SLURM, **TORCHRUN}) == DistributedContext(3, 4, 1)


def test_a_slurm_job_without_srun_would_wait_for_ever():
    batch = {**SLURM, "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}
    with pytest.raises(UserError, match=r"8 tasks.*not started by srun"):
        DistributedContext.from_environment(batch)
    assert DistributedContext.from_environment({**batch, "SLURM_STEP_ID": "0"}).size == 8


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK is not set"),
        ({**TORCHRUN, "RANK": "4"}, "RANK is 4, but there are only 4"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_LOCALID is not set"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE is not set to a number"),
    ],
)
def test_half_an_environment_is_named(broken, message):
    with pytest.raises(UserError, match=message):
        DistributedContext.from_environment(broken)


def test_no_meeting_place_is_named():
    with pytest.raises(UserError, match="MASTER_ADDR"):
        address_of({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-09,12],big1", "gpu07"), ("a[2,5]b,c", "a2b"), ("r[1-2]n[03-4]", "r1n03")],
)
def test_first_host_of_slurms_lists(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["node[1-2", "node1-2]", "node[]", "node[a-b]", "n1,,n2", "node[1-2]]", "n 1", ","])
def test_a_list_that_is_none_is_refused(nodes):
    with pytest.raises(UserError, match=r"not of the form .* set MASTER_ADDR"):
        first_host(nodes)


def test_several_tasks_around_one_process_are_noticed():
    assert overlooked({}) is None
    assert overlooked({"SLURM_NTASKS": "1", "PMI_SIZE": "1"}) is None
    assert "SLURM_NTASKS says 8, but this is one process" in overlooked({"SLURM_NTASKS": "8"})
    assert "by torchrun, deepspeed or srun" in overlooked({"OMPI_COMM_WORLD_SIZE": "2"})


def test_alone_every_call_is_free():
    context = start_distributed(torch.device("cpu"), context=DistributedContext())
    tensor = torch.ones(2)
    assert not torch.distributed.is_initialized()
    assert (context.gather(3), context.broadcast(3), context.any(False), context.largest(2)) == ([3], 3, False, 2)
    assert context.sum(tensor) is tensor
    assert context.on_main(lambda: 5) == 5
    context.barrier()


def test_one_voice_says_it_once_for_each_machine(monkeypatch):
    waited = []
    monkeypatch.setattr(distributed.time, "sleep", waited.append)
    with pytest.raises(UserError, match="wrong") as said, DistributedContext(8, 16, 0).one_voice():
        raise UserError("wrong")
    assert type(said.value) is UserError
    assert waited == []
    with pytest.raises(SaidElsewhere), DistributedContext(9, 16, 1).one_voice():
        raise UserError("wrong")
    assert waited == [distributed.LISTEN_S]  # before a launcher that sees it end can end the one that speaks
    ninth = DistributedContext(9, 16, 1)
    with pytest.raises(OwnError, match=r"rank 9 on .*: this file"), ninth.one_voice(), ninth.own_errors():
        raise UserError("this file")
    with pytest.raises(Stopped) as stopped, DistributedContext(1, 2, 1).one_voice():
        raise Stopped("saved")
    assert str(stopped.value) == ""
    with (
        pytest.raises(UserError, match=r"^alone$"),
        DistributedContext().one_voice(),
        DistributedContext().own_errors(),
    ):
        raise UserError("alone")
    with (
        pytest.raises(OwnError, match=r"another process ended.*lack of memory"),
        DistributedContext(1, 2, 1).one_voice(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="a defect"), DistributedContext(1, 2, 1).one_voice():
        raise RuntimeError("a defect")


CHECKS = """
import json, os, sys
import torch
from revit.common.system.distributed import DistributedContext, start_distributed, stop_distributed
from revit.common.system.errors import SaidElsewhere, UserError

context = start_distributed(torch.device("cpu"), 1)
found = {
    "gathered": context.gather({"rank": context.rank}),
    "to main": context.gather_to_main(context.rank),
    "broadcast": context.broadcast([context.rank, "from"]),
    "any": [context.any(context.rank == 1), context.any(False)],
    "largest": context.largest(context.rank),
    "sum": context.sum(torch.tensor([1.0, context.rank])).tolist(),
    "on main": context.on_main(lambda: context.rank),
}
context.barrier()

def refuse():
    raise UserError("full")

try:
    context.on_main(refuse)
except SaidElsewhere:
    found["refused"] = "said elsewhere"
except UserError as error:
    found["refused"] = str(error)
with open(f"{sys.argv[1]}/{context.rank}.json", "w") as file:
    json.dump(found, file)
stop_distributed()
"""


def test_two_processes_talk(tmp_path):
    """As Slurm starts them: nothing but its variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHECKS, str(tmp_path)],
            env={**own, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    found = [json.loads(Path(tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    same = {
        "gathered": [{"rank": 0}, {"rank": 1}],
        "broadcast": [0, "from"],
        "any": [True, False],
        "largest": 1,
        "sum": [2.0, 1.0],
        "on main": 0,
    }
    assert found[0] == {**same, "to main": [0, 1], "refused": "full"}
    assert found[1] == {**same, "to main": [], "refused": "said elsewhere"}

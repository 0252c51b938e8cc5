"""Measurements: what they depend on, how they are shared out, kept, and used again after any end."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import search_runs
import torch
from search_runs import START, all_of_it, measurer

from revit.common.system.errors import UserError
from revit.image.models.genotype import Genotype
from revit.image.search.measure import Evaluations, Measured, Measurer, OutOfBudget, seed_of

OTHER = Genotype.parse("5,2,2|2,1,2|2,1,2|2,1,2|8,8")


def test_measurements_depend_on_genotype_seed_and_repeat_alone():
    one, other = measurer(), measurer()
    first = one.complexity(START, 8, 0)
    assert one.complexity(OTHER, 8, 0) != first
    assert one.complexity(START, 9, 0) != first
    assert one.complexity(START, 8, 1) != first
    torch.rand(3)
    assert other.complexity(START, 8, 0) == first
    assert one.condition(START, 8, 0) == other.condition(START, 8, 0)


def test_measuring_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    measurer().complexity(START, 8, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("redraw", ["linear", "all"])
def test_what_a_repeat_draws_anew(redraw):
    one = measurer(redraw=redraw)
    networks = [one.network(START, 8, repeat, "complexity") for repeat in (0, 1)]
    stems = [network.patch_embed.proj.weight for network in networks]
    linears = [network.layers[0].blocks[0].attn.qkv.weight for network in networks]
    assert torch.equal(*stems) == (redraw == "linear")
    assert not torch.equal(*linears)


def test_seeds_differ_with_every_part():
    seeds = {seed_of(*parts) for parts in [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1")]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("complexity", ["length", "curvature", "length_curvature", "length_curvature_published"])
def test_every_measure_can_be_chosen(complexity):
    assert measurer(complexity=complexity).complexity(START, 8, 0) > 0


def test_processes_change_nothing(tmp_path):
    with Evaluations(measurer(), tmp_path / "here.jsonl", 0) as here:
        alone = here([START, OTHER], 8)
    with Evaluations(measurer(), tmp_path / "there.jsonl", 2) as there:
        assert there([OTHER], 8) == alone[1:]
        assert there([START, OTHER], 8) == alone
    lines = [sorted((tmp_path / name).read_text().splitlines()) for name in ("here.jsonl", "there.jsonl")]
    assert lines[0] == lines[1]


def test_nothing_is_measured_twice(tmp_path, monkeypatch):
    file = tmp_path / "measures.jsonl"
    with Evaluations(measurer(), file) as evaluations:
        first = evaluations([START, START], 8)
    assert len(file.read_text().splitlines()) == 2
    monkeypatch.setattr(Measurer, "complexity", None)
    with Evaluations(measurer(), file) as evaluations:
        assert evaluations([START], 8) == first[:1]
        with pytest.raises(TypeError):
            evaluations([OTHER], 8)


def test_a_torn_last_line_is_taken_away(tmp_path):
    file = tmp_path / "measures.jsonl"
    with Evaluations(measurer(), file) as evaluations:
        wanted = evaluations([START, OTHER], 8)
    whole = file.read_text()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        file.write_text(whole[:-cut])
        with Evaluations(measurer(), file) as evaluations:
            assert evaluations([START, OTHER], 8) == wanted
        assert file.read_text() == whole
    file.write_text(whole.splitlines()[0][:30])
    with Evaluations(measurer(), file) as evaluations:
        assert evaluations([START, OTHER], 8) == wanted


def test_other_settings_are_refused_by_name(tmp_path):
    file = tmp_path / "measures.jsonl"
    Evaluations(measurer(), file)
    with pytest.raises(UserError, match=r"another radius, thetas; .*run\.resume=never"):
        Evaluations(measurer(radius="sqrt_n", thetas=4), file)
    other = measurer()
    other.images.add_(1)
    with pytest.raises(UserError, match="another seen"):
        Evaluations(other, file)


@pytest.mark.parametrize("text", ["nonsense\n", "[1]\n", '{"measures": 1}\n{"of": 3}\n'])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    file = tmp_path / "measures.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"measures\.jsonl"):
        Evaluations(measurer(), file)


def test_networks_without_a_measure_are_kept_as_such(tmp_path, monkeypatch):
    file = tmp_path / "measures.jsonl"
    monkeypatch.setattr(Measurer, "condition", lambda *_: math.nan)
    for _ in range(2):
        with Evaluations(measurer(), file) as evaluations:
            (found,) = evaluations([START], 8)
        assert found.failed
        assert math.isfinite(found.complexity)
    assert json.loads(file.read_text().splitlines()[1])["ntk"] == ["nan", "nan"]
    assert Measured((1.0,), (math.inf,)).failed


def test_time_ends_between_genotypes(tmp_path, monkeypatch):
    file = tmp_path / "measures.jsonl"
    monkeypatch.setattr(Evaluations, "_time_is_up", lambda self: len(file.read_text().splitlines()) > 1)
    with Evaluations(measurer(), file) as evaluations:
        with pytest.raises(OutOfBudget):
            evaluations([START, OTHER], 8)
        assert len(file.read_text().splitlines()) == 2
        assert evaluations([START], 8)  # known: needs no time
        with pytest.raises(OutOfBudget):
            evaluations([OTHER], 8)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return all_of_it(tmp_path_factory.mktemp("whole") / "measures.jsonl")


def test_killed_at_any_step_it_goes_on_to_the_same(tmp_path, uninterrupted):
    """SIGKILL in the search, while a line is written, and in the growth."""
    file, out = tmp_path / "measures.jsonl", tmp_path / "out.json"
    command = [sys.executable, str(Path(search_runs.__file__)), str(file), "0", str(out)]
    rng = random.Random(5)
    for share in (0.0, rng.random(), 1.0):
        died = subprocess.run([*command, str(rng.randint(1, 12)), str(share)], stderr=subprocess.PIPE)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    known = len(file.read_bytes().splitlines())
    assert all_of_it(file) == uninterrupted
    assert len(file.read_bytes().splitlines()) > known
    assert not out.exists()


def test_stopped_inside_the_process_it_goes_on_to_the_same(tmp_path, uninterrupted, monkeypatch):
    """An exception in the middle of every kind of work."""
    file = tmp_path / "measures.jsonl"
    append, count = Evaluations._append, 0

    def once_in_a_while(self, line):
        nonlocal count
        count += 1
        if count % 7 == 3:
            raise KeyboardInterrupt
        append(self, line)

    monkeypatch.setattr(Evaluations, "_append", once_in_a_while)
    for _ in range(40):
        try:
            found = all_of_it(file)
            break
        except KeyboardInterrupt:
            continue
    assert count > 14
    assert found == uninterrupted


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Also when it is killed and can tell them nothing."""
    file = tmp_path / "measures.jsonl"
    command = [sys.executable, str(Path(search_runs.__file__)), str(file), "1", str(tmp_path / "o")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    children: list[int] = []
    end = time.monotonic() + 60
    while time.monotonic() < end and (not file.exists() or len(file.read_bytes().splitlines()) < 2):
        time.sleep(0.02)
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        children += [int(number) for number in task.read_text().split()]
    process.kill()
    process.wait()
    assert children
    while time.monotonic() < end and any(_is_alive(child) for child in children):
        time.sleep(0.05)
    assert not any(_is_alive(child) for child in children)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False

"""What a machine is called, read from the system's own description."""

from __future__ import annotations

import pytest
import torch

from revit.common.system import device

XEON = """processor\t: 0
model name\t: Some Processor 9000 @ 2.00GHz
flags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Some Processor 9000 @ 2.00GHz
"""


@pytest.fixture
def described(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(device, "CPUINFO", path)
        for name in ("processor", "instruction_sets"):
            monkeypatch.setattr(device, name, getattr(device, name).__wrapped__)

    return write


def test_name_threads_and_instruction_sets(described, monkeypatch):
    described(XEON)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(device, "num_cores", lambda: 2)
    cpu = torch.device("cpu")
    sets = "avx2 avx512 avx512_bf16 vnni amx"
    assert device.device_name(cpu) == "cpu (Some Processor 9000 @ 2.00GHz, 1 thread)"
    assert device.machine_name(cpu) == f"cpu (Some Processor 9000 @ 2.00GHz, 1 thread), {sets}"
    assert device.machine_name() == f"Some Processor 9000 @ 2.00GHz, 2 cores, {sets}"


def test_a_system_that_tells_nothing(described, monkeypatch):
    described("processor\t: 0\n")
    monkeypatch.setattr(device.platform, "processor", lambda: "")
    monkeypatch.setattr(device.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(device, "num_cores", lambda: 4)
    assert device.machine_name() == "aarch64, 4 cores"


def test_versions_of_what_is_installed():
    found = device.package_versions("torch", "no-such-package")
    assert list(found) == ["python", "torch"]

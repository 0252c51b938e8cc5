"""Other architectures: their input, what to install, bfloat16 where an operator lacks it, costs that two counters share."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from revit.common.system.errors import UserError
from revit.common.timing.cases import OTHER_ARCHITECTURE, reference_cases
from revit.common.timing.peers import Reference, foreign_gmacs
from revit.video.peers import PYTORCHVIDEO, TwoPathways

SHAPE = (1, 3, 4, 8, 8)


def pooled():
    return nn.Sequential(nn.AvgPool3d(2), nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 5))


def test_slow_frames_are_spread_over_the_clip():
    class Both(nn.Module):
        def forward(self, pathways):
            return pathways

    clips = torch.arange(32.0).view(1, 1, 32, 1, 1)
    slow, fast = TwoPathways(Both())(clips)
    assert slow.flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert fast is clips


def test_without_pytorchvideo(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchvideo.models.hub", None)
    for reference in PYTORCHVIDEO:
        with pytest.raises(UserError, match="pip install pytorchvideo"):
            reference.make()


def test_cases_run_in_both_dtypes():
    reference = Reference("pooled", pooled, SHAPE)
    cases = list(reference_cases(reference, torch.device("cpu"), ["float32", "bfloat16"], [1, 2]))
    assert [(case.config, case.grid, case.dtype, case.batch) for case in cases] == [
        (OTHER_ARCHITECTURE, "4x8x8", dtype, batch) for dtype in ("float32", "bfloat16") for batch in (1, 2)
    ]
    assert [case.run().shape for case in cases] == [(1, 5), (2, 5)] * 2
    assert [case.run().dtype for case in cases] == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_compiled_where_the_compiler_copes(capsys, monkeypatch):
    """Its defaults (float32, not compiled) are timed whatever is asked for."""
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    reference = Reference("pooled", pooled, SHAPE)
    cases = list(reference_cases(reference, torch.device("cpu"), ["bfloat16"], [2], (False, True)))
    settings = [(case.dtype, case.compiled) for case in cases]
    assert settings == [("float32", False), ("bfloat16", False), ("bfloat16", True)]

    def fails(inputs):
        raise RuntimeError("no such operator\nand where")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: fails)
    cases = list(reference_cases(reference, torch.device("cpu"), ["float32"], [2], (False, True)))
    assert [(case.dtype, case.compiled) for case in cases] == [("float32", False)]
    assert capsys.readouterr().err == "no compiled pooled in float32: RuntimeError: no such operator\n"


PUBLISHED = {"slowfast_r50": 65.7, "x3d_s": 1.96, "x3d_m": 4.73, "mvit_base_16x4": 70.5}
"""GMACs of a view; SlowFast's at 256 pixels."""


@pytest.mark.parametrize("reference", PYTORCHVIDEO, ids=lambda reference: reference.name)
def test_published_costs(reference):
    if reference.name == "slowfast_r50":
        reference = replace(reference, input_shape=(1, 3, 32, 256, 256))
    assert foreign_gmacs(reference.make(), reference.input_shape) == pytest.approx(PUBLISHED[reference.name], rel=3e-3)


def test_costs_are_counted_or_unknown():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 5, bias=False))
    assert foreign_gmacs(linear, SHAPE) == pytest.approx(768 * 5 / 1e9)

    class Fails(nn.Module):
        def forward(self, clips):
            raise NotImplementedError

    assert foreign_gmacs(Fails(), SHAPE) is None

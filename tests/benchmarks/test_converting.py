"""The set that conversion is measured on: its texture is one of pictures, and the tool converts it."""

from __future__ import annotations

import json

import numpy as np
from converting import main, texture


def test_amplitudes_fall_with_frequency():
    plane = texture(np.random.default_rng(0), 128, 128).astype(float).mean(axis=-1)
    amplitude = np.abs(np.fft.fft2(plane - plane.mean()))
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    bands = [
        np.log(amplitude[(frequency >= low) & (frequency < 2 * low)].mean())
        for low in (1 / 32, 1 / 16, 1 / 8)
    ]
    assert np.allclose(np.diff(bands), -np.log(2), atol=0.2)  # halved with every octave


def test_a_small_set_is_converted(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["--files", "1", "--frames", "24", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["files"]["converted"] == 1
    assert found["files"]["broken"] == 0
    assert "times as fast" in capsys.readouterr().out
    assert main(["--files", "0"]) == 2

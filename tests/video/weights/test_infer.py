from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from revit.common.system.errors import UserError
from revit.common.weights.source import Source
from revit.video.modality import build_model
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.source import facts_from_cfg, infer, read_source
from revit.video.weights.start import start_from

CFG = """
DATA: {MEAN: [0.4, 0.4, 0.4], STD: [0.2, 0.2, 0.2], NUM_FRAMES: 6, SAMPLING_RATE: 12, TRAIN_CROP_SIZE: 48}
MODEL: {NUM_CLASSES: 3}
TIMESFORMER: {ATTENTION_TYPE: divided_space_time}
"""


def source_of(model: TimeSformer, **facts: Any) -> Source:
    return Source("weights", "video", dict(model.state_dict()), facts=facts)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_shapes_give_the_architecture(attention: str, qkv_bias: bool) -> None:
    model = TimeSformer(48, (3,), 6, 3, 128, 2, 2, attention=attention, mlp_ratio=3.0, qkv_bias=qkv_bias).eval()
    source = source_of(model)
    found = infer(source)
    assert found.model.attention == attention
    assert (found.model.embed_dim, found.model.depth, found.model.num_heads) == (128, 2, 2)
    assert (found.model.grids, found.model.mlp_ratio, found.model.qkv_bias) == (("3x3",), 3.0, qkv_bias)
    assert (found.num_classes, found.clips.pixels.crop_size) == (3, 48)
    assert found.clips.frames.num_frames == (8 if attention == "space_only" else 6)
    again = build_model(found.model, found.clips, found.num_classes).eval()
    start_from(again, source)
    clips = torch.randn(1, 3, 6, 48, 48)
    with torch.no_grad():
        assert torch.equal(model(clips).logits, again(clips).logits)


def test_what_the_file_says_goes_before_guesses() -> None:
    facts, notes = facts_from_cfg(CFG)
    assert not notes
    model = TimeSformer(48, (3,), 6, 3, 64, 1, 4)
    found = infer(source_of(model, **facts, num_heads=4))
    assert found.model.num_heads == 4
    assert found.clips.frames.sampling_rate == 12
    assert found.clips.pixels.mean == (0.4, 0.4, 0.4)
    assert found.assumed == ()
    assert "heads 64 wide" in infer(source_of(model)).assumed


@pytest.mark.parametrize("text", ["just words", "{", "- 1\n- 2", "DATA: 3"])
def test_a_strange_cfg_is_noted_and_passed_over(text: str) -> None:
    facts, notes = facts_from_cfg(text)
    assert facts == {}
    assert len(notes) == (0 if text == "DATA: 3" else 1)


@pytest.mark.parametrize("strange", ["MEAN: 0.45", "MEAN: [0.45]", "STD: [0, 0, 0]", "SAMPLING_RATE: fast"])
def test_a_strange_cfg_in_a_file_still_gives_a_model(tmp_path: Path, strange: str) -> None:
    model = TimeSformer(48, (3,), 6, 3, 64, 1, 1)
    path = tmp_path / "published.pyth"
    torch.save({"model_state": dict(model.state_dict()), "cfg": f"DATA: {{{strange}}}"}, path)
    source = read_source(str(path))
    found = infer(source)
    assert found.clips.pixels.mean == (0.45,) * 3
    assert found.clips.pixels.std == (0.225,) * 3
    again = build_model(found.model, found.clips, found.num_classes)
    notes = " ".join(start_from(again, source).notes)
    assert ("cannot be" in notes) == (not strange.startswith("MEAN"))


def test_the_published_sizes() -> None:
    for size, frames, rate, sides in ((224, 8, 32, (256, 320)), (448, 16, 16, (448, 512)), (224, 96, 4, (256, 320))):
        model = TimeSformer(size, (size // 16,), frames, 4, 16, 1, 2)
        clips = infer(source_of(model)).clips
        assert (clips.frames.num_frames, clips.frames.sampling_rate) == (frames, rate)
        assert (clips.pixels.jitter_min, clips.pixels.jitter_max) == sides
        assert clips.pixels.mean == (0.45, 0.45, 0.45)


def test_what_cannot_classify_clips_is_refused() -> None:
    model = TimeSformer(48, (3,), 6, 3, 64, 1, 1)
    with pytest.raises(UserError, match="image weights cannot classify clips"):
        infer(Source("weights", "image", dict(model.state_dict())))
    headless = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    with pytest.raises(UserError, match="not a whole TimeSformer"):
        infer(Source("weights", "video", headless))
    with pytest.raises(UserError, match="no square picture"):
        infer(Source("weights", "video", {**model.state_dict(), "pos_embed": torch.zeros(1, 7, 64)}))
    with pytest.raises(UserError, match="width of 200 is no multiple of its 3 heads"):
        infer(source_of(TimeSformer(48, (3,), 6, 3, 200, 1, 2)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("time_embed", (6,)),
        ("time_embed", (1, 0, 64)),
        ("pos_embed", (64,)),
        ("pos_embed", (0,)),
        ("pos_embed", (1, 10, 32)),
        ("head.weight", ()),
        ("blocks.0.mlp.fc1.weight", (256,)),
        ("patch_embed.proj.weight", (64, 3, 16)),
    ],
)
def test_tensors_of_another_form_are_named(name: str, shape: tuple[int, ...]) -> None:
    state = {**TimeSformer(48, (3,), 6, 3, 64, 1, 1).state_dict(), name: torch.zeros(shape)}
    with pytest.raises(UserError, match=rf"weights: its {name} has shape {re.escape(str(shape))}"):
        infer(Source("weights", "video", state))

"""The families of TimeSformer: as published, started from an image model, started from another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from parity_cases import WITHOUT_EFFECT, Answer, Case, fill, fill_model, filled, pair, watch_first_block
from torch import Tensor

from revit.common.models.embed.patches import resize_positions, resize_times
from revit.common.models.grid import TokenGrid
from revit.common.weights.read import strip_prefixes
from revit.common.weights.source import Source
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.start import start_from

PUBLISHED_RULES = {"position_resize": "nearest", "time_resize": "nearest", "remainder": "cut"}


def build(config: Mapping[str, Any]) -> TimeSformer:
    """A TimeSformer from a case's `config`, with the published rules; KeyError or ValueError if it asks for more."""
    facts = {
        key: value
        for key, value in config.items()
        # What is said of the source, its state dict shows as well.
        if key not in WITHOUT_EFFECT and not key.startswith("source")
    }
    sides, patch = pair(facts.pop("img_size")), pair(facts.pop("patch_size"))
    rows, cols = sides[0] // patch[0], sides[1] // patch[1]
    act, layout = facts.pop("act", "gelu (exact erf)"), facts.pop("input_layout", "B,C,T,H,W")
    if act != "gelu (exact erf)" or sorted(layout.split(",")) != sorted("BCTHW"):
        raise ValueError(f"no TimeSformer here has activation {act!r} and input layout {layout!r}")
    return TimeSformer(
        img_size=(rows * patch[0], cols * patch[1]),  # the published convolution cuts the rest off
        grids=[TokenGrid(rows, cols)],
        in_chans=facts.pop("in_chans", 3),
        attention=facts.pop("attention_type"),
        **facts,
        **PUBLISHED_RULES,
    ).eval()


def plain(case: Case) -> Answer:
    """`timesformer`: deterministic weights throughout."""
    model = build(case.config)
    fill_model(model)
    return _answer(case, model)


def from_source(case: Case) -> Answer:
    """`timesformer_from_image` and `timesformer_resized`: deterministic source weights through the published loader.

    A head of another class count starts anew, so nothing published can say how; it gets deterministic weights here.
    """
    model = build(case.config)
    source = strip_prefixes(filled(case.facts["source_state_dict"]))
    video = "time_embed" in source
    report = start_from(
        model, Source("the case", "video" if video else "image", source), position_resize="nearest_flat"
    )
    if any(text.startswith("head") for text in report.remade) and case.config["num_classes"]:
        for name, tensor in model.head.state_dict().items():
            tensor.copy_(fill(f"head.{name}", tensor.shape))
    answer = _answer(case, model)
    maps = {"pos_index": _position_map(source, model)}
    if video and model.time_embed is not None:
        maps["time_index"] = _time_map(source, model)
    return Answer(answer.model, {**answer.arrays, **maps}, answer.one_input_shape)


@torch.no_grad()
def _answer(case: Case, model: TimeSformer) -> Answer:
    seen = watch_first_block(model)
    letters = case.config.get("input_layout", "B,C,T,H,W").split(",")
    clips = case.input().permute([letters.index(letter) for letter in "BCTHW"])
    logits = model(clips).logits
    # Tables of the model may be asked for by name.
    arrays = {**model.state_dict(), **seen, "logits": logits}
    return Answer(model, arrays, (1, *clips.shape[1:]))


def _position_map(source: Mapping[str, Tensor], model: TimeSformer) -> Tensor:
    """Source row of every target row (row 0 is the class)."""
    rows = source["pos_embed"].shape[1]
    side = TokenGrid(1, rows - 1)  # the rule sees the flattened table only
    numbers = torch.arange(rows, dtype=torch.float32).view(1, rows, 1)
    return resize_positions(numbers, 1, side, model.grids[0], "nearest_flat").flatten().long()


def _time_map(source: Mapping[str, Tensor], model: TimeSformer) -> Tensor:
    frames = source["time_embed"].shape[1]
    numbers = torch.arange(frames, dtype=torch.float32).view(1, frames, 1)
    return resize_times(numbers, model.num_frames, "nearest").flatten().long()

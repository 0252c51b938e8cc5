"""The families of picture models: DeiT with and without its distillation token, LV-ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from parity_cases import WITHOUT_EFFECT, Answer, Case, fill_model, pair, watch_first_block
from torch import Tensor

from revit.common.models.base import ModelOutput
from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import DeiT, LVViT

# What the class does in any case, told in words: the numbers would show another meaning.
PROSE = {"pos_embed", "residual", "heads_out", "input_layout"}
NAMES = {"heads": "num_heads", "img_size": "image_size"}


def deit(case: Case) -> Answer:
    """`deit`"""
    return _answer(case, deit_of(case.config))


def lvvit(case: Case) -> Answer:
    """`lvvit`"""
    return _answer(case, lvvit_of(case.config))


def deit_of(config: Mapping[str, Any]) -> DeiT:
    """The model of a case's `config`; ValueError for another kind of model."""
    facts = _facts(config)
    if facts.pop("distillation_token", False):
        facts["distillation"] = "every_grid"
    sides, patch = pair(facts.pop("image_size")), pair(facts.pop("patch_size"))
    grid = TokenGrid(sides[0] // patch[0], sides[1] // patch[1])
    # The published convolution cuts off what fills no patch.
    img_size = (grid.rows * patch[0], grid.cols * patch[1])
    return DeiT(img_size, [grid], remainder="cut", **facts)


def lvvit_of(config: Mapping[str, Any]) -> LVViT:
    """The model of a case's `config`; ValueError for another kind of model."""
    facts = _facts(config)
    sides, patch = pair(facts.pop("image_size")), pair(facts.pop("patch_size"))
    kernel = (patch[0] // 2, patch[1] // 2)
    if "stem" in facts:
        facts |= _read_stem(facts.pop("stem"), kernel)
    rows, cols = ((side + 1) // 2 // part for side, part in zip(sides, kernel))
    img_size = (2 * rows * kernel[0], 2 * cols * kernel[1])
    return LVViT(img_size, [TokenGrid(rows, cols)], remainder="cut", **facts)


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a case's `config`, sizes and the stem apart; ValueError for another kind of model."""
    facts = {NAMES.get(key, key): value for key, value in config.items() if key not in PROSE | WITHOUT_EFFECT}
    act, norm = facts.pop("act", "GELU exact"), facts.pop("norm", None)
    kind = (facts.pop("pre_norm", True), facts.pop("class_token", True))
    if "gelu exact" not in act.lower() or kind != (True, True):
        raise ValueError(f"no picture model here has activation {act!r}, pre-norm {kind[0]} and class token {kind[1]}")
    if norm is not None:
        read = re.fullmatch(r"LayerNorm,? eps[ =]([\d.e+-]+)", norm)
        if read is None:
            raise ValueError(f"no picture model here has the norm {norm!r}")
        facts["layer_norm_eps"] = float(read[1])
    return facts


def _read_stem(text: str, kernel: tuple[int, int]) -> dict[str, Any]:
    """Widths and input channels out of LV-ViT's stem in words; ValueError for another stem."""
    found = re.findall(r"(\d+)x(\d+) stride (\d+)[^()]*\((\d+)->(\w+)", text)
    *convolutions, last = found or [()]
    sizes = [(conv[0], conv[2]) for conv in convolutions]
    if not sizes or sizes[0] != ("7", "2") or set(sizes[1:]) != {("3", "1")}:
        raise ValueError(f"no LV-ViT here has the stem {text!r}")
    if (int(last[0]), int(last[1])) != kernel or int(last[2]) != kernel[0]:
        raise ValueError(f"the last convolution of {text!r} is not half of a patch, {kernel}")
    widths = [int(conv[4]) for conv in convolutions]
    widths += [widths[-1]] * (3 - len(widths))  # "same again"
    return {"in_chans": int(convolutions[0][3]), "stem_widths": widths}


@torch.no_grad()
def _answer(case: Case, model: DeiT | LVViT) -> Answer:
    fill_model(model.eval())
    seen = watch_first_block(model)
    model.norm.register_forward_hook(lambda _, __, output: seen.update(features=output))
    images = case.input()
    output: ModelOutput = model(images)
    arrays: dict[str, Tensor] = {
        **model.state_dict(),  # tables of the model may be asked for by name
        **seen,
        "logits": output.prediction,
        "logits_cls": output.logits,
    }
    if output.distill_logits is not None:
        arrays["logits_dist"] = output.distill_logits
    if output.patch_logits is not None:
        arrays |= {
            "logits_aux": output.patch_logits,
            "aux_logits": output.patch_logits,
            "logits_aux_max": output.patch_logits.amax(dim=1),
        }
    return Answer(model, arrays, (1, *images.shape[1:]))

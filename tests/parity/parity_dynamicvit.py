"""The families of DynamicViT: a network that drops tokens, and its masked softmax and losses, which are no network."""

from __future__ import annotations

from typing import Any

import torch
from parity_cases import Answer, Case, fill_model
from parity_vit import deit_of, lvvit_of
from torch import Tensor, nn

from revit.common.methods.dynamicvit.method import DynamicViTTask
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer, default_stages, geometric_rates
from revit.common.methods.revit.task import SelfDistillation
from revit.common.models.base import ModelOutput, Reduction
from revit.common.models.layers.attention import masked_softmax

OWN = {"base_rate", "token_ratio", "pruning_before_blocks", "kept_patch_tokens", "predictor"}
"""What a `config` says of dropping tokens; the rest is the backbone's."""


@torch.no_grad()
def dynamicvit(case: Case) -> Answer:
    """`dynamicvit`: a DeiT, or an LV-ViT where the config has its stem or its residual divisor."""
    backbone = {key: value for key, value in case.config.items() if key not in OWN}
    of_lvvit = "stem" in backbone or "skip_lam" in backbone
    model = lvvit_of(backbone) if of_lvvit else deit_of(backbone)
    blocks = case.config.get("pruning_before_blocks") or default_stages(len(model.blocks))
    rates = case.config.get("token_ratio") or geometric_rates(case.config["base_rate"], len(blocks))
    model.reducer = reducer = DynamicViTReducer(model.embed_dim, blocks, rates)
    model.register_state_dict_post_hook(_published_names)
    fill_model(model.eval())

    arrays: dict[str, Tensor] = {}
    for stage, predictor in enumerate(reducer.score_predictor):
        predictor.register_forward_hook(_note(arrays, f"score_{stage}"))
    layouts: list[Any] = []
    reducer.register_forward_hook(lambda _, __, output: layouts.append(output[1]))
    output: ModelOutput = model(case.input())
    arrays |= {"logits": output.prediction, "logits_cls": output.logits}
    for stage, decision in enumerate(layouts[-1].decisions):
        arrays[f"keep_{stage}"] = decision.kept  # relative to the tokens that were there
    counts = [len(arrays[f"keep_{stage}"][0]) for stage in range(len(blocks))]
    wanted = case.config.get("kept_patch_tokens", counts)
    assert counts == list(wanted), f"{counts} tokens kept, published {wanted}"
    # Hooks would be copied with the model that is counted.
    model.reducer._forward_hooks.clear()
    for predictor in reducer.score_predictor:
        predictor._forward_hooks.clear()
    return Answer(model, arrays, (1, *case.facts["input_shape"][1:]))


def dynamicvit_losses(case: Case) -> Answer:
    """`dynamicvit_losses`: everything is stored, inputs too."""
    config = case.config
    given = {name: torch.from_numpy(array) for name, array in case.expected.items()}
    arrays = {name: tensor for name, tensor in given.items() if not name.startswith(("attn_out", "loss_", "parts_"))}
    arrays["attn_out"] = masked_softmax(given["attn_logits"], given["policy"].squeeze(-1), config["eps"])
    rates = tuple(config["keep_ratio"])
    weights = tuple(given[f"decision_{stage}"] for stage in range(len(rates)))
    task = DynamicViTTask(SelfDistillation(), rates, config["ratio_weight"], config["distill_weight"])
    for name, place in (("deit_mse", "patch_features"), ("lvvit_kl", "patch_logits")):
        student, teacher = (
            ModelOutput(given[f"{who}pred"], patch_features=given[f"{who}tokens"])._replace(
                **{place: given[f"{who}tokens"]}
            )
            for who in ("", "teacher_")
        )
        student = student._replace(reduction=Reduction(weights=weights))
        total = task.total(student, teacher, given["target"])
        parts = task.parts
        arrays[f"loss_{name}"] = total + (config["clf_weight"] - 1) * parts["labels"]
        # Stored is the sum over the stages.
        ratio = len(rates) * parts["ratio"]
        arrays[f"parts_{name}"] = torch.stack([parts["labels"], ratio, parts["classes"], parts["tokens"]])
    return Answer(None, arrays)


def _published_names(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """The published model has its predictors beside its blocks."""
    for name in list(state):
        state[name.replace(f"{prefix}reducer.", prefix, 1)] = state.pop(name)


def _note(arrays: dict[str, Tensor], name: str) -> Any:
    return lambda _, __, output: arrays.update({name: output})

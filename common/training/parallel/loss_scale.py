"""The dynamic loss scale of float16, in the one form that a saved state has, whoever keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.amp import GradScaler

from revit.common.system.errors import UserError

START = 2.0**16
WINDOW = 2000
"""Updates without an overflow before the scale doubles; PyTorch's number, as `START`."""
LOWEST = 1.0
"""Scale at which gradients that overflow would do so without one."""
SCALE_KEYS = {
    "initial_scale_power": lambda power: ("init_scale", 2.0**power),
    "loss_scale_window": lambda window: ("scale_window", window),
    "hysteresis": lambda count: ("delayed_shift", count),
    "consecutive_hysteresis": lambda flag: ("consecutive_hysteresis", flag),
}
"""Keys of DeepSpeed's `fp16` section: what they mean to its loss scaler."""


def check_scale(scale: float, num_updates: int) -> None:
    """Raise UserError where a still lower scale would only hide that the gradients are not finite."""
    if scale < LOWEST:
        raise UserError(
            f"gradients overflow float16 after update {num_updates} even at a loss scale of {LOWEST:g}; lower the learning "
            "rate, clip gradients (train.clip_grad_norm), or use run.dtype bfloat16 or float32"
        )


def scaler_state(scaler: GradScaler) -> dict[str, float]:
    """Return the scale, and the updates since it last changed; empty where nothing is scaled."""
    if not scaler.is_enabled():
        return {}
    own = scaler.state_dict()
    return {"scale": own["scale"], "good_updates": own["_growth_tracker"]}


def load_scaler(scaler: GradScaler, state: dict[str, float]) -> None:
    """Go on with a scale that was saved; one that another dtype did not need starts anew."""
    if state and scaler.is_enabled():
        good_updates = min(int(state["good_updates"]), scaler.get_growth_interval() - 1)
        scaler.load_state_dict({**scaler.state_dict(), "scale": state["scale"], "_growth_tracker": good_updates})


def zero_scaler_state(scaler: Any) -> dict[str, float]:
    """Return the same of DeepSpeed's DynamicLossScaler."""
    return {"scale": scaler.cur_scale, "good_updates": scaler.cur_iter - scaler.last_overflow_iter - 1}


def load_zero_scaler(scaler: Any, state: dict[str, float]) -> None:
    if state:
        scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = (state["scale"], int(state["good_updates"]), -1)


def scaler_arguments(fp16: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of DeepSpeed's dynamic loss scaler for an `fp16` section; PyTorch's numbers where it is silent."""
    arguments: dict[str, Any] = {
        "init_scale": START,
        "scale_window": WINDOW,
        "min_scale": LOWEST / 2,  # reached only to be reported
        "delayed_shift": 1,
        "consecutive_hysteresis": False,
        "raise_error_at_min_scale": False,
    }
    for key, argument in SCALE_KEYS.items():
        if fp16.get(key, "auto") != "auto":
            name, value = argument(fp16[key])
            arguments[name] = value
    return arguments

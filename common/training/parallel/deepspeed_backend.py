"""Training by DeepSpeed: several processes, with optimiser, gradients or weights split over them (ZeRO 1 to 3)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from revit.common.system.device import allow_graphs, to_cpu
from revit.common.system.errors import UserError
from revit.common.training.parallel.backend import Backend, check_scale, equip, load_scaler, scaler_state
from revit.common.training.parallel.deepspeed_config import (
    check_settings,
    import_deepspeed,
    merge,
    our_settings,
    read_config,
    without_hooks,
)
from revit.common.training.parallel.optimizer_state import load_zero_optimizer_state, zero_optimizer_state


class DeepSpeedBackend(Backend):
    """The calls of `Backend`, done by a DeepSpeed engine.

    - Gradients: all losses of all batches of an update are added up, each by a backward pass of its own as soon as it is
      there, and divided once, by us; DeepSpeed averages over ranks.
    - dtype: torch's autocast, so that weights, their average and the state are float32 whatever the dtype. The dynamic
      scale of float16 is DeepSpeed's own scaler, put in the place where its autocast would use one that each rank
      adapts alone and that clipping does not know of.
    - Schedule: timm's, on the optimiser that DeepSpeed drives; an update skipped for overflow does not move it.

    torch.distributed must be started unless this is the only process.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: str = "auto",
        *arguments: Any,
        batch_size: int,
        effective_given: bool = True,
        **settings: Any,
    ) -> None:
        """Make the backend; the other arguments are those of `Backend`.

        effective_given: `accumulate` comes from the user's effective_batch, for what is said of it.
        """
        super().__init__(device, "bfloat16" if dtype == "auto" else dtype, *arguments, **settings)
        self.deepspeed = import_deepspeed(device)
        self.batch_size = batch_size
        self.effective_given = effective_given
        self.stage = int(self.options.zero_stage)

    def settings(
        self, optimizer: Optimizer, world_size: int, training: str = "train"
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return DeepSpeed's settings, and the arguments of its dynamic loss scaler.

        Ours, merged with the user's file; UserError where the two contradict or DeepSpeed refuses them. training: section
        of the configuration with this training's keys.
        """
        ours = our_settings(
            self.options,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            world_size=world_size,
            clip_grad_norm=self.clip_grad_norm,
            dtype=self.dtype,
        )
        path = self.options.deepspeed_config
        theirs = {} if path is None else read_config(path)
        merged, scaling = merge(ours, theirs, path, optimizer, self.device.type, training, self.effective_given)
        check_settings(self.deepspeed, merged, path)
        return merged, scaling

    def prepare(self, network: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> nn.Module:
        if not dist.is_initialized():
            # DeepSpeed wants a group even for one process.
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        # DeepSpeed finds its device by this variable, which srun and a plain python do not set.
        os.environ.setdefault("LOCAL_RANK", str(self.device.index or 0))
        self.deepspeed.init_distributed(verbose=False)  # takes over the group that is there
        config, scaling = self.settings(optimizer, dist.get_world_size())
        self.network, self.optimizer, self.scheduler = network, optimizer, scheduler
        equip(network, self.options.model_copy(update={"compile": False}))
        self.deepspeed.utils.logger.setLevel(logging.ERROR)  # it warns of every optimiser but Adam
        self._linear = nn.functional.linear
        self.engine, *_ = self.deepspeed.initialize(model=network, optimizer=optimizer, config=config)
        self.deepspeed.utils.logger.setLevel(logging.WARNING)
        if self.stage > 0:
            self.engine.optimizer.torch_autocast_gradscaler = None
            if self.dtype == "float16":
                from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

                self.engine.optimizer.loss_scaler = DynamicLossScaler(**scaling)
                self.engine.optimizer.dynamic_loss_scale = True
        if self.options.compile:
            allow_graphs(network)
            self.engine.compile()
        self.scheduler.step_update(0)
        return self.engine

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss / self.accumulate, scale_wrt_gas=False)

    def _update(self) -> bool:
        scale = self._scale()
        self.engine.step()
        self._forget_gradients()
        if self.engine.was_step_applied() and self._scale() >= scale:
            return True
        if self.dtype != "float16":
            raise UserError(
                f"gradients are not finite after update {self.num_updates}, though the losses are; lower the learning rate or "
                "clip gradients (train.clip_grad_norm)"
            )
        check_scale(self._scale(), self.num_updates)
        return False

    def _forget_gradients(self) -> None:
        """Set the sums of gradients to zero.

        DeepSpeed copies the first gradient of an update into its buffers and adds the others, but never clears them: a
        parameter that the first backward does not reach (the parts of a shorter grid) would keep those of the last update.
        """
        optimizer = self.engine.optimizer
        if self.stage == 3:
            optimizer.grad_partitions_flat_buffer.zero_()
        if self.options.offload == "none":
            return
        flat = optimizer.fp32_partitioned_groups_flat if self.stage == 3 else optimizer.single_partition_of_fp32_groups
        on_host = [] if self.stage == 3 else list(optimizer.accumulated_grads_in_cpu.values())
        for buffer in [*on_host, *(piece.grad for piece in flat if piece.grad is not None)]:
            buffer.zero_()

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        for buffer in self.network.buffers():
            dist.broadcast(buffer, 0)  # every rank has seen other batches
        if self.stage < 3:
            yield self.network
            return
        with ExitStack() as stack:
            stack.enter_context(self.deepspeed.zero.GatheredParameters(list(self.network.parameters())))
            stack.enter_context(without_hooks(self.network))
            yield self.network

    def state_dict(self) -> dict[str, Any]:
        with self.whole() as network:
            weights = to_cpu(dict(network.state_dict()))
        return {
            "model": weights,
            "optimizer": to_cpu(zero_optimizer_state(self.engine, self.stage, self.network)),
            "scaler": self._scaler_state(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parameters = list(self.network.parameters()) if self.stage == 3 else None
        with self.deepspeed.zero.GatheredParameters(parameters, modifier_rank=0, enabled=self.stage == 3):
            self.network.load_state_dict(state["model"])
        if self.stage > 0:
            self.engine.optimizer.refresh_fp32_params()
        load_zero_optimizer_state(self.engine, self.stage, self.network, state["optimizer"])
        self._load_scaler(state["scaler"])
        self._set_position(state["num_updates"])

    def close(self) -> None:
        """Put PyTorch's linear layer back, which ZeRO 3 replaces for the whole process."""
        nn.functional.linear = self._linear

    # -- the scale of float16: PyTorch keeps it without ZeRO, DeepSpeed with it ---------------------------------------

    def _scale(self) -> float:
        if self.dtype != "float16":
            return 1.0
        if self.stage == 0:
            return float(self.engine.torch_autocast_z0_gradscaler.get_scale())
        return float(self.engine.optimizer.loss_scaler.cur_scale)

    def _scaler_state(self) -> dict[str, float]:
        if self.dtype != "float16":
            return {}
        if self.stage == 0:
            return scaler_state(self.engine.torch_autocast_z0_gradscaler)
        scaler = self.engine.optimizer.loss_scaler
        return {"scale": scaler.cur_scale, "good_updates": scaler.cur_iter - scaler.last_overflow_iter - 1}

    def _load_scaler(self, state: dict[str, float]) -> None:
        if self.dtype != "float16" or not state:
            return
        if self.stage == 0:
            load_scaler(self.engine.torch_autocast_z0_gradscaler, state)
            return
        scaler = self.engine.optimizer.loss_scaler
        scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = state["scale"], int(state["good_updates"]), -1

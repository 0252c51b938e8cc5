"""Settings of training and of a run, the same for pictures and clips."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from revit.common.config.options import Options

Share = Annotated[float, Field(ge=0, lt=1)]


class GroupOptions(Options):
    """Parameters that are trained in a way of their own."""

    match: str
    """A regular expression that their names begin with, e.g. `blocks` or `cls_token|pos_embed`."""
    lr_scale: float = Field(default=1.0, ge=0)
    """Times the learning rate of the schedule; 0: never trained."""
    frozen_epochs: float = Field(default=0, ge=0)
    """For so many epochs their learning rate is 0; the schedule runs on. They still get gradients."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Instead of the optimiser's, for those of them that are decayed at all (see `decay_one_dimensional`)."""

    @field_validator("match")
    @classmethod
    def _is_an_expression(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return match


class OptimOptions(Options):
    """The optimiser, made by timm."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd is with Nesterov momentum, as the published TimeSformer."""
    lr: float = Field(default=0.005, gt=0)
    """Of one update of the effective batch; never scaled with the batch size."""
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_one_dimensional: bool = True
    """Decay biases, norms and tables too, as the published TimeSformer does; false exempts them and the tokens (DeiT)."""
    momentum: float = Field(default=0.9, gt=0, lt=1)
    """sgd only."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """adamw only: how much of the running means of gradient and squared gradient is kept."""
    eps: float = Field(default=1e-8, gt=0)
    """adamw only."""
    groups: tuple[GroupOptions, ...] = ()
    """Parameters of which something else holds, e.g. a slower backbone; the first group that matches a name counts, what
    none matches is trained as all else. Empty: what the run's methods want, usually none."""

    @model_validator(mode="after")
    def _are_its_own(self) -> OptimOptions:
        foreign = {"sgd": {"betas", "eps"}, "adamw": {"momentum"}}[self.name] & self.model_fields_set
        changed = sorted(
            name for name in foreign if getattr(self, name) != type(self).model_fields[name].default
        )
        if changed:
            raise ValueError(f"{self.name} has no {' and '.join(changed)}; leave out what it does not use")
        return self


class ScheduleOptions(Options):
    """The learning rate over time, made by timm and set at every update."""

    name: Literal["multistep", "cosine", "constant"] = "multistep"
    epochs: int = Field(default=15, ge=1)
    cooldown_epochs: int = Field(default=0, ge=0)
    """Epochs after `epochs` at the learning rate where the schedule ended (LV-ViT: 10)."""
    warmup_epochs: float = Field(default=0, ge=0)
    warmup_lr: float = Field(default=1e-6, ge=0)
    milestones: tuple[int, ...] = (11, 14)
    """multistep: epochs at which the rate is multiplied by `decay_rate`. Those behind the end are never reached."""
    decay_rate: float = Field(default=0.1, gt=0, le=1)
    min_lr: float = Field(default=0.0, ge=0)
    """cosine: where it ends."""

    @property
    def total_epochs(self) -> int:
        return self.epochs + self.cooldown_epochs

    @model_validator(mode="after")
    def _fits(self) -> ScheduleOptions:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves nothing of epochs {self.epochs}; lower it or train longer"
            )
        if any(epoch <= before for before, epoch in zip((0, *self.milestones), self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must be epochs from 1 in rising order")
        return self


class AverageOptions(Options):
    """An exponential moving average of the weights, beside those that are trained (timm's ModelEmaV3)."""

    decay: float = Field(default=0.99996, ge=0, lt=1)
    """Kept of the average at every update, whatever the effective batch. DeiT 0.99996, LV-ViT 0.99992."""
    use: bool = False
    """Evaluate the average and save it as the model (LV-ViT); false: the trained weights (DeiT). The other set of weights
    is saved beside it."""


class StartOptions(Options):
    """Where the weights come from before training."""

    source: str | None = None
    """A file or folder: our checkpoint (for clips also one of pictures), a published .pyth or .pth, a Hugging Face folder
    (or hf-hub:NAME), ViT, DeiT or LV-ViT weights, timm:NAME. Null: from scratch."""
    position_resize: Literal["bicubic", "nearest_flat"] = "bicubic"
    """How a position table of another size is fitted; nearest_flat is the published rule, for parity."""


class TrainOptions(Options):
    """One training: of the model, or of the assigner."""

    batch_size: int = Field(default=8, ge=1)
    """Samples that run through the network at once, in every process."""
    effective_batch: int | None = Field(default=None, ge=1)
    """Samples per update, over all processes; a multiple of what they read at once, reached by accumulating gradients.
    Null: batch_size times the processes that read different samples."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    ema: AverageOptions | None = None
    optim: OptimOptions = OptimOptions()
    schedule: ScheduleOptions = ScheduleOptions()

    @model_validator(mode="after")
    def _divides(self) -> TrainOptions:
        if self.effective_batch is not None and self.effective_batch % self.batch_size:
            raise ValueError(
                f"effective_batch {self.effective_batch} is not a multiple of batch_size {self.batch_size}"
            )
        return self

    @property
    def accumulate(self) -> int:
        """Batches per update of one process."""
        return (self.effective_batch or self.batch_size) // self.batch_size

    def accumulate_over(self, num_ranks: int) -> int:
        """Batches per update where `num_ranks` processes read different samples. ValueError if that is no whole number."""
        at_once = self.batch_size * num_ranks
        if self.effective_batch is not None and self.effective_batch % at_once:
            raise ValueError(
                f"effective_batch {self.effective_batch} is not a multiple of {at_once}, which is batch_size "
                f"{self.batch_size} times {num_ranks} processes; change one of them"
            )
        return (self.effective_batch or at_once) // at_once


class DistillOptions(Options):
    """Token-length-aware self-distillation (ReViT equation 1)."""

    weight: float = Field(default=0.9, ge=0, le=1)
    """lambda; 0 switches it off."""
    temperature: float = Field(default=1.0, gt=0)
    """tau"""
    hard: bool = False
    """Learn the teacher's argmax instead of its distribution."""


class LengthOptions(Options):
    """Retrieving token-length labels from the trained model."""

    split: Literal["train", "val", "test"] = "train"
    """The paper labels the training samples; they are over-fitted, so a held-out list gives less skewed labels."""
    none_correct: Literal["longest", "shortest", "drop"] = "longest"
    """The label of a sample that no grid recognises."""


class AssignerOptions(Options):
    """The Token-Length Assigner and its training."""

    size: int = Field(default=112, ge=16)
    """Pixels of a side that it sees."""
    num_frames: int = Field(default=1, ge=1)
    """Frames of a clip that it sees."""
    width: float = Field(default=0.5, gt=0)
    depth: float = Field(default=0.5, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    balanced: bool = True
    """Weigh the labels against their frequency."""
    confidence: float | None = Field(default=None, gt=0, lt=1)
    """Null: the most probable grid, as in the paper. A number: the shortest grid that suffices with at least this
    probability."""
    mirror: bool = True
    """Train on left-right mirrored inputs too: how many tokens an input needs does not change in a mirror, even where
    its class does."""
    train: TrainOptions = TrainOptions(
        batch_size=64,
        optim=OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, decay_one_dimensional=False),
        schedule=ScheduleOptions(name="cosine", epochs=5, warmup_epochs=1),
    )


class CalibrationOptions(Options):
    """Finding out what the assigner's thresholds cost and gain, so that `model.budget` can choose between them."""

    split: Literal["train", "val", "test"] = "val"
    """Its samples should be like those to come and new to model and assigner. Without such a list there is no calibration."""
    points: int = Field(default=41, ge=3, le=1001)
    """Operating points that are measured, at evenly spaced costs."""


class TestOptions(Options):
    """Evaluation. How many views a sample has is the data's setting."""

    __test__ = False  # not a pytest class
    split: Literal["val", "test"] = "test"
    batch_size: int = Field(default=8, ge=1)
    merge: Literal["logits", "probabilities"] = "logits"
    """Views are merged by the sum of their logits (published TimeSformer) or the mean of their softmax."""
    num_random_draws: int = Field(default=5, ge=1)
    """Draws behind the random baseline."""
    hold_budget: bool = True
    """With a model.budget of gmacs or ms: follow what was spent, so that the mean is what was asked for on other samples too.
    Then an input's grid depends a little on the inputs before it; false: on the input alone. drop never follows."""


class ReplicaOptions(Options):
    """One replica per token length (ReViT figure 4): how the grids are dealt to the ranks of a group."""

    ranks_per_group: int | None = Field(default=None, ge=1)
    """Null: as many as the costs of the grids need for the longest to be the bottleneck."""
    grids_per_rank: tuple[tuple[str | int, ...], ...] | None = None
    """The grids of every rank of a group, e.g. [[14x14], [10x10, 7x7]]. Null: the longest alone on the first rank, the
    others dealt so that no rank computes more than that."""


class ParallelOptions(Options):
    """How the processes of a run train together. What is trained does not depend on it, so a run may go on with others."""

    backend: Literal["auto", "local", "deepspeed", "replicas"] = "auto"
    """auto: local for one process, deepspeed for several."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """deepspeed: what is split over the ranks. 0 nothing, 1 the optimiser's state, 2 and the gradients, 3 and the weights."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """deepspeed: kept in the memory of the host. optimizer wants zero_stage 1 or more; parameters, which includes the
    optimiser, zero_stage 3."""
    deepspeed_config: Path | None = None
    """deepspeed: a JSON file of DeepSpeed's own settings, merged with ours. Where both say something it must agree, in
    the training of the model and in that of the assigner; "auto" there takes ours."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, about a third more time."""
    compile: bool = False
    """torch.compile. The first batches of each grid take minutes."""
    replicas: ReplicaOptions = ReplicaOptions()
    timeout_minutes: float = Field(default=30, gt=0)
    """How long a rank waits for the others before it takes them for dead."""

    @model_validator(mode="after")
    def _fits_together(self) -> ParallelOptions:
        lowest = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        if self.zero_stage < lowest:
            raise ValueError(
                f"offload {self.offload} wants zero_stage {lowest} or more, not {self.zero_stage}: only what is split "
                "over the ranks can be kept in the host's memory"
            )
        if self.compile and self.zero_stage == 3 and self.backend in ("auto", "deepspeed"):
            raise ValueError(
                "compile and zero_stage 3 exclude each other: a compiled network would see the weights in pieces; choose "
                "zero_stage 2 or less, or compile false"
            )
        if self.deepspeed_config is not None and self.backend in ("local", "replicas"):
            raise ValueError(
                f"deepspeed_config has no meaning for backend {self.backend}; remove one of the two"
            )
        return self


class RunOptions(Options):
    """Where and how a run runs."""

    dir: Path
    """Everything the run writes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    """auto takes CUDA where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the computation, by autocast; weights and optimiser stay float32. auto: bfloat16 while DeepSpeed trains, float32
    everywhere else. float16 trains with a dynamic loss scale."""
    resume: Literal["auto", "never"] = "auto"
    """auto goes on where the folder stands; never starts over and removes what an earlier run of it left."""
    log_every: int = Field(default=50, ge=1)
    """Updates between two lines of the log."""
    tensorboard: bool = False
    """Write the log's numbers for TensorBoard too, under RUN_DIR/tensorboard."""
    save_every: int | None = Field(default=None, ge=1)
    """Updates between two states to go on from; null: one per epoch."""
    keep_states: int = Field(default=2, ge=1)
    """How many of the newest are kept."""
    evaluate_every: int | None = Field(default=1, ge=1)
    """Epochs between two evaluations on the val list while the model trains; null: none, nor without a list. The best
    model so far, by top-1 at the longest grid, is kept as RUN_DIR/best.safetensors."""
    speed_seconds: float = Field(default=3.0, ge=0, le=3600)
    """How long the report's speed is measured after the evaluation, about; slow models take longer. 0: not at all."""

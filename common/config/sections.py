"""Settings of training and of a run, the same for pictures and clips."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from revit.common.config.options import NotedOptions, Options

Share = Annotated[float, Field(ge=0, lt=1)]


class GroupOptions(Options):
    """Parameters with settings of their own."""

    match: str
    """Regular expression that their names begin with, e.g. `blocks` or `cls_token|pos_embed`."""
    lr_scale: float = Field(default=1.0, ge=0)
    """Factor of the learning rate; 0: never trained."""
    frozen_epochs: float = Field(default=0, ge=0)
    """Epochs at the start in which their learning rate is 0; the schedule runs on, and they still get gradients."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of those that are decayed at all (see `decay_one_dimensional`). Null: the optimiser's."""

    @field_validator("match")
    @classmethod
    def _is_an_expression(cls, match: str) -> str:
        return _expression(match)


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


class OptimOptions(NotedOptions):
    """The optimiser, made by timm."""

    later = ("layer_decay",)
    name: Literal["sgd", "adamw"] = "sgd"
    """Algorithm; sgd has Nesterov momentum, as for the published TimeSformer."""
    lr: float = Field(default=0.005, gt=0)
    """Learning rate of an update of the effective batch; never scaled with the batch size."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay; for adamw it is multiplied by the learning rate."""
    decay_one_dimensional: bool = True
    """Decay of biases, norms and tables too, as for the published TimeSformer; false exempts them and the tokens (DeiT)."""
    momentum: float = Field(default=0.9, gt=0, lt=1)
    """Momentum; sgd only."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Shares of the running means of gradient and squared gradient that an update keeps; adamw only."""
    eps: float = Field(default=1e-8, gt=0)
    """Number added to the divisor; adamw only."""
    groups: tuple[GroupOptions, ...] = ()
    """Parameters with settings of their own, e.g. a slower backbone; the first group that matches a name counts. Empty: the
    groups of the run's methods, usually none."""
    layer_decay: float | None = Field(default=None, gt=0, lt=1)
    """Factor of the learning rate from one block to the one before it, so that early layers of trained weights change least
    (0.65 to 0.9 for fine-tuning); the head has the full rate, times `lr_scale` of its group. Null: one rate for all."""

    @model_validator(mode="after")
    def _are_its_own(self) -> OptimOptions:
        foreign = {"sgd": {"betas", "eps"}, "adamw": {"momentum"}}[self.name] & self.model_fields_set
        changed = sorted(name for name in foreign if getattr(self, name) != type(self).model_fields[name].default)
        if changed:
            raise ValueError(f"{self.name} has no {' and '.join(changed)}; leave out what it does not use")
        return self


class ScheduleOptions(Options):
    """The learning rate over time, made by timm and set at every update."""

    name: Literal["multistep", "cosine", "constant"] = "multistep"
    """Shape of the schedule after the warm-up."""
    epochs: int = Field(default=15, ge=1)
    """Length of the schedule, warm-up included."""
    cooldown_epochs: int = Field(default=0, ge=0)
    """Epochs after `epochs` at the learning rate where the schedule ended (LV-ViT: 10)."""
    warmup_epochs: float = Field(default=0, ge=0)
    """Epochs in which the learning rate rises from `warmup_lr`."""
    warmup_lr: float = Field(default=1e-6, ge=0)
    """Learning rate of the first update of a warm-up."""
    milestones: tuple[int, ...] = (11, 14)
    """Epochs at which the learning rate is multiplied by `decay_rate`; multistep only. Those behind the end are never reached."""
    decay_rate: float = Field(default=0.1, gt=0, le=1)
    """Factor of the learning rate at a milestone; multistep only."""
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end; cosine only."""

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
    """Share of the average that an update keeps, whatever the effective batch. DeiT 0.99996, LV-ViT 0.99992."""
    use: bool = False
    """Average as the model that is evaluated and saved (LV-ViT); false: the trained weights (DeiT). The other set is saved
    beside it."""


class StartOptions(Options):
    """Weights before training."""

    source: str | None = None
    """File or folder: our checkpoint (for clips also one of pictures), a published .pyth or .pth, a Hugging Face folder (or
    hf-hub:NAME), ViT, DeiT or LV-ViT weights, timm:NAME. Null: from scratch."""
    position_resize: Literal["bicubic", "nearest_flat"] = "bicubic"
    """Resizing of a position table of another size; nearest_flat is the published rule, for parity."""


class TrainOptions(NotedOptions):
    """Training of a network: the model, or the assigner."""

    later = ("freeze", "early_stop")
    batch_size: int = Field(default=8, ge=1)
    """Samples that a process computes at once."""
    effective_batch: int | None = Field(default=None, ge=1)
    """Samples of an update, over all processes; a multiple of what they read at once, reached by accumulating gradients.
    Null: batch_size times the processes that read different samples."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Largest norm of an update's gradient, which is scaled down to it. Null: any."""
    ema: AverageOptions | None = None
    """Moving average of the weights. Null: none."""
    freeze: Literal["backbone"] | tuple[Annotated[str, AfterValidator(_expression)], ...] = ()
    """Parameters that are not trained: they get no gradients and are not in the optimiser. Regular expressions that their names
    begin with, e.g. `[patch_embed, 'blocks\\.[0-5]\\.']`; backbone: all but the classifiers. Empty: none."""
    early_stop: int | None = Field(default=None, ge=1)
    """Epochs without a better top-1 (mAP with several labels) on the val list after which the model's training ends. Null: it never does early."""
    optim: OptimOptions = OptimOptions()
    schedule: ScheduleOptions = ScheduleOptions()

    @model_validator(mode="after")
    def _divides(self) -> TrainOptions:
        if self.effective_batch is not None and self.effective_batch % self.batch_size:
            raise ValueError(
                f"effective_batch {self.effective_batch} is not a multiple of batch_size {self.batch_size}"
            )
        return self

    def accumulate_over(self, num_ranks: int) -> int:
        """Return the batches of an update where `num_ranks` processes read different samples. ValueError if not a whole number."""
        at_once = self.batch_size * num_ranks
        if self.effective_batch is not None and self.effective_batch % at_once:
            raise ValueError(
                f"effective_batch {self.effective_batch} is not a multiple of {at_once}, which is batch_size "
                f"{self.batch_size} times {num_ranks} processes; change one of them"
            )
        return (self.effective_batch or at_once) // at_once


Rule = Literal["none", "balanced", "inverse_sqrt"]


class BalanceOptions(Options):
    """Classes of unequal size, in the training of the model; the assigner's labels have `assigner.balanced`."""

    weights: Rule | tuple[Annotated[float, Field(ge=0)], ...] | dict[str | int, Annotated[float, Field(ge=0)]] = "none"
    """Weight of a class in the loss: balanced, one over its number of samples; inverse_sqrt, one over the root of it (both with
    mean 1 over the samples); or given, one for each class in their order, or by class name ({Run: 2}), others 1. Where a sample
    may have several labels: the weight of a class's own samples against all others, balanced others / own."""
    sampler: Rule = "none"
    """Drawing of an epoch's samples: balanced, all classes equally often; inverse_sqrt, by the root of their size. An epoch
    stays as long, so samples of small classes come again and some of large ones do not."""

    @model_validator(mode="after")
    def _corrects_once(self) -> BalanceOptions:
        if (
            isinstance(self.weights, str)
            and "none" not in (self.weights, self.sampler)
            and "balanced" in (self.weights, self.sampler)
        ):
            raise ValueError(
                f"weights {self.weights} and sampler {self.sampler} together correct more than once; set one of them to none"
            )
        return self


class TestOptions(Options):
    """Evaluation. How many views a sample has is the data's setting."""

    __test__ = False  # not a pytest class
    split: Literal["val", "test"] = "test"
    """List to evaluate on."""
    batch_size: int = Field(default=8, ge=1)
    """Views that run through the network at once."""
    merge: Literal["logits", "probabilities"] = "logits"
    """Merging of a sample's views: by the sum of their logits (published TimeSformer) or the mean of their softmax."""
    num_random_draws: int = Field(default=5, ge=1)
    """Draws behind the random baseline."""
    hold_budget: bool = True
    """Correction by what was spent so far, with a model.budget of gmacs or ms, so that the mean is kept on other samples too.
    An input's grid then depends a little on the inputs before it; false: on the input alone. drop never corrects."""


class ReplicaOptions(Options):
    """Token grids of every rank of a group: one replica per token length (ReViT figure 4)."""

    ranks_per_group: int | None = Field(default=None, ge=1)
    """Ranks of a group. Null: as many as the costs of the grids need for the longest to be the bottleneck."""
    grids_per_rank: tuple[tuple[str | int, ...], ...] | None = None
    """Grids of every rank of a group, e.g. [[14x14], [10x10, 7x7]]. Null: the longest alone on the first rank, the others
    distributed so that no rank computes more than that."""


class ParallelOptions(Options):
    """Division of a training over processes. The result does not depend on it, so a run may go on with other settings."""

    backend: Literal["auto", "local", "deepspeed", "replicas"] = "auto"
    """Library: plain PyTorch in one process, DeepSpeed, or one replica per token length. auto: local for one process,
    deepspeed for several."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """Split over the ranks: 0 nothing, 1 the optimiser's state, 2 and the gradients, 3 and the weights; deepspeed only."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """Part kept in the host's memory: optimizer wants zero_stage 1 or more; parameters, which includes the optimiser,
    zero_stage 3; deepspeed only."""
    deepspeed_config: Path | None = None
    """JSON file of DeepSpeed's own settings, merged with ours. What both say must agree, for the model and for the assigner;
    "auto" there takes ours."""
    activation_checkpointing: bool = False
    """Blocks computed again in the backward pass instead of keeping their activations: less memory, a third more time."""
    compile: bool = False
    """Use of torch.compile; the first batches of each grid take minutes."""
    replicas: ReplicaOptions = ReplicaOptions()
    timeout_minutes: float = Field(default=30, gt=0)
    """Minutes that a rank waits for the others before it takes them for dead."""

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
            raise ValueError(f"deepspeed_config has no meaning for backend {self.backend}; remove one of the two")
        return self


class RunOptions(NotedOptions):
    """Folder, device, seed and log of a run."""

    later = ("keep",)

    dir: Path
    """Folder of everything that the run writes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of weights, order, augmentation and dropout."""
    device: str = "auto"
    """Device in torch's words, such as cuda or cpu; auto: CUDA where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the computation, by autocast; weights and optimiser stay float32. auto: bfloat16 while DeepSpeed
    trains, float32 everywhere else. float16 trains with a dynamic loss scale."""
    resume: Literal["auto", "never"] = "auto"
    """Start of a run whose folder exists: auto goes on; never starts over and removes what the earlier run left."""
    log_every: int = Field(default=50, ge=1)
    """Updates between two lines of the log."""
    tensorboard: bool = False
    """Log for TensorBoard too, under RUN_DIR/tensorboard."""
    save_every: int | None = Field(default=None, ge=1)
    """Updates between two saved states, to go on from; null: one per epoch."""
    keep_states: int = Field(default=2, ge=1)
    """Number of newest states that are kept."""
    evaluate_every: int | None = Field(default=1, ge=1)
    """Epochs between two evaluations on the val list while the model trains; null: none, nor without a list. The best
    model so far, by top-1 at the longest grid, is kept as RUN_DIR/best.safetensors."""
    keep: Literal["last", "best"] = "last"
    """Model that becomes the result, with its own lengths and assigner: the last one, or the best one on the val list."""
    speed_seconds: float = Field(default=3.0, ge=0, le=3600)
    """Seconds of measuring the report's speed after the evaluation, about; slow models take longer. 0: not at all."""

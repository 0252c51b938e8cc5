"""Open a classifier from our checkpoint or from weights made elsewhere, to classify or to teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from revit.common.config.yaml_source import dotted, walk
from revit.common.data.label_names import are_numbers
from revit.common.methods.base import check_installed
from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.common.methods.revit.budget import KEY
from revit.common.methods.revit.rule import rule_of
from revit.common.methods.run_options import AssignerOptions, RecipeOptions
from revit.common.modality.modality import Classifier, Modality
from revit.common.models.base import GridModel, ModelOutput, Normalizer
from revit.common.models.embed.patches import Sides, sides_of
from revit.common.system.errors import UserError
from revit.common.weights.adapt import TABLE
from revit.common.weights.checkpoint import Checkpoint, checkpoint_file, is_checkpoint, load_checkpoint
from revit.common.weights.source import read_source
from revit.common.weights.start import check_architecture

INPUT_SIZES = ("data.pixels.img_size", "data.pixels.crop_size", "data.frames.num_frames")
"""Keys of the data section that decide about the shapes of a model."""
ASSIGNER_SIZES = ("assigner.size", "assigner.num_frames", "assigner.width", "assigner.depth")
SHAPELESS = ("_std", ".budget", ".num_classes", ".drop_path_rate", ".mix_token", ".position_resize")
"""Settings of a model that change no shape, or that follow from the weights."""
MAX_NAMED = 4
"""Settings that one message names."""


def open_classifier(where: str, modalities: Sequence[Modality[Any]]) -> Classifier:
    """Open our checkpoint (or the run's folder with one), or weights made elsewhere (see `read_source`).

    Which of `modalities` it is, the checkpoint's header says, or the weights' names.

    Raises:
        UserError: nothing readable there, or none of these modalities.
    """
    if not str(where).strip():
        raise UserError("no checkpoint was named; give a file, a run's folder or weights made elsewhere")
    path = Path(checkpoint_file(where)).expanduser()
    if path.is_file() and is_checkpoint(path):
        checkpoint = load_checkpoint(path)
        return _from_checkpoint(path, checkpoint, _choose(str(path), checkpoint.kind, modalities))
    source = read_source(where, [dialect for modality in modalities for dialect in modality.dialects])
    return _choose(source.where, source.kind, modalities).from_source(source)


def _choose(where: str, name: str, modalities: Sequence[Modality[Any]]) -> Modality[Any]:
    for modality in modalities:
        if modality.name == name:
            return modality
    nouns = " or ".join(modality.plural for modality in modalities)
    raise UserError(f"{where}: a model of kind {name}, which cannot classify {nouns}")


def _from_checkpoint(path: Path, checkpoint: Checkpoint, modality: Modality[Any]) -> Classifier:
    check_installed(str(path), checkpoint.config)
    try:
        run = modality.run_options.model_validate(checkpoint.config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: the configuration in it does not suit this version of the program ({key}: {first['msg']}); use "
            "the version that trained it, or train again"
        ) from error
    _check_width(path, checkpoint, run)
    try:
        model = modality.build_model(run, len(checkpoint.label_names))
    except UserError as error:
        raise UserError(f"{path}: the configuration in it makes no model: {error}") from error
    except (RuntimeError, MemoryError, OverflowError) as error:  # torch has no error of its own for too large tensors
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise UserError(f"{path}: the model of its header cannot be built ({reason}); copy it again") from error
    networks = fill_classifier(checkpoint, str(path), model, run)
    names = () if are_numbers(checkpoint.label_names) else tuple(checkpoint.label_names)
    return Classifier(
        networks,
        modality.inputs(run),
        modality.normalizer(run),
        tuple(modality.input_shape(run)),
        names,
        run.test.merge,
        # What is saved before the calibration cannot keep it.
        budget=run.model.budget if KEY in checkpoint.extra else None,
        hold_budget=run.test.hold_budget,
        several_labels=run.data.source.several_labels,
    )


def _check_width(path: Path, checkpoint: Checkpoint, run: RecipeOptions) -> None:
    """Raise UserError if the header's width is not that of the weights: building it first could fill the memory."""
    wanted, table = getattr(run.model, "embed_dim", None), checkpoint.parts.get("model", {}).get(TABLE)
    if wanted is not None and table is not None and table.ndim and table.shape[-1] != wanted:
        raise UserError(
            f"{path}: its header says embed_dim {wanted}, its weights are {table.shape[-1]} wide; copy it again"
        )


def build_assigner(options: AssignerOptions, num_grids: int) -> TokenLengthAssigner:
    """Build the untrained assigner of a configuration."""
    return TokenLengthAssigner(
        num_grids, options.size, options.num_frames, options.width, options.depth, dropout=options.dropout
    )


def fill_classifier(
    checkpoint: Checkpoint, source: str, model: GridModel, options: RecipeOptions
) -> AdaptiveClassifier:
    """Load the checkpoint's weights into `model`; return it with its assigner, if it has one, in evaluation mode on the CPU.

    Its calibration decides how grids are given out, as far as `options` want that.

    Raises UserError if they do not fit; `source` names the file in the message, which says what differs between its
    configuration and `options`.
    """
    checkpoint.load_into("model", model, source, trained_otherwise(checkpoint, options, "model"))
    check_architecture(model, checkpoint.extra.get("architecture") or {}, source)
    assigner = None
    if "assigner" in checkpoint.parts:
        assigner = build_assigner(options.assigner, len(model.grids))
        trained = trained_otherwise(checkpoint, options, "assigner")
        checkpoint.load_into("assigner", assigner, source, trained)
    classifier = AdaptiveClassifier(
        model, assigner, options.test.batch_size, options.assigner.confidence, facts=checkpoint.extra
    )
    rule = rule_of(checkpoint.extra, options, source)
    if rule is not None and assigner is not None:
        classifier.policy = rule.policy()
    return classifier.eval()


def trained_otherwise(checkpoint: Checkpoint, options: RecipeOptions, part: str) -> str:
    """Say how the configuration in a checkpoint differs from `options` in what shapes a part: "with methods X, the
    configuration has methods Y". Empty where it does not."""
    theirs = {"kind": checkpoint.kind, **_shaping(checkpoint.config, part)}
    ours = {"kind": options.kind, **_shaping(options.model_dump(mode="json"), part)}
    # What only one of them has came with another version of the program, or with another model.name, which is named.
    different = [key for key in theirs if key in ours and theirs[key] != ours[key]]
    if not different:
        return ""
    shown = different[:MAX_NAMED]
    more = f" (and {len(different) - len(shown)} more settings)" if len(different) > len(shown) else ""
    said = (", ".join(_said(key, values[key]) for key in shown) for values in (theirs, ours))
    return "with {}, the configuration has {}".format(*said) + more


def _shaping(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the settings of a configuration that decide about a part's tensors, by key, the more telling ones first."""
    flat = {
        dotted(path): value
        for path, value in walk(dict(config))
        if not isinstance(value, dict) and all(isinstance(key, str) for key in path)
    }
    if part == "assigner":
        return {key: flat[key] for key in ("model.grids", *ASSIGNER_SIZES) if key in flat}
    first: dict[str, Any] = {key: flat[key] for key in ("model.name", "model.grids") if key in flat}
    methods: dict[str, Any] = {"methods": sorted(config.get("methods") or {})}
    rest = {key: value for key, value in flat.items() if key.startswith(("model.", "methods."))}
    sizes = {key: flat[key] for key in INPUT_SIZES if key in flat}
    shaping = {**first, **methods, **rest, **sizes}
    return {key: value for key, value in shaping.items() if not key.endswith(SHAPELESS)}


def _said(key: str, value: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value))
        return f"{key} {text:.60}" if text else f"no {key}"
    return f"{key} {'null' if value is None else value!s:.60}"


def check_same_classes(source: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Raise UserError if a checkpoint's classes are not the data's in the same order: its accuracy would mean nothing."""
    if are_numbers(theirs) or are_numbers(ours):
        same = len(theirs) >= len(ours) if are_numbers(ours) else len(theirs) == len(ours)
        if same:
            return
        raise UserError(f"{source} knows {len(theirs)} classes, the data has {len(ours)}")
    for number, (their, our) in enumerate(zip_longest(theirs, ours)):
        if their != our:
            raise UserError(
                f"{source} was trained on other classes than the data's, or in another order: class {number} is "
                f"{their or 'nothing'!r} there and {our or 'nothing'!r} here; give its own list of names as "
                "data.source.label_names"
            )


class Teacher(nn.Module):
    """Is shown inputs that were normalised, and sized, for another network, and answers with logits alone."""

    def __init__(self, network: nn.Module, own: Normalizer, given: Normalizer, sides: Sides | None = None) -> None:
        """`own`: the normalisation it was trained with; `given`: that of the inputs it will see. `sides`: its own picture
        size, to which inputs are resized (bicubic, antialiased when shrinking); None: shown as they are."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.own = own
        self.given = given
        self.sides = sides

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer (B, C, H, W) or (B, C, T, H, W), normalised as `given` says, with logits (B, K)."""
        # Per channel, whatever axes follow.
        channels = (-1, *[1] * (inputs.ndim - 2))
        pixels = (inputs - self.given.shift.view(channels)) / self.given.scale.view(channels)
        pixels = pixels if self.sides is None else resized(pixels, self.sides)
        output: Any = self.network(self.own(pixels))
        return output.prediction if isinstance(output, ModelOutput) else output

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)


def resized(pixels: Tensor, sides: Sides) -> Tensor:
    """Resize (B, C, ..., H, W) to (B, C, ..., *sides), frame by frame."""
    if tuple(pixels.shape[-2:]) == sides:
        return pixels
    frames = F.interpolate(pixels.flatten(1, -3), size=sides, mode="bicubic", antialias=True)
    return frames.unflatten(1, pixels.shape[1:-2])


def teacher_from(
    classifier: Classifier, source: str, label_names: Sequence[str], given: Normalizer, own_size: bool
) -> Teacher:
    """Make a teacher of a classifier that was opened from `source`. UserError if it knows other classes than `label_names`, or
    several of an input."""
    if classifier.several_labels:
        raise UserError(
            f"{source} says yes or no to every class, and a teacher says which one it is; give one that was trained without "
            "data.source.several_labels"
        )
    names = classifier.label_names or tuple(map(str, range(classifier.num_classes)))
    check_same_classes(source, names, label_names)
    network = classifier.networks.model
    sides = sides_of(cast(Any, network).img_size) if own_size else None
    return Teacher(network, cast(Normalizer, classifier.normalizer), given, sides)

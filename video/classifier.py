"""A trained video model ready to answer, from our checkpoint or from weights made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from revit.common.checkpoint import is_checkpoint, load_checkpoint
from revit.common.engine.trained import are_numbers, fill_classifier
from revit.common.errors import UserError
from revit.common.load_report import LoadReport
from revit.common.tokens.adaptive import AdaptiveClassifier
from revit.video.build import build_model
from revit.video.data.options import ClipOptions
from revit.video.options import VideoRun
from revit.video.weights.infer import infer
from revit.video.weights.source import read_source
from revit.video.weights.start import start_from_source

IN_RUN = "checkpoint.safetensors"
"""What a run's folder calls its result."""


@dataclass(frozen=True)
class VideoClassifier:
    """Networks in evaluation mode on the CPU, the clips they want, and what their classes are called."""

    networks: AdaptiveClassifier
    clips: ClipOptions
    label_names: tuple[str, ...]
    """One per class; empty where the checkpoint names none."""
    merge: str = "logits"
    """How several views are put together, see `revit.common.engine.evaluate.merge_views`."""
    report: LoadReport | None = None
    """What became of the tensors of weights made elsewhere."""
    assumed: tuple[str, ...] = ()
    """What those weights do not say and was taken from the published recipes."""

    @property
    def num_classes(self) -> int:
        return self.networks.model.num_classes


def open_classifier(where: str) -> VideoClassifier:
    """Opens our checkpoint (or the run's folder with one), a published .pyth, a Hugging Face folder or `hf-hub:NAME`.

    Raises:
        UserError: nothing readable there, or no video model.
    """
    path = Path(where).expanduser()
    if (path / IN_RUN).is_file():
        path = path / IN_RUN
    return _ours(path) if path.is_file() and is_checkpoint(path) else _foreign(where)


def _ours(path: Path) -> VideoClassifier:
    checkpoint = load_checkpoint(path)
    if checkpoint.kind != "video":
        raise UserError(f"{path}: a checkpoint of kind {checkpoint.kind}, which cannot classify clips")
    try:
        run = VideoRun.model_validate(checkpoint.config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: the configuration in it does not suit this version of the program ({key}: {first['msg']}); use "
            "the version that trained it, or train again"
        ) from error
    model = build_model(run.model, run.data, len(checkpoint.label_names))
    networks = fill_classifier(checkpoint, str(path), model, run)
    names = () if are_numbers(checkpoint.label_names) else tuple(checkpoint.label_names)
    return VideoClassifier(networks, run.data, names, run.test.merge)


def _foreign(where: str) -> VideoClassifier:
    source = read_source(where)
    inferred = infer(source)
    model = build_model(inferred.model, inferred.clips, inferred.num_classes)
    report = start_from_source(model, source)
    networks = AdaptiveClassifier(model).eval()
    return VideoClassifier(
        networks, inferred.clips, report.label_names, report=report, assumed=inferred.assumed
    )

"""Measure speed: every token grid and the adaptive pass, in one interleaved run, against a plain matrix product.

Weights are random: speed does not depend on them. "ours" is the plain model as it is trained, never compiled; "ours,
served" is the same as the inference engine runs it (weights packed once, float32 heads; with --compile also as frozen
graphs), after its answers were compared with the plain float32 model's. The adaptive pass gives each token length the same
share of inputs, with the assigner's time included. "of matmul rate" may come out a little above 1: the product is one
square size, and those of a model, of other shapes, may suit the machine's caches better; int8 has no such rate.

Every grid, dtype, batch size, and plain or served, is a row that takes two calls to warm up and one or more each round:
--ours served, one dtype and one batch size make a short run of it.

--training measures an update of training instead, against the number of token lengths: all of them in one process
(ReViT's Algorithm 1), and a replica per length in processes of their own (its Figure 4). A run with methods is measured against the plain model at its longest token grid, in rounds
spread over its training; one whose methods cannot share out the grids has no replicas, and is told why.

--data measures loading on your own files instead: which decoder, how many workers, and whether the loader or the model is
waited for; the last line says what to set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.serving.options import INT8
from revit.common.system.command_line import add_config, add_json, command_line, parse, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json

if TYPE_CHECKING:
    from revit.common.timing.peers import Reference, Twin

COLUMNS = {
    "name": "model",
    "config": "config",
    "grid": "grid",
    "dtype": "dtype",
    "compiled": "compiled",
    "batch": "batch",
    "per_second": "inputs/s",
    "ms_p50": "ms p50",
    "ms_p95": "ms p95",
    "peak_memory_mb": "peak MB",
    "fraction_of_peak": "of matmul rate",
}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = """
        python tools/throughput.py --cfg configs/video/timesformer_8x224.yaml --peers --dtypes bfloat16 --batches 1
        python tools/throughput.py --cfg configs/image/revit_deit_small.yaml --training --lengths 1,2,3 --batches 4
        python tools/throughput.py --cfg configs/video/demo.yaml --data runs/demo/data/train
    """
    arguments = parser(__doc__ or "", example)
    add_config(arguments, several=True)
    add_json(arguments)
    arguments.add_argument(
        "--peers",
        nargs="?",
        const="",
        metavar="NAME,...",
        help="also time other implementations with the same weights, and for clips other architectures (minutes on a CPU), "
        "at their defaults (float32, not compiled) and like ours: all of them, or those named",
    )
    arguments.add_argument(
        "--dtypes",
        type=_dtypes,
        default="float32,bfloat16",
        help="of float32, bfloat16 and int8 (on CPUs, of the served model alone); default: %(default)s",
    )
    arguments.add_argument(
        "--ours",
        choices=("plain", "served", "both"),
        default="both",
        help="which of our own models are timed; default: %(default)s",
    )
    arguments.add_argument("--batches", type=_numbers, default="1,4", help="batch sizes; default: %(default)s")
    arguments.add_argument(
        "--compile", action="store_true", help="also time torch.compile of each served model and peer"
    )
    arguments.add_argument("--rounds", type=int, default=5, metavar="N", help="times each case is measured (5)")
    arguments.add_argument(
        "--training", action="store_true", help="time a training step against the number of token lengths"
    )
    arguments.add_argument(
        "--lengths", type=_numbers, metavar="N,...", help="with --training: the first N grids; default: all numbers"
    )
    arguments.add_argument(
        "--data",
        metavar="LIST",
        help="measure decoders, loaders and the model on these files instead (a list, or a folder of classes), and say "
        "what to set",
    )
    arguments.add_argument(
        "--workers",
        type=partial(_numbers, least=0, example="0,1,2,4"),
        metavar="N,...",
        help="with --data: loading processes (0,1,2,4)",
    )
    arguments.add_argument("--seconds", type=float, metavar="S", help="with --data: about how long it may take (60)")
    values = parse(arguments, argv)
    values.command = command_line("tools/throughput.py", argv)
    if values.peers and "=" in values.peers:  # a setting behind a bare --peers
        values.overrides, values.peers = [values.peers, *values.overrides], ""
    if values.rounds < 1:
        arguments.error("--rounds must be at least 1")
    if values.ours == "plain" and values.dtypes == [INT8]:
        arguments.error("--dtypes int8: the plain model has no int8; leave out --ours plain")
    if values.data is not None:
        return _data(arguments, values)
    if values.workers or values.seconds is not None:
        arguments.error("--workers and --seconds belong to --data")
    if values.training:
        if values.peers is not None or values.compile or values.ours != "both":
            arguments.error(
                "--training times our own models; leave out --peers and --ours, and compile by parallel.compile=true"
            )
        if INT8 in values.dtypes:
            arguments.error("--training: nothing trains in int8; choose float32 or bfloat16")
        return _training(values)
    if values.lengths:
        arguments.error("--lengths belongs to --training")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from modalities import PEERS, load_run

    from revit.common.modality.costs import build
    from revit.common.report.tables import print_table
    from revit.common.speed.served import served_cases
    from revit.common.system.device import device_name, pick_device
    from revit.common.timing.cases import model_cases, peer_cases, reference_cases
    from revit.common.timing.measure import Case, measure
    from revit.common.timing.peers import Reference

    runs = [(path.stem, *load_run(path, values.overrides)) for path in values.cfg]
    peers = _chosen(values.peers, {modality.name: PEERS[modality.name] for _, _, modality in runs})
    compiled = (False, True) if values.compile else (False,)
    dtypes = [dtype for dtype in values.dtypes if dtype != INT8]  # of what is not served
    cases: list[Case] = []
    references: dict[str, Any] = {}
    for name, options, modality in runs:
        device = pick_device(options.run.device)
        model, assigner = build(options, modality)
        settings: dict[str, Any] = {
            "input_shape": modality.input_shape(options),
            "device": device,
            "batches": values.batches,
        }
        # Before our own cases, as it fills parameters that start at zero.
        for twin in peers[modality.name]:
            if isinstance(twin, Reference):
                references[twin.name] = twin, device
                continue
            try:
                cases += peer_cases(twin.name, twin.make, name, model, dtypes=dtypes, compiled=compiled, **settings)
            except UserError as error:
                print(f"{name}: no {twin.name} beside ours: {error}", file=sys.stderr)
        if values.ours != "served":
            cases += model_cases(name, model, assigner, dtypes=dtypes, **settings)
        if values.ours != "plain":
            cases += served_cases(name, model, assigner, dtypes=values.dtypes, compiled=compiled, **settings)
    for peer, where in references.values():  # once, whatever the number of configurations
        try:
            cases += reference_cases(peer, where, dtypes, values.batches, compiled)
        except UserError as error:
            print(f"no {peer.name}: {error}", file=sys.stderr)
    rows = measure(cases, device, values.rounds)
    kinds = {name: modality.name for name, _, modality in runs}
    kinds |= {peer.name: kind for kind, those in peers.items() for peer in those if isinstance(peer, Reference)}
    for row in rows:
        row |= {"kind": kinds[row["name"] if row["name"] in kinds else row["config"]], "command": values.command}
    if values.json:
        write_json(values.json, rows)
    print_table(f"Speed on {device_name(device)}, median of {values.rounds} rounds or more", COLUMNS, rows)
    return 0


def _chosen(names: str | None, known: Mapping[str, Sequence[Twin | Reference]]) -> dict[str, list[Twin | Reference]]:
    """Kind -> those of its peers that are named; none where `names` is None, all where it is empty. UserError for a name that
    no kind knows."""
    wanted = [name for name in (names or "").split(",") if name]
    there = [peer.name for peers in known.values() for peer in peers]
    if unknown := [name for name in wanted if name not in there]:
        raise UserError(
            f"--peers: {', '.join(unknown)}: no such peer of {' and '.join(known)} models; there are {', '.join(there)}"
        )
    asked = there if names == "" else wanted
    return {kind: [peer for peer in peers if peer.name in asked] for kind, peers in known.items()}


def _training(values: argparse.Namespace) -> int:
    from modalities import load_run

    from revit.common.report.tables import print_table
    from revit.common.speed.training_speed import TRAINING_COLUMNS, measure_training, training_cases, training_rows
    from revit.common.system.device import pick_device

    rows: list[dict[str, Any]] = []
    for path in values.cfg:
        options, modality = load_run(path, values.overrides)
        device = pick_device(options.run.device)
        cases = list(training_cases(options, modality, device, values.lengths, values.dtypes, values.batches))
        if cases[0].no_replicas:
            print(f"{path.stem}: no replicas: {cases[0].no_replicas}", file=sys.stderr)
        for case in cases:
            made = training_rows(path.stem, case, measure_training(case, values.rounds))
            rows += [{**row, "command": values.command} for row in made]
    title = f"A training step on {rows[0]['device']} per process, median of {values.rounds} rounds"
    if values.json:
        write_json(values.json, rows)
    print_table(title, TRAINING_COLUMNS, rows)
    return 0


def _data(arguments: argparse.ArgumentParser, values: argparse.Namespace) -> int:
    if values.training or values.peers is not None or values.compile:
        arguments.error("--data measures loading beside our own model; leave out --training, --peers and --compile")
    if len(values.cfg) > 1:
        arguments.error("--data measures one configuration")
    seconds = 60.0 if values.seconds is None else values.seconds
    if not seconds > 0:
        arguments.error(f"--seconds {seconds:g}: more than 0")

    from modalities import DECODERS, load_run

    from revit.common.data.loader import dead_workers_explained
    from revit.common.speed.data_advice import print_data
    from revit.common.speed.data_speed import measure_data
    from revit.common.system.device import pick_device

    options, modality = load_run(values.cfg[0], values.overrides)
    device, workers = pick_device(options.run.device), sorted({*(values.workers or (0, 1, 2, 4))})
    with dead_workers_explained():
        found = measure_data(options, modality, DECODERS.get(modality.name), values.data, device, workers, seconds)
    if values.json:
        write_json(values.json, found.as_json())
    print_data(found)
    return 0


def _dtypes(text: str) -> list[str]:
    names = text.split(",")
    if any(name not in ("float32", "bfloat16", INT8) for name in names):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from float32, bfloat16 and int8, with commas between")
    return names


def _numbers(text: str, least: int = 1, example: str = "1,4") -> list[int]:
    if not all(part.isdigit() and int(part) >= least for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from {least}, such as {example}")
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())

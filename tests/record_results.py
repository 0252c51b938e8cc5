"""Record what the tools compute under fixed seeds, or compare it with an earlier record.

    python tests/record_results.py OUT.json                    # a change that must not alter results: before it
    python tests/record_results.py OUT.json --against OLD.json  # and after it; exit status 1 where a number differs

Recorded: losses, weights and reports of shrunk runs (both demos, every method's demo, two processes under each
backend), predictions on fifty clips and fifty pictures, and the `flops` row of every configuration. All runs use one
thread a process, so that sums are taken in the same order; times, speeds and versions are left out. Five minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
PASSING = {
    "per_second",
    "seconds",
    "versions",
    "peak_memory_mb",
    "milliseconds",
    "ms",
    "ms_read",
    "ms_compute",
    "ms_clock",
}
"""Keys whose values are measured and differ from run to run."""

CLIPS = [f"data.demo.{name}={count}" for name, count in (("train_clips", 96), ("val_clips", 24), ("test_clips", 50))]
PICTURES = [
    f"data.demo.{name}={count}"
    for name, count in (("train_pictures", 192), ("val_pictures", 48), ("test_pictures", 50))
]
SMALL = ["model.embed_dim=32", "model.depth=2", "model.num_heads=2", "train.schedule.epochs=2", "run.speed_seconds=0"]
ASSIGNER = ["assigner.train.schedule.epochs=2"]
THREE_GRIDS = "model.grids=[6x6,4x4,3x3]"
RUNS: dict[str, tuple[str, int, list[str]]] = {
    "video": ("video/demo", 1, [*CLIPS, *SMALL, *ASSIGNER]),
    "pictures": ("image/demo", 1, [*PICTURES, *SMALL, *ASSIGNER, THREE_GRIDS]),
    "two deepspeed": (
        "video/demo",
        2,
        [*CLIPS, *SMALL, *ASSIGNER, "parallel.backend=deepspeed", "parallel.zero_stage=2"],
    ),
    "two replicas": ("image/demo", 2, [*PICTURES, *SMALL, *ASSIGNER, THREE_GRIDS, "parallel.backend=replicas"]),
    "two groups": (
        "image/demo",
        2,
        [*PICTURES, *SMALL, *ASSIGNER, "parallel.backend=replicas", "parallel.replicas.ranks_per_group=1"],
    ),
    **{
        f"video {name}": (f"video/demos/{name}", 1, [*CLIPS, *SMALL, "model.depth=4"])
        for name in ("dynamicvit", "toe", "flexivit")
    },
    **{
        f"image {name}": (f"image/demos/{name}", 1, [*PICTURES, *SMALL, "model.depth=4"])
        for name in ("dynamicvit", "toe", "flexivit")
    },
}
"""Name, configuration, processes, overrides."""


def lasting(value: object) -> object:
    """Drop what is measured from a report."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in PASSING}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def digest(path: Path) -> str:
    """Hash the names, shapes and values of a file of tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.contiguous().view(-1).numpy().tobytes())
    return total.hexdigest()


def start(*command: str, processes: int = 1) -> None:
    """Run a tool, in so many processes."""
    if processes == 1:
        first = [sys.executable]
    else:
        first = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*first, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")


def train(name: str, folder: Path) -> dict[str, object]:
    """Train one of `RUNS` and collect its losses, weights and report."""
    config, processes, overrides = RUNS[name]
    command = ["tools/train_net.py", "--cfg", f"configs/{config}.yaml", f"run.dir={folder}", *overrides]
    start(*command, processes=processes)
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "losses": [[event["stage"], event["loss"]] for event in events if event["event"] == "epoch"],
        "weights": digest(folder / "checkpoint.safetensors"),
        "report": lasting(json.loads((folder / "report.json").read_text())),
    }


def predict(run: Path, suffix: str, out: Path) -> object:
    """Classify the test files of a run."""
    files = sorted(str(path) for path in (run / "data" / "test").rglob(f"*{suffix}"))[:50]
    fixed = ("--dtype", "float32", "--compile", "eager", "--batch", "4")  # what is left open is measured
    start("tools/predict.py", "--checkpoint", str(run / "checkpoint.safetensors"), *files, *fixed, "--json", str(out))
    return json.loads(json.dumps(lasting(json.loads(out.read_text()))).replace(str(run), "RUN"))


def count(out: Path) -> object:
    """Count every configuration that trains a model."""
    configs = sorted(
        path for path in (ROOT / "configs").rglob("*.yaml") if "kind: asvit_search" not in path.read_text()
    )
    start("tools/flops.py", "--cfg", *(str(path.relative_to(ROOT)) for path in configs), "--json", str(out))
    return {f"{row['config']} {row['grid']}": row for row in json.loads(out.read_text())}


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Name every place where two records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in old if key not in PASSING]  # what is new has nothing to differ from
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{where}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for n, pair in enumerate(zip(old, new)) for line in differences(*pair, f"{where}/{n}")]
    return [] if old == new else [f"{where}: {old!r:.200} before, {new!r:.200} now"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="an earlier record")
    args = parser.parse_args()
    record: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        record["flops"] = count(folder / "flops.json")
        for name in RUNS:
            run = folder / name.replace(" ", "_")
            record[name] = train(name, run)
            print(name, flush=True)
        record["predictions: clips"] = predict(folder / "video", ".mp4", folder / "clips.json")
        record["predictions: pictures"] = predict(folder / "pictures", ".png", folder / "pictures.json")
    args.out.write_text(json.dumps(record, indent=1))
    if args.against is None:
        return 0
    found = differences(json.loads(args.against.read_text()), record)
    print("\n".join(found) or "equal, number for number")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

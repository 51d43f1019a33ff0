"""The trials behind docs/method.md: one line of JSON per run, and the tables made from them.

    python bench/method.py run --mtd MVTEC_ROOT --elpv MVTEC_ROOT --out bench/results/method.jsonl
    python bench/method.py table bench/results/method.jsonl --into README.md docs/method.md

A run that is already in the file is not done again. ``table`` puts the table between the lines
``<!-- method -->`` and ``<!-- end -->`` of the files.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from stssad_fast import STSSAD
from stssad_fast.datasets import read_folder

MARKER = "<!-- method -->\n"
SETTINGS = {"image_size": 64, "width": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "ST-SSAD": {},
    "random dynamic": {"strategy": "random_dynamic"},
    "random static": {"strategy": "random_static"},
}


def jobs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run that was asked for, as its key."""
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for variant in arguments.variants:
                yield {"task": task, "variant": variant, "seed": seed}


def run(key: dict[str, Any], root: str) -> dict[str, Any]:
    """One fit; the labels are used for the AUC alone."""
    torch.set_num_threads(1)
    size = SETTINGS["image_size"]
    train = read_folder(root, split="train", image_size=size, channels=1)
    test = read_folder(root, split="test", kinds=["good", key["task"]], image_size=size, channels=1)
    model = STSSAD(
        "cutdiff", width=SETTINGS["width"], random_state=key["seed"], **VARIANTS[key["variant"]]
    )
    model.fit(train.images, test.images)
    starts = [
        {
            "initial": start["initial"],
            "final": start["final"],
            "auc": None
            if start["scores"] is None
            else float(roc_auc_score(test.labels, start["scores"])),
            "iteration": start["iteration"],
            **{k: start[k] for k in ("score_variance", "score_shift")},
            **{k: start[k] for k in ("train_loss", "validation_loss")},
            "seconds": start["seconds"],
        }
        for start in model.starts_
    ]
    machine = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": 1,
        "cores": torch.get_num_interop_threads(),
    }
    return {
        **key,
        **SETTINGS,
        "params": {k: v for k, v in model.get_params().items() if k != "starts"},
        "chosen": model.chosen_start_,
        "starts": starts,
        "machine": machine,
    }


def main() -> None:
    """Read the command line and run or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--mtd", help="folder of magnetic tile in MVTec AD's layout")
    runner.add_argument("--elpv", help="folder of ELPV in MVTec AD's layout")
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--tasks", nargs="+", required=True)
    runner.add_argument("--variants", nargs="+", default=list(VARIANTS)[:3])
    runner.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    runner.add_argument("--jobs", type=int, default=2)
    printer = commands.add_parser("table")
    printer.add_argument("file", type=Path)
    printer.add_argument("--into", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    if arguments.command == "table":
        entries = [json.loads(line) for line in arguments.file.read_text().splitlines()]
        text = main_table(entries)
        print(text)
        for path in arguments.into:
            insert(path, text)
        return
    done = set()
    if arguments.out.exists():
        for line in arguments.out.read_text().splitlines():
            entry = json.loads(line)
            done.add((entry["task"], entry["variant"], entry["seed"]))
    left = [key for key in jobs(arguments) if tuple(key.values()) not in done]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        pending = [
            pool.submit(run, key, arguments.elpv if key["task"] == "defective" else arguments.mtd)
            for key in left
        ]
        for count, future in enumerate(as_completed(pending), 1):
            entry = future.result()
            with arguments.out.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            aucs = [round(start["auc"], 3) for start in entry["starts"]]
            print(f"{count}/{len(left)}", entry["task"], entry["variant"], entry["seed"], aucs)


def cell(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def insert(path: Path, table: str) -> None:
    """Replace what stands between the markers of the table."""
    before, _, rest = path.read_text().partition(MARKER)
    path.write_text(before + MARKER + table + "\n" + rest[rest.index("<!-- end -->") :])


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def chosen(entry: dict[str, Any], rule: str = "score_variance") -> float:
    """AUC of the start that a rule chooses."""
    best = max(entry["starts"], key=lambda start: start[rule])
    return float(best["auc"])


def main_table(entries: list[dict[str, Any]]) -> str:
    """AUC over seeds of each start, the chosen and the best one, and the baselines."""
    names = {"defective": "ELPV mono"}
    tuned = [entry for entry in entries if entry["variant"] == "ST-SSAD"]
    baselines = ["random dynamic", "random static"]
    sizes = [f"from {start['initial']['size']:.0e}" for start in tuned[0]["starts"]]
    rules = {"chosen by S": "score_variance", "chosen by shift": "score_shift"}
    rows = [["", *sizes, *rules, "best start", *baselines]]
    means: list[list[float]] = []
    for task in dict.fromkeys(entry["task"] for entry in tuned):
        runs = [entry for entry in tuned if entry["task"] == task]
        aucs = np.array([[start["auc"] for start in entry["starts"]] for entry in runs])
        columns = [*aucs.T.tolist()]
        columns += [[chosen(entry, rule) for entry in runs] for rule in rules.values()]
        columns.append(aucs.max(1).tolist())
        columns += [
            [chosen(e) for e in entries if e["task"] == task and e["variant"] == variant]
            for variant in baselines
        ]
        means.append([float(np.mean(column)) for column in columns])
        rows.append([names.get(task, task), *(cell(column) for column in columns)])
    rows.append(["**mean**", *(f"**{mean:.3f}**" for mean in np.mean(means, axis=0))])
    return markdown(rows)


if __name__ == "__main__":
    main()

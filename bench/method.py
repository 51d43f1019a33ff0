"""The trials behind docs/method.md: one line of JSON per run, and the tables made from them.

    python bench/method.py run --mtd MVTEC_ROOT --elpv MVTEC_ROOT --out bench/results/method.jsonl
    python bench/method.py table bench/results/method.jsonl

A run that is already in the file is not done again.
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

SETTINGS = {"image_size": 64, "width": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "ST-SSAD": {},
    "random dynamic": {"strategy": "random_dynamic"},
    "random static": {"strategy": "random_static"},
    "first order": {"strategy": "first_order"},
    "batch norm: running": {"validation_norm": "running"},
    "parametrization: cholesky": {"parametrization": "cholesky", "hyper_learning_rate": 0.003},
    "optimiser of a: sgd": {"hyper_optimizer": "sgd", "hyper_learning_rate": 1.0},
    "embeddings as they are": {"unit_embedding": False},
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
    arguments = parser.parse_args()
    if arguments.command == "table":
        print(table([json.loads(line) for line in arguments.file.read_text().splitlines()]))
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


def table(entries: list[dict[str, Any]]) -> str:
    """Markdown: a row per task, AUC over seeds."""
    tasks = list(dict.fromkeys(entry["task"] for entry in entries))
    main_runs = [entry for entry in entries if entry["variant"] == "ST-SSAD"]
    others = list(dict.fromkeys(e["variant"] for e in entries if e["variant"] != "ST-SSAD"))
    sizes = [f"start {s['initial']['size']:g}" for s in main_runs[0]["starts"]]
    header = ["task", "seeds", *sizes, "**chosen**", "best start", *others]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for task in tasks:
        runs = [entry for entry in main_runs if entry["task"] == task]
        aucs = np.array([[start["auc"] for start in entry["starts"]] for entry in runs])
        row = [task, str(len(runs)), *(cell(list(column)) for column in aucs.T)]
        row.append(f"**{cell([entry['starts'][entry['chosen']]['auc'] for entry in runs])}**")
        row.append(cell(list(aucs.max(1))))
        for variant in others:
            found = [e for e in entries if e["task"] == task and e["variant"] == variant]
            row.append(cell([e["starts"][e["chosen"]]["auc"] for e in found]) if found else "")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

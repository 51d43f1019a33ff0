"""The GPU's table in README.md, between ``<!-- gpu -->`` and ``<!-- end -->``.

    python -m bench.gpu_table                    # from results/ops-gpu.json, if it is there
    python -m bench.gpu_table --out table.md RESULTS.json    # another one's, into a file

Its rows are those of bench/gpu.py; what was not measured says so.
"""

# ruff: noqa: RUF001

import argparse
import json
import sys
from itertools import compress
from pathlib import Path

from bench import gpu, tables

RESULTS = tables.ROOT / "bench/results/ops-gpu.json"
MARKER = "<!-- gpu -->\n"
MODES = {"forward": "forward", "gradient": "backward", "backward": "forward + backward"}
RIVALS = ("eager", "compile", "torchvision", "kornia")
NOT_MEASURED = "not measured"

MAIN = "256×3×256×256"
SMALL = "64×3×32×32"
# "copy": share of the bandwidth of a copy; a column: how many times as fast; "best": as the best of
# all; "replay": seconds of a replay, at most.
TARGETS = {
    **{("cutdiff", at, "forward"): {"copy": 0.9} for at in (MAIN, f"{MAIN}, bfloat16")},
    **{
        ("cutdiff", at, "gradient"): {"copy": 0.85, "compile": 2}
        for at in (MAIN, f"{MAIN}, bfloat16")
    },
    **{
        ("rotate", at, mode): {"copy": 0.7, "best": 2}
        for at in (MAIN, f"{MAIN}, bfloat16")
        for mode in ("forward", "gradient")
    },
    ("mean_distance_loss", "256 + 256 + 160 rows × 512", "backward"): {
        "eager": 8,
        "compile": 2,
        "replay": 15e-6,
    },
    **{(op, SMALL, "backward"): {"eager": 3, "compile": 1.5} for op in ("cutdiff", "rotate")},
}


def rows():
    """Key and columns of every row."""
    for case, mode, columns in gpu.groups():
        place = tables.place({"op": case.op, "size": case.size, "note": case.note})
        yield (case.op, place, mode), columns


def value(kind, columns):
    """The number that a target is about; None if it was not measured."""
    ours = columns.get("ours", {})
    if "median" not in ours:
        return None
    if kind == "replay":
        return ours.get("replay")
    names = [c for c in RIVALS if c in columns] if kind == "best" else [kind]
    names = ["floor"] if kind == "copy" else names
    seconds = [columns[c]["median"] for c in names if "median" in columns.get(c, {})]
    return min(seconds) / ours["median"] if seconds else None


def target(kind, goal, columns):
    """A target in words, and whether it was met."""
    words = {"copy": f"copy ≥ {goal:.0%}", "replay": f"replay ≤ {tables.duration(goal)}"}
    text = words.get(kind, f"{kind} ≥ {goal}×")
    found = value(kind, columns)
    if found is None:
        return f"{text}: {NOT_MEASURED}"
    return f"{text}: {tables.verdict(found <= goal if kind == 'replay' else found >= goal)}"


def ratio(column, columns):
    """How many times as long another one takes, also as a graph."""
    other, ours = columns.get(column, {}), columns.get("ours", {})
    if "problem" in other:
        return "fails its check"
    found = value(column, columns)
    if found is None:
        return ""
    graphs = "replay" in other and "replay" in ours
    return f"{found:.2g}×" + (f" ({other['replay'] / ours['replay']:.2g}×)" if graphs else "")


def own(columns):
    """The time of ours, also as a graph."""
    ours = columns.get("ours", {})
    if "problem" in ours:
        return "**fails its check**"
    if "median" not in ours:
        return NOT_MEASURED
    graph = f" ({tables.duration(ours['replay'])})" if "replay" in ours else ""
    return tables.duration(ours["median"]) + graph


def table(data):
    """Return the table; without data, the rows that have a target."""
    groups = tables.grouped(data) if data else {}
    header = ["op", "at", "pass", "ours", *(f"{column} / ours" for column in RIVALS)]
    lines = [[*header, "of a copy's bandwidth", "target"]]
    for key, _ in rows():
        op, place, mode = key
        columns = groups.get(key, {})
        share = value("copy", columns)
        goals = TARGETS.get(key, {}).items()
        if not (data or goals):
            continue
        lines.append(
            [
                f"`{op}`",
                place,
                MODES[mode],
                own(columns),
                *(ratio(column, columns) for column in RIVALS),
                "" if share is None else f"{share:.0%}",
                ", ".join(target(kind, goal, columns) for kind, goal in goals),
            ]
        )
    filled = [bool(data) or any(column) for column in zip(*lines[1:], strict=True)]
    return tables.markdown([list(compress(line, filled)) for line in lines])


def notes(data):
    """Return where and how it was measured."""
    if not data:
        return "Not measured yet: `make gpu-proof` does it on a machine with a GPU."
    machine = data["machine"]
    gpu_name = machine["gpu"] or "A rehearsal without a GPU, whose numbers mean nothing"
    rate = data["copy_bytes_per_second"]
    copy = f"a copy of 1 GiB moves {rate / 1e12:.3g} TB/s; " if rate and machine["gpu"] else ""
    driver = f"driver {machine['driver']}, " if machine.get("driver") else ""
    commit = f", commit {data['commit']}" if data["commit"] else ""
    return (
        f"{gpu_name}, {driver}torch {machine['torch']}, CUDA {machine['cuda']}, "
        f"Triton {machine['triton']}, {data['date']}{commit}; {copy}"
        "in parentheses: replayed as a CUDA graph."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--out", type=Path, help="write the table there, not into README.md")
    parser.add_argument("--readme", type=Path, default=tables.ROOT / "README.md")
    arguments = parser.parse_args()
    data = None
    if arguments.results.exists() or arguments.results != RESULTS:
        data = json.loads(arguments.results.read_text())
    text = f"{table(data)}\n\n{notes(data)}"
    if arguments.out:
        arguments.out.write_text(text + "\n")
    elif data and not data["machine"]["gpu"]:
        sys.exit("bench/gpu_table.py: this is of a rehearsal; README.md stays as it is")
    else:
        tables.insert(arguments.readme, text, MARKER)
    print(text)


if __name__ == "__main__":
    main()

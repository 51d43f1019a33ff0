"""The table, the figure and the committed results, from a run of the benchmarks.

    python bench/tables.py RAW.json    # pytest-benchmark's file: also writes results/ops-cpu.json
    python bench/tables.py             # from results/ops-cpu.json, as it is committed

The table goes between the lines ``<!-- ops -->`` and ``<!-- end -->`` of README.md.
"""

# ruff: noqa: RUF001

import argparse
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results/ops-cpu.json"
FIGURE = ROOT / "docs/ops-cpu.svg"
MARKER = "<!-- ops -->\n"
RATIOS = ("eager", "compile", "checkpoint", "reference", "kornia")
MODES = {"forward": "forward", "backward": "forward + backward"}
MAIN = "32×3×256×256"
# How many times as fast as a column; "floor": at most this many times its time.
TARGETS = {
    ("cutdiff", MAIN, "forward"): {"floor": 2},
    ("cutdiff", MAIN, "backward"): {"eager": 10, "compile": 6},
    ("cutdiff", "1×1×8×8", "forward"): {"reference": 1},
    ("cutdiff", "1×1×8×8", "backward"): {"reference": 1},
    ("rotate", MAIN, "backward"): {"eager": 4, "compile": 4},
    ("rotate", "256×3×32×32, angle per picture", "backward"): {"eager": 3, "compile": 4},
    ("mean_distance_loss", "256 + 256 + 160 rows × 512", "backward"): {"eager": 4, "compile": 1.5},
}
EXTRA_MEMORY = 1e6
EXPONENT = 1.05


def compact(raw):
    """Median, spread and metadata of each column, without the single rounds."""
    results = []
    for entry in raw["benchmarks"]:
        info = {key: value for key, value in entry["extra_info"].items() if value not in ("", 0)}
        stats = entry["stats"]
        numbers = {key: float(f"{stats[key]:.4g}") for key in ("median", "iqr", "min")}
        results.append({**info, **numbers, "rounds": stats["rounds"]})
    return {
        "date": raw["datetime"][:10],
        "commit": raw["commit_info"],
        "machine": raw["machine_info"],
        "results": results,
    }


def save(data, path):
    """Write JSON with one result to a line, so that two runs can be compared by eye."""
    head = json.dumps({key: value for key, value in data.items() if key != "results"}, indent=1)
    lines = ",\n".join(json.dumps(result) for result in data["results"])
    path.write_text(f'{head[:-2]},\n "results": [\n{lines}\n]}}\n')


def place(result):
    """Name what was measured, as the table shows it."""
    size = "×".join(map(str, result["size"]))
    if result["op"] == "mean_distance_loss":
        *rows, dimensions = result["size"]
        size = f"{' + '.join(map(str, rows))} rows × {dimensions}"
    return f"{size}, {result['note']}" if result.get("note") else size


def grouped(data):
    """Return (op, place, mode) -> column -> result."""
    groups = {}
    for result in data["results"]:
        key = result["op"], place(result), result["mode"]
        groups.setdefault(key, {})[result["column"]] = result
    return groups


def verdict(met):
    return "met" if met else "**missed**"


def duration(seconds):
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def targets(key, medians):
    """Say of each target of a row whether it was met."""
    found = []
    for column, goal in TARGETS.get(key, {}).items():
        if column == "floor":
            met = medians["ours"] <= goal * medians[column]
            found.append(f"floor ≤ {goal}×: {verdict(met)}")
        else:
            met = medians[column] >= goal * medians["ours"]
            found.append(f"{column} ≥ {goal}×: {verdict(met)}")
    return ", ".join(found)


def table(groups):
    """Return the time of ours and how many times as long the others take."""
    header = ["op", "at", "pass", "ours", *(f"{column} / ours" for column in RATIOS)]
    rows = [[*header, "ours / floor", "target"]]
    for key, columns in groups.items():
        op, where, mode = key
        if "sweep" in where:
            continue
        medians = {column: result["median"] for column, result in columns.items()}
        ours = medians["ours"]
        ratios = [f"{medians[c] / ours:.2g}×" if c in medians else "" for c in RATIOS]
        above = f"{ours / medians['floor']:.2g}×" if "floor" in medians else ""
        first = [f"`{op}`", where, MODES[mode], duration(ours)]
        rows.append([*first, *ratios, above, targets(key, medians)])
    return markdown(rows)


def sweep(groups, mode, column):
    """Return pixels of a batch and medians, for CutDiff from small to large pictures."""
    results = [
        columns[column]
        for (_, where, each), columns in groups.items()
        if "sweep" in where and each == mode
    ]
    pixels = [result["size"][0] * result["size"][2] * result["size"][3] for result in results]
    return pixels, [result["median"] for result in results]


def exponent(groups, mode, column="ours"):
    """Return the slope of log time over log pixels, by least squares."""
    pixels, seconds = sweep(groups, mode, column)
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


def notes(data, groups):
    """Return what is no ratio: memory, exponent, and where all of it was measured."""
    main = groups["cutdiff", MAIN, "forward"]
    output = 4 * int(np.prod(main["ours"]["size"]))
    extra = main["ours"]["memory"] - output
    forward, backward = (exponent(groups, mode) for mode in MODES)
    machine = data["machine"]
    native = machine["native"] or {"compiler": "no native extension", "simd": None}
    spread = np.median([r["iqr"] / r["median"] for r in data["results"]])
    return (
        f"CutDiff, forward at {MAIN}: {extra / 1e6:.2g} MB of memory beyond the output "
        f"(eager: {(main['eager']['memory'] - output) / 1e6:.3g} MB; target ≤ 1 MB: "
        f"{verdict(extra <= EXTRA_MEMORY)}). "
        f"Time ∝ pixels^{forward:.2f} forward, ^{backward:.2f} with backward, from 32×32 to "
        f"1024×1024 (target ≤ {EXPONENT}: {verdict(max(forward, backward) <= EXPONENT)}).\n\n"
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{native['compiler']}, SIMD level {native['simd'] or 'unknown'}, {data['date']}; "
        f"medians of at least {min(r['rounds'] for r in data['results'])} rounds, whose "
        f"interquartile range is typically {spread:.0%} of the median."
    )


def draw(groups, path):
    """Draw time relative to ours for each op with a target, and time over pixels."""
    import matplotlib  # only this needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ops", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    looks = {
        "floor": ("v", "0.6"),
        "eager": ("o", "tab:blue"),
        "compile": ("s", "tab:orange"),
        "checkpoint": ("P", "tab:brown"),
        "kornia": ("D", "tab:green"),
        "reference": ("x", "tab:red"),
    }
    rows = [key for key in TARGETS if key[2] == "backward" and not key[1].startswith("1×1")]
    for column, (marker, colour) in looks.items():
        points = [
            (groups[key][column]["median"] / groups[key]["ours"]["median"], row)
            for row, key in enumerate(rows)
            if column in groups[key]
        ]
        left.plot(*zip(*points, strict=True), marker, color=colour, label=column)
    left.axvline(1, color="black", linewidth=1)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}×")
    left.set_yticks(range(len(rows)), [f"{op}\n{where}" for op, where, _ in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.grid(axis="x", color="0.9")
    left.set_title("forward + backward: time relative to ours (line)")
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for column, colour in (("eager", "tab:blue"), ("ours", "black"), ("floor", "0.6")):
        pixels, seconds = sweep(groups, "backward", column)
        label = f"{column}: exponent {exponent(groups, 'backward', column):.2f}"
        right.plot(pixels, 1e3 * np.array(seconds), ".-", color=colour, label=label)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_xlabel("pixels of 8 pictures, 32×32 to 1024×1024")
    right.set_ylabel("ms")
    right.grid(color="0.9")
    left.minorticks_off()
    right.minorticks_off()
    right.set_title("cutdiff, forward + backward")
    right.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def insert(path, text, marker=MARKER):
    """Replace what stands between the markers."""
    before, _, rest = path.read_text().partition(marker)
    path.write_text(f"{before}{marker}{text}\n{rest[rest.index('<!-- end -->') :]}")


def markdown(rows):
    """Return a table whose first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, nargs="?")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    raw = arguments.raw and json.loads(arguments.raw.read_text())
    data = compact(raw) if raw else json.loads(arguments.results.read_text())
    groups = grouped(data)
    if missing := TARGETS.keys() - groups.keys():
        raise SystemExit(f"bench/tables.py: not measured, or failed its check: {missing}")
    text = f"{table(groups)}\n\n{notes(data, groups)}"
    print(text)
    save(data, arguments.results)
    insert(arguments.readme, text)
    draw(groups, arguments.figure)


if __name__ == "__main__":
    main()

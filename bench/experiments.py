"""The tables of the papers' experiments, from their runs into the pages.

    stssad-fast experiment defects ... --out bench/results/defects    # goes on where the run stands
    python -m bench.experiments

Every run in bench/results/ that is named in a page, as in ``<!-- defects/table.md -->``, has its
file copied there, up to ``<!-- end -->``. The runs' tables are made by ``stssad-fast experiment``.
The means in them become the overview and its figure, docs/detection.svg.
"""

import re
from pathlib import Path

from bench.tables import insert, markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
FIGURE = ROOT / "docs" / "detection.svg"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
MARKER = re.compile(r"<!-- ([\w-]+/\w+\.md) -->\n")
OVERVIEW = "<!-- overview -->\n"
# A row: its name, its tables (of several that have a method the first counts), the augmentation.
RUNS = [
    ("Defects, 128 px", ["defects-128/table", "defects-128/untuned"], "CD"),
    ("Defects, 64 px", ["defects/table", "defects/untuned"], "CD"),
    ("… jitter, all starts", ["defects-jitter/table", "defects-jitter/untuned"], "CD"),
    ("Fashion-MNIST", ["fashion/five_seeds", "fashion/untuned", "fashion/table"], "RO"),
    ("… tuned by shift", ["fashion-by-shift/table"], "RO"),
    ("MNIST", ["mnist/table", "mnist/untuned"], "RO"),
    ("… tuned by shift", ["mnist-by-shift/table"], "RO"),
    ("Small digits", ["digits/five_seeds", "digits/untuned", "digits/table"], "RO"),
]
OURS, PRETRAINED = "ST-SSAD", "frozen"
VARIANTS = ("untuned", "FO", "MMD1", "MMD2")


def means(table):
    """Return seeds, mean AUC by method, and p-values by method, of a table of a run."""
    text = (RESULTS / f"{table}.md").read_text()
    rows = [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    found = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows}
    seeds = re.search(r"over (\d+) seeds", text)
    auc = {method: float(mean) for method, mean in found["mean"].items()}
    return int(seeds[1]) if seeds else 1, auc, found["p-value"]


def lead(tables, method, seeds):
    """Say by how much ours is ahead of a method, over the seeds that both have."""
    count, auc, p = next((found for found in tables if method in found[1]), (0, {}, {}))
    if not count:
        return ""
    sign = "=" if p[method][0] != "<" else "<"
    ahead = f"{auc[OURS] - auc[method]:+.3f}".replace("-", "−")  # noqa: RUF001
    text = f"{ahead} (p {sign} {float(p[method].strip('< ')):.2g}"
    return text + (")" if count == seeds else f"; {count} seed{'s'[: count > 1]})")


def best(auc, augmentation):
    """Return the best method that begins from nothing and is not ours, nor at random with ours."""
    other = {OURS, PRETRAINED, f"RS-{augmentation}", f"RD-{augmentation}", *VARIANTS}
    return max((method for method in auc if method not in other), key=auc.__getitem__)


def overview():
    """Return the table of all runs: ours, and its lead."""
    rows = [["", "seeds", OURS, "RS", "RD", "best other", "first order", "untuned"]]
    for name, files, augmentation in RUNS:
        tables = [means(file) for file in files]
        seeds, auc, _ = tables[0]
        other = best(auc, augmentation)
        rows.append([name, str(seeds), f"{auc[OURS]:.3f}"])
        rows[-1] += [lead(tables, f"{way}-{augmentation}", seeds) for way in ("RS", "RD")]
        rows[-1] += [f"{other} {lead(tables, other, seeds)}"]
        rows[-1] += [lead(tables, method, seeds) for method in ("FO", "untuned")]
    return markdown(rows)


def draw():
    """Draw the mean AUC of every method on every set of pictures."""
    import matplotlib  # only this needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "detection", "font.size": 9})
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(RUNS) + 0.9), layout="constrained")
    looks = {
        "AE": ("s", "0.75"),
        "DeepSVDD": ("D", "0.75"),
        "RS": ("<", "tab:blue"),
        "RD": (">", "tab:orange"),
        OURS: ("o", "black"),
    }
    found = [(means(files[0])[1], augmentation) for _, files, augmentation in RUNS]
    for method, (marker, colour) in looks.items():
        label = {"RS": "RS: one at random", "RD": "RD: a new one in every epoch"}.get(method)
        values = [auc.get(method) or auc[f"{method}-{name}"] for auc, name in found]
        axes.plot(values, range(len(RUNS)), marker, color=colour, label=label or method)
    axes.set_yticks(range(len(RUNS)), [name for name, _, _ in RUNS])
    axes.set_ylim(len(RUNS) - 0.5, -0.5)
    axes.set_xlabel("mean AUC")
    axes.grid(axis="x", color="0.9")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Fill every page."""
    for page in PAGES:
        for match in MARKER.finditer(page.read_text()):
            insert(page, (RESULTS / match[1]).read_text().rstrip(), match[0])
            print(f"{page.name}: {match[1]}")
    text = overview()
    print(text)
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        insert(page, text, OVERVIEW)
    draw()


if __name__ == "__main__":
    main()

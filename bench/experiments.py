"""The tables of the papers' experiments, from their runs into the pages.

    stssad-fast experiment defects ... --out bench/results/defects    # goes on where the run stands
    python -m bench.experiments

Every run in bench/results/ that is named in a page, as in ``<!-- defects/table.md -->``, has its
file copied there, up to ``<!-- end -->``. The runs' tables are made by ``stssad-fast experiment``.
"""

import re
from pathlib import Path

from bench.tables import insert

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md"]
MARKER = re.compile(r"<!-- ([\w-]+/\w+\.md) -->\n")


def main() -> None:
    """Fill every page."""
    for page in PAGES:
        for match in MARKER.finditer(page.read_text()):
            insert(page, (RESULTS / match[1]).read_text().rstrip(), match[0])
            print(f"{page.name}: {match[1]}")


if __name__ == "__main__":
    main()

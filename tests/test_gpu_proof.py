"""make gpu-proof: what needs no GPU of it, that is tasks, shares of the tests, and the table."""

# ruff: noqa: RUF001

import json
import subprocess
import sys
from signal import SIGINT, SIGKILL, SIGTERM
from types import SimpleNamespace

import pytest

pytest.importorskip("bench", reason="bench is found by python -m pytest")
from bench import gpu, gpu_proof, gpu_table, tables

MAIN, PAPER = [256, 3, 256, 256], [256, 256, 160, 512]


def made_up(op, size, mode, note="", **columns):
    head = {"op": op, "size": size, "mode": mode, **({"note": note} if note else {})}
    return [
        {**head, "column": column, **({"median": value} if isinstance(value, float) else value)}
        for column, value in columns.items()
    ]


@pytest.fixture
def data():
    results = [
        *made_up("cutdiff", MAIN, "forward", ours=1e-4, eager=5e-4, floor=0.95e-4),
        *made_up("cutdiff", MAIN, "gradient", ours=1e-4, compile=1.9e-4, floor=0.84e-4),
        *made_up(
            "rotate", MAIN, "forward", ours=1e-4, eager=9e-4, torchvision=1.5e-4, floor=0.8e-4
        ),
        *made_up("rotate", MAIN, "gradient", ours={"problem": "off"}, eager={"problem": "off"}),
        *made_up(
            "mean_distance_loss",
            PAPER,
            "backward",
            ours={"median": 1e-4, "replay": 12e-6},
            eager={"median": 9e-4, "replay": 60e-6},
            compile={"median": 4e-4},
        ),
    ]
    machine = {"gpu": "A GPU", "driver": "1", "torch": "2", "cuda": "3", "triton": "4"}
    return {
        "date": "2000-01-01",
        "commit": "abc",
        "machine": machine,
        "copy_bytes_per_second": 3e12,
        "results": results,
    }


def cells(text):
    """Cells by op, place and pass."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    return {tuple(row[:3]): row[3:] for row in rows}


def test_table(data):
    rows = cells(gpu_table.table(data))
    forward, backward = (("`cutdiff`", gpu_table.MAIN, p) for p in ("forward", "backward"))
    assert rows[forward] == ["100 µs", "5×", "", "", "", "95%", "copy ≥ 90%: met"]
    assert rows[backward][-1] == "copy ≥ 85%: **missed**, compile ≥ 2×: **missed**"
    turned = rows["`rotate`", gpu_table.MAIN, "forward"]
    assert turned[-2:] == ["80%", "copy ≥ 70%: met, best ≥ 2×: **missed**"]
    failed = rows["`rotate`", gpu_table.MAIN, "backward"]
    assert failed[:2] == ["**fails its check**", "fails its check"]
    assert "met" not in failed[-1].replace("not measured", "")
    loss = next(row for key, row in rows.items() if key[0] == "`mean_distance_loss`")
    assert loss[:3] == ["100 µs (12 µs)", "9× (5×)", "4×"]
    assert loss[-1] == "eager ≥ 8×: met, compile ≥ 2×: met, replay ≤ 15 µs: met"
    assert rows["`cutdiff`", gpu_table.SMALL, "forward + backward"][0] == "not measured"


def test_every_target_has_a_row():
    assert gpu_table.TARGETS.keys() <= {key for key, _ in gpu_table.rows()}
    for key, columns in gpu_table.rows():
        for kind in gpu_table.TARGETS.get(key, {}):
            assert kind in ("best", "replay") or {"copy": "floor"}.get(kind, kind) in columns
    assert {case.size for case, _ in gpu.CASES} == gpu.TINY.keys()


def test_the_readme_is_up_to_date():
    found = gpu_table.RESULTS
    data = json.loads(found.read_text()) if found.exists() else None
    section = (tables.ROOT / "README.md").read_text().partition(gpu_table.MARKER)[2]
    text = f"{gpu_table.table(data)}\n\n{gpu_table.notes(data)}\n"
    assert section.partition("<!-- end -->")[0] == text, "python -m bench.gpu_table writes it"


def test_a_rehearsal_does_not_enter_the_readme(data, tmp_path, monkeypatch):
    data["machine"]["gpu"] = None
    (tmp_path / "results.json").write_text(json.dumps(data))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{gpu_table.MARKER}old\n<!-- end -->\n")
    arguments = ["gpu_table", str(tmp_path / "results.json"), "--readme", str(readme)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="rehearsal"):
        gpu_table.main()
    assert "old" in readme.read_text()


@pytest.fixture
def proof(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_proof, "WORK", tmp_path / "work")
    monkeypatch.setattr(gpu_proof, "LOGS", tmp_path / "work/logs")
    monkeypatch.setattr(gpu_proof, "TREE", tmp_path)
    return gpu_proof.Proof(tmp_path / "out", 60)


def python(name, code, seconds=20.0, **options):
    command = (sys.executable, "-u", "-c", code)
    return gpu_proof.Task(name, command, seconds, "tests.log", **options)


def test_what_fails_or_hangs_costs_nothing_else(proof, monkeypatch):
    polite = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print("so far")
try: time.sleep(50)
except KeyboardInterrupt: print("interrupted")
"""
    deaf = """
import signal, time
for one in (signal.SIGINT, signal.SIGTERM): signal.signal(one, signal.SIG_IGN)
time.sleep(50)
"""
    monkeypatch.setattr(gpu_proof, "STOPS", ((0, SIGINT), (0.5, SIGTERM), (0.6, SIGKILL)))
    proof.run([python("hangs", polite, 1.0), python("is deaf", deaf, 1.0)])
    proof.run([python("fails", "raise SystemExit(3)"), python("works", "print('fine')")])
    proof.run([gpu_proof.Task("missing", ("no such tool",), 5, "ncu.log", required=False)])
    codes = {done["task"]: done["exit"] for done in proof.done}
    assert codes == {
        "hangs": "time",
        "is deaf": "time",
        "fails": 3,
        "works": 0,
        "missing": "not found",
    }
    log = (proof.out / "tests.log").read_text()
    assert "so far" in log and "interrupted" in log and "fine" in log
    summary = json.loads((proof.out / gpu_proof.SUMMARY).read_text())
    assert not summary["passed"] and len(summary["tasks"]) == 5


def test_it_passes_when_what_is_required_does(proof):
    proof.run([python("works", "", passes=(0, 5)), python("no matter", "1/0", required=False)])
    assert proof.passed()
    proof.run([python("fails", "1/0")])
    assert not proof.passed()


def test_long_logs_keep_their_ends():
    text = b"begin" + bytes(2 * gpu_proof.LARGEST) + b"end"
    short = gpu_proof.shortened(text)
    assert len(short) < 1.01 * gpu_proof.LARGEST
    assert short.startswith(b"begin") and short.endswith(b"end")
    assert gpu_proof.shortened(b"short") == b"short"
    names = {*gpu_proof.FILES, gpu_proof.RESULTS, gpu_proof.TABLE, gpu_proof.SUMMARY}
    assert len(names) <= 8 and gpu_proof.LARGEST < 16e6


def test_shares_are_a_partition(monkeypatch):
    every = [SimpleNamespace(nodeid=f"tests/ops/test_{n}.py::test[cuda-{n}]") for n in range(200)]
    found = []
    for share in range(4):
        monkeypatch.setenv(gpu_proof.SHARDS, f"{share}/4")
        items = list(every)
        gpu_proof.pytest_collection_modifyitems(items)
        assert len(items) > 20
        found += items
    assert sorted(i.nodeid for i in found) == sorted(i.nodeid for i in every)


def test_the_driver_imports_nothing_that_may_be_broken():
    code = "import sys; import bench.gpu_proof; print(sorted({'torch', 'numpy'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tables.ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr

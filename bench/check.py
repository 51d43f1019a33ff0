"""Fail if an op is slower than at an earlier commit: `make bench-check`, or with BASE=COMMIT.

    python bench/check.py [COMMIT [arguments for pytest]]

Builds the commit in a temporary worktree, runs these benchmarks on its ops and then on those of
this tree, on the same machine, and compares the medians. Default: where this branch left
origin/main; the commit before HEAD where that is HEAD itself or there is no origin/main.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def git(*arguments):
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def default_base():
    fork = git("merge-base", "HEAD", "origin/main")
    return "HEAD~1" if fork in ("", git("rev-parse", "HEAD")) else fork


def run(folder, *command):
    # In the folder, for `python -m` finds stssad_fast there first.
    environment = {**os.environ, "STSSAD_FAST_BUILD": "cpu"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?", default=default_base())
    parser.add_argument("--slower", default="15%", help="what fails (default: 15%%)")
    arguments, rest = parser.parse_known_args()
    commit = git("rev-parse", "--verify", f"{arguments.base}^{{commit}}")
    if not commit:
        raise SystemExit(f"bench/check.py: {arguments.base!r} names no commit")
    speed = ["-m", "pytest", "bench/test_ops.py", "-k", "ours", "-q", "-W", "default", *rest]
    with tempfile.TemporaryDirectory() as folder:
        tree, base = Path(folder, "base"), Path(folder, "base.json")
        try:
            git("worktree", "add", "--detach", str(tree), commit)
            shutil.copytree(ROOT / "bench", tree / "bench", dirs_exist_ok=True)
            print(f"base: {git('log', '-1', '--format=%h %s', commit)}", flush=True)
            failed = run(tree, "setup.py", "--quiet", "build_ext", "--inplace")
            failed = failed or run(tree, *speed, f"--benchmark-json={base}")
        finally:
            git("worktree", "remove", "--force", str(tree))
        if failed:
            raise SystemExit("bench/check.py: the base cannot be measured")
        limit = f"--benchmark-compare-fail=median:{arguments.slower}"
        raise SystemExit(run(ROOT, *speed, f"--benchmark-compare={base}", limit))


if __name__ == "__main__":
    main()

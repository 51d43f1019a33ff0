"""Four starts in a row against side by side, in turns: width 16, pictures of 64 px.

    python bench/together.py --threads 2 --rounds 3

One line of JSON per fit, with the load of the machine; on a busy one the comparison says nothing.
"""

import argparse
import json
import os
import time

import torch

from stssad_fast import STSSAD


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, 1, 64, 64, generator=generator) for n in (200, 100))
    for number in range(arguments.rounds):
        for jobs in arguments.jobs:
            began = time.perf_counter()
            STSSAD(
                width=16,
                warm_up=arguments.iterations // 2,
                iterations=arguments.iterations,
                random_state=0,
                n_jobs=jobs,
            ).fit(train, test)
            seconds = time.perf_counter() - began
            line = {"round": number, "n_jobs": jobs, "seconds": round(seconds, 2)}
            print(json.dumps(line | {"load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()

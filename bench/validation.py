"""L_val over a batch of test pictures or over all of them, on the demo's digits: docs/method.md.

    python bench/validation.py --seeds 0 1

One line of JSON per run: every start's angle, which is chosen, its AUC, and seconds of CPU time.
"""

import argparse
import json
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from stssad_fast import STSSAD
from stssad_fast.cli.demo import CASES

VARIANTS = {
    "batch, joint": {},
    "batch, running": {"validation_norm": "running"},
    "all, running": {"validation_norm": "running", "validation": "all"},
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[0]
    split = case.load()
    for seed in arguments.seeds:
        for name in arguments.variants:
            began = time.process_time()
            model = STSSAD(**case.parameters | VARIANTS[name], random_state=seed)
            model.fit(split.train_images, split.test_images)
            scores = [np.array(start["scores"]) for start in model.starts_]
            line = {
                "variant": name,
                "seed": seed,
                "angles": [round(start["final"]["angle"], 1) for start in model.starts_],
                "auc": [round(float(roc_auc_score(split.test_labels, s)), 3) for s in scores],
                "chosen": model.chosen_start_,
                "cpu_seconds": round(time.process_time() - began, 1),
                "test_pictures": len(split.test_images),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

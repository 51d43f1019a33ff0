"""Two processes and gloo against one process; run as a script, this file is one of the two."""

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import closing, nullcontext
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from stssad_fast import STSSAD, CutDiff, InputError, checkpoint
from stssad_fast.detectors import ResNetDetector
from stssad_fast.detectors.resnet import BatchNorm
from stssad_fast.ops import reference
from stssad_fast.tuning.distributed import CommonBatchNorm, DistributedTuner, mean_distance_loss
from stssad_fast.tuning.ranks import Ranks
from stssad_fast.tuning.tuner import Tuner, TunerConfig

EXACT = {"rtol": 0, "atol": 1e-10}
IMAGES = torch.rand(14, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
IMAGES[:2, :, 4:9, 6:12] = 0
FIT = {
    "width": 2,
    "iterations": 3,
    "warm_up": 2,
    "batch_size": 5,
    # A round patch has no angle: where its gradient is 0, rounding would turn it.
    "starts": [{"size": s, "aspect": 1.5, "angle": 20.0} for s in (0.01, 0.1)],
    "device": "cpu",
}


class Pair:
    """Two processes that call functions of this file together."""

    def __init__(self, folder):
        self.folder, self.calls, self.processes = folder, 0, []

    def start(self):
        self.close()
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(self.folder), f"group{self.calls}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for rank in range(2)
        ]

    def __call__(self, name, *arguments):
        """What the function returned on each rank; None of one that has ended."""
        if not self.processes or any(process.poll() is not None for process in self.processes):
            self.start()
        self.calls += 1
        for process in self.processes:
            process.stdin.write(json.dumps([self.calls, name, *arguments]) + "\n")
            process.stdin.flush()
        answers = []
        for rank, process in enumerate(self.processes):
            # Gloo writes there, too, with torch 2.10.
            line = next((line for line in process.stdout if line == "done\n"), None)
            path = self.folder / f"{self.calls}.{rank}"
            answers.append(torch.load(path, weights_only=False) if line else None)
        for answer in answers:
            assert not isinstance(answer, str), answer
        return answers

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with closing(Pair(tmp_path_factory.mktemp("pair"))) as pair:
        yield pair


def serve(rank, folder, group):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/{group}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for line in sys.stdin:
        call, name, *arguments = json.loads(line)
        try:
            answer = globals()[name](*arguments)
        except Exception:
            answer = traceback.format_exc()
        torch.save(answer, f"{folder}/{call}.{rank}")
        print("done", flush=True)


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected) > 0
    for mine, yours in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, yours, **tolerance)


# ------------------------------------------------------------------------------ validation loss

# Rows of the three sets, how many of each lie on rank 0, and what is done to them.
LOSSES = {
    "even": ((4, 4, 6), (2, 2, 3), "nothing"),
    "uneven": ((5, 3, 7), (4, 0, 2), "nothing"),
    "nothing on one rank": ((3, 2, 2), (3, 2, 2), "nothing"),
    "single rows": ((1, 1, 1), (0, 1, 0), "nothing"),
    "far away": ((4, 4, 6), (1, 3, 3), "far"),
    "tiny": ((4, 4, 6), (1, 3, 3), "tiny"),
    "huge": ((4, 4, 6), (1, 3, 3), "huge"),
    "on a mean": ((2, 2, 3), (1, 1, 1), "on a mean"),
    "all equal": ((3, 2, 4), (1, 2, 2), "equal"),
}


def sets_of(counts, what):
    generator = torch.Generator().manual_seed(1)
    sets = [torch.randn(n, 3, generator=generator).double() for n in counts]
    if what == "on a mean":
        sets[0][1] = sets[2][1] = sets[0][0]
    change = {
        "far": lambda z: z + 1e12,
        "tiny": lambda z: z * 1e-150,
        "huge": lambda z: z * 1e160,
        "equal": lambda z: 0 * z + 0.7,
    }
    return [change.get(what, lambda z: z)(z) for z in sets]


def derivatives(loss, sets):
    """Value, gradient, and the gradient of its product with a fixed direction."""
    sets = [z.clone().requires_grad_() for z in sets]
    value = loss(*sets)
    first = torch.autograd.grad(value, sets, create_graph=True)
    generator = torch.Generator().manual_seed(2)
    product = sum((g * torch.randn(g.shape, generator=generator)).sum() for g in first)
    second = torch.autograd.grad(product, sets, materialize_grads=True)
    return [v.detach() for v in (value, *first, *second)]


def losses(case):
    counts, firsts, what = LOSSES[case]
    ranks, sets = Ranks(torch.device("cpu")), sets_of(counts, what)

    def shared(*sets):
        parts = zip(ranks.spread(sets), firsts, strict=True)
        own = [z[first:] if ranks.rank else z[:first] for z, first in parts]
        return mean_distance_loss(ranks, *own)

    return derivatives(shared, sets), derivatives(reference.mean_distance_loss, sets)


@pytest.mark.parametrize("case", LOSSES)
def test_the_validation_loss(pair, case):
    (found, expected), (elsewhere, _) = pair("losses", case)
    assert_same(found, elsewhere, rtol=0, atol=0)
    scale = 1e150 if case == "tiny" else 1  # of what is divided by embeddings
    for value, other in zip(found, expected, strict=True):
        bound = 1e-12 * max(1.0, min(scale, other.abs().max().item()))
        assert torch.isfinite(value).all()
        torch.testing.assert_close(value, other, rtol=1e-9, atol=bound)
    if case == "all equal":
        assert all(value.abs().max() == 0 for value in found)
    else:
        assert found[0] > 0 and found[1].abs().max() > 0


def single_precision():
    ranks = Ranks(torch.device("cpu"))
    sets = [(z * 1.0 + 1e4).float() for z in sets_of((20, 20, 30), "nothing")]
    exact = reference.mean_distance_loss(*(z.double() for z in sets))
    return mean_distance_loss(ranks, *map(ranks.own, sets)), exact


def test_a_large_mean_costs_no_digits(pair):
    for found, exact in pair("single_precision"):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-7)


def strange_losses():
    ranks, found = Ranks(torch.device("cpu")), []
    for number in (torch.nan, torch.inf):
        sets = sets_of((3, 3, 3), "nothing")
        sets[ranks.rank][0, 1] = number if ranks.rank == 1 else 0.0
        found.append(mean_distance_loss(ranks, *sets))
    try:
        mean_distance_loss(ranks, *sets[:2], sets[2][:0])
    except ValueError as error:
        found.append(str(error))
    return found


def test_what_is_no_number_and_what_is_empty(pair):
    for nan, inf, message in pair("strange_losses"):
        assert nan.isnan() and inf.isnan()
        assert message == "test has no rows on any rank; expected at least one embedding"


# --------------------------------------------------------------------------------- batch norm


def norms(first, kind):
    """A batch norm of 5 pictures, the first so many of them on rank 0, and of all in one place."""
    ranks = Ranks(torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 3, 2, 4, generator=generator).double() * 2 + 100
    weights = torch.randn(5, 3, 2, 4, generator=generator).double()
    answers = []
    for shared in (True, False):
        norm = BatchNorm(3, relu=True) if kind == "ours" else nn.BatchNorm2d(3)
        norm.weight.data.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm = norm.double()
        given = [x.clone().requires_grad_(), *norm.parameters()]
        cut = slice(None)
        if shared:
            cut = slice(first, None) if ranks.rank else slice(first)
        inputs = ranks.spread(given) if shared else given
        with CommonBatchNorm(ranks) if shared else nullcontext():
            named = dict(zip(("weight", "bias"), inputs[1:], strict=True))
            y = torch.func.functional_call(norm, named, (inputs[0][cut],))
        total = ranks.total if shared else torch.clone
        value = total((y.sin() * weights[cut]).sum())
        found = torch.autograd.grad(value, given, create_graph=True)
        product = sum(g.square().sum() for g in found)
        again = torch.autograd.grad(product, given)
        tensors = [value, *found, *again, *norm.buffers()]
        answers.append([v.detach() for v in tensors])
    return answers


@pytest.mark.parametrize("kind", ["ours", "torch"])
@pytest.mark.parametrize("first", [2, 5])
def test_batch_norm(pair, first, kind):
    (found, expected), (elsewhere, _) = pair("norms", first, kind)
    assert_same(found, elsewhere, rtol=0, atol=0)
    assert_same(found, expected, rtol=1e-9, atol=1e-9)


def far_norm():
    ranks = Ranks(torch.device("cpu"))
    x = torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(3)) + 1e3
    with CommonBatchNorm(ranks):
        found = nn.BatchNorm2d(3)(ranks.own(x))
    return found.detach(), ranks.own(nn.BatchNorm2d(3).double()(x.double()).detach())


def test_a_large_mean_costs_batch_norm_no_digits(pair):
    for found, exact in pair("far_norm"):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------------- steps

STEPS = {
    "second_order": {},
    "first_order": {"strategy": "first_order"},
    "random_dynamic": {"strategy": "random_dynamic"},
    "running, smoothed": {"validation_norm": "running", "label_smoothing": 0.2},
    "updates": {"updates": 2},
    "all": {"validation": "all", "validation_norm": "running"},
    "recompute": {"recompute": True},
    "one picture each": {"batch_size": 2},
}


def steps(case):
    """The state after a few steps in float64: of both ranks together, and of this one alone."""
    config = {"warm_up": 1, "iterations": 2, "batch_size": 5, "hyper_optimizer": "sgd"}
    config = TunerConfig(**{**config, "hyper_learning_rate": 1.0, **STEPS[case]})
    answers = []
    for shared in (True, False):
        torch.manual_seed(0)
        detector, augmentation = ResNetDetector(1, 2, 16).double(), CutDiff(0.02, 1.5, 20.0)
        arguments = (
            detector,
            augmentation.double(),
            IMAGES[2:].double(),
            IMAGES[:3].double(),  # fewer than a batch
            config,
            torch.Generator().manual_seed(7),
        )
        ranks, rows = Ranks(torch.device("cpu")), []
        detector.register_forward_pre_hook(lambda _, inputs, rows=rows: rows.append(len(inputs[0])))
        tuner = DistributedTuner(ranks, *arguments) if shared else Tuner(*arguments)
        while not tuner.done:
            tuner.step()
        tensors, values = tuner.state()
        del tensors["generator"]
        numbers = [torch.tensor(values["history"][name]) for name in sorted(values["history"])]
        answers.append(([*numbers, *(tensors[name] for name in sorted(tensors))], sum(rows)))
    return answers


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_those_of_one_process(pair, case):
    ((found, here), (expected, rows)), ((elsewhere, there), _) = pair("steps", case)
    assert_same(found, elsewhere, rtol=0, atol=0)
    assert_same(found, expected, **EXACT)
    assert here + there == rows and min(here, there) > rows / 3  # the work is divided


def test_shares_are_all_rows_once():
    for size in range(1, 6):
        for count in range(8):
            rows = torch.arange(count)
            shares = [Ranks.own(SimpleNamespace(rank=r, size=size), rows) for r in range(size)]
            assert torch.equal(torch.cat(shares), rows)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ----------------------------------------------------------------------------------------- fit


def fit(folder=None, how="", seed=0, **more):
    rank = dist.get_rank() if dist.is_initialized() else 0
    train, test, seen = IMAGES[2:].clone(), IMAGES.clone(), []
    if rank == 1 and how == "other pictures":
        test[3, 0, 2, 2] -= 0.25
    if rank == 1 and how == "bad picture":
        train[3, 0, 2, 2] = torch.nan
    if rank == 1 and how == "other parameters":
        more["learning_rate"] = 0.03

    def disturb(progress):
        seen.append(progress)
        if rank == 1 and len(seen) == 8 and how == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)
        if rank == 1 and len(seen) == 8 and how == "death":
            os.kill(os.getpid(), signal.SIGKILL)

    model = STSSAD(**{**FIT, "random_state": seed, **more})
    try:
        model.fit(
            train,
            test,
            checkpoint_path=folder and f"{folder}/checkpoint.{rank}",
            checkpoint_interval=0.0,
            resume=how == "resume",
            callback=disturb,
        )
    except (InputError, KeyboardInterrupt) as error:
        return type(error).__name__, str(error), len(seen)
    return outcome(model), len(seen), [start["seconds"] for start in model.starts_]


def outcome(model):
    starts = [{k: v for k, v in start.items() if k != "seconds"} for start in model.starts_]
    tensors = [*model.detector_.state_dict().values(), *model.augmentation_.state_dict().values()]
    return starts, tensors, model.chosen_start_, model.threshold_, model.decision_function(IMAGES)


def fit_together(*arguments):
    return fit(*arguments, distributed=True)


def fit_looking():
    """Looks at the test scores once, after ten of the iterations."""
    more = {"iterations": 12, "iterate_selection": "score_shift"}
    return fit(distributed=dist.is_initialized(), **more)


def fit_drawing_seeds(folder):
    return fit(folder, seed=None, distributed=True)


def flat(value):
    """All numbers in it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for part in value for number in flat(part)]
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.flatten().tolist()
    return [] if isinstance(value, str) or value is None else [float(value)]


def assert_near(found, expected):
    """To 1e-5; of what is larger than 1, scores, relative to it."""
    scale = np.maximum(1.0, np.abs(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def together(pair):
    first, second = pair("fit_together")
    assert flat(first) == flat(second)
    return first


def test_a_fit_is_that_of_one_process(together):
    found, expected = flat(together[:2]), flat(fit()[:2])
    assert len(found) == len(expected) > 1000
    assert_near(found, expected)


def test_a_fit_whose_iterate_is_chosen_by_its_scores(pair):
    first, second = pair("fit_looking")
    assert flat(first[:2]) == flat(second[:2])
    assert_near(flat(first[:2]), flat(fit_looking()[:2]))


def test_ctrl_c_on_one_rank_stops_both_and_they_go_on(pair, together, tmp_path):
    stopped = pair("fit_together", str(tmp_path), "Ctrl-C")
    assert stopped == [("KeyboardInterrupt", "", 8)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.0"]
    first, second = pair("fit_together", str(tmp_path), "resume")
    assert flat(first[0]) == flat(second[0]) == flat(together[0])
    assert first[1] == second[1] == 10 - 8
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.0"]


def test_a_seed_is_drawn_once(pair, tmp_path):
    first, second = pair("fit_drawing_seeds", str(tmp_path))
    assert first[1] == 10 and flat(first) == flat(second)


@pytest.mark.parametrize(
    ("how", "messages"),
    [
        ("other pictures", ["the pictures of rank 1 differ from those of rank 0; give"] * 2),
        ("other parameters", ["the parameters of rank 1 differ from those of rank 0; give"] * 2),
        ("bad picture", ["rank 1 of 2: train_images holds NaN", "train_images holds NaN"]),
    ],
)
def test_what_one_rank_is_given_wrongly_stops_both(pair, how, messages):
    for answer, message in zip(pair("fit_together", None, how), messages, strict=True):
        kind, text, steps = answer
        assert (kind, steps) == ("InputError", 0) and text.startswith(message)


def refusals():
    detector = ResNetDetector(1, 2, 16)
    detector.stem[1] = nn.SyncBatchNorm(2)
    rest = (CutDiff(), IMAGES, IMAGES, TunerConfig(), torch.Generator())
    ranks, messages = Ranks(torch.device("cpu")), []
    for function in (
        lambda: DistributedTuner(ranks, detector, *rest),
        lambda: Ranks(torch.device("meta")),
    ):
        with pytest.raises(InputError) as error:
            function()
        messages.append(str(error.value))
    return messages


def test_what_is_refused(pair):
    for sync, device in pair("refusals"):
        assert "SyncBatchNorm, which cannot be differentiated twice; use nn.BatchNorm2d" in sync
        assert "and the device is meta; initialise it with" in device
    with pytest.raises(InputError, match=r"belongs to no group; call .*init_process_group"):
        STSSAD(distributed=True).fit(IMAGES, IMAGES)
    for name, value in (("n_jobs", 2), ("graph", True)):
        with pytest.raises(InputError, match=f"distributed is True and {name} {value}"):
            STSSAD(distributed=True, **{name: value}).check_parameters()


def test_a_rank_that_dies(pair, tmp_path):
    survivor, dead = pair("fit_together", str(tmp_path), "death")
    assert dead is None
    assert survivor[0] == "InputError"
    assert survivor[1].startswith("another process of this fit has ended or does not answer")
    assert checkpoint.load(tmp_path / "checkpoint.0")[1]["begun"]["1"]["step_count"] == 2
    # One process goes on with what two have begun.
    found, expected = fit(tmp_path, "resume"), fit()
    assert found[1] == 10 - 7
    assert_near(flat(found[0]), flat(expected[0]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(int(sys.argv[1]), *sys.argv[2:])

"""What only a GPU can show: CUDA graphs, nothing that waits, several pictures to a thread."""

import os

import pytest
import torch

from stssad_fast import ops
from stssad_fast.ops import extension, triton_kernels

from .backends import CUDA, NATIVE, has_cuda
from .cases import compare, cotangent, prepared, rotate_case, wanting

pytestmark = pytest.mark.skipif(bool(CUDA.skip), reason=str(CUDA.skip))


@pytest.mark.parametrize("op", NATIVE)
def test_has_kernels(op):
    """Without them the reference would answer, and every test of values would pass."""
    if not has_cuda(op):
        why = f"no CUDA kernel for {op}: {triton_kernels.why_not() or extension.status()}"
        (pytest.fail if os.environ.get("STSSAD_FAST_REQUIRE_NATIVE") == "1" else pytest.skip)(why)


def gradients(function, leaves, grad):
    result = function(*leaves)
    return result, *torch.autograd.grad(result, leaves, grad)


def captured(function):
    """A graph of the call, and its results; before it calls twice, as capturing asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def replays_as_called(function, leaves, grad):
    """The graph gives the bits of a call for whatever the leaves hold."""
    begin = [leaf.detach().clone() for leaf in leaves]
    graph, found = captured(lambda: gradients(function, leaves, grad))
    before = None
    for step in (0.0, 0.1, -0.1):
        with torch.no_grad():  # neither a shift nor a factor, to which the loss is blind
            for leaf, value in zip(leaves, begin, strict=True):
                leaf.copy_(value + step * value.square())
        graph.replay()
        for f, e in zip(found, gradients(function, leaves, grad), strict=True):
            assert torch.equal(f, e)
        assert before is None or not torch.equal(found[0], before)
        before = found[0].clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("functions", [NATIVE, vars(ops)], ids=["operators", "public"])
def test_graphs(case, functions, dtype):
    inputs = prepared(case.inputs, dtype, "cuda")
    leaves = wanting([value.clone() for value in inputs])
    replays_as_called(functions[case.op], leaves, cotangent(case.op, inputs))


def test_a_graph_of_all_together():
    """From size and angle to the loss, with numbers among the arguments."""

    def function(image, size, angle, center):
        shape = ops.patch_shape(size, 2.0, 30.0)
        cut = ops.rotate(ops.cutdiff(image, shape, center), angle)
        turned = ops.rotate(image, 30.0)
        sets = (image.flatten(1), cut.flatten(1), turned.flatten(1))
        return ops.mean_distance_loss(*sets)

    random = torch.Generator("cuda").manual_seed(0)
    image = torch.rand(4, 3, 20, 24, generator=random, device="cuda")
    center = torch.rand(4, 2, generator=random, device="cuda")
    size, angle = torch.tensor(0.05, device="cuda"), torch.tensor(20.0, device="cuda")
    leaves = wanting([image, size, angle, center])
    replays_as_called(function, leaves, torch.ones((), device="cuda"))


def test_a_graph_draws_new_centres():
    image = torch.full((2, 1, 16, 16), 0.9, device="cuda")
    shape = torch.tensor([0.1, 0.0, 0.1], device="cuda")
    graph, found = captured(lambda: ops.cutdiff(image, shape))
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(found.clone())
    assert not torch.equal(*seen)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_nothing_waits_for_the_gpu(case):
    inputs = prepared(case.inputs, torch.float32, "cuda")
    leaves, grad = wanting(inputs), cotangent(case.op, inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(getattr(ops, case.op), leaves, grad)
        if case.op == "rotate":
            ops.rotate(inputs[0], 30.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pictures", [1027, 3301])
def test_rotate_several_pictures_with_each_thread(pictures, dtype, assert_close):
    """Of many pictures under one angle a thread takes 2 or 8, and the last one fewer."""
    op, inputs = rotate_case((pictures, 1, 33, 9))
    if op not in CUDA.ops:
        pytest.skip("there is no kernel")
    compare(CUDA, op, prepared(inputs, dtype, CUDA.device), assert_close)

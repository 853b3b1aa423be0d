"""Kernels of many inputs: blocks of any size give the oracle's kernel, within their budget of memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ntkrun
from ntkrun.engine import devices, tiles
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.devices import GIB, _container, budget
from ntkrun.engine.kernel import Gradients, as_blocks, jacobian_ntk, layerwise_kernel
from ntkrun.engine.tiles import Blocks, cut, mirror, pieces, uncut
from ntkrun.engine.uses import Outputs
from ntkrun.errors import UserError
from ntkrun.theory.activations import ACTIVATIONS
from tests.engine.peak import peak_of

TOLERANCE = 1e-10  # the same products in float64, summed in other orders: rounding stays below 1e-13
KINDS: list[Outputs] = ["full", "diagonal", "trace"]
CPU = torch.device("cpu")


def _inputs(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _reduced(full: torch.Tensor, outputs: Outputs) -> torch.Tensor:
    diagonal = full.diagonal(dim1=3, dim2=4)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.sum(dim=3)}[outputs]


@pytest.fixture(params=[1, 2, 5, 7, 100])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiles, "CPU_TILE", 1)
    monkeypatch.setattr(tiles, "LEAST_INPUTS", request.param)
    return int(request.param)


@pytest.mark.parametrize("outputs", KINDS)
@pytest.mark.parametrize("count2", [None, 3, 11])
def test_tiles_of_any_size(tile: int, count2: int | None, outputs: Outputs) -> None:
    net = DenseNetwork(4, 3, 3, (6, 5), "tanh", 0.3, 1.3)
    params, x = net.init([0, 3], torch.float64), _inputs(7, 4)
    x2 = None if count2 is None else _inputs(count2, 4, 1)
    kernel = ntkrun.empirical_ntk(net, params, x, x2, outputs=outputs)
    oracle = _reduced(jacobian_ntk(net, params, x, x2), outputs)
    assert kernel.shape == oracle.shape
    assert (kernel - oracle).norm() <= TOLERANCE * oracle.norm()


@pytest.mark.parametrize("outputs", KINDS)
@pytest.mark.parametrize("count2", [None, 13])
def test_budgets_of_any_size(count2: int | None, outputs: Outputs) -> None:
    net = DenseNetwork(4, 2, 3, 16, "erf", 0.3)
    params, x = net.init([0, 3, 5], torch.float64), _inputs(12, 4)
    x2 = None if count2 is None else _inputs(count2, 4, 1)
    oracle = _reduced(jacobian_ntk(net, params, x, x2), outputs)
    seen = set()
    for size in (2**12, 2**13, 2**14, 2**15, 2**16, 2**17, 2**18):
        kernel = ntkrun.empirical_ntk(net, params, x, x2, outputs=outputs, memory=size / GIB)
        assert (kernel - oracle).norm() <= TOLERANCE * oracle.norm()
        seen.add(cut(uncut(net, 3, count2 or 12, outputs, CPU), count2 or 12, net, outputs, size, 8))
    assert len(seen) >= 4  # else the budgets would not have tried anything


@pytest.mark.parametrize("outputs", KINDS)
def test_a_kernel_of_x_alone_is_exactly_symmetric(tile: int, outputs: Outputs) -> None:
    # Width 64 in float32: there a product A Aᵀ is not bitwise symmetric by itself.
    net = DenseNetwork(4, 3, 3, 64)
    kernel = ntkrun.empirical_ntk(net, net.init([0, 1]), _inputs(9, 4).float(), outputs=outputs)
    transposed = kernel.permute(0, 2, 1, 4, 3) if outputs == "full" else kernel.transpose(1, 2)
    assert torch.equal(kernel, transposed)


def test_the_step_kernel_in_tiles(tile: int) -> None:
    net = DenseNetwork(4, 2, 3, 8, "tanh")
    params, x = net.init([0, 1], torch.float64), _inputs(7, 4)
    forward = net.forward(params, x)
    gradients = Gradients(forward.uses, net.output_gradients(forward))
    half = as_blocks(layerwise_kernel(gradients, gradients))
    whole = as_blocks(layerwise_kernel(gradients, replace(gradients)))  # another object: no symmetry taken
    oracle = jacobian_ntk(net, params, x)
    for kernel in (half, whole):
        assert (kernel - oracle).norm() <= TOLERANCE * oracle.norm()
    assert torch.equal(half, half.permute(0, 2, 1, 4, 3))


@pytest.mark.parametrize("outputs", KINDS)
@pytest.mark.parametrize("budget_kib", [300, 1000, 4000, 100000])
def test_temporaries_stay_within_the_budget(budget_kib: int, outputs: Outputs) -> None:
    net = DenseNetwork(10, 3, 4, 128)
    params, x = net.init([0, 1]), _inputs(300, 10).float()
    result = 4 * ntkrun.empirical_ntk(net, params, x, outputs=outputs).numel()
    peak = peak_of(lambda: ntkrun.empirical_ntk(net, params, x, outputs=outputs, memory=budget_kib * 1024 / GIB))
    assert peak - result <= budget_kib * 1024


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_stays_within_what_is_planned(name: str) -> None:
    net = DenseNetwork(10, 1, 4, 256, name)  # one output: what σ keeps weighs most
    params, x = net.init([0]), _inputs(100, 10).float()
    planned = Blocks(1, 100, 1).bytes(net, "trace", 4)
    peak = peak_of(lambda: ntkrun.empirical_ntk(net, params, x, outputs="trace"))
    assert peak - 4 * 100 * 100 <= planned


def test_the_cut_gives_up_seeds_first_then_rows_then_inputs() -> None:
    net = DenseNetwork(10, 10, 4, 256)
    whole, sizes = uncut(net, 8, 1000, "full", CPU), (1e3, 0.1, 0.05, 0.02, 0.005, 0.001)
    cuts = [cut(whole, 1000, net, "full", int(size * GIB), 4) for size in sizes]
    assert cuts[0] == Blocks(8, 64, 16)
    assert cuts == sorted(cuts, key=lambda c: (c.seeds, c.inputs * c.kept), reverse=True)
    assert cuts[1].seeds < 8
    assert cuts[1].kept == 16
    assert cuts[3].seeds == 1
    assert cuts[3].kept < 16
    assert cuts[-1].inputs < 64


def test_what_does_not_fit_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    net = DenseNetwork(3, 2, 2, 4096)
    params, x = net.init([0]), torch.ones(4, 3)
    with pytest.raises(UserError, match=r"memory: .*e-07 GiB for temporaries is too little: one pair of inputs takes"):
        ntkrun.empirical_ntk(net, params, x, memory=1e-6)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="more than 0"):
            ntkrun.empirical_ntk(net, params, x, memory=wrong)
    with pytest.raises(UserError, match="outputs 'rows': choose full, trace, diagonal"):
        ntkrun.empirical_ntk(net, params, x, outputs="rows")  # type: ignore[arg-type]
    monkeypatch.setattr(devices, "free_bytes", lambda device: 100)
    monkeypatch.setattr("ntkrun.engine.kernel.SMALL", 0)
    with pytest.raises(UserError, match=r"the kernel itself takes .* outputs='diagonal' or 'trace'"):
        ntkrun.empirical_ntk(net, params, x)


def test_the_default_budget_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    assert budget(None, 400, CPU) == 300
    assert budget(2.0, 400, CPU) == 2 * GIB


def test_free_memory_is_a_sane_number() -> None:
    assert 2**20 < devices.free_bytes(CPU) < 2**50


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    assert _container(tmp_path) == 2**63
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 250\n")
    assert _container(tmp_path) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert _container(tmp_path) == 2**63


def test_pieces_cover_everything_once() -> None:
    for count in range(1, 20):
        for size in range(1, 22):
            found = [k for piece in pieces(count, size) for k in range(count)[piece]]
            assert found == list(range(count))
            assert len(pieces(count, size)) == -(-count // size)


def test_mirror() -> None:
    matrix = torch.arange(25.0).view(5, 5)
    expected = matrix.triu() + matrix.triu(1).T
    mirror(matrix, pieces(5, 2))
    assert torch.equal(matrix, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("outputs", KINDS)
def test_a_gpu_gives_the_same(outputs: Outputs) -> None:
    net = DenseNetwork(10, 3, 4, 64)
    params, x = net.init([0, 1], torch.float64, "cuda"), _inputs(40, 10).cuda()
    oracle = _reduced(jacobian_ntk(net, params, x), outputs)
    for memory in (None, 2**21 / GIB):
        kernel = ntkrun.empirical_ntk(net, params, x, outputs=outputs, memory=memory)
        assert kernel.is_cuda
        assert (kernel - oracle).norm() <= TOLERANCE * oracle.norm()

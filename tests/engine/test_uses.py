"""Each kind of use against autograd and against its gradients multiplied out, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from ntkrun.engine.torch_modules.tied import Tied
from ntkrun.engine.uses import Affine, Elementwise, Free, Lookup, Outputs, Use
from tests.engine.small import draw

S, N, M, O, T, m, n, V = 2, 5, 3, 2, 4, 3, 6, 7
TOLERANCE = 1e-12  # sums of a hundred products of numbers of size 1, each rounded by 1e-16
KINDS = ("affine", "affine without biases", "elementwise", "elementwise without biases", "lookup", "tied", "free")


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


def indices(inputs: int, seed: int, shared: bool) -> Tensor:
    shape = (1 if shared else S, inputs, T)
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def made(kind: str, positions: tuple[int, ...], inputs: int, seed: int, shared: bool = False) -> tuple[Use, Tensor]:
    """Return a use of S networks on so many inputs, and δ."""
    if kind == "free":
        return Free(), draw(S, inputs, O, m * n, seed=seed)
    if kind == "tied":
        a = draw(1 if shared else S, inputs, 2, m, seed=seed + 50).expand(S, -1, -1, -1)
        linear, table = Affine(a, 1.3, 0.0), Lookup(indices(inputs, seed, shared), V)
        return Tied(linear, table), draw(S, inputs, O, 2 * V + T * m, seed=seed)
    delta = draw(S, inputs, O, *positions, m, seed=seed)
    if kind == "lookup":
        return Lookup(indices(inputs, seed, shared), V), delta
    width = n if kind.startswith("affine") else m
    a = draw(S, inputs, *positions, width, seed=seed + 50)
    if shared:
        a = a[:1].expand_as(a)
        assert a.stride(0) == 0
    c = 0.0 if kind.endswith("without biases") else 0.7
    return (Affine(a, 1.3, c) if kind.startswith("affine") else Elementwise(a, c)), delta


def by_autograd(use: Use, delta: Tensor, run: int, k: int, i: int) -> Tensor:
    """Return the gradient of δ·z in the weight, then the bias if c > 0, z being the layer as one writes it."""

    def weighted(w: Tensor, b: Tensor) -> Tensor:
        match use:
            case Affine(a, s, c):
                z = s * a[run, k] @ w.T + c * b
            case Elementwise(a, c):
                z = w * a[run, k] + c * b
            case Lookup(indices, _):
                z = w[indices.expand(S, -1, -1)[run, k]]
            case Tied(Affine(a, s, _), Lookup(indices, _)):
                z = torch.cat([(s * a[run, k] @ w.T).flatten(), w[indices.expand(S, -1, -1)[run, k]].flatten()])
            case _:
                z = w
        return (z * delta[run, k, i]).sum()

    shapes = {Affine: (m, n), Lookup: (V, m), Tied: (V, m), Elementwise: (m,), Free: (m * n,)}
    weight, bias = jacrev(weighted, argnums=(0, 1))(draw(*shapes[type(use)], seed=9), draw(m, seed=8))
    counts = isinstance(use, Affine | Elementwise) and use.bias_scale > 0
    return torch.cat([weight.flatten(), bias] if counts else [weight.flatten()])


def cases(kind: str) -> list[tuple[int, ...]]:
    return [(T,)] if kind in ("lookup", "tied") else [()] if kind == "free" else [(), (T,)]


every = pytest.mark.parametrize(
    ("kind", "positions", "shared"),
    [(k, p, shared) for k in KINDS for p in cases(k) for shared in ((False,) if k == "free" else (False, True))],
)


@every
def test_gradients_are_those_of_autograd(kind: str, positions: tuple[int, ...], shared: bool) -> None:
    use, delta = made(kind, positions, N, 0, shared)
    rows = [[[by_autograd(use, delta, run, k, i) for i in range(O)] for k in range(N)] for run in range(S)]
    close(use.gradient(delta), torch.stack([torch.stack([torch.stack(r) for r in run]) for run in rows]))


@every
@pytest.mark.parametrize("pairs", [None, 1, 200])  # the default; one pair of inputs at a time; a few
def test_inner_products_are_those_of_the_gradients(
    kind: str, positions: tuple[int, ...], shared: bool, pairs: int | None
) -> None:
    (use, delta), (other, delta2) = made(kind, positions, N, 0, shared), made(kind, positions, M, 1, shared)
    if pairs and isinstance(use, Affine | Lookup):
        use = replace(use, pairs=pairs)
    elif pairs and isinstance(use, Tied):
        use = Tied(replace(use.linear, pairs=pairs), replace(use.table, pairs=pairs))
    whole = torch.einsum("snip,smjp->snimj", use.gradient(delta), other.gradient(delta2))
    same = whole.diagonal(dim1=2, dim2=4)  # (S, N, M, O)
    expected: dict[Outputs, Tensor] = {
        "full": whole.flatten(3),
        "diagonal": same.permute(0, 3, 1, 2),
        "trace": same.sum(dim=3),
    }
    for outputs, values in expected.items():
        tile = torch.ones_like(values)
        use.add_gram(tile, outputs, delta, other, delta2)
        close(tile, values + 1)


@every
def test_aligned_products_are_those_of_pairs(kind: str, positions: tuple[int, ...], shared: bool) -> None:
    (use, delta), (other, delta2) = made(kind, positions, N, 0, shared), made(kind, positions, N, 1, shared)
    expected = (use.gradient(delta) * other.gradient(delta2)).sum(dim=3)
    close(use.aligned(delta, other, delta2), expected)
    one = slice(2, 3)
    to_one = (use.gradient(delta) * other.gradient(delta2)[:, one]).sum(dim=3)
    close(use.aligned(delta, other.part(one), delta2[:, one]), to_one)


@every
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_an_update_adds_the_gradients_of_all_inputs(
    kind: str, positions: tuple[int, ...], shared: bool, keep: float
) -> None:
    use, delta = made(kind, positions, N, 0, shared)
    shape = {Affine: (m, n), Lookup: (V, m), Tied: (V, m), Elementwise: (m,), Free: (m * n,)}[type(use)]
    biases = 0 if kind in ("lookup", "tied", "free") or kind.endswith("without biases") else m
    weight, bias = draw(S, *shape, seed=3), draw(S, biases, seed=4)
    expected = keep * torch.cat([weight.flatten(1), bias], dim=1) - 0.3 * use.gradient(delta)[:, :, 0].sum(dim=1)
    use.add_update(weight, bias, delta[:, :, 0], -0.3, keep)
    close(torch.cat([weight.flatten(1), bias], dim=1), expected)


@every
def test_a_part_is_the_use_of_its_inputs(kind: str, positions: tuple[int, ...], shared: bool) -> None:
    use, delta = made(kind, positions, N, 0, shared)
    some = slice(1, 4)
    close(use.part(some).gradient(delta[:, some]), use.gradient(delta)[:, some])


def test_biases_that_count_nothing_stay() -> None:
    """c = 0 in a layer with biases, as a dense network with β = 0 has."""
    use, delta = made("affine without biases", (), N, 0)
    weight, bias = draw(S, m, n, seed=3), draw(S, m, seed=4)
    before = bias.clone()
    use.add_update(weight, bias, delta[:, :, 0], -0.3)
    assert torch.equal(bias, before)

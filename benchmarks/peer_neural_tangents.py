"""Against neural-tangents, in one process: the same networks, the same weights, kernels that agree.

The empirical kernel is compared with its structured derivatives, jitted; the limit kernels with its closed forms,
jitted, in float64. Not part of `make bench`: neural-tangents is archived and breaks on current releases of JAX. In an
environment of its own, Python 3.11:

    pip install "jax==0.4.23" "jaxlib==0.4.23" "numpy<2" "tf2jax==0.3.5" "neural-tangents==0.6.5"
    pip install --no-deps .        # and what ntkrun needs, in versions that go with numpy 1
    python benchmarks/peer_neural_tangents.py

JAX has a thread pool as wide as the cores it may use: one thread is `taskset -c 0 env OMP_NUM_THREADS=1 python ...`.
Routes take turns; medians of ROUNDS.
"""

# JAX is not among our dependencies:
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

import sys
from collections.abc import Callable

import numpy as np
import torch
from common import medians

import ntkrun

try:
    import jax
    import neural_tangents as nt
    from neural_tangents import stax
except ImportError as missing:
    sys.exit(
        f"{missing}; this comparison needs neural-tangents and a JAX that it works with: see the top of the script"
    )

jax.config.update("jax_enable_x64", True)

ROUNDS, BETA = 11, 0.1
EMPIRICAL = [(64, 256, 4, 1), (64, 1024, 4, 1), (64, 4096, 4, 1), (64, 1024, 4, 10)]  # N, n, L, O
LIMIT = (2000, 10)  # N, L

Peer = tuple[Callable[..., object], ...]


def peer_network(net: ntkrun.DenseNetwork) -> Peer:
    """`net` in neural-tangents: (init, apply, limit kernel)."""
    middle = {"relu": stax.Relu, "erf": stax.Erf}[net.activation]
    layers = []
    for width in net.widths[1:-1]:
        layers += [stax.Dense(width, W_std=1.0, b_std=net.beta), middle()]
    return tuple(stax.serial(*layers, stax.Dense(net.outputs, W_std=1.0, b_std=net.beta)))


def peer_weights(params: ntkrun.Parameters) -> list[tuple[jax.Array, ...]]:
    """The first network of `params` as neural-tangents holds it: (W (n_l, n_{l+1}), b (1, n_{l+1})), () between."""
    pairs = zip(params.weights, params.biases, strict=True)
    dense = [(jax.numpy.asarray(w[0].T.numpy()), jax.numpy.asarray(b[0][None].numpy())) for w, b in pairs]
    return [entry for layer in dense for entry in (layer, ())][:-1]


def empirical(inputs: int, width: int, depth: int, outputs: int) -> str:
    """One row: seconds of both, their ratio, and by how much the kernels differ."""
    net = ntkrun.DenseNetwork(64, outputs, depth, width, "relu", BETA)
    params, x = net.init([0]), torch.randn(inputs, 64, generator=torch.Generator().manual_seed(0))
    _, apply, _ = peer_network(net)
    how = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    of_peer = jax.jit(nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=how))
    weights, points = peer_weights(params), jax.numpy.asarray(x.numpy())
    routes = {
        "ours": lambda: ntkrun.empirical_ntk(net, params, x),
        "theirs": lambda: of_peer(points, None, weights).block_until_ready(),
    }
    ours, theirs = routes["ours"]()[0].numpy(), np.asarray(routes["theirs"]())
    return row(f"kernel, N={inputs}, n={width}, L={depth}, O={outputs}", medians(routes, ROUNDS), ours, theirs)


def limit(activation: str) -> str:
    inputs, depth = LIMIT
    net = ntkrun.DenseNetwork(10, 1, depth, 1, activation, BETA)
    x = torch.randn(inputs, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of_peer = jax.jit(lambda points: peer_network(net)[2](points, None, ("nngp", "ntk")))
    points = jax.numpy.asarray(x.numpy())
    routes = {
        "ours": lambda: ntkrun.limit_kernels(net, x)[1],
        "theirs": lambda: of_peer(points).ntk.block_until_ready(),
    }
    ours, theirs = routes["ours"]().numpy(), np.asarray(routes["theirs"]())
    return row(f"limit kernels, {activation}, N={inputs}, L={depth}", medians(routes, ROUNDS), ours, theirs)


def row(what: str, seconds: dict[str, float], ours: np.ndarray, theirs: np.ndarray) -> str:
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    times = f"{1e3 * seconds['ours']:.1f} | {1e3 * seconds['theirs']:.1f} | {seconds['ours'] / seconds['theirs']:.2f}"
    return f"| {what} | {times} | {difference:.1e} |"


def main() -> None:
    print(f"neural-tangents {nt.__version__}, JAX {jax.__version__}; torch with {torch.get_num_threads()} threads\n")
    print("| what | ours, ms | theirs, ms | ours / theirs | relative difference |\n|---|---|---|---|---|")
    for sizes in EMPIRICAL:
        print(empirical(*sizes), flush=True)
    for activation in ("relu", "erf"):
        print(limit(activation), flush=True)


if __name__ == "__main__":
    main()

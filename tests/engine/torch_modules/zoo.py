"""Modules of many kinds, inputs for them, and the plain definition of their kernel: a Jacobian, squared."""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import ntkrun
from ntkrun.engine.uses import Outputs

TOLERANCE = 1e-10  # all routes sum the same products in float64; rounding stays below 1e-13
KINDS: list[Outputs] = ["full", "diagonal", "trace"]


def oracle(module: nn.Module, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """One input at a time, each a batch of its own."""
    params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def jacobian_of(points: Tensor) -> Tensor:
        found = []
        for point in points:
            j = jacrev(lambda p, one=point: functional_call(module, p, (one[None],)).reshape(-1))(params)
            found.append(torch.cat([part.flatten(1) for part in j.values()], dim=1))
        return torch.stack(found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.func says what it maps slowly
        first = jacobian_of(x)
        second = first if x2 is None else jacobian_of(x2)
    return torch.einsum("nip,mjp->nmij", first, second)


def same(module: nn.Module, x: Tensor, x2: Tensor) -> None:
    """All three outputs, square and rectangular."""
    for second in (None, x2):
        expected = oracle(module, x, second)
        diagonal = expected.diagonal(dim1=2, dim2=3)
        for outputs, want in zip(KINDS, (expected, diagonal, diagonal.sum(2)), strict=True):
            kernel = ntkrun.module_ntk(module, x, second, outputs)
            assert kernel.shape == want.shape
            assert kernel.dtype == torch.float64
            assert (kernel - want).norm() <= TOLERANCE * want.norm()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.leave(h)
        return out


class Transformer(nn.Module):
    """Token ids (N, T) to O next-token logits; the output embedding is the input embedding if `tied`."""

    def __init__(self, tied: bool, batch_first: bool = True, tokens: int = 11) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, 8, padding_idx=0), nn.Embedding(5, 8)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.feed = nn.Sequential(nn.Linear(8, 12), nn.ReLU(inplace=True), nn.Linear(12, 8))
        self.head = nn.Linear(8, tokens, bias=False)
        self.batch_first = batch_first
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        if not self.batch_first:
            h = h.transpose(0, 1)
        n = self.norm1(h)
        h = h + self.attention(n, n, n, need_weights=False)[0]
        h = h + self.feed(self.norm2(h))
        last = h[:, -1] if self.batch_first else h[-1]
        out: Tensor = self.head(self.norm3(last))
        return out


class Custom(nn.Module):
    """A parameter that no known function takes, one used in two ways, a product by hand, a parameter unused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 7), nn.Linear(7, 2)
        self.gain, self.unused = nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(3))
        self.hand = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sin(self.gain * self.first(x)) @ self.hand
        h = h + F.linear(h, self.hand)
        out: Tensor = self.second(h) + 0.1 * self.second.weight.sum()
        return out


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shared, self.leave = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(torch.tanh(self.enter(x))))
        out: Tensor = self.leave(torch.tanh(self.shared(h)))
        return out


class TiedTwice(nn.Module):
    """Token ids (N, 4) to O logits; one matrix is a table in two places and a linear map in two."""

    def __init__(self, tokens: int, width: int, outputs: int) -> None:
        super().__init__()
        self.table, self.outputs = nn.Embedding(tokens, width), outputs

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.tanh(self.table(ids).sum(dim=1))
        shares = torch.softmax(F.linear(h, self.table.weight), dim=1)
        h = h * shares[:, : h.shape[1]] + self.table(ids[:, 0])
        return F.linear(h, self.table.weight)[:, : self.outputs]


class Folded(nn.Module):
    """Inputs and positions folded into one axis, inputs outside or inside."""

    def __init__(self, outer: bool) -> None:
        super().__init__()
        self.outer, self.weight, self.leave = outer, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, 3)
        n, t, _ = x.shape
        flat = x.reshape(n * t, 3) if self.outer else x.transpose(0, 1).reshape(n * t, 3)
        h = torch.tanh(self.weight(flat))
        h = h.view(n, t, 4) if self.outer else h.view(t, n, 4).transpose(0, 1)
        out: Tensor = self.leave(h.square().sum(dim=1))
        return out


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h.mul_(2).sin_()
        out: Tensor = self.leave(h)
        return out


class Squeezed(nn.Module):
    """Outputs of shape (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x).squeeze(1)
        return out


class Functional(nn.Module):
    """A weight that is used through its module and past it, and one that only a function sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.loose = nn.Embedding(9, 4), nn.Parameter(torch.randn(6, 4))

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.tanh(F.linear(self.tokens(ids).sum(1), self.loose))
        return F.linear(h @ self.loose, self.tokens.weight.tanh()) + F.linear(h @ self.loose, self.tokens.weight)


class Branching(nn.Module):
    """Cannot be mapped by torch.func: looks at numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.scale = nn.Linear(6, 2), nn.Linear(6, 2), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.scale * (self.low if float(one.sum()) < 0 else self.high)(one) for one in x])


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding="same"),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 6, 2, padding=1, padding_mode="reflect", bias=False),
        nn.GroupNorm(3, 6),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def build(make: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """With the seed of its own, in float64, eval, and every parameter away from its tidy start."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = make().double().eval()
        module(x[:1])  # shapes of lazy layers
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.3 * torch.randn_like(p))
            for child in module.modules():
                if isinstance(child, nn.BatchNorm2d):
                    child.running_mean.normal_()  # type: ignore[union-attr]
    return module


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ids(*shape: int, tokens: int = 9) -> Tensor:
    return torch.randint(0, tokens, shape, generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (mlp, floats(8, 6)),
    "positions": (lambda: nn.Sequential(mlp(), nn.Flatten(), nn.Linear(12, 2)), floats(7, 4, 6)),
    "cnn": (cnn, floats(7, 2, 9, 8)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        floats(6, 3, 5),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2, dilation=(1, 2, 1)), nn.Flatten()), floats(5, 1, 2, 3, 3)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Flatten(), nn.Tanh()), floats(4, 2, 2, 2)),
    "residual": (Residual, floats(7, 6)),
    "transformer": (lambda: Transformer(False), ids(7, 5)),
    "tied transformer": (lambda: Transformer(True), ids(7, 5)),
    "tied twice": (lambda: TiedTwice(100, 8, 2), ids(7, 4)),
    "as many tokens as inputs": (lambda: Transformer(True, False), ids(10, 5)),
    "encoder layer": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 6, 0.1, batch_first=True), nn.Flatten(), nn.Linear(12, 2)
        ),
        floats(6, 3, 4),
    ),
    "custom": (Custom, floats(7, 6)),
    "twice": (Twice, floats(7, 6)),
    "folded outside": (lambda: Folded(True), floats(6, 4, 3)),
    "folded inside": (lambda: Folded(False), floats(6, 4, 3)),
    "in place": (InPlace, floats(6, 6)),
    "one output": (Squeezed, floats(6, 6)),
    "functional": (Functional, ids(8, 3)),
    "branching": (Branching, floats(8, 6)),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 2)),
        floats(6, 6),
    ),
    "rms norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 2)), floats(6, 6)),
    "recurrent": (lambda: nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (3, 2)), _LastState()), floats(5, 6)),
}


class _LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cell(x)[0][:, -1]
        return out


def seen(module: nn.Module) -> tuple[object, ...]:
    hooks = [len(h) for m in module.modules() for k, h in vars(m).items() if k.endswith("_hooks")]
    values = [(name, t.clone()) for name, t in module.state_dict().items()]
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    flags = [(p.requires_grad, id(p), p._version) for p in module.parameters()], [m.training for m in module.modules()]
    return hooks, values, gradients, flags, torch.get_rng_state(), torch.is_grad_enabled()


def equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)

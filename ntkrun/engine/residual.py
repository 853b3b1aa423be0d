"""Residual networks: dense layers, each of which is added to what it acts on."""

from dataclasses import dataclass

from torch import Tensor

from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation


@dataclass(frozen=True)
class ResidualNetwork(DenseNetwork):
    """A dense network whose pre-activations are added up with a factor γ = `skip`, from one hidden layer to the next:

        z^(1) = (σ_w/√n_0) w^(0) x + β b^(0)
        z^(l+1) = γ z^(l) + (σ_w/√n) w^(l) σ(z^(l)) + β b^(l),   l = 1..L-2
        F(x) = (σ_w/√n) w^(L-1) σ(z^(L-1)) + β b^(L-1)

    (He et al. 2016, "Identity mappings in deep residual networks", with blocks of one layer.) All hidden widths are
    equal. γ = 0 is the dense network, and so is any γ up to L = 2. Raises UserError as DenseNetwork does, and for
    unequal hidden widths.
    """

    skip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.widths[1:-1])) > 1:
            raise UserError(
                f"width {list(self.widths[1:-1])}: the hidden layers of a residual network are equally wide"
            )
        if not abs(self.skip) < float("inf"):
            raise UserError(f"skip {self.skip} must be a finite number")

    @property
    def skips(self) -> tuple[float, ...]:
        """The factor γ_l with which z^(l) is added to z^(l+1), for l = 1..L-1: γ between hidden layers."""
        return (self.skip,) * (self.depth - 2) + (0.0,) * (self.depth > 1)

    def _name(self, layer: int) -> str:
        return super()._name(layer).replace("hidden", "block")

    def _added(self, layer: int, skipped: Tensor, new: Tensor) -> Tensor:
        """Add γ times the skipped z^(l) on the way up, γ times δ^(l+1) on the way down."""
        return new.add_(skipped, alpha=self.skip) if 0 < layer < self.depth - 1 else new

    def of_one_input(self, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Tensor:
        sigma = activation(self.activation).function
        z = self.scales[0].weight * (weights[0] @ x) + self.scales[0].bias * biases[0]
        for layer in range(1, self.depth):
            s = self.scales[layer]
            new = s.weight * (weights[layer] @ sigma(z)) + s.bias * biases[layer]
            z = new if layer == self.depth - 1 else self.skip * z + new
        return z

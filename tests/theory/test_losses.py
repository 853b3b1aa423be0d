"""The losses against torch's own, and their derivatives against autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntkrun.theory.losses import LOSSES, loss


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _case(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, y = 3 * _draw(2, 5, 3), _draw(5, 3, seed=1)
    if name == "logistic":
        y = y.sign()
    if name == "cross_entropy":
        y = F.softmax(y, dim=-1)
    return outputs, y


TORCH = {
    "squared": lambda f, y: F.mse_loss(f, y, reduction="none").sum(-1) / 2,
    "huber": lambda f, y: F.huber_loss(f, y, reduction="none", delta=1.0).sum(-1),
    "logistic": lambda f, y: F.binary_cross_entropy_with_logits(f, (y + 1) / 2, reduction="none").sum(-1),
    "cross_entropy": lambda f, y: F.cross_entropy(f, y, reduction="none"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_torchs_in_our_convention(name: str) -> None:
    outputs, y = _case(name)
    for stack in outputs:
        assert torch.allclose(LOSSES[name].each(stack, y), TORCH[name](stack, y), rtol=1e-13, atol=1e-14)
    assert torch.allclose(LOSSES[name](outputs, y), LOSSES[name].each(outputs, y).mean(dim=1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_curvature_are_the_derivatives(name: str) -> None:
    outputs, y = _case(name)
    of_name = LOSSES[name]
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(of_name.each(outputs, y).sum(), outputs, create_graph=True)
    assert torch.allclose(of_name.gradient(outputs, y), gradient, rtol=1e-13, atol=1e-14)
    rows = [torch.autograd.grad(gradient[..., o].sum(), outputs, retain_graph=True)[0] for o in range(3)]
    assert torch.allclose(of_name.curvature(outputs, y), torch.stack(rows, dim=-2), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 2.0])
def test_huber_of_any_threshold_is_torchs(threshold: float) -> None:
    outputs, y = _case("huber")
    outputs.requires_grad_()
    value = F.huber_loss(outputs, y.expand_as(outputs), reduction="none", delta=threshold).sum(-1)
    (gradient,) = torch.autograd.grad(value.sum(), outputs)
    found = loss("huber", threshold)
    assert torch.allclose(found.each(outputs, y), value, rtol=1e-13, atol=1e-14)
    assert torch.allclose(found.gradient(outputs, y), gradient, rtol=1e-13, atol=1e-14)


def test_large_outputs_stay_finite() -> None:
    f = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    for name, y in (("logistic", torch.tensor([[-1.0, 1.0]])), ("cross_entropy", torch.tensor([[0.0, 1.0]]))):
        assert LOSSES[name](f, y).item() == pytest.approx(2e4)
        assert LOSSES[name].gradient(f, y).isfinite().all()


def test_unusable_targets_are_a_sentence() -> None:
    y = np.array([[0.5, 0.5]])
    assert LOSSES["squared"].objection(y) == LOSSES["huber"].objection(y) == ""
    assert "+1 and -1" in LOSSES["logistic"].objection(y)
    assert LOSSES["cross_entropy"].objection(y) == ""
    assert "one_hot" in LOSSES["cross_entropy"].objection(-y)
    assert "two or more outputs" in LOSSES["cross_entropy"].objection(y[:, :1])

"""ntkrun puts the Neural Tangent Kernel theory to the test.

Axes, wherever shapes are given: S stacked seeds, N inputs, M second inputs, O outputs, n width, L weight layers, K
steps, P parameters. Symbols: F the network's function, K its kernel, W all parameters, σ the nonlinearity, β the bias
scale, σ_w the weight scale, η the step size, t = η·step the time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ntkrun.config.reader import Sweep as Sweep
    from ntkrun.config.reader import load_config as load_config
    from ntkrun.engine.dense import DenseNetwork as DenseNetwork
    from ntkrun.engine.kernel import empirical_ntk as empirical_ntk
    from ntkrun.engine.network import Parameters as Parameters
    from ntkrun.engine.torch_modules.ntk import module_ntk as module_ntk
    from ntkrun.errors import ConfigError as ConfigError
    from ntkrun.errors import UserError as UserError
    from ntkrun.run.sweep import run_sweep as run_sweep
    from ntkrun.store.results_directory import Results as Results
    from ntkrun.store.results_directory import read_results as read_results
    from ntkrun.theory.activations import register_activation as register_activation
    from ntkrun.theory.corrections import kernel_variance as kernel_variance
    from ntkrun.theory.corrections import output_kurtosis as output_kurtosis
    from ntkrun.theory.corrections import output_square_correlation as output_square_correlation
    from ntkrun.theory.dynamics import fastest_step as fastest_step
    from ntkrun.theory.dynamics import frozen as frozen
    from ntkrun.theory.dynamics import kernel_regression as kernel_regression
    from ntkrun.theory.dynamics import largest_stable_step as largest_stable_step
    from ntkrun.theory.dynamics import mode_slopes as mode_slopes
    from ntkrun.theory.dynamics import null_residual as null_residual
    from ntkrun.theory.ensemble import ensemble as ensemble
    from ntkrun.theory.integration import frozen_any_loss as frozen_any_loss
    from ntkrun.theory.limit import expected_kernel as expected_kernel
    from ntkrun.theory.limit import limit_kernels as limit_kernels
    from ntkrun.theory.limit import limit_layers as limit_layers
    from ntkrun.theory.rules import Descent as Descent
    from ntkrun.theory.rules import Flow as Flow

# Where each public name lives. They are imported when first used, so that reading results or asking for help loads no
# torch.
_HOMES = {
    "DenseNetwork": "ntkrun.engine.dense",
    "Parameters": "ntkrun.engine.network",
    "empirical_ntk": "ntkrun.engine.kernel",
    "module_ntk": "ntkrun.engine.torch_modules.ntk",
    "limit_kernels": "ntkrun.theory.limit",
    "register_activation": "ntkrun.theory.activations",
    "limit_layers": "ntkrun.theory.limit",
    "expected_kernel": "ntkrun.theory.limit",
    "frozen": "ntkrun.theory.dynamics",
    "kernel_regression": "ntkrun.theory.dynamics",
    "null_residual": "ntkrun.theory.dynamics",
    "largest_stable_step": "ntkrun.theory.dynamics",
    "fastest_step": "ntkrun.theory.dynamics",
    "mode_slopes": "ntkrun.theory.dynamics",
    "frozen_any_loss": "ntkrun.theory.integration",
    "ensemble": "ntkrun.theory.ensemble",
    "Flow": "ntkrun.theory.rules",
    "Descent": "ntkrun.theory.rules",
    "kernel_variance": "ntkrun.theory.corrections",
    "output_kurtosis": "ntkrun.theory.corrections",
    "output_square_correlation": "ntkrun.theory.corrections",
    "Sweep": "ntkrun.config.reader",
    "load_config": "ntkrun.config.reader",
    "run_sweep": "ntkrun.run.sweep",
    "Results": "ntkrun.store.results_directory",
    "read_results": "ntkrun.store.results_directory",
    "UserError": "ntkrun.errors",
    "ConfigError": "ntkrun.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ntkrun' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""ntkrun puts the Neural Tangent Kernel theory to the test. Its public names are listed in `__init__.pyi`.

Axes, wherever shapes are given: S stacked seeds, N inputs, M second inputs, O outputs, n width, L weight layers, K
steps, P parameters. Symbols: F the network's function, K its kernel, W all parameters, σ the nonlinearity, β the bias
scale, σ_w the weight scale, η the step size, t = η·step the time.
"""

import lazy_loader

__version__ = "0.1.0"

# A name is imported when it is first used, so that reading results or asking for help loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The public names of ntkrun, as a table of contents. `import ntkrun` reads this file and imports a name when it is
# first used; type checkers and editors read it; docs/reference/python.md is made in its order, with these comments.
# All is ASCII, since lazy_loader decodes the file as the locale says.

__version__: str

# ---------------------------------------------------------------- Networks

from .engine.dense import DenseNetwork as DenseNetwork  # a dense network: its sizes, its activation, its scales
from .engine.network import Parameters as Parameters  # the weights and biases of stacked networks
from .theory.activations import register_activation as register_activation  # an activation function of your own

# ---------------------------------------------------------------- Kernels at finite width

from .engine.kernel import empirical_ntk as empirical_ntk  # the kernel of a dense network with given parameters
from .engine.torch_modules.ntk import module_ntk as module_ntk  # the kernel of any torch module

# ---------------------------------------------------------------- Kernels in the limit of infinite width

from .theory.limit import limit_kernels as limit_kernels  # covariance of the initial outputs, and the limit NTK
from .theory.limit import limit_layers as limit_layers  # the same for every layer, with the slopes between them
from .theory.limit import expected_kernel as expected_kernel  # the mean initial kernel of a width, to leading order

# ---------------------------------------------------------------- Training with a frozen kernel

from .theory.dynamics import frozen as frozen  # outputs and loss at any time, under squared error
from .theory.integration import frozen_any_loss as frozen_any_loss  # the same under any loss
from .theory.dynamics import kernel_regression as kernel_regression  # the outputs at the end of training
from .theory.dynamics import null_residual as null_residual  # the part of the error that training never removes
from .theory.ensemble import ensemble as ensemble  # mean and covariance over all initialisations
from .theory.dynamics import mode_slopes as mode_slopes  # the rate at which each mode of the kernel is learned
from .theory.dynamics import largest_stable_step as largest_stable_step  # the step size where descent diverges
from .theory.dynamics import fastest_step as fastest_step  # the step size of the fastest convergence
from .theory.rules import Flow as Flow  # training by gradient flow
from .theory.rules import Descent as Descent  # training by gradient descent, with or without momentum

# ---------------------------------------------------------------- Corrections at finite width

from .theory.corrections import kernel_variance as kernel_variance  # how much initial kernels scatter
from .theory.corrections import output_kurtosis as output_kurtosis  # how far an initial output is from Gaussian
from .theory.corrections import output_square_correlation as output_square_correlation  # how dependent two are

# ---------------------------------------------------------------- Sweeps and their results

from .config.reader import load_config as load_config  # a config file as a Sweep
from .config.reader import Sweep as Sweep  # a validated config: grid points and seeds
from .run.sweep import run_sweep as run_sweep  # run what is missing of a sweep
from .store.results_directory import read_results as read_results  # the results in a directory
from .store.results import Results as Results  # the tables of a sweep, its kernels and its config

# ---------------------------------------------------------------- Errors

from .errors import UserError as UserError  # a mistake that you can fix; the message says how
from .errors import ConfigError as ConfigError  # all mistakes of a config at once

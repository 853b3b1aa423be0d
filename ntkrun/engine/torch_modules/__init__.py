"""The empirical kernel of any torch module. `ntk.py` has the public function; the other files are its parts:

checks.py       errors for modules that have no kernel
layers.py       known functions, and how each uses its parameters, in the terms of uses.py
state.py        recorded uses of parameters, and gradients by the fastest exact method, checked against autograd
jacobian.py     gradients of all other parameters
memory_plan.py  groups of parameters and tiles of inputs within the memory limit
"""

from ntkrun.engine.torch_modules.ntk import module_ntk as module_ntk

"""The empirical kernel of any torch module. `ntk.py` is the door; the rest is what it is made of:

checks.py     what is refused, in one sentence each
record.py     which functions used which parameter, on what: seen as the module runs
layers.py     those functions' gradients, from what went in and the gradient of what came out
state.py      the gradients of some inputs by the best route that is exact, each checked against autograd
jacobian.py   the route for everything else
parts.py      gradients as rows or as factors, and their inner products
"""

from ntkrun.engine.modules.ntk import module_ntk as module_ntk

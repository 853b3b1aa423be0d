"""Stacks as tasks of Ray, which places and runs them. It retries nothing: a task whose worker is gone is Lost, and
whoever iterates decides. A task that is given up is cancelled and never asked, so that it can commit nothing late."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ntkrun.engine.footprint import Footprint
from ntkrun.lab.attempt import attempt
from ntkrun.lab.engines import Failed, Lost, Outcome, OutOfMemory
from ntkrun.lab.engines.ray_workers import BESIDE, Workers, imported, in_flight, last_words, task
from ntkrun.lab.plan import Stack
from ntkrun.lab.provenance import provenance
from ntkrun.lab.tasks import task_of
from ntkrun.theory.activations import Activation, know


@dataclass(frozen=True)
class Ray:
    """Runs stacks on the workers that `connected` gives; where `stopping` says so it ends by KeyboardInterrupt."""

    workers: Workers
    timed: bool
    stopping: Callable[[], bool]

    def run(self, waiting: deque[Stack]) -> Generator[tuple[Stack, Outcome], None, None]:
        with closing(in_flight(waiting, self._started, self.workers.count, self.stopping)) as ended:
            for stack, reference in ended:
                yield stack, self._outcome(reference)

    def _started(self, stack: Stack) -> Any:
        workers = self.workers
        held = Footprint(task_of(stack.point)).bytes(len(stack.runs)) if workers.device == "cpu" else 0
        asked = task(_attempted, workers.cpus, workers.gpus, min(held + BESIDE, workers.node_bytes))
        return asked.remote(stack, workers.device, workers.cpus, self.timed, workers.registered)

    def _outcome(self, ended: Any) -> Outcome:
        from ray import exceptions

        try:
            return imported().get(ended)
        except exceptions.OutOfMemoryError as error:  # Ray ends a worker before the system would
            return OutOfMemory(0, str(error))
        except exceptions.RayTaskError as error:  # what `attempt` lets pass, such as a file that the node lacks
            return Failed(str(error).strip().splitlines()[-1], 0, str(error))
        except exceptions.RayError as error:
            what = str(error).strip().splitlines()[0]
            return Lost(f"its worker is gone: {what}", f"{error}\n{last_words(self.workers.logs)}")


def _attempted(stack: Stack, kind: str, threads: int, timed: bool, registered: Sequence[Activation]) -> Outcome:
    """In a worker, with as many threads as it has CPUs: their number has a say in the last digits."""
    know(registered)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    return attempt(stack, torch.device(kind), _made_by(kind), timed=timed)


@lru_cache(maxsize=1)
def _made_by(kind: str) -> dict[str, Any]:
    return provenance(torch.device(kind))

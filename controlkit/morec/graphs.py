"""CUDA graphs: a fixed sequence of kernels, recorded once and launched as one.

A policy update or a rollout step is some hundred kernels of a few microseconds each; launching them one by one from
Python takes several times longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class Repeated:
    """A function without arguments that does the same work on the same tensors at every call.

    Where `graphs` is on, the first call runs it as it is, on a stream of its own (libraries set themselves up), the
    second records it, and every call from then on launches the recording. Where it is off, every call runs it as it is.

    What it does may not depend on anything that Python computes anew from call to call, and may read nothing back:
    whatever changes must lie in tensors that stay where they are.

    Args:
        work: the function.
        graphs: whether to record; on a CUDA device only.
        generators: random generators that it draws from; a recording advances them as the function itself would.
    """

    def __init__(self, work: Callable[[], None], graphs: bool, generators: tuple[torch.Generator, ...] = ()) -> None:
        self.work, self.graphs, self.generators = work, graphs, generators
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Does the work once."""
        if not self.graphs:
            self.work()
        elif not self._warm:
            self._warm = True
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.work()
            torch.cuda.current_stream().wait_stream(stream)
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                for generator in self.generators:
                    self._graph.register_generator_state(generator)
                with torch.cuda.graph(self._graph):
                    self.work()  # recorded, not run
            self._graph.replay()

"""Items on a cluster: one Ray task each, begun again where its worker or machine died, and an outcome for everyone.

Ray's own retries are off: they tell nobody, and those after a lack of memory have no end. An error of the work itself
is not retried, since it would come again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlkit.cluster.items import Event, Item, Outcome, State
from controlkit.errors import ControlkitError

Work = Callable[[dict[str, Any]], Any]
OnEvent = Callable[[Event], None]

RETRIES = 2
POLL_S = 0.5
# How long an item may wait for a machine that it fits on once none is left.
PATIENCE_S = 60.0


@dataclass
class _Try:
    item: Item
    number: int


class Cluster:
    """A Ray that this process is connected to, see `connect`.

    Args:
        ray: the package.
        patience_s: how long an item waits for a machine that it fits on, once none is left.
        clock: seconds, monotonic.
    """

    def __init__(
        self, ray: Any, *, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ray, self._patience_s, self._clock = ray, patience_s, clock

    @property
    def cores(self) -> int:
        """Cores of all machines together."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def run(
        self, items: Sequence[Item], work: Work, *, retries: int = RETRIES, on_event: OnEvent | None = None
    ) -> list[Outcome]:
        """Runs all items, as many at once as fit; one bad item never stops the others.

        Args:
            items: in the order in which they are begun.
            work: a function of a module, called as work(payload) in a process of the cluster; what it returns is plain.
            retries: how often an item is begun again after its worker or its machine died.
            on_event: is told in this process of whatever happens; what it raises ends the run.

        Returns:
            One outcome an item, in their order. After Ctrl-C (`KeyboardInterrupt`) what runs is stopped; of what was
            done by then `on_event` was told.

        Raises:
            ControlkitError: two items of one name, or one that fits on no machine.
        """
        names = [item.name for item in items]
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise ControlkitError(f"two items are called '{repeated}'", cure="Give every item a name of its own.")
        for item in self._homeless(items):
            raise ControlkitError(
                f"no machine has {_needs(item)}", where=item.name, cure="Ask for less, or add a machine that has them."
            )
        tell = on_event or (lambda event: None)
        found: dict[str, Outcome] = {}
        running = {self._begin(item, work): _Try(item, 1) for item in items}
        homeless_since: float | None = None
        try:
            while running:
                ready, _ = self._ray.wait(list(running), timeout=POLL_S)
                for stream in ready:
                    one = running[stream]
                    event = self._next(stream, one, retries)
                    if event is None:
                        continue
                    if event.kind != "started":
                        del running[stream]
                    if event.kind == "retried":
                        running[self._begin(one.item, work)] = _Try(one.item, one.number + 1)
                    if event.outcome is not None:
                        found[event.name] = event.outcome
                    tell(event)
                homeless = [] if ready else self._homeless([one.item for one in running.values()])
                if not homeless:
                    homeless_since = None
                    continue
                homeless_since = self._clock() if homeless_since is None else homeless_since
                if self._clock() - homeless_since > self._patience_s:
                    for stream in [stream for stream, one in running.items() if one.item in homeless]:
                        one = running.pop(stream)
                        event = _end(one, "lost", message=f"no machine is left that has {_needs(one.item)}")
                        assert event.outcome is not None
                        found[event.name] = event.outcome
                        self._cancel(stream)
                        tell(event)
        finally:
            for stream in running:
                self._cancel(stream)
        return [found[name] for name in names]

    def _begin(self, item: Item, work: Work) -> Any:
        task = self._ray.remote(_task).options(
            name=item.name,
            num_cpus=item.cores,
            num_gpus=item.gpus,
            num_returns="streaming",
            max_retries=0,
        )
        return task.remote(work, dict(item.payload))

    def _next(self, stream: Any, one: _Try, retries: int) -> Event | None:
        """What a task that has something to tell says, or what became of it."""
        errors = self._ray.exceptions
        try:
            kind, content, seconds = self._ray.get(next(stream))
        except StopIteration:
            return _end(one, "failed", message="it ended without a result")
        except errors.RayTaskError as problem:
            return _end(one, "failed", message=_first_line(problem.cause or problem))
        except errors.RuntimeEnvSetupError as problem:
            return _end(one, "failed", message=_first_line(problem))
        except errors.RayError as problem:
            why = _why(problem, errors)
            if one.number <= retries:
                return Event(one.item.name, "retried", message=f"{why}; begun again ({one.number} of {retries})")
            return _end(one, "lost", message=f"{why}, at each of {one.number} tries")
        if kind == "started":
            return Event(one.item.name, "started", machine=str(content))
        if kind == "done":
            return _end(one, "done", value=content, seconds=seconds)
        return _end(one, "failed", message=str(content), seconds=seconds)

    def _homeless(self, items: Sequence[Item]) -> list[Item]:
        """The items that fit on no machine there is, busy or not."""
        machines: list[Mapping[str, float]] = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        sizes = {(item.cores, item.gpus) for item in items}
        fits = {
            (cores, gpus): any(has.get("CPU", 0.0) >= cores and has.get("GPU", 0.0) >= gpus for has in machines)
            for cores, gpus in sizes
        }
        return [item for item in items if not fits[item.cores, item.gpus]]

    def _cancel(self, stream: Any) -> None:
        try:
            self._ray.cancel(stream, force=True)
        except self._ray.exceptions.RayError:
            pass  # it is gone already


def _task(work: Work, payload: dict[str, Any]) -> Iterator[tuple[str, Any, float]]:
    """Runs in a process of the cluster: says that it has begun, then what came of it."""
    import socket

    yield "started", socket.gethostname(), 0.0
    began = time.monotonic()
    try:
        value = work(payload)
    except ControlkitError as problem:
        yield "failed", str(problem), time.monotonic() - began
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        yield "failed", f"{place}{problem.strerror or problem}", time.monotonic() - began
    except Exception as problem:  # noqa: BLE001 (whatever it is, it is this item's alone)
        yield "failed", _first_line(problem), time.monotonic() - began
    else:
        yield "done", value, time.monotonic() - began


def _end(one: _Try, state: State, *, value: Any = None, message: str = "", seconds: float = 0.0) -> Event:
    outcome = Outcome(one.item.name, state, value, message, one.number, seconds)
    return Event(one.item.name, state, outcome=outcome)


def _why(problem: Exception, errors: Any) -> str:
    if isinstance(problem, errors.OutOfMemoryError):
        return "its machine ran out of memory"
    if isinstance(problem, errors.NodeDiedError):
        return "its machine was lost"
    return "its worker process died or its machine was lost"


def _first_line(problem: BaseException) -> str:
    text = (str(problem).splitlines() or [""])[0][:200]
    return f"an unexpected problem ({type(problem).__name__}: {text})"


def _needs(item: Item) -> str:
    cores = f"{item.cores:g} core{'' if item.cores == 1 else 's'}"
    return f"{cores} and {item.gpus:g} of a GPU" if item.gpus else cores

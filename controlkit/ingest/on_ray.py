"""The workers of an ingest on Ray: of this machine, or of a cluster whose machines share the logs' disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from controlkit.cluster import Cluster, Event, Item, connect
from controlkit.errors import ControlkitError
from controlkit.ingest.partitions import Hands, Work


@contextmanager
def hands_on_ray(workers: int | None = None, address: str | None = None) -> Iterator[Hands]:
    """Workers for `ingest`, for the length of a block.

    Args:
        workers: how many; the cores of the cluster where not given.
        address: of a cluster, see `controlkit.cluster.connect`; without one a Ray of this machine is started.

    Raises:
        ControlkitError: the cluster cannot be used, or has fewer cores than workers are asked for.
    """
    with connect(address, cores=workers if address is None else None) as cluster:
        if workers is not None and workers > cluster.cores:
            raise ControlkitError(
                f"{workers} workers on {cluster.cores} cores",
                where=address or "this machine",
                cure="Ask for as many workers as there are cores, or for fewer.",
            )
        yield Hands(workers or cluster.cores, lambda work, payloads, done: run(cluster, work, payloads, done))


def run(cluster: Cluster, work: Work, payloads: Sequence[Mapping[str, Any]], done: Callable[[], None]) -> list[Any]:
    """What `Hands.run` does; the first payload that fails stops the others."""

    def tell(event: Event) -> None:
        if event.kind == "done":
            done()
        elif event.outcome is not None:
            raise ControlkitError(
                f"a worker of the ingest failed: {event.outcome.message}",
                where=event.name,
                cure=f"Nothing was written. Working files need some 48 bytes a sample in {tempfile.gettempdir()}.",
            )

    items = [Item(f"{work.__name__} {i + 1} of {len(payloads)}", payload) for i, payload in enumerate(payloads)]
    return [outcome.value for outcome in cluster.run(items, work, on_event=tell)]

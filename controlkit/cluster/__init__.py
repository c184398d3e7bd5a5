"""Many independent pieces of work on Ray: on this machine by default, on a cluster where an address is given."""

from controlkit.cluster.connection import connect
from controlkit.cluster.items import Event, Item, Outcome
from controlkit.cluster.running import Cluster

__all__ = ["Cluster", "Event", "Item", "Outcome", "connect"]

"""controlkit: from a plant log to a controller that is evaluated offline and runs safely at the edge."""

__version__ = "0.1.0"

"""Sweeps: a run configuration under many settings and seeds, each run a Ray task, the winner by offline evaluation."""

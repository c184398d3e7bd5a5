"""MOREC (arXiv 2310.05422): dynamics reward by inverse RL, transition filter, model-based policy."""

"""Tasks of the NeoRL benchmarks (arXiv 2102.00714, 2503.19267): physics and rewards, written from the facts."""

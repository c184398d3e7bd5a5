"""d3rlpy's soft actor-critic, to be timed; runs in the peer's Python and needs nothing of this package.

Arguments (JSON): observations, actions, batch, hidden, threads. Questions: `{"updates": N}`; answers: `{"seconds": s}`.
The data is random: how long an update takes does not depend on it.
"""

import importlib
import json
import sys
import time

import numpy as np
import torch

ROWS, EPISODE = 20_000, 1000


def main() -> None:
    """Answers until standard input ends."""
    d3rlpy = importlib.import_module("d3rlpy")
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    rng = np.random.default_rng(0)
    ends = np.arange(ROWS) % EPISODE == EPISODE - 1
    data = d3rlpy.dataset.MDPDataset(
        rng.normal(size=(ROWS, settings["observations"])).astype(np.float32),
        rng.uniform(-1, 1, size=(ROWS, settings["actions"])).astype(np.float32),
        rng.normal(size=ROWS).astype(np.float32),
        np.zeros(ROWS, dtype=np.float32),
        ends.astype(np.float32),
    )
    networks = d3rlpy.models.VectorEncoderFactory(settings["hidden"])
    config = d3rlpy.algos.SACConfig(
        batch_size=settings["batch"], actor_encoder_factory=networks, critic_encoder_factory=networks
    )
    learner = config.create(device="cpu")
    learner.build_with_dataset(data)
    for line in sys.stdin:
        count = json.loads(line)["updates"]
        began = time.perf_counter()
        for _ in range(count):
            learner.update(data.sample_transition_batch(settings["batch"]))
        print("RESULT " + json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()

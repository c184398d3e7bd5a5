"""d3rlpy's TD3+BC and CQL on released data; runs in the peer's Python and needs nothing of this package.

Arguments (JSON): algorithm (`td3_bc`, `cql`), data (a file of NeoRL-2), seed, batch, threads. Questions:
`{"updates": N}` is answered by `{"seconds": s}`, `{"observations": [...]}` by `{"actions": [...]}`, `{"memory": true}`
by the most memory that the process ever held, `{"peak_mib": m}`. All settings but the batch are the library's own;
observations are standardised.
"""

import importlib
import json
import sys
import time
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Answers until standard input ends."""
    d3rlpy = importlib.import_module("d3rlpy")
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    d3rlpy.seed(settings["seed"])
    with np.load(settings["data"]) as file:
        data = d3rlpy.dataset.MDPDataset(
            file["obs"], file["action"], file["reward"].ravel(), file["done"].ravel(), file["truncated"].ravel()
        )
    config = {"td3_bc": d3rlpy.algos.TD3PlusBCConfig, "cql": d3rlpy.algos.CQLConfig}[settings["algorithm"]]
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    learner = config(batch_size=settings["batch"], observation_scaler=scaler).create(device="cpu")
    scaler.fit_with_transition_picker(data.episodes, data.transition_picker)
    learner.build_with_dataset(data)
    for line in sys.stdin:
        print("RESULT " + json.dumps(_answer(json.loads(line), learner, data, settings["batch"])), flush=True)


def _answer(question: dict[str, Any], learner: Any, data: Any, batch: int) -> dict[str, Any]:
    if "updates" in question:
        began = time.perf_counter()
        for _ in range(question["updates"]):
            learner.update(data.sample_transition_batch(batch))
        return {"seconds": time.perf_counter() - began}
    if "observations" in question:
        return {"actions": learner.predict(np.array(question["observations"], dtype=np.float32)).tolist()}
    with open("/proc/self/status") as status:  # the process's own; getrusage may show that of whoever began it
        lines = dict(line.split(":", 1) for line in status)
    return {"peak_mib": int(lines["VmHWM"].split()[0]) / 1024}


if __name__ == "__main__":
    main()

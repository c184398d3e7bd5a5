"""What the README tells a newcomer to type works, in its order, in an empty folder; the long jobs at a reduced size."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from controlkit.config import RunConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What is added to a command of the README so that it takes seconds; everything else runs as it is printed.
SMALL = """
    dynamics.members=3 dynamics.elites=2 dynamics.hidden=[] dynamics.max_epochs=2 dynamics.max_rows=1000
    reward.networks=2 reward.hidden=[32,32] reward.updates=40 reward.behaviour_updates=40 reward.snapshots=2
    reward.distil_updates=40
    rollout.length=10 rollout.starts=50 rollout.every=50
    policy.hidden=[32,32] policy.warm_start=20 policy.updates=100
""".split()
REDUCED: dict[str, list[str]] = {
    "collect": ["--episodes", "3"],
    "train": [word for setting in SMALL for word in ("--set", setting)],
    "evaluate": ["--quick"],
    "export": ["--override", "the README at a reduced size"],
}
REDUCED_DEMO = ["--quick"]
# `evaluate` and `shadow` tell their verdict by the exit code; at a reduced size any verdict will do.
VERDICTS = {"evaluate": (0, 10, 11, 12), "shadow": (0, 10, 11)}
# The simulated plant's port in the README, and what ends a runtime that would go on for ever.
PORT, FEW = "4840", ["--steps", "6", "--port", "0"]
SUMMARY = """
    operator_mae controller_mae best_memoryless_mae kalman_mae limit_violations parity_max_diff
    verdict seconds report bundle
""".split()


def commands(text: str) -> Iterator[list[str]]:
    """The commands of all fenced bash blocks, as words, in order; comments and line continuations as in a shell."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def reduced(words: list[str]) -> list[str]:
    """Later settings of `train` win; another option that the README gives itself stays as it is printed."""
    extra = REDUCED.get(words[1], [])
    given = words[1] != "train" and any(word in words for word in extra[:1])
    return words if given else words + extra


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=600, check=False)


def test_commands_are_found_as_a_shell_reads_them() -> None:
    text = (
        "a\n```bash\nmake demo  # long\n\ncontrolkit train x.yaml \\\n  --data 'my data'\n```\n```text\nmake tea\n```\n"
    )
    assert list(commands(text)) == [["make", "demo"], ["controlkit", "train", "x.yaml", "--data", "my data"]]


def test_the_readme_names_the_two_commands_and_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for words in commands(README) if words[0] == "make"}
    assert {"demo", "test"} <= named
    assert named <= targets


def test_files_that_the_readme_points_to_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_reduced_size_is_a_valid_and_smaller_run(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{}\n")
    usual, small = RunConfig.load(tmp_path / "run.yaml"), RunConfig.load(tmp_path / "run.yaml", SMALL)
    assert small.dynamics.max_epochs < usual.dynamics.max_epochs
    assert small.reward.updates < usual.reward.updates
    assert small.reward.distil_updates < usual.reward.distil_updates
    assert small.policy.updates < usual.policy.updates


def test_every_controlkit_command_of_the_readme_works(tmp_path: Path) -> None:
    printed = [words for words in commands(README) if words[0] == "controlkit"]
    assert printed, "README.md shows no controlkit command in a fenced bash block"
    servers: list[subprocess.Popen[str]] = []
    port = free_port()
    try:
        for words in printed:
            if words[1] == "serve-sim":
                servers.append(serve([*words, "--port", port], tmp_path))
                continue
            words = [word.replace(f":{PORT}/", f":{port}/") for word in words]
            extra = FEW if words[1] == "run" and any(word.startswith("opc.tcp:") for word in words) else []
            done = run([*reduced(words), *extra], tmp_path)
            assert done.returncode in VERDICTS.get(words[1], (0,)), f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stdout + done.stderr
    finally:
        for server in servers:
            server.terminate()
            server.wait(30)
    assert len(servers) == 1
    assert (tmp_path / "shadow" / "shadow.html").is_file()


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def serve(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """A simulated plant, once it says where it listens."""
    settings = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(words, cwd=folder, env=settings, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert "opc.tcp://127.0.0.1:" in server.stdout.readline()
    return server


def test_the_demo_of_the_readme_works(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "controlkit.demo", *REDUCED_DEMO], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "runs" / "demo" / "summary.json").read_text())
    assert set(SUMMARY) <= set(summary)
    assert (tmp_path / summary["report"]).is_file()
    assert (tmp_path / summary["bundle"] / "manifest.json").is_file()

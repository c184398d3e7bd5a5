"""The way to Ray: one of this process's own that only this machine can reach, or a cluster that runs already.

No dashboard, no usage statistics, no log lines of its own; Ray's token authentication stays on.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlkit.cluster.running import Cluster
from controlkit.cluster.versions import own_versions, read_versions, require_same
from controlkit.errors import ControlkitError

# A head answers at once; a machine that has to start a worker first takes longer.
ANSWER_S, WAIT_S = 5.0, 60.0
# What goes through Ray's object store are settings and figures.
STORE_BYTES = 128 * 2**20
# A UNIX socket's path may have 107 characters, of which Ray takes 65 itself.
MAX_FOLDER = 40
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}
# Ray's switch, for systems whose firewalls ask, by which a Ray of one machine listens on the loopback alone.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# HTTP/2's client preface with an empty SETTINGS frame (RFC 9113, 3.4); a gRPC server answers with its SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


@contextmanager
def connect(
    address: str | None = None, *, cores: int | None = None, gpus: float | None = None, wait_s: float = WAIT_S
) -> Iterator[Cluster]:
    """Connects this process to Ray for the length of a block.

    Args:
        address: of a cluster's head, HOST:PORT, or `auto` for the cluster that this machine belongs to; `None` starts a
            Ray on this machine that ends with the block.
        cores, gpus: that the started one may use; all where not given.
        wait_s: how long machines of a cluster may take to say what they run.

    Raises:
        ControlkitError: Ray is not installed, the address does not answer or is no head, a machine runs another
            version of Python, Ray or controlkit, or a Ray of one's own does not start.
    """
    if address is not None:
        address = _checked(address)
    local = {} if address is not None else _LOOPBACK
    with _environment(_QUIET | local):
        ray = _ray()
        if ray.is_initialized():
            raise ControlkitError("this process is connected to Ray already", cure="Close that connection first.")
        with _silence(), _folder(address is None) as folder:
            try:
                _start(ray, address, cores, gpus, folder)
                if address is not None:
                    require_same(own_versions(ray), read_versions(ray, wait_s))
                yield Cluster(ray)
            finally:
                ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ControlkitError(
            "this runs on Ray, which is not installed", cure="Install it: pip install 'controlkit[ray]'."
        ) from None


def _checked(address: str) -> str:
    """The address, where a Ray head answers there; asked before Ray is, which would wait for minutes."""
    if address == "auto":
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in address or not port.isdigit() or not 0 < int(port) < 65536:
        raise ControlkitError(
            "is no address of a Ray head",
            where=f"--address {address}",
            cure="Write HOST:PORT as 'ray start --head' shows it, or auto.",
        )
    cure = "Start one with 'ray start --head', or leave --address out to use this machine alone."
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(_PREFACE)
            answer = connection.recv(9) if os.environ.get("RAY_USE_TLS", "0") == "0" else None
    except (OSError, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise ControlkitError(f"does not answer ({reason})", where=f"--address {address}", cure=cure) from None
    if answer is not None and (len(answer) < 4 or answer[3] != _SETTINGS):
        raise ControlkitError("something else than a Ray head answers", where=f"--address {address}", cure=cure)
    return address


def _start(ray: Any, address: str | None, cores: int | None, gpus: float | None, folder: str | None) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address is None:
        settings |= {"num_cpus": cores, "num_gpus": gpus, "include_dashboard": False, "_temp_dir": folder}
        settings |= {"object_store_memory": STORE_BYTES}
    where = "Ray on this machine" if address is None else f"--address {address}"
    try:
        ray.init(address=address or "local", **settings)
    # Ray ends the process where the head is none (SystemExit); all else is one error or another of several bases.
    except (SystemExit, RuntimeError, ValueError, OSError, AssertionError, ray.exceptions.RayError) as problem:
        raise ControlkitError(
            f"cannot be used ({_one_line(problem)})", where=where, cure=_cure(problem, address)
        ) from None


def _cure(problem: BaseException, address: str | None) -> str:
    if "mismatch" in str(problem):
        return "Install the same versions on all machines."
    if "uthenticat" in str(problem):
        return (
            "Bring the cluster's token here: 'ray get-auth-token' on its head shows it; RAY_AUTH_TOKEN_PATH names it."
        )
    if address is None:
        return "See whether memory, disk and /dev/shm have room, and try again."
    return "Run the command on a machine that belongs to the cluster, and see 'ray status' there."


def _one_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(problem).__name__


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the length of a block: Ray reads them as it is imported, and as processes start."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silence() -> Iterator[None]:
    """Ray prints the death of a worker to standard output whatever its log level; items' outcomes say it better."""
    worker = importlib.import_module("ray._private.worker")
    printed = getattr(worker, "print_to_stdstream", None)
    if printed is None:
        yield
        return
    worker.print_to_stdstream = lambda *arguments, **options: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker.print_to_stdstream = printed  # type: ignore[attr-defined]


@contextmanager
def _folder(own: bool) -> Iterator[str | None]:
    """A folder for logs and sockets of a Ray of one's own, gone afterwards; Ray's choice where a path is too long."""
    if not own or len(tempfile.gettempdir()) > MAX_FOLDER - len("/ck-ray-12345678"):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ck-ray-"))
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

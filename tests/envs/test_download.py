"""Downloads against a server of our own on 127.0.0.1: whole, resumed, cut, refused; no wrong file is left behind."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from controlkit.cli import main
from controlkit.errors import ControlkitError, DataError
from envs.download import ATTEMPTS, download, partial_path
from envs.neorl import data_files

CONTENT = np.random.default_rng(0).bytes(700_001)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@dataclass
class Server:
    """A file server whose faults are set by the test.

    Attributes:
        url: of the file.
        content: what it serves.
        ranges: whether it knows Range.
        cut_after: bytes after which it closes the connection, in each answer.
        chunked: whether it sends chunks (RFC 9112 section 7.1) and no length; a cut then leaves the last one open.
        status: what it answers instead of the file.
        requests: the Range header of every request.
    """

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    chunked: bool = False
    status: int = 200
    requests: list[str | None] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            state.requests.append(self.headers.get("Range"))
            if state.status != 200:
                self.send_error(state.status)
                return
            start, total = 0, len(state.content)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and state.ranges:
                start = int(asked[1])
                if start >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            kind = ("Transfer-Encoding", "chunked") if state.chunked else ("Content-Length", str(total - start))
            self.send_header(*kind)
            self.end_headers()
            content = state.content[start:]
            self.wfile.write(chunks(content, state.cut_after) if state.chunked else content[: state.cut_after])

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        http_server.daemon_threads = True
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{http_server.server_address[1]}/set.npz"
        yield state
        http_server.shutdown()
        thread.join(timeout=10)


def chunks(content: bytes, cut_after: int | None) -> bytes:
    """Chunks of 50 000 bytes; cut as far into the content as is asked for, in a chunk that promises more."""
    encoded, sent = b"", 0
    while sent < len(content):
        chunk = content[sent : sent + 50_000]
        encoded += b"%x\r\n" % len(chunk)
        if cut_after is not None and sent + len(chunk) > cut_after:
            return encoded + chunk[: cut_after - sent]
        encoded, sent = encoded + chunk + b"\r\n", sent + len(chunk)
    return encoded + b"0\r\n\r\n"


def nothing_left(out: Path) -> bool:
    return not out.exists() and not partial_path(out).exists()


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "new" / "set.npz"
    done = download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert (done.size, done.fetched, done.resumed_at) == (len(CONTENT), len(CONTENT), 0)
    assert list(out.parent.iterdir()) == [out]
    assert server.requests == [None]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "set.npz"
    out.write_bytes(CONTENT)
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == 0
    assert server.requests == []
    out.write_bytes(b"another file")
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == len(CONTENT)
    assert out.read_bytes() == CONTENT


def test_a_cut_is_taken_up_within_a_call(server: Server, tmp_path: Path) -> None:
    out, server.cut_after = tmp_path / "set.npz", 300_000
    done = download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert done.fetched == len(CONTENT)
    assert server.requests == [None, "bytes=300000-", "bytes=600000-"]


def test_a_later_call_goes_on_after_a_cut(server: Server, tmp_path: Path) -> None:
    out, server.cut_after = tmp_path / "set.npz", 100_000
    with pytest.raises(ControlkitError, match=rf"cut after {ATTEMPTS * 100_000} of 700001 bytes.*Run the same command"):
        download(server.url, out, md5=MD5, timeout_s=10)
    assert not out.exists()
    assert partial_path(out).read_bytes() == CONTENT[: ATTEMPTS * 100_000]
    server.cut_after = None
    done = download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert (done.resumed_at, done.fetched) == (500_000, 200_001)
    assert server.requests[-1] == "bytes=500000-"
    assert not partial_path(out).exists()


def test_without_a_length_a_cut_is_a_cut(server: Server, tmp_path: Path) -> None:
    out, server.chunked, server.ranges, server.cut_after = tmp_path / "set.npz", True, False, 330_000
    with pytest.raises(ControlkitError, match=r"cut after 330000 bytes\. Run the same command"):
        download(server.url, out, md5=MD5, timeout_s=10)
    assert not out.exists()
    assert partial_path(out).read_bytes() == CONTENT[:330_000]
    server.ranges = True
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == len(CONTENT) - 330_000
    assert out.read_bytes() == CONTENT
    out.unlink()
    server.requests.clear()
    download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=330000-", "bytes=660000-"]


def test_without_a_length_the_last_chunk_makes_it_whole(server: Server, tmp_path: Path) -> None:
    out, server.chunked = tmp_path / "set.npz", True
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == len(CONTENT)
    assert out.read_bytes() == CONTENT
    assert server.requests == [None]


def test_a_whole_part_needs_no_transfer(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "set.npz"
    partial_path(out).write_bytes(CONTENT)
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == 0
    assert out.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_given_up(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "set.npz"
    partial_path(out).write_bytes(CONTENT + b"more")
    done = download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert (done.resumed_at, done.fetched) == (0, len(CONTENT))


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    out, server.ranges = tmp_path / "set.npz", False
    partial_path(out).write_bytes(b"x" * 1000)
    done = download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert (done.resumed_at, done.fetched) == (0, len(CONTENT))


def test_a_wrong_md5_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    out, server.content = tmp_path / "set.npz", CONTENT[:-1] + b"!"
    wrong = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match=f"has the md5 {wrong}, not {MD5} as published; it was deleted"):
        download(server.url, out, md5=MD5, timeout_s=10)
    assert nothing_left(out)


def test_a_wrong_beginning_is_found_out(server: Server, tmp_path: Path) -> None:
    """What lay there was of another file: the whole is wrong, is deleted, and the next call begins afresh."""
    out = tmp_path / "set.npz"
    partial_path(out).write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"not .* as published"):
        download(server.url, out, md5=MD5, timeout_s=10)
    assert nothing_left(out)
    assert download(server.url, out, md5=MD5, timeout_s=10).fetched == len(CONTENT)


def test_an_earlier_file_stays_where_the_new_one_fails(server: Server, tmp_path: Path) -> None:
    out, server.status = tmp_path / "set.npz", 503
    out.write_bytes(b"earlier")
    with pytest.raises(ControlkitError, match="the server answered 503 Service Unavailable"):
        download(server.url, out, md5=MD5, timeout_s=10)
    assert out.read_bytes() == b"earlier"


def test_a_missing_file_and_a_refused_connection(server: Server, tmp_path: Path) -> None:
    out, server.status = tmp_path / "set.npz", 404
    with pytest.raises(ControlkitError, match=r"the server answered 404 Not Found. The file may have moved"):
        download(server.url, out, md5=MD5, timeout_s=10)
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port, and it refuses
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/set.npz"
        with pytest.raises(
            ControlkitError, match=r"cannot be reached from here .*refused.*put it at .*set.npz, and run the same"
        ) as caught:
            download(url, out, md5=MD5, timeout_s=10, note="Note: more.")
    assert str(caught.value).endswith("Note: more.")
    assert "\n" not in str(caught.value)
    assert nothing_left(out)


def test_a_silent_server_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes the connection and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.npz"
        with pytest.raises(ControlkitError, match=r"cannot be reached from here \(.*timed out"):
            download(url, tmp_path / "set.npz", md5=MD5, timeout_s=0.3)


def test_only_http_and_only_where_one_can_write(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"is no http or https address\. Give one that begins with http"):
        download("file:///etc/hosts", tmp_path / "set.npz", md5=MD5)
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlkitError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "set.npz", md5=MD5, timeout_s=10)


def test_on_the_command_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = data_files.ReleasedFile("DMSD-val.npz", server.url, MD5)
    monkeypatch.setattr(data_files, "RELEASED", {"neorl2/dmsd-val": served})

    def call(name: str, out: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["collect", name, "--download", "--out", str(tmp_path / out)])
        return int(end.value.code or 0), "".join(capsys.readouterr())

    code, text = call("neorl2/dmsd-val", "DMSD-val.npz")
    assert code == 0
    assert "700001 bytes, md5 as published; 700001 bytes came over" in text
    assert (tmp_path / "DMSD-val.npz").read_bytes() == CONTENT
    assert call("neorl2/dmsd-val", "DMSD-val.npz")[1].strip().endswith("it was there")
    code, text = call("neorl2/dmsd", "DMSD-train.npz")
    assert code == 1
    assert "no data set 'neorl2/dmsd' is published. did you mean 'neorl2/dmsd-val'?" in text
    code, text = call("neorl2/dmsd-val", "DMSD-val.csv")
    assert code == 1
    assert "a published data set is an npz file" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DMSD-val.npz"]

"""An asyncio loop in a thread of its own, for code that is called from ordinary threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

T = TypeVar("T")
_CLOSING_S = 2.0


class BackgroundLoop:
    """Runs coroutines for callers in other threads. The thread is a daemon: it never keeps a process alive.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """The coroutine's result.

        Raises:
            TimeoutError: it took longer than `timeout_s`, and was cancelled.
            RuntimeError: the loop was closed.
        """
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError("the loop is closed")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise
        except CancelledError:
            raise RuntimeError("the loop was closed") from None

    def close(self) -> None:
        """Cancels what still runs and ends the thread; harmless when called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=_CLOSING_S / 2))
        self.loop.close()

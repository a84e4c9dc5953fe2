"""Records the arms in MLflow while others work: it starts slowly, and needs the report only at the end."""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from lossbench.commands import Commands, step

RECORD = ("-m", "stages.track", "--lenient")


class Recorder:
    """A `stages.track` that is told when the arms are there, and when the report is.

    Leaving the block waits for its end. An exception ends it at once; what it has recorded by then is whole
    runs or is found and completed by the next.

    Raises:
        GateError: on leaving, if it failed; its own output says why.

    """

    def __init__(self) -> None:
        self._commands = Commands()
        self._thread = ThreadPoolExecutor(1)
        theirs, ours = os.pipe()
        self._stdin, self._tell = os.fdopen(theirs), os.fdopen(ours, "w", buffering=1)
        self._ended: Future[None] | None = None

    def start(self) -> None:
        """Let it start, so that it is ready when the arms are; once is enough."""
        if self._ended is None:
            command = (sys.executable, *RECORD, "--when-told")
            self._ended = self._thread.submit(step, *command, stdin=self._stdin, commands=self._commands)

    def tell(self, news: str) -> None:
        """Pass news on: that all arms are "trained", or "reported"."""
        self.start()
        print(news, file=self._tell)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._tell.close()
        try:
            if error is None and self._ended is not None:
                self._ended.result()
        finally:
            self._commands.end()
            self._thread.shutdown()
            self._stdin.close()

"""moto's S3 server, with a memory that outlives it: ``python -m benchmarks.s3_server PORT RECORDING``.

moto keeps objects in memory alone. Its recorder writes down every request before it is answered; whoever
starts the server again with the same file finds what was there, as on a server with a disk. Only this machine
can reach it.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

CHANGES = ("PUT", "POST", "DELETE")
"""Requests that leave something behind; the others are not played again."""
HOST = "127.0.0.1"


def tidy(recording: Path) -> int:
    """Keep of a recording the whole requests that change something; says how many.

    The last line of a server that was killed may be half a line: nobody was answered for it.
    """
    if not recording.exists():
        return 0
    kept = []
    for line in recording.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["method"] in CHANGES:
            kept.append(line)
    recording.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return len(kept)


def one_at_a_time(recorder: Any) -> None:
    """Have requests written down one after another: moto's threads would write into each other's lines."""
    lock, record = threading.Lock(), recorder._record_request

    def locked(*arguments: Any, **options: Any) -> None:
        with lock:
            record(*arguments, **options)

    recorder._record_request = locked


def main(port: int, recording: Path) -> None:
    """Play the recording again where nobody listens, then serve."""
    os.environ["MOTO_RECORDER_FILEPATH"] = str(recording)
    from moto.moto_api import recorder
    from moto.server import ThreadedMotoServer
    from moto.server import main as serve

    one_at_a_time(recorder)
    if tidy(recording):
        own = ThreadedMotoServer(HOST, 0, verbose=False)
        own.start()
        recorder.replay_recording("http://{}:{}".format(*own.get_host_and_port()))
        own.stop()
    recorder.start_recording()
    serve(["-H", HOST, "-p", str(port)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

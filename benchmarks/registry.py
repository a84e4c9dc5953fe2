"""Can a registry that answers wrongly, or a death, cost the champion? `python -m benchmarks.registry`.

1. A proxy stands before a real MLflow server and spoils one answer of one retraining: every call × every
   answer, with no champion, with a weaker one (the challenger is to get in), with a stronger one (it must
   not). Spoiled before the call reaches the server, or after: then it was done, and nobody was told.
2. A retraining, and a rollback, is killed at every statement between judging and the record, counted, not
   timed.

After each trial an undisturbed retraining follows. What counts: wrong promotions, lost aliases, attempts
with other than one row of the record. Prints a table and writes benchmarks/results/registry.json.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import commit, machine, stored, write
from benchmarks.registry_study import SCENARIOS, Bench, Row, judge, make, quiet, record, reset, rows, scratch

HTML = b"<html><body><h1>The load balancer is not amused</h1></body></html>"
ALIEN = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such route"}).encode()
PARTS = ("kills", "proxy")
Keep = Callable[[str, list[Row], int], None]
"""Takes a part, its trials so far, and how many cases there are in all."""
STATUSES = (400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 502, 503)


@dataclass(frozen=True)
class Answer:
    """What the proxy says in place of the server.

    Attributes:
        name: for the table.
        status: of HTTP; 0 for none: see ``how``.
        body: of the answer.
        forward: the call reaches the server first.
        how: "answer", "reset", "cut" (half of the real answer), "delay" (the real one, late) or "twice".

    """

    name: str
    status: int = 0
    body: bytes = HTML
    forward: bool = False
    how: str = "answer"


def answers() -> list[Answer]:
    """List every spoiled answer."""
    html = [Answer(f"{status} with HTML", status) for status in STATUSES]
    nonsense = [
        Answer("200 with HTML", 200),
        Answer("200 with {}", 200, b"{}"),
        Answer("200, empty", 200, b""),
    ]
    others = [
        Answer("200 with a list", 200, b"[]"),
        Answer("404 with another's JSON", 404, ALIEN),
        Answer("500 with JSON", 500, b'{"message": "no"}'),
        Answer("400 with JSON of no kind", 400, b'{"detail": "no"}'),
        Answer("reset", how="reset"),
    ]
    done = [
        Answer("done, then 503", 503, forward=True),
        Answer("done, then 200 with {}", 200, b"{}", forward=True),
        Answer("done, then reset", how="reset", forward=True),
        Answer("done, answer cut", how="cut", forward=True),
        Answer("done, answer late", how="delay", forward=True),
        Answer("done twice", how="twice", forward=True),
    ]
    return [*html, *nonsense, *others, *done]


@dataclass
class Proxy:
    """Passes calls on and spoils the answer of one; artifacts' calls count like all others.

    Attributes:
        port: of the server.
        spoiled: number of the call, from 0; None for none.
        answer: to that call.
        calls: what was asked, in order.

    """

    port: int
    spoiled: int | None = None
    answer: Answer | None = None
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def aim(self, spoiled: int | None, answer: Answer | None = None) -> None:
        with self.lock:
            self.spoiled, self.answer, self.calls = spoiled, answer, []

    def take(self, what: str) -> Answer | None:
        with self.lock:
            self.calls.append(what)
            return self.answer if len(self.calls) - 1 == self.spoiled else None


@contextmanager
def proxied(server: str) -> Iterator[tuple[Proxy, str]]:
    """Put a proxy before a server on 127.0.0.1; yields it and its address."""
    proxy = Proxy(int(urlsplit(server).port or 0))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            spoiled = proxy.take(f"{self.command} {urlsplit(self.path).path}")
            if spoiled is None:
                self.pass_on(*self.forward(body))
                return
            real = self.forward(body) if spoiled.forward else None
            if spoiled.how == "twice":
                real = self.forward(body)
            if spoiled.how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
            elif spoiled.how == "answer":
                self.pass_on(spoiled.status, {"Content-Type": "text/html"}, spoiled.body)
            elif real is not None:
                if spoiled.how == "delay":
                    time.sleep(float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + 1)
                self.pass_on(*real, cut=spoiled.how == "cut")

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = any  # noqa: N815  # http.server's names

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            link = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            link.request(self.command, self.path, body, kept)
            answer = link.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read()
            link.close()
            return found

        def pass_on(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            with suppress(OSError):  # the client has gone
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield proxy, f"http://127.0.0.1:{listener.server_address[1]}"
    finally:
        listener.shutdown()
        listener.server_close()


def wrong(bench: Bench, scenario: str, attempts: int, settled: bool, aliases: dict[str, str]) -> Counter[str]:
    """Hold registry and record against what they have to be.

    Args:
        bench: the studies.
        scenario: which champion there was.
        attempts: that were made.
        settled: an undisturbed retraining was the last.
        aliases: as the registry has them.

    """
    found: Counter[str] = Counter()
    before = None if bench.champion(scenario) is None else "1"
    after = {"no champion": "1", "a weaker champion": "2", "a stronger champion": "1"}[scenario]
    champion = aliases.get("champion")
    found["lost aliases"] = champion is None and before is not None
    # A call that was done twice, or whose answer was lost, may leave a version that nobody names.
    rightly = champion == before or (
        champion is not None and scenario != "a stronger champion" and champion != before
    )
    found["wrong promotions"] = not rightly or (settled and (champion == before) != (after == before))
    said = rows(bench.root(scenario))
    promoted = [one for one in said if one["outcome"] == "promoted" and one["version"] == champion]
    if settled:
        found["records"] = len(said) > attempts or len(promoted) != (after != before)
    else:
        claims = any(one["outcome"] == "promoted" for one in said)
        found["records"] = len(said) != attempts or (claims and champion == before)
    return found


def aliases_of(root: Path) -> dict[str, str]:
    """Ask the registry, undisturbed."""
    from benchmarks.registry_study import NAME
    from lossbench.retraining.registry import Registry
    from lossbench.tracking.server import connect

    model = Registry(connect(root), NAME)._model()
    return {} if model is None else {alias: str(version) for alias, version in dict(model.aliases).items()}


def proxy_trials(bench: Bench, proxy: Proxy, every: int, say: Callable[[str], None], keep: Keep) -> None:
    """Spoil every ``every``-th (call, answer) of a retraining, in each scenario.

    Where ``every`` is one less than there are answers, each call is spoiled once at least, and the answers
    take turns.
    """
    found: list[Row] = []
    total = 0
    for scenario in SCENARIOS:
        root = bench.root(scenario)
        reset(bench, scenario)
        proxy.aim(None)
        judge(root)
        calls = list(proxy.calls)
        say(f"{scenario}: {len(calls)} calls, {len(answers())} answers")
        cases = [(number, answer) for number in range(len(calls)) for answer in answers()]
        total += len(cases)
        for number, answer in cases[:: max(1, every)]:
            proxy.aim(None)
            reset(bench, scenario)
            proxy.aim(number, answer)
            judge(root)
            proxy.aim(None)
            counted = wrong(bench, scenario, 1, False, aliases_of(root))
            judge(root)
            counted += wrong(bench, scenario, 2, True, aliases_of(root))
            bad = {key: value for key, value in counted.items() if value}
            if bad:
                said = [(one["outcome"], one["version"], one["reason"][:80]) for one in rows(root)]
                say(f"  {scenario}, call {number} ({calls[number]}), {answer.name}: {bad} {said}")
            call = f"{number} {calls[number]}"
            found.append({"scenario": scenario, "call": call, "answer": answer.name, **counted})
        keep("proxy", found, total)


class Killer:
    """Kills the process at the n-th statement of the code in question, from a call on."""

    FILES = ("retraining/run.py", "retraining/registry.py", "retraining/records.py", "retraining/notify.py")

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self.FILES):
            return None
        if event == "line":
            if self.seen == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1
        return self.trace

    def begin(self) -> None:
        """Count from here: in this frame's callers too."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            frame.f_trace = self.trace
            frame = frame.f_back
        sys.settrace(self.trace)


def dying(what: str, root: Path, at: int) -> int | None:
    """Run a retraining or a rollback in a fork that dies at a statement; None, or how many there were."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.write(there, str(_die(what, root, at)).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return int(said) if said else None


def _die(what: str, root: Path, at: int) -> int:
    from lossbench.params import load_params
    from lossbench.retraining import run

    killer = Killer(at)
    if what == "rollback":
        killer.begin()
        run.rollback(load_params(root / "params.yaml"), root, say=lambda _: None)
    else:
        decide = run.decide

        def decided(*arguments: Any, **options: Any) -> Any:
            found = decide(*arguments, **options)
            killer.begin()
            return found

        run.decide = decided
        judge(root)
    sys.settrace(None)
    return killer.seen


def kill_trials(folder: Path, every: int, say: Callable[[str], None], keep: Keep) -> None:
    """Kill at every ``every``-th statement between judging and the record; the store is a local file."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = store
    bench: Bench = forked(lambda: record(folder / "strong", folder / "weak"))
    found: list[Row] = []
    cases = 0
    for scenario in ("rollback", *SCENARIOS[:2]):
        start = "a weaker champion" if scenario == "rollback" else scenario
        root = bench.root(start)
        forked(lambda start=start: reset(bench, start))
        if scenario == "rollback":
            forked(lambda root=root: judge(root))
        kept = {
            file: file.read_bytes()
            for file in [*folder.glob("mlflow.db*"), *root.glob("reports/retraining*")]
        }

        def again(kept: dict[Path, bytes] = kept, root: Path = root) -> None:
            for file in [*folder.glob("mlflow.db*"), *root.glob("reports/*retraining*")]:
                file.unlink()
            for file, content in kept.items():
                file.write_bytes(content)

        what = "rollback" if scenario == "rollback" else "retrain"
        total = dying(what, root, -1) or 0
        cases += total
        say(f"{scenario}: {total} statements between judging and the record")
        for at in range(0, total, every):
            again()
            dying(what, root, at)
            between = forked(lambda root=root: aliases_of(root))
            if what == "retrain":
                forked(lambda root=root: judge(root))
                after = forked(lambda root=root: aliases_of(root))
                counted = wrong(bench, scenario, 2, True, after)
                counted["lost aliases"] += "champion" not in between and scenario != "no champion"
            else:
                counted = forked(lambda root=root, between=between: after_rollback(root, between))
            bad = {key: value for key, value in counted.items() if value}
            if bad:
                say(f"  {scenario}, statement {at}: {bad} {rows(root)}")
            found.append({"scenario": scenario, "statement": at, **counted})
        keep("kills", found, cases)


def after_rollback(root: Path, between: dict[str, str]) -> Counter[str]:
    """Complete a killed rollback by an undisturbed retraining: the champion stays who it was between."""
    judge(root)
    after = aliases_of(root)
    champion = after.get("champion")
    said = rows(root)
    back = [one for one in said if one["reason"].startswith("rolled back")]
    return Counter(
        {
            "lost aliases": champion is None or between.get("champion") is None,
            "wrong promotions": champion != between.get("champion"),
            "records": len(back) != (champion == "1") or after.get("previous_champion") == champion,
        }
    )


def forked(what: Callable[[], Any]) -> Any:
    """Call something in a fork, which opens and closes the store: a fork of an open one would share it."""
    import pickle

    here, there = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            with os.fdopen(there, "wb") as stream:
                stream.write(pickle.dumps(what()))
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    with os.fdopen(here, "rb") as stream:
        said = stream.read()
    if os.waitpid(child, 0)[1]:  # what it wrote is in the store's log, which is kept beside it
        raise RuntimeError("a fork failed; its traceback stands above")
    return pickle.loads(said)  # noqa: S301  # our own fork's bytes


COUNTED = ("wrong promotions", "lost aliases", "records")


def goals(part: str, trials: list[Row]) -> list[Row]:
    """Say of each thing that counts how often it was wrong."""
    counts = {key: sum(int(one.get(key, 0)) for one in trials) for key in COUNTED}
    return [
        {"name": f"{part}: {key}", "trials": len(trials), "goal": 0, "measured": count, "met": count == 0}
        for key, count in counts.items()
    ]


def keeper(every: int) -> Keep:
    """Write each part down as far as it went; one that is not measured now keeps what stands there of it."""
    began, stated = time.perf_counter(), {"machine": machine("mlflow", "torch"), "commit": commit()}

    def keep(part: str, trials: list[Row], cases: int) -> None:
        named = [name for name in ("call", "answer") if name in trials[0]]
        tried = {name: len({(one["scenario"], one[name]) for one in trials}) for name in named}
        content = stored("registry")
        content[part] = {
            **stated,
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "every": every,
            "cases": cases,
            "trials": len(trials),
            "tried": tried,
            "goals": goals(part, trials),
            "missed": [one for one in trials if any(one.get(key) for key in COUNTED)],
        }
        write("registry", content)

    return keep


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="of the cases, only each n-th")
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    say = lambda text: print(text, flush=True)  # noqa: E731  # progress, a line each
    quiet()
    keep, wanted = keeper(given.every), [given.only] if given.only else list(PARTS)
    with scratch() as folder:
        forked(lambda: make(folder))  # torch's threads stay in the fork
        if "kills" in wanted:
            import_all()
            kill_trials(folder, given.every, say, keep)
        if "proxy" in wanted:
            from lossbench.tracking.store import remember
            from lossbench.tracking.ui import mlflow_server

            store, log = f"sqlite:///{folder / 'server.db'}", folder / "server.log"
            with mlflow_server(store, log, 0) as server, proxied(server) as (proxy, address):
                os.environ["MLFLOW_TRACKING_URI"] = server  # the study is made undisturbed
                bench = record(folder / "strong", folder / "weak")
                os.environ["MLFLOW_TRACKING_URI"] = address
                for root in (bench.strong, bench.weak):
                    remember(root)
                proxy_trials(bench, proxy, given.every, say, keep)
    for part in wanted:
        for goal in stored("registry")[part]["goals"]:
            met = "met" if goal["met"] else "MISSED"
            print(f"{met:<7}{goal['measured']:>5} of {goal['trials']} trials  {goal['name']}")


def import_all() -> None:
    """Import once what every fork needs, without opening a store."""
    import mlflow
    import mlflow.artifacts
    import mlflow.pyfunc  # noqa: F401  # imported for the forks
    import pandas  # noqa: F401  # likewise
    import torch

    from lossbench.retraining import run  # noqa: F401  # likewise

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()

"""`lossbench serve`: a model over HTTP that follows its alias.

Asked every few seconds, the registry says which version the alias names. Another one is loaded beside the
one that serves, held against the digests in its tags, and takes over between two requests: none is dropped,
and each is answered by one version, which the answer names. What cannot be loaded, or a registry that does
not answer, changes nothing: the former version serves on, and `/health` says so.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import GateError, UserError, brief
from lossbench.retraining.contents import UNREADABLE
from lossbench.serving.replicate import ReplicateModel
from lossbench.serving.source import ADDRESS, use_code_of
from lossbench.telling import first_line, printable, scrubbed

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from lossbench.retraining.registry import Registry

LARGEST = 64 * 2**20
"""Bytes of a request."""
LAST_PORT = 65535
FIELDS = {"inputs", "params"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Serving:
    """The version that answers now.

    Attributes:
        version: its number.
        model: loaded.
        mark: what tells it from another version of that number.

    """

    version: str
    model: ReplicateModel
    mark: str = ""


class Follower:
    """Keeps the version that an alias names loaded.

    Args:
        root: the study's folder.
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        say: hears a line for each change, and for each new kind of failure.

    Raises:
        UserError: for another address.

    """

    def __init__(self, root: Path, address: str, say: Say = print) -> None:
        from lossbench.retraining.registry import Registry
        from lossbench.tracking.server import connect

        found = ADDRESS.fullmatch(address)
        if found is None:
            raise UserError(f"--model is '{address}'; allowed: models:/NAME@ALIAS or models:/NAME/VERSION")
        use_code_of(root)
        self.alias, self.fixed = found["alias"], found["version"]
        self.address, self.say = address, say
        self.registry = Registry(connect(root), found["name"])
        self.now: Serving | None = None
        self.trouble = ""
        self._ended = threading.Event()

    def look(self) -> None:
        """Ask the registry once, and load what the alias names where that has changed.

        Raises:
            GateError: there is no such version, or it is not what was promoted.
            ServerGoneError: the registry does not answer.

        """
        version = self.fixed or self.registry.version_of(self.alias)
        if version is None:
            raise _nobody(self.registry, self.alias)
        mark = self.registry.mark_of(version)
        if self.now is not None and (self.now.version, self.now.mark) == (version, mark):
            return
        model = self._loaded(version)
        before, self.now = self.now, Serving(version, model, mark)  # one assignment: a request sees either
        instead = f", in place of version {before.version}" if before else ""
        self.say(f"version {version} of '{self.registry.name}' serves{instead}")

    def _loaded(self, version: str) -> ReplicateModel:
        from lossbench.tracking.server import server_errors

        try:
            with ExitStack() as held:
                with server_errors():
                    folder = held.enter_context(self.registry.folder_of(version))
                return ReplicateModel(folder)
        except UNREADABLE as error:
            raise GateError(
                f"version {version} of '{self.registry.name}' cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}); is it a model of Lossbench, and whole?"
            ) from None

    def follow(self, every: float) -> None:
        """Look again and again until :meth:`end`; a failure is told once, and changes nothing."""
        while not self._ended.wait(every):
            try:
                self.look()
            except Exception as error:  # of any kind: the former version has to serve on
                trouble = printable(scrubbed(f"{type(error).__name__}: {error}"))
                if trouble != self.trouble:
                    self.say(f"the former version serves on: {trouble}")
                self.trouble = trouble
            else:
                self.trouble = ""

    def end(self) -> None:
        """Stop following."""
        self._ended.set()


def _nobody(registry: "Registry", alias: str) -> GateError:
    """Say that an alias names no version, and what would help."""
    from lossbench.retraining.registry import CHAMPION

    if alias == CHAMPION:
        return GateError(
            f"'{registry.name}' has no champion; nothing to serve: `lossbench retrain` makes the first"
        )
    known = ", ".join(sorted(registry.aliases())) or "none"
    return GateError(f"'{registry.name}' has no version that is '{alias}'; there are: {known}")


def application(follower: Follower) -> "Starlette":
    """Answer `/invocations` like MLflow's server, `/ping`, `/health` and `/version`."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def invocations(request: "Request") -> "Response":
        if int(request.headers.get("content-length") or 0) > LARGEST:
            return _refused(413, f"a request of more than {LARGEST // 2**20} MiB")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                return _refused(413, f"a request of more than {LARGEST // 2**20} MiB")
        serving = follower.now
        if serving is None:
            return _refused(503, "no version is loaded yet")
        try:
            found = await run_in_threadpool(_answer, serving.model, bytes(body))
        except UserError as error:
            return _refused(400, str(error))
        return JSONResponse({"predictions": found}, headers={"X-Model-Version": serving.version})

    async def health(_request: "Request") -> "Response":
        return JSONResponse(
            {"version": follower.now.version if follower.now else None, "trouble": follower.trouble}
        )

    return Starlette(
        routes=[
            Route("/invocations", invocations, methods=["POST"]),
            *(Route(path, health) for path in ("/ping", "/health", "/version")),
        ]
    )


def _refused(status: int, sentence: str) -> "Response":
    from starlette.responses import JSONResponse

    # Escaped: what a client sent stands in the sentence, and may not be text that UTF-8 can say.
    return JSONResponse({"error_code": "BAD_REQUEST", "message": printable(sentence)}, status_code=status)


def _answer(model: ReplicateModel, body: bytes) -> list[dict[str, Any]]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise UserError('the request is no JSON; expected: {"inputs": [...]}') from None
    if not isinstance(asked, dict) or "inputs" not in asked or set(asked) - FIELDS:
        found = brief(sorted(asked)) if isinstance(asked, dict) else type(asked).__name__
        raise UserError(f'the request has {found}; expected: "inputs", and "params" if need be')
    params = asked.get("params") or {}
    if (
        not isinstance(params, dict)
        or set(params) - {"raw"}
        or not isinstance(params.get("raw", False), bool)
    ):
        raise UserError('"params" of the request is not {"raw": true} or {"raw": false}')
    return model.predict(asked["inputs"], params)


def serve(root: Path, address: str, host: str, port: int, every: float) -> None:
    """Serve until ended by a signal; requests that were begun are answered first.

    Args:
        root: the study's folder.
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        host: to listen on.
        port: likewise; 0: any that is free.
        every: seconds between two looks at the alias.

    Raises:
        UserError: for another address, or a number out of its range.
        GateError: the model cannot be loaded, or nobody may listen there.

    """
    import uvicorn

    from lossbench.tracking.server import RefusedError, ServerGoneError

    if not 0 < every <= threading.TIMEOUT_MAX:  # NaN is in no range
        raise UserError(f"--every is {every:g}; allowed: seconds, more than 0")
    with _bound(host, port) as bound:
        try:
            follower = Follower(root, address, _say)
            follower.look()
        except (ServerGoneError, RefusedError) as error:
            raise GateError(f"--model {address}: {error}") from None
        following = threading.Thread(target=follower.follow, args=(every,), daemon=True)
        following.start()
        _say(f"http://{_place(host, bound.getsockname()[1])}/invocations")
        server = uvicorn.Server(uvicorn.Config(application(follower), log_level="warning"))
        try:
            server.run(sockets=[bound])
        finally:
            follower.end()


def _bound(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded; who asks before a version is there is refused, as before."""
    if not 0 <= port <= LAST_PORT:
        raise UserError(f"--port is {port}; allowed: 0 to {LAST_PORT}")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a former unit's connections
            taken.bind(place)
        except OSError:
            taken.close()
            raise
        return taken
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise GateError(
            f"{_place(host, port)} cannot be listened on ({said}); name another --port or --host"
        ) from None


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(sentence: str) -> None:
    print(printable(sentence), flush=True)

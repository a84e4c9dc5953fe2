"""How errors reach a person: no password, no sign that moves a cursor, an exit code for each kind."""

import errno
import os
import re
import select
import signal
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from types import TracebackType
from urllib.parse import quote, unquote

from lossbench.errors import NO_MEMORY, GateError, UserError

MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
RUST_ERROR = re.compile(r"\(os error (\d+)\)")
USERINFO = re.compile(
    r"(?<=://)(?:(?!/)\S*|\S*://\S*)@|(?<=:\\/\\/)\S*@|(?<=%3A%2F%2F)\S*(?:%40|@)", re.IGNORECASE
)
"""What stands between ``://`` and the last ``@``: a name, a password, which may hold any character.

The leftmost ``://`` counts, for a password may hold one as well. So it is where an address is escaped as a
part of another, or of JSON.
"""
QUERY_SECRETS = re.compile(
    r"((?:passw(?:or)?d|pwd|token|secret|[?&;#][^=\s&;]*(?:token|secret|key|sig|signature|credential|auth)[^=\s&;]*)"
    r"(?:\s?=\s?|%3D))('[^']*'|\"[^\"]*\"|[^\s&]*[^\s&;,.)'\"])",
    re.IGNORECASE,
)
"""Likewise in an address's query, or in a list of settings."""
VARIABLES = re.compile(
    r"(?:MLFLOW|AWS|AZURE|GOOGLE|DATABRICKS)_(?:.*_)?"
    r"(?:PASSWORD|TOKEN|SECRET|SECRET_ACCESS_KEY|ACCESS_KEY|API_KEY|CONNECTION_STRING)"
)
"""Names of variables whose values are secret: libraries quote a header that they could not send."""
HOSTED = ("databricks", "databricks-uc", "uc")
"""Kinds of store that MLflow resolves by itself: what follows names a profile, or a scope of secrets."""
HOSTED_PLACE = re.compile(rf"\b({'|'.join(HOSTED)}):(?://)?[^\s'\"/,;)]+", re.IGNORECASE)
PATHS = ("sqlite", "file")
"""Schemes whose addresses hold a path and nobody's name."""
LESS_MEMORY = (
    "lower 'recipe.batch_size', the trainings side by side (--jobs, or LOSSBENCH_WORKERS) or "
    "'compute.threads'; what was finished is kept"
)
"""What to do about it."""
STDOUT = 1
"""The number of standard output's file, whatever a library has put in the place of ``sys.stdout``."""
NUMPY_ERROR = re.compile(r"\d+ requested and \d+ written")
SHORTEST_SECRET = 4
"""Letters; what is shorter would be found in the middle of words."""


def printable(text: str, kept: str = "") -> str:
    """Escape what would move a terminal's cursor or cannot be printed, but for the characters ``kept``."""
    return "".join(
        one if one.isprintable() or one in kept else ascii(one)[1:-1]  # ascii() escapes and adds quotes
        for one in text
    )


def scrubbed(text: str) -> str:
    """Take names and passwords out of the addresses in a text: no ``user:password@host`` is ever told.

    What stands in ``MLFLOW_TRACKING_URI``, whatever signs its password is made of, is taken out as it
    stands, too: libraries quote an address, or parts of it, in many ways. So are passwords, tokens and keys
    that stand in variables of their own (:data:`VARIABLES`).
    """
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = HOSTED_PLACE.sub(r"\1:…", text)
    text = USERINFO.sub("", text)
    return QUERY_SECRETS.sub(r"\1…", text)


def first_line(error: Exception) -> str:
    """Tell an error's first line; scrubbed before it is cut: half a password would not be recognised."""
    return (scrubbed(str(error)).splitlines() or [type(error).__name__])[0][:200]


def shown(address: str) -> str:
    """Show an address without the credentials and the query that it may hold."""
    scheme, colon, rest = address.partition(":")
    if _kind(address) in HOSTED:
        return scheme
    if address.startswith("//"):  # no path has a host: a scheme was forgotten
        return f"//{address[2:].rpartition('@')[2].partition('?')[0]}"
    if not colon or "/" in scheme or _kind(address) in PATHS:
        return address.partition("?")[0]
    slashes = "//" if rest.startswith("//") else ""
    # Up to the last "@": a password may hold any character, though it should be escaped.
    place = rest.removeprefix(slashes).rpartition("@")[2]
    return f"{scheme}:{slashes}{place.partition('?')[0].partition('#')[0]}"


def _kind(address: str) -> str:
    return address.partition(":")[0].lower().partition("+")[0]


def _secrets() -> Iterator[str]:
    """Yield what is secret in the environment, as it may be written, the longest writing first."""
    told = [*_of_the_address(os.environ.get("MLFLOW_TRACKING_URI", ""))]
    told += [value for name, value in os.environ.items() if VARIABLES.fullmatch(name)]
    plain = {one.strip() for one in told if len(one.strip()) >= SHORTEST_SECRET}
    yield from sorted({form for one in plain for form in _forms(one)}, key=len, reverse=True)


def _of_the_address(address: str) -> Iterator[str]:
    scheme, _, rest = address.partition(":")
    if _kind(address) in HOSTED:  # an address of its own may follow: uc:https://…
        place = rest.rpartition("//")[2]
        info = place.rpartition("@")[0] or place
        yield from (place, info, info.partition(":")[2])
    elif _kind(address) not in PATHS and "/" not in scheme.removeprefix("//"):
        info = rest.lstrip("/").rpartition("@")[0]  # of an address with too few slashes, too
        yield from (info, info.partition(":")[2], *(value for _, value in QUERY_SECRETS.findall(address)))


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it stands, plain, escaped once more, within quotes, and in a header of HTTP."""
    yield from (secret, unquote(secret), quote(secret, safe=""), repr(secret)[1:-1])
    name = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    for header in (secret, f":{secret}", f"{name}:{secret}", unquote(secret)):
        yield b64encode(header.encode(errors="surrogateescape")).decode()


def exit_code(main: Callable[[], None]) -> int:
    """Run an entry point; turn errors of a user, a gate or the machine into a sentence and an exit code."""
    try:
        main()
        sys.stdout.flush()  # or the interpreter meets a reader that has gone, as it ends
    except UserError as error:
        print(f"error: {printable(scrubbed(str(error)))}", file=sys.stderr)
        return 2
    except GateError as error:
        print(f"refused: {printable(scrubbed(str(error)), kept=chr(10))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept: the same command goes on from there", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        # Of any type, for libraries in Rust have types of their own. Nothing is swallowed: what the machine
        # refused becomes a sentence and exit code 1, all else is a bug and raised again.
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 128 + signal.SIGPIPE
        said = of_the_machine(error)
        if said is None:
            sys.excepthook = _tell_bug
            raise
        print(f"refused: {printable(scrubbed(said))}", file=sys.stderr)
        return 1
    return 0


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output any more (``… | head``): no fault, and no one to tell.

    What is still to be printed then goes nowhere, or the interpreter would complain of the pipe as it ends.
    """
    look = select.poll()
    look.register(STDOUT, 0)
    if not any(event & select.POLLERR for _, event in look.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)
    return True


def _tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without names and passwords of addresses."""
    print(scrubbed("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def out_of_memory(error: Exception) -> bool:
    """Whether there was not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None
    )


def of_the_machine(error: Exception) -> str | None:
    """Say what failed where it was the machine and no fault of ours: no room, no right to write or read.

    NumPy tells of a full disk without a number, libraries in Rust have it in their text only.
    """
    text = str(error)
    if out_of_memory(error):
        return f"not enough memory ({(text.splitlines() or [''])[0][:160]}); {LESS_MEMORY}"
    number = error.errno if isinstance(error, OSError) else None
    if found := RUST_ERROR.search(text):
        number = int(found[1])
    if isinstance(error, OSError) and number is None and NUMPY_ERROR.fullmatch(text):
        number = errno.ENOSPC
    if number not in MACHINE:
        return None
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    then = "what was finished is kept: run the same command again when that is mended"
    return f"{where}{os.strerror(number)}; {then}"

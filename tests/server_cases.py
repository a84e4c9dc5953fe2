"""A server with scripted answers, and the file that it should give."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lossbench.data.sources.obtaining import Published, checksum

GOOD = b"the official bytes" * 100
ONE = Published("file.gz", checksum(GOOD))


class Server:
    """Serves scripted answers, one a request; the last is repeated."""

    def __init__(self, *answers: bytes | int) -> None:
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers[min(outer.requests, len(answers) - 1)]
                outer.requests += 1
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(GOOD)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def left_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())

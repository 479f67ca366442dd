"""The provider outside that delivers greetings: a real HTTP server, with faults of its own.

It answers a repeat of a key as it did before. Some requests it refuses, and some it answers with silence after
it has done its work.
"""

import itertools
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_FAILS = 0.02


class Provider:
    def __init__(self) -> None:
        self.receipts: dict[str, int] = {}
        """What it answers, by key."""
        lock, numbers, receipts = threading.Lock(), itertools.count(1), self.receipts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if random.random() < _FAILS:
                    self.send_error(503)
                    return
                with lock:
                    key = self.headers["Idempotency-Key"]
                    receipt = receipts.get(key) or receipts.setdefault(key, next(numbers))
                if random.random() < _FAILS:
                    self.close_connection = True
                    return
                body = b"%d" % receipt
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

"""HTTP/1.1 as uvicorn speaks it, but that an offer to upgrade is declined.

A server may ignore `Upgrade` and answer as if it were not there (RFC 9110, 7.8). The parser takes up
every offer all the same: it says that the message ends with its head, and stops. So the body reaches
nobody; or, when it comes in a segment of its own, it is taken for the next request, and whoever fills
in another's body could make requests in their name. Java's HttpClient offers `h2c` with every first
request in clear text.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpProtocol(HttpToolsProtocol):
    """A head with an offer is parsed again without it, by a parser that goes on with what follows."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                except HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                    if not self._offers():
                        self.cycle.keep_alive = False  # CONNECT: what follows it is no request
                        return
                    head = self._head_without_offer()
                    self.parser = HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)
                else:
                    return
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _offers(self) -> bool:
        """Whether this head will be parsed again; a CONNECT without an offer stops the parser too."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if not self._offers():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._offers():
            super().on_message_complete()

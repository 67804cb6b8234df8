"""A model hub on 127.0.0.1: answers by path, and remembers what it was asked."""

import contextlib
import dataclasses
import http.server
import io
import tarfile
import threading
import urllib.parse
from collections.abc import Iterator


@dataclasses.dataclass
class Answer:
    """What the server says at one path.

    Attributes:
      body: sent, if there is no redirect.
      status: HTTP status.
      location: of a redirect.
      compressed_only: answers 400 without ?tf-hub-format=compressed, as the hub's protocol has it.
      stated_length: Content-Length when it is not the body's; the connection closes after the body.
      chunked: sends no Content-Length.
      headers: further ones.
    """

    body: bytes = b""
    status: int = 200
    location: str | None = None
    compressed_only: bool = False
    stated_length: int | None = None
    chunked: bool = False
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class HubServer:
    """Answers by path.

    Attributes:
      url: for example "http://127.0.0.1:40001".
      answers: {path: answer}; 404 elsewhere.
      requests: (path with query, headers) of each request, in order.
    """

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []


@contextlib.contextmanager
def serve() -> Iterator[HubServer]:
    """Runs a server until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(is_head=False)

        def do_HEAD(self):
            self.answer(is_head=True)

        def answer(self, *, is_head):
            hub.requests.append((self.path, dict(self.headers)))
            parts = urllib.parse.urlsplit(self.path)
            answer = hub.answers.get(parts.path, Answer(status=404))
            query = urllib.parse.parse_qs(parts.query)
            if answer.compressed_only and query.get("tf-hub-format") != ["compressed"]:
                answer = Answer(status=400)
            self.send_response(answer.status)
            if answer.location:
                self.send_header("Location", answer.location)
            length = len(answer.body) if answer.stated_length is None else answer.stated_length
            if not answer.chunked:
                self.send_header("Content-Length", str(length))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if not is_head:
                self.wfile.write(answer.body)
            self.close_connection = True

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = HubServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_archive(*members: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar archive of regular files.

    Args:
      *members: (name, content); a name that ends with "/" is a folder.
      mode: of `tarfile.open`.

    Returns:
      Its bytes.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()

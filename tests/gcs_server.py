"""A stand-in for Google Cloud Storage on 127.0.0.1, which TensorFlow's own gs:// talks to.

TensorFlow's addresses are fixed, but its libcurl goes through the proxy that https_proxy names. So
this is that proxy: it ends the TLS itself, with a certificate of a throw-away authority, and
answers the part of the JSON and XML interfaces that TensorFlow uses. Objects are files of a folder,
so what processes that are killed leave behind stays.

Reference: https://cloud.google.com/storage/docs/json_api/v1
"""

import contextlib
import dataclasses
import datetime
import http.server
import json
import os
import pathlib
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

TOKEN = "a-token-of-the-tests"
BUCKET = "bucket"
_EXTENSIONS = "subjectAltName=DNS:*.googleapis.com\n"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch")


@dataclasses.dataclass
class Fault:
    """What goes wrong with requests.

    Attributes:
      pattern: of the request's line, see `Store.take_log`, such as "upload run/run.flags".
      status: that is answered; 0 hangs up.
      skip: how many such requests go well before.
      times: how many go wrong then.
    """

    pattern: str
    status: int
    skip: int = 0
    times: int = 10**9


class Store:
    """Buckets, and what was asked of them.

    Args:
      root: a folder for each bucket, a file for each object.
      port: of the stand-in.
      authority: certificate that TensorFlow shall trust.

    Attributes:
      root: as above.
      environment: variables that lead TensorFlow here.
    """

    def __init__(self, root: pathlib.Path, port: int, authority: pathlib.Path):
        proxy = self._url = f"http://127.0.0.1:{port}"
        self.root = root
        self.environment = {
            "https_proxy": proxy,
            "HTTPS_PROXY": proxy,
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": str(authority),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
            "NO_GCE_CHECK": "true",
        }

    def path(self, name: str, bucket: str = BUCKET) -> pathlib.Path:
        """The file that an object is."""
        return self.root / bucket / urllib.parse.quote(name, safe="")

    def names(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        """The objects whose names begin so, sorted."""
        found = (self.root / bucket).iterdir()
        names = (urllib.parse.unquote(path.name) for path in found if path.suffix != ".part")
        return sorted(name for name in names if name.startswith(prefix))

    def put(self, name: str, content: bytes, bucket: str = BUCKET) -> None:
        """Writes an object whole."""
        part = self.root / bucket / f"{secrets.token_hex(8)}.part"
        part.write_bytes(content)
        part.replace(self.path(name, bucket))

    def put_tree(self, folder: pathlib.Path, name: str) -> None:
        """Writes the files below a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder)}", path.read_bytes())

    def empty(self) -> None:
        """Removes all objects."""
        for path in (self.root / BUCKET).iterdir():
            path.unlink()

    def fail(self, *faults: Fault) -> None:
        """Makes requests go wrong, those of earlier calls no more."""
        self._ask("/faults", [dataclasses.asdict(fault) for fault in faults])

    def set_page_size(self, count: int) -> None:
        """How many names an answer to list holds."""
        self._ask("/page_size", count)

    def take_log(self) -> list[str]:
        """What was asked since the last call.

        "VERB OBJECT" of each request that met no fault, in order; verbs are bucket, stat, list,
        read, start and upload (both of an upload), rename and remove.
        """
        return self._ask("/log", None)

    def _ask(self, path: str, value: Any) -> Any:
        request = urllib.request.Request(self._url + path, json.dumps(value).encode())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[Store]:
    """Runs a stand-in in a process of its own until the block ends.

    TensorFlow waits for answers while it holds Python's lock, so it cannot be a thread.

    Args:
      folder: an existing, empty one.
    """
    _make_certificates(folder)
    root = folder / "buckets"
    (root / BUCKET).mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Store(root, int(process.stdout.readline()), folder / "authority.pem")
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def used(folder: pathlib.Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Serves a new folder, to which gs:// of this process and of those it starts leads.

    Args:
      folder: for the objects; made.
      patch: of the test.

    Yields:
      The store.
    """
    folder.mkdir()
    with serve(folder) as found:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


def move_to(name: str, folder: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
    """Makes this process, and those it starts, of a machine by name, with copies of its own.

    Args:
      name: of the machine.
      folder: of the test.
      patch: of the test.
    """
    patch.setenv("TFHUB_CACHE_DIR", str(folder / "machines" / name))


def _make_certificates(folder: pathlib.Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command makes the stand-in's certificate, and is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "extensions").write_text(_EXTENSIONS)
    run(
        "req", "-x509", *_KEY, "-keyout", "authority.key", "-out", "authority.pem", "-days", "2",
        "-subj", "/CN=tests", "-addext", "basicConstraints=critical,CA:TRUE",
    )  # fmt: skip
    run("req", *_KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=stand-in")
    run(
        "x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
        "-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", "server.pem",
    )  # fmt: skip


class _Server(http.server.ThreadingHTTPServer):
    """What the requests of all connections share."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: pathlib.Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        port = self.server_address[1]
        self.store = Store(folder / "buckets", port, folder / "authority.pem")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.lock = threading.RLock()
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.page_size = 1000
        self.sessions: dict[str, str] = {}

    def control(self, path: str, value: Any) -> Any:
        """Does what a test asks for."""
        with self.lock:
            log = list(self.log)
            if path == "/log":
                self.log.clear()
            elif path == "/faults":
                self.faults = [Fault(**fault) for fault in value]
            else:
                self.page_size = value
        return log

    def find_fault(self, line: str) -> int | None:
        """The status that a request is refused with."""
        with self.lock:
            for fault in self.faults:
                if not re.search(fault.pattern, line):
                    continue
                if fault.skip:
                    fault.skip -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault.status
            self.log.append(line)
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_CONNECT(self):
        self.send_response(200, "Connection established")
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()
        with contextlib.suppress(OSError):
            self.connection.close()

    def handle(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            super().handle()

    def log_message(self, *args):
        pass

    def do_GET(self):
        parts = self._split()
        if not self._may():
            return
        if self.headers["Host"] == "storage.googleapis.com":
            _, bucket, name = parts.path.split("/", 2)
            self._read(bucket, urllib.parse.unquote(name))
            return
        found = re.fullmatch(r"/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", parts.path)
        bucket, name = found[1], found[2]
        if name is not None:
            self._stat(bucket, urllib.parse.unquote(name))
        elif parts.path.endswith("/o"):
            self._list(bucket, dict(urllib.parse.parse_qsl(parts.query)))
        elif self._is_well(f"bucket {bucket}", bucket):
            self._answer({"name": bucket, "location": "EU"})

    def do_POST(self):
        parts = self._split()
        content = self._take_body()
        if not isinstance(self.connection, ssl.SSLSocket):
            self._answer(self.server.control(parts.path, json.loads(content)))
            return
        if not self._may():
            return
        query = dict(urllib.parse.parse_qsl(parts.query))
        found = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", parts.path)
        if found:
            self._start(found[1], query["name"])
        else:
            pattern = r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)"
            found = re.fullmatch(pattern, parts.path)
            source, target = urllib.parse.unquote(found[2]), urllib.parse.unquote(found[4])
            if self._is_well(f"rename {target}", found[1], source):
                self.server.store.put(
                    target, self.server.store.path(source, found[1]).read_bytes(), found[3]
                )
                self._answer({"done": True})

    def do_PUT(self):
        """The content of an upload, which takes its name once it is whole."""
        content = self._take_body()
        bucket, name = self.server.sessions[self._split().path.rpartition("/")[2]].split("/", 1)
        if content is None:
            self.close_connection = True
        elif self.headers.get("Content-Range", "").startswith("bytes */"):
            self._answer({}, status=308)
        elif self._is_well(f"upload {name}", bucket):
            self.server.store.put(name, content, bucket)
            self._answer({})

    def do_DELETE(self):
        found = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", self._split().path)
        name = urllib.parse.unquote(found[2])
        if self._may() and self._is_well(f"remove {name}", found[1], name):
            self.server.store.path(name, found[1]).unlink()
            self._answer(None, status=204)

    def _stat(self, bucket, name):
        if self._is_well(f"stat {name}", bucket, name):
            status = self.server.store.path(name, bucket).stat()
            time = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
            self._answer(
                {
                    "size": str(status.st_size),
                    "generation": str(status.st_mtime_ns),
                    "updated": f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z",
                }
            )

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        if not self._is_well(f"list {prefix}", bucket):
            return
        found = {}
        for name in self.server.store.names(prefix, bucket):
            head, sign, _ = name[len(prefix) :].partition(delimiter or "\0")
            found[prefix + head + sign if sign else name] = bool(sign)
        first = int(query.get("pageToken", 0))
        last = first + min(int(query.get("maxResults", 10**9)), self.server.page_size)
        page = list(found.items())[first:last]
        answer = {
            "items": [{"name": name} for name, is_prefix in page if not is_prefix],
            "prefixes": [name for name, is_prefix in page if is_prefix],
        }
        answer = {key: value for key, value in answer.items() if value}
        if last < len(found):
            answer["nextPageToken"] = str(last)
        self._answer(answer)

    def _read(self, bucket, name):
        if not self._is_well(f"read {name}", bucket, name):
            return
        content = self.server.store.path(name, bucket).read_bytes()
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        if first >= len(content):
            self._answer(None, status=416)
        else:
            self._answer(content[first : last + 1], status=206)

    def _start(self, bucket, name):
        if self._is_well(f"start {name}", bucket):
            number = secrets.token_hex(8)
            self.server.sessions[number] = f"{bucket}/{name}"
            self._answer({}, headers={"Location": f"https://www.googleapis.com/session/{number}"})

    def _split(self):
        return urllib.parse.urlsplit(self.path)

    def _take_body(self):
        """The content; None where the connection ended before it did."""
        if self.headers.get("Transfer-Encoding") == "chunked":  # and a length beside it
            content = b""
            while length := int(self.rfile.readline() or b"-1", 16):
                chunk = self.rfile.read(max(length, 0))
                if len(chunk) != length or self.rfile.readline() != b"\r\n":
                    return None
                content += chunk
            self.rfile.readline()
            return content
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        return content if len(content) == length else None

    def _may(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "no token"}, status=401)
        return False

    def _is_well(self, line, bucket, name=None):
        """Whether the request can be answered; if not, it was."""
        status = self.server.find_fault(line)
        if status == 0:
            self.close_connection = True
        elif status is not None:
            self._answer({"error": "as the test wants"}, status=status)
        elif not (self.server.store.root / bucket).is_dir():
            self._answer({"error": "no such bucket"}, status=404)
        elif name is not None and not self.server.store.path(name, bucket).exists():
            self._answer({"error": "no such object"}, status=404)
        else:
            return True
        return False

    def _answer(self, body, *, status=200, headers=None):
        content = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _run(folder: pathlib.Path) -> None:
    server = _Server(folder)
    print(server.server_address[1], flush=True)
    # Ends with whoever has started it, also where that was killed.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    _run(pathlib.Path(sys.argv[1]))

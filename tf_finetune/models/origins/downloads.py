"""One file over HTTP, whole or not at all.

One idea: what arrives is counted against what was announced, because neither `urllib` nor `http`
complains about a connection that closes early.
"""

import http.client
import math
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from tf_finetune import findings, progress
from tf_finetune.models.stored import stored_config

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_CHUNK_BYTES = 2**20
_MEGABYTE = 10**6
_TIMEOUT_SECS = 60.0
_MAX_BYTES = 64 * 2**30
_FORBIDDEN = (
    "Some models on Kaggle need credentials (KAGGLE_API_TOKEN, KAGGLE_USERNAME and KAGGLE_KEY, or "
    "~/.kaggle/kaggle.json), or your consent to their licence on the model's page."
)
# HTTP status -> what to do about it.
_ADVICE = {
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    404: "Check the handle and its version.",
    410: "Check the handle and its version.",
    429: "Wait, then run the same command again.",
}


def check_url(url: str, *, handle: str) -> None:
    """Refuses an address that nothing should be fetched from.

    Args:
      url: of the handle, or where its server redirects to.
      handle: value of --model, for the error's text.

    Raises:
      findings.RefusedError: it is malformed, holds a password, or is neither https nor http on this
        machine.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, has_user = parts.hostname, parts.username is not None
    except ValueError as error:
        raise stored_config.refused(handle, f"is no URL: {error}.") from error
    if not host:
        raise stored_config.refused(handle, "is no URL: it names no host.")
    if has_user:
        raise stored_config.refused(
            handle, "has a user name in it, which would be written to run.flags. Leave it out."
        )
    if parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL_HOSTS):
        return
    to = "" if url == handle else f"is redirected to {findings.one_line(url)}, which "
    raise stored_config.refused(
        handle,
        f"{to}is not https: on the way, others could replace the model. Expected https://.",
    )


def download(url: str, target: str, *, handle: str, headers: Mapping[str, str]) -> None:
    """Fetches a file, following redirects, with a progress bar on standard error.

    Args:
      url: where it is.
      target: path of a file that does not exist; a failed download may leave a part there.
      handle: value of --model, for the error's text.
      headers: sent to the first server only, not to where it redirects.

    Raises:
      findings.RefusedError: there is no network, the server refuses or does not have it, redirects
        to an address that is not https, or ends early; the disk is full.
    """
    check_url(url, handle=handle)
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(quoted, headers={"User-Agent": "tf_finetune"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    opener = urllib.request.build_opener(_Redirects(handle))
    try:
        with opener.open(request, timeout=_TIMEOUT_SECS) as response:
            _receive(response, target, handle=handle)
    except findings.RefusedError:
        raise
    except urllib.error.HTTPError as error:
        reason = findings.one_line(f"{error.code} {error.reason}")
        advice = _ADVICE.get(error.code, "Try again later.")
        message = f"the server answered {reason}. {advice}"
        raise stored_config.refused(handle, message) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        raise stored_config.refused(
            handle,
            f"cannot be downloaded: {findings.one_line(cause) or type(error).__name__}. Check the "
            "network, or give --model a local copy.",
        ) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, handle: str):
        self._handle = handle

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: object,
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_url(newurl, handle=self._handle)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore


def _receive(response: http.client.HTTPResponse, target: str, *, handle: str) -> None:
    stated = response.headers.get("Content-Length", "")
    size = int(stated) if stated.isdecimal() else None
    _check_space(size or 0, target, handle=handle)
    label = f"Downloading {findings.one_line(handle)} (MB)"
    total = math.ceil(size / _MEGABYTE) if size is not None else None
    received = 0
    with open(target, "xb") as file, progress.ProgressBar(label, total, stream=sys.stderr) as bar:
        while True:
            try:
                piece = response.read(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _broken_off(handle, received, size) from error
            if not piece:
                break
            received += len(piece)
            if received > _MAX_BYTES:
                message = f"is larger than {_MAX_BYTES:,} bytes. It was not downloaded."
                raise stored_config.refused(handle, message)
            file.write(piece)
            bar.update(math.ceil(received / _MEGABYTE))
    if size is not None and received != size:
        raise _broken_off(handle, received, size)


def _check_space(size: int, target: str, *, handle: str) -> None:
    free = shutil.disk_usage(target.rpartition("/")[0] or ".").free
    if size > free:
        raise stored_config.refused(
            handle, f"has {size:,} bytes; the disk of the cache has {free:,} left."
        )


def _broken_off(handle: str, received: int, size: int | None) -> findings.RefusedError:
    expected = "" if size is None else f" of {size:,}"
    return stored_config.refused(
        handle,
        f"the download broke off after {received:,}{expected} bytes. Nothing was kept: run the "
        "same command again.",
    )

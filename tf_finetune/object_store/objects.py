"""Objects of a store: list, read, write and remove them, with errors that a user can act on.

One idea: TensorFlow's own file system for gs:// does the talking. It retries what may go away by
itself, ten times with growing pauses from one second to 32 (GCS_RETRY_CONFIG_MAX_RETRIES,
GCS_RETRY_CONFIG_INIT_DELAY_TIME_US), and an object appears whole or not at all.

Reference: TensorFlow, "tf.io.gfile", https://www.tensorflow.org/api_docs/python/tf/io/gfile;
Google, "Cloud Storage, consistency", https://cloud.google.com/storage/docs/consistency.
"""

import concurrent.futures
import contextlib
import os
import re
import typing
from collections.abc import Collection, Iterator, Mapping

from tf_finetune import findings, remote_paths

# What a request takes is waiting.
_THREADS = 16
_CHUNK_BYTES = 2**23
_HTTP_CODE = re.compile(r"HTTP response code (\d+)")


class StoreError(findings.RefusedError):
    """The store does not do what was asked of it; the command line ends with exit code 2."""


class Entry(typing.NamedTuple):
    """What tells two contents of an object apart.

    Attributes:
      size: bytes.
      mtime_ns: when it was written, nanoseconds since 1970 by the store's clock.
    """

    size: int
    mtime_ns: int


def find(url: str) -> Entry | None:
    """Looks for an object or a folder.

    Args:
      url: gs://BUCKET/PATH.

    Returns:
      What the object is; None of a folder.

    Raises:
      FileNotFoundError: neither is there, but the bucket is.
      StoreError: there is no such bucket, or the store cannot be read.
    """
    import tensorflow as tf

    with _naming(url, "read"):
        try:
            found = tf.io.gfile.stat(_root(url))
        except tf.errors.NotFoundError:
            _check_bucket(url)
            raise FileNotFoundError(url) from None
    return None if found.is_directory else Entry(found.length, found.mtime_nsec)


def list_names(url: str) -> tuple[list[str], list[str]]:
    """What is directly in a folder.

    Args:
      url: of the folder; it need not exist.

    Returns:
      (names of objects, names of folders), sorted.

    Raises:
      StoreError: the store cannot be read, or a name cannot be that of a file.
    """
    import tensorflow as tf

    with _naming(url, "read"):
        try:
            names = tf.io.gfile.listdir(_root(url))
        except tf.errors.NotFoundError:
            # It says so of every error; this one tells them apart.
            if not tf.io.gfile.exists(_root(url)):
                _check_bucket(url)
                return [], []
            names = tf.io.gfile.listdir(_root(url))
    files = sorted({name for name in names if not name.endswith("/")})
    folders = sorted({name[:-1] for name in names if name.endswith("/")})
    odd = [name for name in (*files, *folders) if name in ("", ".", "..") or "\0" in name]
    odd += sorted(set(files) & set(folders))
    if odd:
        message = (
            f"{findings.one_line(url)} has objects that cannot be files of a folder: "
            f"{findings.list_first(odd)} (empty, '.', '..', or both a file and a folder). Rename "
            "them."
        )
        raise StoreError(findings.Problem(message, path=url))
    return files, folders


def list_tree(url: str, *, without: tuple[str, ...] = ()) -> dict[str, Entry]:
    """All objects below a folder.

    Args:
      url: of the folder; it need not exist.
      without: names of folders directly in it that are left out.

    Returns:
      {name relative to the folder, with "/": what it is}.

    Raises:
      StoreError: see `list_names`.
    """
    names: list[str] = []
    level = [""]
    while level:
        below: list[str] = []
        for folder, (files, folders) in list_folders(url, level).items():
            prefix = f"{folder}/" if folder else ""
            names += [prefix + name for name in files]
            below += [prefix + name for name in folders if prefix or name not in without]
        level = below
    return look_at(url, names)


def list_folders(url: str, folders: Collection[str]) -> dict[str, tuple[list[str], list[str]]]:
    """What is directly in some folders, several of them at once.

    Args:
      url: of the folder that the others are relative to.
      folders: relative names; "" is `url` itself.

    Returns:
      {relative name: see `list_names`}.

    Raises:
      StoreError: see `list_names`.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: list_names(remote_paths.join(url, name)), folders)
        return dict(zip(folders, found, strict=True))


def look_at(url: str, names: list[str]) -> dict[str, Entry]:
    """What some objects are.

    Args:
      url: of their folder.
      names: relative to it; all of them exist.

    Returns:
      {name: what it is}.

    Raises:
      StoreError: one is gone, or the store cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _look(remote_paths.join(url, name)), names)
        return dict(zip(names, found, strict=True))


def download(url: str, wanted: Mapping[str, Entry], places: Mapping[str, str]) -> Iterator[str]:
    """Copies objects to this machine, several at once.

    Args:
      url: of their folder.
      wanted: {name: what it is}.
      places: {name: path that takes the object's content}; their folders exist. A file gets its
        object's time.

    Yields:
      The name of each file once it is whole.

    Raises:
      StoreError: an object is gone or another than was listed, or the store cannot be read.
      OSError: a file cannot be written.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        jobs = {
            pool.submit(_download, remote_paths.join(url, name), places[name], entry): name
            for name, entry in wanted.items()
        }
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            for job in jobs:
                job.cancel()


def upload(path: str, url: str) -> Entry:
    """Copies a file into the store; until it is whole, the former object stays.

    Args:
      path: an existing file; it may grow meanwhile.
      url: of the object.

    Returns:
      What the object is then.

    Raises:
      FileNotFoundError: the file is gone.
      StoreError: the store cannot be written, or has another size than was written.
    """
    import tensorflow as tf

    least = os.path.getsize(path)
    with _naming(url, "written"):
        tf.io.gfile.copy(path, url, overwrite=True)
        found = _look(url)
    if not least <= found.size <= os.path.getsize(path):
        message = (
            f"{findings.one_line(url)} cannot be written: of {least:,} bytes the store has "
            f"{found.size:,}. Run the same command again."
        )
        raise StoreError(findings.Problem(message, path=url))
    return found


def write(url: str, content: str) -> None:
    """Writes a small object.

    Args:
      url: of the object.
      content: its text.

    Raises:
      StoreError: the store cannot be written.
    """
    import tensorflow as tf

    with _naming(url, "written"), tf.io.gfile.GFile(url, "wb") as file:
        file.write(content.encode())


def read(url: str) -> str | None:
    """Reads a small object.

    Args:
      url: of the object; it need not exist.

    Returns:
      Its text; None where it does not exist.

    Raises:
      StoreError: the store cannot be read.
    """
    import tensorflow as tf

    with _naming(url, "read"):
        try:
            with tf.io.gfile.GFile(url, "rb") as file:
                return file.read().decode("utf-8", "replace")
        except tf.errors.NotFoundError:
            return None


def rename(url: str, target: str) -> None:
    """Gives an object another name, within the store.

    Args:
      url: of the object.
      target: its new URL; what is there is replaced.

    Raises:
      StoreError: the store cannot be written.
    """
    import tensorflow as tf

    with _naming(target, "written"):
        tf.io.gfile.rename(url, target, overwrite=True)


def remove(url: str) -> None:
    """Removes an object.

    Args:
      url: of the object, or of a folder's own with "/" at its end; it need not exist.

    Raises:
      StoreError: the store cannot be written.
    """
    import tensorflow as tf

    with _naming(url, "written"), contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(url)


def _look(url: str) -> Entry:
    import tensorflow as tf

    with _naming(url, "read"):
        found = tf.io.gfile.stat(url)
    return Entry(found.length, found.mtime_nsec)


def _download(url: str, path: str, entry: Entry) -> None:
    import tensorflow as tf

    size = 0
    with _naming(url, "read"), tf.io.gfile.GFile(url, "rb") as source, open(path, "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            size += len(chunk)
    if size != entry.size:
        message = (
            f"{findings.one_line(url)} changed while it was copied: expected {entry.size:,} bytes, "
            f"received {size:,}. Run the same command again."
        )
        raise StoreError(findings.Problem(message, path=url))
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _root(url: str) -> str:
    # A bucket alone is asked for with a slash.
    return url if "/" in url.removeprefix(remote_paths.SCHEME) else f"{url}/"


def _check_bucket(url: str) -> None:
    import tensorflow as tf

    bucket = url.removeprefix(remote_paths.SCHEME).partition("/")[0]
    try:
        exists = tf.io.gfile.exists(f"{remote_paths.SCHEME}{bucket}/")
    except tf.errors.PermissionDeniedError:  # who may read objects need not see the bucket
        return
    if not exists:
        message = (
            f"{findings.one_line(url)}: there is no bucket '{findings.one_line(bucket)}'. Make it, "
            "or correct the name."
        )
        raise StoreError(findings.Problem(message, path=url))


@contextlib.contextmanager
def _naming(url: str, done: str) -> Iterator[None]:
    """Turns what TensorFlow says into one line that names the object."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        code = _HTTP_CODE.search(error.message)
        status = f" (HTTP {code[1]})" if code else ""
        if isinstance(error, tf.errors.PermissionDeniedError):
            reason = f"the store refuses access{status}. Allow it for the credentials in use"
            reason += " (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login)."
        elif isinstance(error, tf.errors.NotFoundError):
            reason = f"it is not there{status}. Correct the name, or run the same command again."
        else:
            text = f"the store does not answer as expected{status}"
            if code is None:
                text = findings.one_line(error.message.partition("\n")[0])[:300].rstrip(". ")
            reason = f"{text}. Run the same command again when the store answers."
        message = f"{findings.one_line(url)} cannot be {done}: {reason}"
        raise StoreError(findings.Problem(message, path=url)) from error

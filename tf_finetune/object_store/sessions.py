"""What a run and a verb do about folders in a store: the only door to this room.

One idea: whoever works on a workdir asks for a session and gets a local folder; of a local workdir
it is that folder itself, and all that a session does is nothing.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tf_finetune import distribution, findings, remote_paths, run_lock, specs
from tf_finetune.object_store import data_copies, objects, version_uploads, workdir_copies

_Verb = TypeVar("_Verb", bound=Callable[..., Any])


class Session:
    """A run or a verb on a workdir.

    Args:
      workdir_path: as it was given.
      is_chief: whether this process writes.
      announce: takes what the session tells.

    Attributes:
      folder: the local workdir.
      is_used: whether something of it may have to be sent.
    """

    def __init__(
        self,
        workdir_path: str,
        *,
        is_chief: bool = True,
        announce: Callable[[str], None] = print,
    ):
        self._copy: workdir_copies.WorkdirCopy | None = None
        self._is_chief = is_chief
        self._announce = announce
        self.is_used = False
        # {local path: the URL that it is a copy of}, for messages.
        self._urls: dict[str, str] = {}
        self.folder = workdir_path
        if remote_paths.is_remote(workdir_path):
            self._copy = workdir_copies.WorkdirCopy(workdir_path)
            self.folder = self._copy.folder
            self._urls[self.folder] = self._copy.url

    @property
    def has_copies(self) -> bool:
        """Whether something of the run lies in a store."""
        return bool(self._urls)

    def bring(self) -> None:
        """Makes the local workdir that of the store.

        Raises:
          RefusedError: a run of this machine uses it, or the store cannot be read.
        """
        if self._copy is not None:
            folder = findings.one_line(self.folder)
            self._announce(f"The local copy of {findings.one_line(self._copy.url)} is {folder}.")
            self._copy.bring()

    def announce(self, text: str) -> None:
        """Tells the user something.

        Args:
          text: a line; local copies in it are told as what they are copies of.
        """
        self._announce(self.name_urls(text))

    def localize(self, spec: specs.RunSpec) -> specs.RunSpec:
        """Copies what of the data lies in a store, and tries out whether versions can go there.

        Args:
          spec: the run.

        Returns:
          It with local data and workdir; the same where nothing lies in a store.

        Raises:
          RefusedError: the data are not there, or the store cannot be read or written.
          OSError: there is no room for the copy.
        """
        url = spec.export.export_dir
        if url is not None and remote_paths.is_remote(url) and self._is_chief and not spec.dry_run:
            version_uploads.check_writable(url)
        if self._copy is not None:
            spec = dataclasses.replace(spec, workdir=self.folder)
        if not remote_paths.is_data_remote(spec.data):
            return spec
        distribution.import_quietly()
        data, urls = data_copies.bring_all(spec.data, cache_dir=spec.train.cache_dir)
        self._urls |= urls
        return dataclasses.replace(spec, data=data)

    def sync(self) -> None:
        """Sends what was written since the last time; the caller holds the run's lock.

        Raises:
          StoreError: the store cannot be written.
        """
        if self._copy is not None and self._is_chief:
            self.is_used = True
            self._copy.send()

    def end(self) -> None:
        """Sends the rest, where something was written.

        Raises:
          StoreError: the store cannot be written.
          RefusedError: another process has taken the workdir over meanwhile.
        """
        if self.is_used:
            with run_lock.hold(self.folder):
                self.sync()

    def name_urls(self, text: str) -> str:
        """A message with the URLs of what the user has named.

        Args:
          text: may name local copies.

        Returns:
          The text with their URLs instead.
        """
        for path, url in self._urls.items():
            text = text.replace(path, url)
        return text


@contextlib.contextmanager
def opened(
    workdir_path: str, *, is_chief: bool = True, announce: Callable[[str], None] = print
) -> Iterator[Session]:
    """Runs a run or a verb on a workdir, and sends what it has written when it ends.

    Args:
      workdir_path: local, or gs://BUCKET/PATH.
      is_chief: whether this process writes.
      announce: takes a warning where what is left of a run that fails cannot be sent.

    Yields:
      The session; errors that leave the block name URLs in place of local copies.

    Raises:
      StoreError: the store cannot be written.
    """
    session = Session(workdir_path, is_chief=is_chief, announce=announce)
    try:
        yield session
    except objects.StoreError:  # nothing more can be sent
        raise
    except findings.RefusedError as error:
        _end_all_the_same(session)
        if not session.has_copies:
            raise
        problems = [
            dataclasses.replace(problem, message=session.name_urls(problem.message))
            for problem in error.problems
        ]
        raise type(error)(*problems) from error
    except specs.SpecError as error:
        if not session.has_copies:
            raise
        raise specs.SpecError(*map(session.name_urls, error.problems)) from error
    except BaseException:  # SIGTERM and Ctrl-C too: what was written last goes into the store
        _end_all_the_same(session)
        raise
    session.end()


@contextlib.contextmanager
def lent(workdir_path: str) -> Iterator[str]:
    """Lends a finished run's workdir to a verb.

    Args:
      workdir_path: local, or gs://BUCKET/PATH.

    Yields:
      The local workdir, what was written there goes into the store when the block ends.

    Raises:
      RefusedError: a run of this machine uses it; the store cannot be read or written.
    """
    if not remote_paths.is_remote(workdir_path):
        yield workdir_path
        return
    with opened(workdir_path) as session:
        session.bring()
        with run_lock.hold(session.folder):
            session.is_used = True
            yield session.folder


def on_local_copy(verb: _Verb) -> _Verb:
    """Lets a verb that works on a local workdir take one in a store.

    Args:
      verb: a function with a parameter `workdir_path`.

    Returns:
      The function; of a local workdir it does the same.
    """
    signature = inspect.signature(verb)

    @functools.wraps(verb)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        given = signature.bind(*arguments, **options)
        path = given.arguments.get("workdir_path")
        if path is None or not remote_paths.is_remote(path):
            return verb(*arguments, **options)
        with lent(path) as folder:
            given.arguments["workdir_path"] = folder
            return verb(*given.args, **given.kwargs)

    return wrapped  # type: ignore[return-value]


def localize(spec: specs.RunSpec) -> specs.RunSpec:
    """Copies what of the data of a run lies in a store, without a session.

    Args:
      spec: the run; its workdir is local.

    Returns:
      See `Session.localize`.

    Raises:
      RefusedError, OSError: see `Session.localize`.
    """
    return Session("", is_chief=False).localize(spec)


def localize_source(source: Any, spec: specs.RunSpec, *, flag: str) -> Any:
    """Copies other data than a run's own, if they lie in a store.

    Args:
      source: in a form of --data, or examples in memory.
      spec: the run, for its data options.
      flag: name of the flag that `source` stands in, for messages.

    Returns:
      The local path; the same where it does not lie in a store.

    Raises:
      RefusedError, OSError: see `data_copies.bring_source`.
    """
    if not isinstance(source, str) or not remote_paths.is_remote(source):
        return source
    return data_copies.bring_source(source, spec.data, flag=flag, cache_dir=spec.train.cache_dir)


def _end_all_the_same(session: Session) -> None:
    try:
        session.end()
    except (findings.RefusedError, OSError) as error:  # what has ended the run is the error
        session.announce(f"Warning: {error}")

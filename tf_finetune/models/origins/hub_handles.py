"""A handle or an archive becomes a local path.

One idea: whatever is fetched lands in one private cache, named by its SHA-256, and is only then
looked at. Handles: https://tfhub.dev/... and https://www.kaggle.com/models/..., the address of a
.tar.gz, .h5 or .keras file, gs://..., hf://USER/MODEL; archives: a local .tar.gz, .tgz or .tar.

tensorflow_hub's resolver is not used, although this is its protocol. It extracts while it
downloads, so that there is no file whose SHA-256 could be checked first; it takes a download that
ended early at a member's boundary for whole; it sets no limit on what comes out of an archive; the
lock of a killed run stops the next for ten minutes; its folder in /tmp is open to all users; and
importing it imports tf_keras. For a Kaggle handle it adds nothing but the query that is added here.

Reference: TF-Hub, "Model hosting protocol", https://www.tensorflow.org/hub/hosting (compressed
format); kagglehub, "Authenticate", https://github.com/Kaggle/kagglehub (credentials).
"""

import base64
import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import urllib.parse
import zipfile
from collections.abc import Callable, Sequence

from tf_finetune import findings
from tf_finetune.models import admission, formats
from tf_finetune.models.origins import archives, downloads, model_cache
from tf_finetune.models.stored import stored_config

_FILE_ENDINGS = (".tar.gz", ".tgz", ".tar", ".h5", ".hdf5", ".keras")
_COMPRESSED_FORMAT = ("tf-hub-format", "compressed")
_KAGGLE_HOSTS = ("kaggle.com", "www.kaggle.com")
_KAGGLE_ENDPOINT_VARIABLE, _KAGGLE_ENDPOINT = "KAGGLE_API_ENDPOINT", "https://www.kaggle.com"
_KAGGLE_PATH = re.compile(
    r"/models/(?P<owner>[^/]+)/(?P<model>[^/]+)(?:/frameworks)?/(?P<framework>[^/]+)"
    r"(?:/variations)?/(?P<variation>[^/]+)(?:(?:/versions)?/(?P<version>\d+))?/?"
)
_HF_PARTS = ("config.json", "metadata.json", "model.weights.h5")


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """Where a value of --model is on this machine.

    Attributes:
      path: a path that `formats.detect_format` understands, or the value itself where it is no
        handle and no archive.
      sha256: of what was downloaded, or of the archive; None for folders and for what was not
        fetched.
      found: what the examination found, beside nothing that forbids opening it; None: there was
        nothing to examine yet.
    """

    path: str
    sha256: str | None = None
    found: tuple[findings.Finding, ...] | None = None


def fetch(
    model: str,
    *,
    sha256: str | None = None,
    trust_model: bool = False,
    custom_objects: bool | Sequence[str] = False,
    meanwhile: Callable[[], object] | None = None,
) -> LocalModel:
    """Brings a handle or an archive to this machine, once, and examines what any model holds.

    Args:
      model: a value of --model.
      sha256: the expected SHA-256 of the file, archive or download, 64 hex digits.
      trust_model: the user vouches for the code in it.
      custom_objects: see `trust.examine`.
      meanwhile: what this process can do while another one examines a file.

    Returns:
      Where the model is. What was fetched before comes from the cache; nobody is asked for it.

    Raises:
      trust.UntrustedModelError: it must not be opened, see `trust.check`.
      findings.RefusedError: the SHA-256 is malformed, differs, or there is no single file to
        compare it with; the download fails (see `downloads.download`), or what came is no model;
        the archive is refused (see `archives`); an optional package is missing.
    """
    trusted = functools.partial(
        admission.check, trust_model=trust_model, custom_objects=custom_objects, where=model
    )
    local = _fetch(model, formats.read_sha256(sha256), trusted)
    path, role = admission.locate(local.path)
    if not os.path.exists(path):
        return local  # keras:NAME or a preset's name: examined where its files are known
    if os.path.isfile(path):
        # The loader will want it: while another process examines the file it costs no time.
        admission.begin(path, trust_model=trust_model, custom_objects=custom_objects, role=role)
        with contextlib.suppress(OSError):  # what cannot be read is refused by the examination
            formats.file_sha256(path)
        if meanwhile is not None:
            meanwhile()
    return dataclasses.replace(local, found=trusted(path, role=role))


def _fetch(model: str, expected: str | None, check: "_Check") -> LocalModel:
    scheme = model.partition("://")[0] + "://" if "://" in model else ""
    if scheme in _SCHEMES:
        return _fetch_handle(model, expected, check, scheme=scheme)
    if os.path.isfile(model):
        digest = formats.check_sha256(model, expected) if expected else None
        if formats.detect_format(model) == formats.ARCHIVE:
            check(model)
            digest = digest or formats.file_sha256(model)
            return LocalModel(_install_file(model, digest, name="", where=model), digest)
    elif formats.detect_format(model) not in _COMPARED_BY_LOADER and expected:
        raise _no_single_file(model)
    return LocalModel(model)


def _fetch_handle(handle: str, expected: str | None, check: "_Check", *, scheme: str) -> LocalModel:
    key = model_cache.key_of(handle)
    with model_cache.locked(key, what=handle):
        record = model_cache.read_record(handle)
        if record and (expected in (None, record.get("sha256"))):
            found = _find_fetched(record["key"], handle)
            if found:
                return LocalModel(found, record.get("sha256"))
        with model_cache.workspace(key) as folder:
            local, content = _SCHEMES[scheme](handle, folder, expected, check)
        model_cache.write_record(handle, {"key": content, "sha256": local.sha256})
        return local


def _find_fetched(content_key: str, handle: str) -> str | None:
    with model_cache.locked(content_key, what=handle):
        content = model_cache.find_content(content_key)
    return archives.find_model(content, where=handle) if content else None


def _fetch_http(
    handle: str, folder: str, expected: str | None, check: "_Check"
) -> tuple[LocalModel, str]:
    downloads.check_url(handle, handle=handle)
    parts = urllib.parse.urlsplit(handle)
    name = os.path.basename(parts.path.rstrip("/"))
    path = os.path.join(folder, "download")
    url, headers = handle, dict[str, str]()
    if parts.hostname in _KAGGLE_HOSTS:
        url, headers = _kaggle_request(handle)
    elif not name.lower().endswith(_FILE_ENDINGS):
        url = _ask_compressed(handle)
    downloads.download(url, path, handle=handle, headers=headers)
    return _take_file(path, expected, check, name=name, handle=handle)


def _take_file(
    path: str, expected: str | None, check: "_Check", *, name: str, handle: str
) -> tuple[LocalModel, str]:
    digest = formats.check_sha256(path, expected, where=handle)
    formats.detect_format(path, where=handle)
    check(path)  # refused, it does not stay in the cache
    return LocalModel(_install_file(path, digest, name=name, where=handle), digest), digest


def _install_file(path: str, digest: str, *, name: str, where: str) -> str:
    """Puts a download, or what is in an archive, into the cache."""
    with model_cache.locked(digest, what=where):
        content = model_cache.find_content(digest)
        if content is None:
            with model_cache.workspace(digest) as folder:
                inner = os.path.join(folder, "prepared")
                os.mkdir(inner, mode=0o700)
                kind = formats.detect_format(path, where=where)
                if kind == formats.ARCHIVE:
                    archives.extract(path, inner, where=where)
                else:
                    shutil.copyfile(path, os.path.join(inner, _safe_name(name, kind)))
                archives.find_model(inner, where=where)
                content = model_cache.install(inner, digest)
    return archives.find_model(content, where=where)


def _safe_name(name: str, kind: str) -> str:
    own = re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip(".")[-100:] or "model"
    ending = ".keras" if kind == formats.KERAS else ".h5"
    return own if own.lower().endswith((".h5", ".hdf5", ".keras")) else own + ending


def _install_folder(folder: str, handle: str, check: "_Check") -> tuple[LocalModel, str]:
    # Under the handle's lock: only this handle has this key.
    key = f"folder-{model_cache.key_of(handle)}"
    check(archives.find_model(folder, where=handle))
    model_cache.find_content(key)  # removes a damaged one
    content = model_cache.install(folder, key)
    return LocalModel(archives.find_model(content, where=handle)), key


def _ask_compressed(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    query = [*urllib.parse.parse_qsl(parts.query), _COMPRESSED_FORMAT]
    return parts._replace(query=urllib.parse.urlencode(query)).geturl()


def _kaggle_request(handle: str) -> tuple[str, dict[str, str]]:
    parts = urllib.parse.urlsplit(handle)
    match = _KAGGLE_PATH.fullmatch(parts.path)
    expected = "Expected https://www.kaggle.com/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION."
    if not match or match["version"] is None:
        lacks = "names no version of a model" if match else "is no Kaggle model"
        raise stored_config.refused(handle, f"{lacks}. {expected}")
    endpoint = os.environ.get(_KAGGLE_ENDPOINT_VARIABLE, _KAGGLE_ENDPOINT).rstrip("/")
    authorization = _kaggle_authorization()
    if authorization is None:
        return _ask_compressed(endpoint + parts.path), {}
    names = "/".join(match[name] for name in ("owner", "model", "framework", "variation"))
    url = f"{endpoint}/api/v1/models/{names}/{match['version']}/download"
    return url, {"Authorization": authorization}


def _kaggle_authorization() -> str | None:
    """The Authorization header, from the places and in the order that kagglehub documents."""
    home = os.path.expanduser("~/.kaggle")
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    for path in (token, os.path.join(home, "access_token"), os.path.join(home, "access_token.txt")):
        if path and os.path.isfile(path):
            token = _read_secret(path).strip()
        if token:
            return f"Bearer {token}"
    user, secret = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    path = os.path.join(os.environ.get("KAGGLE_CONFIG_DIR", home), "kaggle.json")
    if not (user and secret) and os.path.isfile(path):
        try:
            stored = json.loads(_read_secret(path))
            user, secret = str(stored["username"]), str(stored["key"])
        except (ValueError, KeyError, TypeError) as error:
            message = "holds no username and key. Expected Kaggle's API key file."
            raise stored_config.refused(path, message) from error
    if not (user and secret):
        return None
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def _read_secret(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise stored_config.refused(path, f"cannot be read: {error.strerror}.") from error


def _fetch_gs(
    handle: str, folder: str, expected: str | None, check: "_Check"
) -> tuple[LocalModel, str]:
    import tensorflow as tf

    files = tf.io.gfile
    target = os.path.join(folder, "download")
    try:
        if not files.isdir(handle):
            files.copy(handle, target)
            name = os.path.basename(handle.rstrip("/"))
            return _take_file(target, expected, check, name=name, handle=handle)
        if expected:
            raise _no_single_file(handle)
        base = handle.rstrip("/")
        for here, _, names in files.walk(base):
            inner = os.path.join(target, *_relative_parts(here, base, handle=handle))
            os.makedirs(inner, mode=0o700, exist_ok=True)
            for name in names:
                (safe,) = _relative_parts(f"{base}/{name}", base, handle=handle)
                files.copy(f"{here.rstrip('/')}/{name}", os.path.join(inner, safe))
    except tf.errors.OpError as error:
        reason = stored_config.one_reason(ValueError(error.message))
        message = f"cannot be read from Google Cloud Storage: {reason}"
        raise stored_config.refused(handle, message) from error
    return _install_folder(target, handle, check)


def _relative_parts(path: str, base: str, *, handle: str) -> list[str]:
    parts = [part for part in path.removeprefix(base).split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise stored_config.refused(handle, "has '..' in the name of an object. It is not copied.")
    return parts


def _fetch_hf(
    handle: str, folder: str, expected: str | None, check: "_Check"
) -> tuple[LocalModel, str]:
    repository = handle.removeprefix("hf://").strip("/")
    if expected:
        raise _no_single_file(handle)
    try:
        import huggingface_hub
    except ImportError as error:
        message = "needs the package huggingface_hub: pip install huggingface_hub."
        raise stored_config.refused(handle, message) from error
    target = os.path.join(folder, "download")
    try:
        # Never the pickles that many repositories hold too.
        huggingface_hub.snapshot_download(
            repository, local_dir=target, allow_patterns=["*.json", "*.h5", "*.keras", "*.txt"]
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = stored_config.one_reason(error)
        message = f"cannot be downloaded from Hugging Face: {reason}"
        raise stored_config.refused(handle, message) from error
    shutil.rmtree(os.path.join(target, ".cache"), ignore_errors=True)
    if set(_HF_PARTS).issubset(os.listdir(target)):
        _pack_keras_file(target)
    return _install_folder(target, handle, check)


def _pack_keras_file(folder: str) -> None:
    # What Keras uploads is the content of a .keras file, one file each.
    with zipfile.ZipFile(os.path.join(folder, "model.keras"), "w") as archive:
        for part in _HF_PARTS:
            archive.write(os.path.join(folder, part), part)
    for part in _HF_PARTS:
        os.remove(os.path.join(folder, part))


def _no_single_file(model: str) -> findings.RefusedError:
    return stored_config.refused(
        model, "is no single file: --model_sha256 expects one, an archive, or the address of one."
    )


# Of these one file holds the weights, or an application names one.
_COMPARED_BY_LOADER = (formats.APPLICATION, formats.HUGGING_FACE, formats.KERAS_HUB)
_Check = Callable[[str], tuple[findings.Finding, ...]]
_Fetcher = Callable[[str, str, str | None, _Check], tuple[LocalModel, str]]
_SCHEMES: dict[str, _Fetcher] = {
    "https://": _fetch_http,
    "http://": _fetch_http,
    "gs://": _fetch_gs,
    "hf://": _fetch_hf,
}

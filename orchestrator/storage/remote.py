"""A place on an object store: objects under a URL, put and fetched whole; there is no rename, and no half object.

`RemotePath` answers like a `Path` as far as orch asks. Credentials and endpoints come from the environment and the
usual files of each service, never from a URL.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, cast

import xxhash

from orchestrator.errors import StorageError, StoreError

T = TypeVar("T")
R = TypeVar("R")

#: What to install for the scheme of a URL, and where its credentials come from.
SCHEMES = {
    "s3": ("orch-distill[s3]", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"),
    "gs": ("orch-distill[gs]", "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"),
}
#: Requests of one process under way together.
AT_ONCE = 16
_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"mode": "standard", "max_attempts": 4},  # waits longer before each
            "max_pool_connections": AT_ONCE,
        },
    },
    "gs": {"use_listings_cache": False},
}
#: It warns at each request that it cannot tell the kind of a bucket, and what fails is said by `explained`.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/@:?#]+)(?P<key>(/[^?#]*)?)")

_AFTER_SLASH = chr(ord("/") + 1)


@dataclass(frozen=True)
class CacheOptions:
    """Where this machine keeps copies of objects, None for `ORCH_CACHE` or ~/.cache/orch, and how much at most."""

    folder: str | None = None
    max_bytes: int = 50 << 30


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object, or all objects below a prefix; made by `place`, cheap to send between processes."""

    url: str
    cache: CacheOptions = field(default=CacheOptions(), compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | Path) -> RemotePath:
        return replace(self, url=f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> RemotePath:
        return replace(self, url=self.url.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.parent / Path(self.name).with_suffix(suffix)

    def exists(self) -> bool:
        """Whether there is an object of this name; a prefix alone does not exist."""
        return find(self) is not None

    def is_file(self) -> bool:
        return self.exists()

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        return any(True for _ in self.iterdir())

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly below, prefixes too; one request for a thousand of them."""
        objects = _listed_below(self)
        if objects is not None:
            first = {url[len(self.url) + 1 :].partition("/")[0] for url in objects}
            yield from (self / name for name in sorted(first))
            return
        with explained(self, "listed"):
            try:
                entries = _file_system(self).ls(_key(self), detail=True)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return
        names = {str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries}
        yield from (self / name for name in sorted(names - {"", self.name}))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Objects and prefixes whose names below this one fit, part by part; `**/*` is every object anywhere below."""
        if pattern == "**/*":
            objects = _listed_below(self)
            yield from (replace(self, url=url) for url in (objects if objects is not None else _walk(self)))
            return
        part, _, rest = pattern.partition("/")
        if not re.search(r"[*?\[]", part):
            found = [self / part] if rest or (self / part).exists() else []
        else:
            found = [path for path in self.iterdir() if fnmatchcase(path.name, part)]
        for path in found:
            yield from path.glob(rest) if rest else [path]

    def unlink(self) -> None:
        """Remove the object."""
        with explained(self, "removed"):
            _file_system(self).rm_file(_key(self))


Place: TypeAlias = Path | RemotePath


class Version(NamedTuple):
    """What tells one version of an object from another."""

    etag: str
    num_bytes: int


class _Listing(NamedTuple):
    versions: Mapping[str, Version]
    urls: list[str]  # sorted


#: Prefix -> the objects below it, while a block of `listed` runs.
_listings: ContextVar[Mapping[str, _Listing]] = ContextVar("listings")


@contextmanager
def listed(folder: RemotePath) -> Iterator[None]:
    """List all below `folder` once; in the block nothing below it is asked for again, as if time stood still."""
    versions = _walk(folder)
    token = _listings.set({**_listings.get({}), f"{folder.url}/": _Listing(versions, sorted(versions))})
    try:
        yield
    finally:
        _listings.reset(token)


def find(path: RemotePath) -> Version | None:
    """The version of the object at `path`; None where there is none."""
    for prefix, objects in _listings.get({}).items():
        if path.url.startswith(prefix):
            return objects.versions.get(path.url)
    with explained(path, "read"):
        try:
            entry = _file_system(path).info(_key(path))
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            return None
    return _version(entry) if entry["type"] == "file" else None


def put_bytes(path: RemotePath, data: bytes) -> None:
    """Make or replace an object by one request."""
    with explained(path, "written"):
        _file_system(path).pipe_file(_key(path), data)


def put_file(path: RemotePath, source: Path) -> None:
    """Make or replace an object by the content of a file: by one request, or by parts that appear together."""
    with explained(path, "written"):
        _file_system(path).put_file(str(source), _key(path))


def create(path: RemotePath, data: bytes) -> bool:
    """Make an object that nobody made before; False when there is one. `data` must be like nobody else's."""
    try:
        with explained(path, "written"):
            _file_system(path).pipe_file(_key(path), data, mode="create")
    except StorageError:
        if find(path) is None:
            raise
        return get_bytes(path, max_bytes=1 << 20) == data  # a first answer may have been lost on its way
    return True


def get_bytes(path: RemotePath, *, max_bytes: int) -> bytes:
    """The content of a small object; StorageError when it is not there or has more bytes."""
    with explained(path, "read"):
        data = _file_system(path).cat_file(_key(path), start=0, end=max_bytes + 1)
    if len(data) > max_bytes:
        raise StorageError(
            f"{path} has more than {max_bytes} bytes, which is more than expected; it is damaged or not of this run"
        )
    return data


def get_file(path: RemotePath, target: Path) -> None:
    """Fetch an object into a file, which is neither synced nor checked."""
    with explained(path, "read"):
        _file_system(path).get_file(_key(path), str(target))


def at_once(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `read` returns for each, in their order; it may wait for the service, so many wait together."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(read, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for nothing


def modified(path: RemotePath) -> datetime:
    """When the object was put, by the clock of the service."""
    with explained(path, "read"):
        return _file_system(path).modified(_key(path))


def parse(url: str, cache: CacheOptions) -> RemotePath:
    """A URL as a place; StorageError when it is none that orch knows, or carries a password."""
    match = _URL.fullmatch(url)
    if match is None or match["scheme"] not in SCHEMES:
        shown = re.sub(r"//[^/]*@", "//", url)
        raise StorageError(
            f"{shown} is no place for files; write file:///folder, s3://bucket/prefix or gs://bucket/prefix, without "
            "user, password or options"
        )
    return RemotePath(f"{match['scheme']}://{match['bucket']}{re.sub('/+', '/', match['key']).rstrip('/')}", cache)


class _FileSystem(Protocol):
    """What is used of fsspec."""

    def ls(self, path: str, *, detail: bool) -> list[dict[str, object]]: ...
    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, object]]: ...
    def info(self, path: str) -> dict[str, object]: ...
    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None: ...
    def put_file(self, lpath: str, rpath: str) -> None: ...
    def get_file(self, rpath: str, lpath: str) -> None: ...
    def cat_file(self, path: str, *, start: int, end: int) -> bytes: ...
    def rm_file(self, path: str) -> None: ...
    def modified(self, path: str) -> datetime: ...


def _file_system(path: RemotePath) -> _FileSystem:
    """The connection of this process, which fsspec keeps."""
    scheme = path.url.partition(":")[0]
    try:
        import fsspec

        return cast(_FileSystem, fsspec.filesystem(scheme, **_OPTIONS[scheme]))
    except ImportError:
        raise StorageError(
            f"{path} needs a library that is not installed; run: pip install '{SCHEMES[scheme][0]}'"
        ) from None


def _key(path: RemotePath) -> str:
    return path.url.partition("://")[2]


def _walk(folder: RemotePath) -> dict[str, Version]:
    """URL -> version of every object below."""
    scheme = folder.url.partition("://")[0]
    with explained(folder, "listed"):
        entries = _file_system(folder).find(f"{_key(folder)}/", detail=True)
    return {f"{scheme}://{name}": _version(entry) for name, entry in entries.items() if not name.endswith("/")}


def _listed_below(folder: RemotePath) -> list[str] | None:
    """URLs below `folder` of a listing that holds it, sorted; None where there is none."""
    inside = f"{folder.url}/"
    for prefix, objects in _listings.get({}).items():
        if inside.startswith(prefix):
            urls = objects.urls
            return urls[bisect_left(urls, inside) : bisect_left(urls, f"{folder.url}{_AFTER_SLASH}")]
    return None


def _version(entry: Mapping[str, object]) -> Version:
    etag = str(entry.get("ETag") or entry.get("etag") or entry.get("generation") or "")
    return Version(etag.strip('"'), int(str(entry["size"])))


def version_number(version: Version) -> int:
    """An etag as a number, in the place of an inode."""
    return xxhash.xxh3_64_intdigest(version.etag.encode())


@contextmanager
def explained(path: RemotePath, done: str) -> Iterator[None]:
    """Turn whatever a service or its library raises into a sentence that says what to do.

    Raises StoreError when an object is not what was put there, by the service's own checksum, else StorageError.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # every service has exceptions of its own
        if type(error).__name__ in {"FlexibleChecksumError", "ChecksumError"}:
            raise StoreError(
                f"{path} is damaged (its content does not fit the checksum of the service); remove it and run the step "
                "that makes it again"
            ) from error
        raise StorageError(f"{path} cannot be {done}: {_advice(error, path, done)}") from error


def _advice(error: Exception, path: RemotePath, done: str) -> str:
    """Names of classes are compared, so that no service's library is imported for it; messages may hold keys."""
    names = {kind.__name__ for kind in type(error).__mro__}
    scheme, _, key = path.url.partition("://")
    if _code(error) == "NoSuchBucket" or (done == "written" and "FileNotFoundError" in names):
        return f"there is no bucket '{key.partition('/')[0]}'; make it, or mend run.stores"
    if _code(error) in {"SlowDown", "ServiceUnavailable", "InternalError", "500", "503"}:
        return "the service is overloaded or broken; run the same command again later, what is finished is kept"
    for known, advice in _ADVICE:
        if names & known:
            return advice(scheme)
    return f"{_code(error) or type(error).__name__}; mend that and run the same command again"


_ADVICE: list[tuple[set[str], Callable[[str], str]]] = [
    (
        {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError"}
        | {"TokenRetrievalError", "ProfileNotFound", "RefreshError"},
        lambda scheme: f"there are no credentials; {SCHEMES[scheme][1]}",
    ),
    (
        {"PermissionError"},
        lambda scheme: f"access is denied; give these credentials the right to it, or {SCHEMES[scheme][1]}",
    ),
    ({"FileNotFoundError"}, lambda _: "there is no such object; was it removed? Run the step that makes it"),
    (
        {"HTTPClientError", "EndpointConnectionError", "ConnectionError", "TimeoutError"}
        | {"FSTimeoutError", "TransportError", "ClientConnectionError"},
        lambda _: "the service cannot be reached; check the network and the endpoint, then run the same command again",
    ),
]


def _code(error: BaseException) -> str | None:
    """What the service called the problem."""
    at: BaseException | None = error
    while at is not None:
        response = getattr(at, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code"))
        at = at.__cause__
    return None

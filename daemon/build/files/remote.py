"""ADD's and a build's URLs: one file over HTTP, or a git repository."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.build.sources.gitaccess import NONE, Access
from daemon.build.sources.httpaccess import AUTHORIZATION
from storage.disk import no_space
from storage.errors import DataCorrupted, InvalidArgument, NotFound, Unavailable

TIMEOUT = 60
LARGEST = 64 << 30
_PIECE = 1 << 18
_NAME = re.compile(r'filename="?([^";/]+)"?')


class _Redirects(urllib.request.HTTPRedirectHandler):
    """What opens one host's door is shown to no other."""

    def redirect_request(self, req: urllib.request.Request, *more: Any) -> urllib.request.Request | None:
        made = super().redirect_request(req, *more)
        if made is not None and made.host != req.host:
            made.remove_header(AUTHORIZATION)
        return made


def download(
    url: str, directory: Path, checksum: str, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Into the directory, by the name that the server or the URL gives; mode 600, the server's time."""
    said = {"User-Agent": "pyd", **(headers or {}), "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=said)
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT) as answer:
            name = _file_name(answer.headers.get("Content-Disposition") or "", answer.geturl() or url)
            algorithm = checksum.partition(":")[0] or "sha256"
            digest = _receive(answer, directory / name, algorithm)
            modified = answer.headers.get("Last-Modified")
    except urllib.error.HTTPError as error:
        kind = NotFound if error.code == 404 else Unavailable
        raise kind(f"invalid response status {error.code}: {url}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unavailable(f"failed to load {url}: {getattr(error, 'reason', error)}") from None
    if checksum and digest != checksum:
        raise DataCorrupted(f"digest mismatch {digest}: {checksum}")
    _set_time(directory / name, modified)
    return {"name": name, "digest": digest}


def _file_name(disposition: str, url: str) -> str:
    match = _NAME.search(disposition)
    name = match[1] if match else urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    name = name.replace("\0", "")
    return name if name not in ("", ".", "..") and "/" not in name else "download"


def _receive(answer: object, path: Path, algorithm: str) -> str:
    total = hashlib.new(algorithm)
    size = 0
    with no_space(path), open(path, "xb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        while data := answer.read(_PIECE):  # type: ignore[attr-defined]
            size += len(data)
            if size > LARGEST:
                raise InvalidArgument(f"the download is larger than {LARGEST >> 30} GiB")
            total.update(data)
            file.write(data)
    return f"{algorithm}:{total.hexdigest()}"


def _set_time(path: Path, modified: str | None) -> None:
    when = 0.0
    if modified:
        try:
            when = email.utils.parsedate_to_datetime(modified).timestamp()
        except (TypeError, ValueError):
            when = 0.0
    os.utime(path, (when, when))


def split_git(url: str) -> tuple[str, str, str]:
    """URL#ref:directory to its parts."""
    remote, _, fragment = url.partition("#")
    reference, _, directory = fragment.partition(":")
    return remote, reference, directory


def clone(
    url: str,
    directory: Path,
    *,
    keep_git: bool = False,
    checksum: str = "",
    access: Access = NONE,
    submodules: bool = True,
) -> dict[str, str]:
    """The commit that a reference means, shallow; returns its hash."""
    with _hosts(access) as known_hosts:
        git = functools.partial(_git, access.environment(known_hosts), directory)
        return _clone(git, url, directory, keep_git=keep_git, checksum=checksum, submodules=submodules)


@contextlib.contextmanager
def _hosts(access: Access) -> Iterator[str]:
    """A file of the host keys that are believed, if any were given."""
    if not access.hosts:
        yield os.devnull
        return
    with tempfile.NamedTemporaryFile("w", prefix="pyd-known-hosts-") as file:
        file.write(access.hosts)
        file.flush()
        yield file.name


def _clone(
    git: Callable[..., str], url: str, directory: Path, *, keep_git: bool, checksum: str, submodules: bool
) -> dict[str, str]:
    remote, reference, _ = split_git(url)
    for text in (remote, reference):
        if text.startswith("-"):
            raise InvalidArgument(f"invalid git reference {text!r}")
    git("init", "--quiet", "--initial-branch=main", ".")
    git("remote", "add", "origin", remote)
    try:
        git(
            "fetch",
            "--quiet",
            "--depth=1",
            "--recurse-submodules=no",
            "origin",
            reference or "HEAD",
        )
    except Unavailable:
        # a server that gives no single commits: everything, then
        everything = ["+HEAD:refs/remotes/origin/HEAD", "+refs/heads/*:refs/remotes/origin/*"]
        git("fetch", "--quiet", "--tags", "origin", *everything)
        git("update-ref", "FETCH_HEAD", _commit(git, reference or "HEAD"))
    git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    if submodules and (directory / ".gitmodules").exists():
        update = ("submodule", "update", "--quiet", "--init", "--recursive")
        try:
            git(*update, "--depth=1")
        except Unavailable as error:
            if "does not support shallow" not in str(error):
                raise
            git(*update)
    commit = git("rev-parse", "HEAD").strip()
    if checksum and not commit.startswith(checksum):
        raise DataCorrupted(f"expected checksum to match {checksum}, got {commit}")
    if not keep_git:
        from storage import trees

        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            trees.remove(".git", dir_fd=fd)
        finally:
            os.close(fd)
    return {"commit": commit}


def _commit(git: Callable[..., str], reference: str) -> str:
    for name in (f"refs/remotes/origin/{reference}", reference):
        try:
            return git("rev-parse", "--verify", f"{name}^{{commit}}").strip()
        except Unavailable:
            continue
    raise NotFound(f"repository does not contain ref {reference}")


def _git(access: Mapping[str, str], directory: Path, *arguments: str) -> str:
    environment = {
        **access,
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "LC_ALL": "C",
    }
    command = [
        "git",
        "-C",
        str(directory),
        "-c",
        "protocol.ext.allow=never",
        "-c",
        "core.hooksPath=/dev/null",
    ]
    try:
        result = subprocess.run(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
    except FileNotFoundError:
        raise Unavailable("git is needed for git URLs and is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"git {arguments[0]} took longer than ten minutes") from None
    if result.returncode:
        raise Unavailable(f"git {arguments[0]} failed: {result.stderr.strip()[-1000:]}")
    return result.stdout

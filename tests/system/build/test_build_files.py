"""COPY, ADD, WORKDIR and friends: what lies where afterwards, whose it is, and what nobody may reach."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.build.conftest import Builder


def tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size, entry.uid, entry.mode = len(content), 7, 0o640
            archive.addfile(entry, io.BytesIO(content.encode()))
    return out.getvalue()


def test_directories_files_wildcards_and_merging(builder: Builder) -> None:
    files = {
        "Dockerfile": "FROM busybox\nCOPY tree /t\nCOPY a.txt *.md /d/\nCOPY a.txt /renamed\n"
        "COPY tree /d/\nCOPY none* /n/",
        "tree/x/y": "1", "tree/z": "2", "a.txt": "a", "one.md": "m", "two.md": "m",
    }  # fmt: skip
    builder.build(files, "-t", "files")
    listed = builder.run("files", "sh", "-c", "find /t /d /renamed | sort; ls -d /n 2>&1; true").split("\n")
    assert listed[:-1] == [
        "/d", "/d/a.txt", "/d/one.md", "/d/two.md", "/d/x", "/d/x/y", "/d/z", "/renamed", "/t", "/t/x", "/t/x/y",
        "/t/z", "ls: /n: No such file or directory",
    ]  # fmt: skip


def test_owner_mode_parents_exclude_and_link(builder: Builder) -> None:
    files = {
        "Dockerfile": (
            "FROM busybox\nCOPY --chown=user:wheel --chmod=u=rwX,go= t /own\nCOPY --parents t/./a/b.c t/k /par/\n"
            "COPY --exclude=**/*.c --exclude=k t /ex/\nCOPY --link t/k /link/deep/k\nCOPY --chown=5 t/k /five\n"
        ),
        "t/a/b.c": "c", "t/a/d": "d", "t/k": "k",
    }  # fmt: skip
    builder.build(files, "-t", "options")
    out = builder.run("options", "sh", "-c", "stat -c '%n %a %U:%G' /own /own/a /own/k; stat -c '%u:%g' /five; "
                      "find /par /ex /link -type f | sort")  # fmt: skip
    assert out.split("\n")[:-1] == [
        "/own 755 user:wheel", "/own/a 700 user:wheel", "/own/k 600 user:wheel", "5:5",
        "/ex/a/d", "/link/deep/k", "/par/a/b.c", "/par/t/k",
    ]  # fmt: skip


def test_owners_modes_and_exclusions_as_buildkit_reads_them(builder: Builder) -> None:
    """Each line was compared with a real BuildKit."""
    files = {
        "Dockerfile": (
            "FROM busybox\nRUN mkdir -p /s/d/e && touch /s/a /s/d/b /s/d/e/c && chmod 4711 /s/a && chmod 700 /s/d\n"
            "FROM busybox\nCOPY --from=0 --chown=nobody-here /s/a /o/1\nCOPY --from=0 --chown=user: /s/a /o/2\n"
            "COPY --from=0 --chown=user:none-such /s/a /o/3\nCOPY --from=0 --chown=none:wheel /s/a /o/4\n"
            "USER nobody-here\nWORKDIR /made\nUSER root\n"
            "COPY --from=0 --chmod=4705 /s/a /m/1\nCOPY --from=0 --chmod=u=rwX,go=rX /s/a /n/2\n"
            "COPY --from=0 --chmod=g=u+t /s/a /n/3\nCOPY --from=0 --chmod=o+t /s/a /n/4\n"
            "COPY --from=0 --exclude=a --exclude=* --exclude= /s/a /e/named\nCOPY --from=0 --exclude=/a /s /e/1\n"
            "COPY --from=0 --exclude=$HOME/* --exclude=d --exclude=!d/b /s /e/2\n"
        )
    }
    builder.build(files, "-t", "as-buildkit")
    out = builder.run("as-buildkit", "sh", "-c", "cd /; stat -c '%n %u:%g' o/* made; stat -c '%n %a' m m/1 n n/* e/2/d;"
                      "find e -type f | sort")  # fmt: skip
    assert out.split("\n")[:-1] == [
        "o/1 0:0", "o/2 1000:0", "o/3 1000:1000", "o/4 0:10", "made 0:0",
        "m 705", "m/1 4705", "n 755", "n/2 755", "n/3 5771", "n/4 4711", "e/2/d 700",
        "e/1/a", "e/1/d/b", "e/1/d/e/c", "e/2/a", "e/2/d/b", "e/named",
    ]  # fmt: skip


def test_stages_keep_owners_and_hard_links(builder: Builder) -> None:
    dockerfile = """FROM busybox AS made
RUN mkdir /o && echo 1 > /o/f && ln /o/f /o/h && ln -s f /o/l && chown -R 1000:50 /o && chmod 4755 /o/f
FROM busybox
COPY --from=made /o /p
COPY --from=0 /o/l /followed
"""
    builder.build({"Dockerfile": dockerfile}, "-t", "stages")
    out = builder.run("stages", "sh", "-c", "stat -c '%h %u:%g %a' /p/f; readlink /p/l; stat -c %F /followed")
    assert out.split("\n")[:-1] == ["2 1000:50 4755", "f", "regular file"]


def test_add_unpacks_what_is_an_archive(builder: Builder) -> None:
    files = {
        "Dockerfile": "FROM busybox\nADD a.tgz /a\nADD --unpack=false a.tgz /b/\nADD fake.tar /c/\nCOPY a.tgz /d/",
        "a.tgz": tar(x__y="hi"), "fake.tar": "no archive",
    }  # fmt: skip
    builder.build(files, "-t", "added")
    out = builder.run("added", "sh", "-c", "cat /a/x/y; stat -c ' %u %a' /a/x/y; ls /b /c /d")
    assert out == "hi 7 640\n/b:\na.tgz\n\n/c:\nfake.tar\n\n/d:\na.tgz\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.txt").write_text("from the web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_add_downloads_and_verifies(builder: Builder, web: str) -> None:
    digest = "0" * 64
    builder.build({"Dockerfile": f"FROM busybox\nADD {web}/file.txt /f\nADD {web}/file.txt /d/"}, "-t", "web")
    assert (
        builder.run("web", "sh", "-c", "cat /f /d/file.txt; stat -c ' %a' /f")
        == "from the webfrom the web 600\n"
    )
    said = builder.refused({"Dockerfile": f"FROM busybox\nADD --checksum=sha256:{digest} {web}/file.txt /f"})
    assert "digest mismatch sha256:" in said and digest in said
    assert "404" in builder.refused({"Dockerfile": f"FROM busybox\nADD {web}/absent /f"})


def test_heredocs_become_files_and_scripts(builder: Builder) -> None:
    dockerfile = """FROM busybox
ENV V=value
COPY <<one <<"two" /h/
1 $V ${V%ue}
one
2 $V
two
RUN <<EOF
echo script > /s
EOF
RUN <<EOF
#!/bin/ash
echo $0 > /i
EOF
RUN cat <<A - <<B > /both
a
A
b
B
"""
    builder.build({"Dockerfile": dockerfile}, "-t", "here")
    out = builder.run("here", "sh", "-c", "cat /h/one /h/two /s /i /both")
    assert out == "1 value val\n2 $V\nscript\n/dev/pipes/EOF\nb\n"


def test_dockerignore_with_exceptions(builder: Builder) -> None:
    files = {
        "Dockerfile": "FROM busybox\nCOPY . /c",
        ".dockerignore": "*\n!keep\n!d/**\nd/secret",
        "keep": "", "drop": "", "d/a": "", "d/secret": "",
    }  # fmt: skip
    builder.build(files, "-t", "ignored")
    assert builder.run("ignored", "sh", "-c", "cd /c; find . -type f | sort") == "./d/a\n./keep\n"
    assert "not found" in builder.refused({**files, "Dockerfile": "FROM busybox\nCOPY drop /x"})


# -- what may not be reached


@pytest.mark.parametrize("source", ["../../../../etc/shadow", "/etc/shadow", "link", "sub/link/shadow"])
def test_no_path_leaves_the_context(builder: Builder, source: str) -> None:
    context = builder.context({"Dockerfile": f"FROM busybox\nCOPY {source} /got", "sub/x": ""})
    (context / "link").symlink_to("/etc/shadow")
    (context / "sub" / "link").symlink_to("/etc")
    assert "not found" in builder.refused(context)


def test_a_link_in_the_target_stays_inside_the_image(builder: Builder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    dockerfile = (
        f"FROM busybox\nRUN mkdir -p /x {victim} && ln -s {victim} /x/out && ln -s ../../../../../.. /x/up\n"
    )
    dockerfile += "COPY f /x/out/f\nCOPY f /x/up/escaped\nADD a.tgz /x/out/\n"
    builder.build({"Dockerfile": dockerfile, "f": "mine", "a.tgz": tar(y="z")}, "-t", "links")
    assert list(victim.iterdir()) == []
    assert builder.run("links", "cat", f"{victim}/f", "/escaped") == "minemine"


def test_a_mount_source_that_is_a_link_is_resolved_in_its_tree(builder: Builder) -> None:
    """CVE-2024-23651, 23652: mount sources and their removal followed links to the host."""
    dockerfile = """FROM busybox AS evil
RUN mkdir /inner && echo own > /inner/shadow && ln -s /etc /l && ln -s /inner /etc/inner
FROM busybox
RUN --mount=type=bind,from=evil,source=/etc/inner,target=/m cat /m/shadow > /saw
RUN --mount=type=bind,from=evil,source=/l/passwd,target=/m/p cp /m/p /passwd
RUN --mount=type=bind,from=evil,target=/a/b/c true
RUN --mount=type=cache,target=/q/cache rm -rf /q/cache/x; ls / > /listing
"""
    builder.build({"Dockerfile": dockerfile}, "-t", "cve")
    out = builder.run("cve", "sh", "-c", "cat /saw; head -1 /passwd; ls -d /a /q /m 2>&1; true")
    assert out.startswith("own\nroot:x:0:0:root:/root:/bin/sh\n")
    assert out.count("No such file or directory") == 3, "mount points that were made for a step are gone"


def test_a_mount_point_whose_parent_became_a_link_is_not_followed_when_cleaned_up(
    builder: Builder, tmp_path: Path
) -> None:
    """CVE-2024-23652: removing the mount point's stub removed the host's file. (The step can't remove what
    is mounted, but it can move the parent away and put a link there.)"""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "stub").write_text("")
    dockerfile = (
        "FROM busybox\n"
        f"RUN --mount=type=tmpfs,target=/d/stub mv /d /moved; ln -s {victim} /d; ls -l /d > /linked\n"
    )
    builder.build({"Dockerfile": dockerfile}, "-t", "stub")
    assert (victim / "stub").exists()


def test_security_insecure_and_the_hosts_network_are_refused(builder: Builder) -> None:
    """CVE-2024-23653: nobody gets privileges for asking."""
    said = builder.refused({"Dockerfile": "FROM busybox\nRUN --security=insecure id"})
    assert "security.insecure is not allowed" in said
    said = builder.refused({"Dockerfile": "FROM busybox\nRUN --network=host id"})
    assert "network.host is not allowed" in said


@pytest.mark.parametrize("path", ["/proc/self/fd/7", "/proc/self/fd/8/../../..", "/proc/self/fd/9"])
def test_workdir_by_descriptor_does_not_reach_the_host(builder: Builder, path: str) -> None:
    """CVE-2024-21626: a leaked descriptor as working directory."""
    marker = builder.directory / "marker"
    marker.write_text("of-the-host")
    dockerfile = f"FROM busybox\nWORKDIR {path}\nRUN cat ../../../../../../../../{marker}; echo end\n"
    result = builder.attempt({"Dockerfile": dockerfile})
    assert b"of-the-host" not in result.stdout + result.stderr

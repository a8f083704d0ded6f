"""Models by name: installed, in files, and on servers that are slow, cut connections, or send other
content.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from untrained import checkpoint

import lightning_reg
from lightning_reg.cli.models import run
from lightning_reg.configuration.folders import own_directory
from lightning_reg.models import Card, locate, read_card, write_card
from lightning_reg.models import download as downloads
from lightning_reg.registry import UserError
from lightning_reg.registry.entries import _installed

CARD = Card(
    "a test", "nothing", "CC0-1.0", "none", {"on": "on nothing", "Dice": 0.5}, "anything", 3
)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``content``; ``cut``: bytes after which each connection ends; ``ranges``: whether it
    resumes.

    ``leads``: address to which it redirects once; ``endless``: a body without an end.
    """

    content = b""
    cut: int | None = None
    ranges = True
    pause = 0.0
    status = 200
    leads: str | None = None
    endless = False
    asked: list[str | None]

    def do_GET(self) -> None:
        cls = type(self)
        wanted = self.headers.get("Range")
        cls.asked.append(wanted)
        if cls.status != 200:
            self.send_error(cls.status)
            return
        if cls.leads is not None:
            self.send_response(302)
            self.send_header("Location", cls.leads)
            self.end_headers()
            cls.leads = None
            return
        if cls.endless:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 14) if not cls.pause else b"x")
                    time.sleep(cls.pause)
        start = int(wanted.split("=")[1].split("-")[0]) if wanted and cls.ranges else 0
        if start >= len(cls.content) > 0:
            self.send_error(416)
            return
        body = cls.content[start:]
        self.send_response(206 if wanted and cls.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body if cls.cut is None else body[: cls.cut]
        for begin in range(0, len(body), 1 << 14):
            time.sleep(cls.pause)
            self.wfile.write(body[begin : begin + (1 << 14)])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A server of its own for each test, on the loopback address, and an empty cache."""
    monkeypatch.setenv("LIGHTNING_REG_CACHE", str(tmp_path / "cache"))
    handler = type("Handler", (Server,), {"asked": [], "content": os.urandom(300_000)})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.address = f"http://127.0.0.1:{running.server_port}/best.ckpt"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield handler
    running.shutdown()
    running.server_close()


def address(server: type[Server], content: bytes | None = None) -> str:
    return f"{server.address}#sha256={hashlib.sha256(server.content if content is None else content).hexdigest()}"


def test_a_file_is_fetched_once_and_is_what_its_checksum_says(server: type[Server]) -> None:
    told: list[tuple[int, int | None]] = []
    path = locate(address(server), lambda done, total: told.append((done, total))).path
    assert path.read_bytes() == server.content
    assert path.name == "best.ckpt"
    assert told[-1] == (300_000, 300_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert locate(address(server)).path == path
    assert len(server.asked) == 1


def test_a_cut_connection_is_taken_up_where_it_ended(server: type[Server]) -> None:
    server.cut = 70_000
    assert locate(address(server)).path.read_bytes() == server.content
    assert server.asked == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_a_server_that_cannot_resume_sends_it_again(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ranges, server.cut = False, 70_000
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    with pytest.raises(
        UserError,
        match=r"cannot be fetched.*0\.1 MB of it are kept, and the same command goes on from there",
    ):
        locate(address(server))
    server.cut = None
    assert locate(address(server)).path.read_bytes() == server.content


def test_what_is_not_what_it_should_be_is_not_kept(server: type[Server], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not match its checksum .*nothing was kept"):
        locate(address(server, b"something else"))
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"
    ]


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pause = 0.02
    assert locate(address(server)).path.read_bytes() == server.content
    server.content, server.pause = os.urandom(100_000), 3.0
    monkeypatch.setattr(downloads, "TIMEOUT", 0.1)
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    with pytest.raises(UserError, match="cannot be fetched"):
        locate(address(server))


@pytest.mark.parametrize(
    "leads",
    [
        "http://example.invalid/best.ckpt",
        "ftp://127.0.0.1/best.ckpt",
        "http://localhost:1@example.invalid/x",
    ],
)
def test_a_redirect_to_what_is_not_encrypted_is_not_followed(
    server: type[Server], leads: str
) -> None:
    server.leads = leads
    with pytest.raises(UserError, match="which is not encrypted"):
        locate(address(server))
    server.leads = server.address  # within this machine
    assert locate(address(server)).path.read_bytes() == server.content


def test_a_body_without_an_end_is_cut_and_does_not_hinder_the_next_download(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endless = True
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)
    with pytest.raises(
        UserError, match="is larger than 0 GiB, so it is no model; nothing was kept"
    ):
        locate(address(server))
    assert not list((tmp_path / "cache").rglob("*.part"))
    server.pause = 0.02
    monkeypatch.setattr(downloads, "LONGEST", 0.3)
    with pytest.raises(UserError, match=r"takes longer than 0 minutes; 0\.0 MB of it are kept"):
        locate(address(server))
    assert [path.stat().st_size > 0 for path in (tmp_path / "cache").rglob("*.part")] == [True]
    server.endless, server.pause = False, 0.0  # the part has another file's beginning now
    assert locate(address(server)).path.read_bytes() == server.content


def test_a_full_disk_keeps_no_part(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, partial: Path, *args: object) -> None:
        partial.write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_transfer", full)
    with pytest.raises(UserError, match="No space left on device"):
        locate(address(server))
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_without_a_network_the_cache_works_and_the_rest_is_a_sentence(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = address(server), address(server, b"never seen")
    path = locate(known).path

    def none(*args: object, **kwargs: object) -> None:
        raise downloads.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(downloads.OPENER, "open", none)
    assert locate(known).path == path
    with pytest.raises(
        UserError,
        match=(
            r"Name or service not known.*nothing of it is in the cache.*give a file or an installed"
            r" model"
        ),
    ):
        locate(unknown)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/best.ckpt", "names no checksum; append #sha256="),
        ("http://example.org/best.ckpt#sha256=" + "0" * 64, "not encrypted"),
        ("ftp://example.org/best.ckpt", "cannot be fetched; give the name of an installed model"),
        ("hf://owner/repo/best.ckpt", "with a commit or a tag as its revision"),
        ("", "name is empty"),
        ("https://[::1/m.ckpt#sha256=" + "0" * 64, "not a valid address"),
        ("https://a b/m.ckpt#sha256=" + "0" * 64, "not a valid address"),
        ("https://example.org/mod\u00e8le.ckpt#sha256=" + "0" * 64, "not a valid address"),
        ("hippocampos", "There is no model named 'hippocampos', and no such file"),
    ],
)
def test_what_is_no_model_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate(name)


def test_a_file_that_is_not_there_and_an_error_of_the_server(server: type[Server]) -> None:
    server.status = 404
    with pytest.raises(UserError, match=r"answers 404 Not Found; correct the address"):
        locate(address(server))


def test_hugging_face_is_asked_by_its_own_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def fetch(repository: str, file: str, revision: str) -> str:
        asked.append((repository, file, revision))
        if revision == "gone":
            raise ValueError("Revision Not Found\n\npages")
        return str(tmp_path / "file.ckpt")

    monkeypatch.setitem(sys.modules, "huggingface_hub", type(sys)("huggingface_hub"))
    sys.modules["huggingface_hub"].hf_hub_download = fetch  # type: ignore[attr-defined]
    assert locate("hf://owner/repo/folder/best.ckpt@v1.0").path == tmp_path / "file.ckpt"
    assert asked == [("owner/repo", "folder/best.ckpt", "v1.0")]
    with pytest.raises(
        UserError, match=r"cannot be downloaded \(ValueError: Revision Not Found pages\)"
    ):
        locate("hf://owner/repo/best.ckpt@gone")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-reg\[hub\]'"):
        locate("hf://owner/repo/best.ckpt@v1.0")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with a model whose package cannot be imported."""
    info = tmp_path / "site" / "nice_models-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-models\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[lightning_reg.models]\nbrain = nice_models.brain\nempty = nice_models.empty\n"
    )
    folder = tmp_path / "site" / "nice_models" / "brain"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('a model runs no code')\n")
    checkpoint(folder / "model.ckpt")
    write_card(CARD, folder / "card.yaml")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_an_installed_model_is_found_by_name_and_nothing_of_it_is_imported(package: Path) -> None:
    for name in ("brain", "nice_models.brain"):
        located = locate(name)
        assert located.name == "nice_models.brain"
        assert located.card == CARD
    registrar = lightning_reg.load("brain")
    assert registrar.settings["model"] == "nice_models.brain"
    with pytest.raises(
        UserError, match=r"no model named 'brian', and no such file; did you mean 'brain'\?"
    ):
        locate("brian")
    other = package / "other_models-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-models\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[lightning_reg.models]\nbrain = nice_models.brain\n")
    _installed.cache_clear()  # as in a new process
    with pytest.raises(
        UserError,
        match=(
            r"provided twice, by .*write (nice_models\.brain or other_models|other_models\.brain or"
            r" nice)"
        ),
    ):
        locate("brain")
    with pytest.raises(
        UserError,
        match=(
            r"'empty' of nice-models 1\.2 has no model\.ckpt in nice_models\.empty; reinstall"
            r" nice-models"
        ),
    ):
        locate("empty")


def test_without_a_model_the_packages_of_a_clone_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This repository's own; from a wheel, whose configurations have no plugins beside them, where
    they are.
    """
    monkeypatch.setattr("lightning_reg.cli.models.installed", list)
    for folder, expected in (
        (own_directory(), "plugins/lightning_reg_hippocampus"),
        (tmp_path / "conf", "plugins/ of the project's"),
    ):
        monkeypatch.setattr("lightning_reg.cli.models.own_directory", lambda folder=folder: folder)
        terminal = Console(record=True, width=400)
        monkeypatch.setattr("lightning_reg.cli.models.console", lambda terminal=terminal: terminal)
        assert run(Namespace(action=None, json=False)) == 0
        text = terminal.export_text()
        assert "No models are installed" in text
        assert expected in text
        assert "lightning_reg_symmetric" not in text


def test_the_command_lists_describes_and_fetches(
    package: Path, server: type[Server], tmp_path: Path
) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    }

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lightning_reg.cli.main", "models", *words]
        return subprocess.run(
            line, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
        )

    listed = command("--json")
    assert listed.returncode == 1  # 'empty' is broken
    found = json.loads(listed.stdout)
    assert [row["qualified"] for row in found["installed"]] == ["nice_models.brain"]
    assert "'empty' of nice-models 1.2" in found["problems"][0]
    assert "brain" in command().stdout
    described = command("describe", "brain")
    assert "Not for" in described.stdout
    assert "CC0-1.0" in described.stdout
    plain = json.loads(
        command("describe", str(package / "nice_models" / "brain" / "model.ckpt"), "--json").stdout
    )
    assert {"unet", "velocity", "lncc"} <= {one["name"] for one in plain["components"]}
    missing = command("fetch", "nosuch.ckpt")
    assert (missing.returncode, missing.stdout.strip()) == (2, "")
    assert "There is no file nosuch.ckpt" in missing.stderr
    assert json.loads(command("--json", "describe", "brain").stdout)["licence"] == "CC0-1.0"
    fetched = command("fetch", address(server))
    assert Path(fetched.stdout.strip().replace("\n", "")).read_bytes() == server.content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read"),
        ("- 1", "no 'key: value'"),
        ("title: x", "lacks data, licence"),
        (
            "title: 3\ndata: d\nlicence: l\ntraining: t\naccuracy: {}\nnot_for: n\nparameters: 1",
            "title is 3; give text",
        ),
        ("titel: x", "did you mean 'title'"),
    ],
)
def test_a_card_that_is_none_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_card(tmp_path / "card.yaml")
    with pytest.raises(UserError, match="There is no card"):
        read_card(tmp_path / "none.yaml")

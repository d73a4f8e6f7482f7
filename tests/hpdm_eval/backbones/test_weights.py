"""The cache of weights files: hashes, trust, downloading with resume; a loopback server stands for the network."""

import contextlib
import hashlib
import http.server
import io
import itertools
import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from platformdirs.macos import MacOS
from platformdirs.windows import Windows

from hpdm.support import places
from hpdm.support.errors import InputError
from hpdm_eval.backbones import download, loading
from hpdm_eval.backbones import weights as files
from hpdm_eval.backbones.weights import Source
from hpdm_eval.commands.weights import weights as command
from tests.support.damage import each_byte_flipped

CONTENT = bytes(range(256)) * 1500


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("HPDM_EVAL_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def known(monkeypatch):
    """Replace the table of known files; returns a function that sets it."""

    def install(*sources):
        monkeypatch.setattr(files, "sources", lambda: {source.file: source for source in sources})
        return sources[0]

    return install


def source(**fields):
    return Source(**{"file": "net.pt", "backbone": "i3d-kinetics400", "title": "a test file", **fields})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted and server.resumable else 0
        if start >= len(server.content) and wanted:
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if wanted and server.resumable else 200)
        if wanted and server.resumable:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.announced:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.content, httpd.stop_after, httpd.resumable, httpd.ranges, httpd.announced = CONTENT, None, True, [], True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/net.pt"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def fetch(item):
    return download.fetch(item, opener=lambda request: urllib.request.urlopen(request, timeout=5), quiet=True)


def test_table_of_known_files():
    table = files.sources()
    assert list(table)[:2] == ["i3d_torchscript.pt", "i3d_pretrained_400.pt"]
    assert table["i3d_torchscript.pt"].sha256.startswith("bec6519f66ea")
    for item in table.values():
        assert all(url.startswith("https://") for url in item.urls)
        assert item.sha256 is None or len(item.sha256) == 64
        assert item.git_blob is None or len(item.git_blob) == 40


def test_fingerprint_agrees_with_git(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    found = files.fingerprint(path)
    assert found.git_blob == subprocess.check_output(["git", "hash-object", str(path)], text=True).strip()
    assert (found.sha256, found.bytes) == (sha256(CONTENT), len(CONTENT))


def test_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("HPDM_EVAL_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / "hpdm-eval"
    monkeypatch.delenv("XDG_CACHE_HOME")
    if sys.platform == "linux":
        assert files.cache_dir() == Path.home() / ".cache" / "hpdm-eval"
    for kind, folder in (
        (MacOS, Path.home() / "Library" / "Caches" / "hpdm-eval"),
        (Windows, tmp_path / "local" / "hpdm-eval"),
    ):
        monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda name: str(tmp_path / "local"))
        monkeypatch.setattr(
            places, "user_cache_dir", lambda *words, of=kind, **settings: of(*words, **settings).user_cache_dir
        )
        assert files.cache_dir() == folder


def test_fetch_downloads_once(known, server, cache):
    item = known(source(sha256=sha256(CONTENT), urls=(server.url,)))
    info = fetch(item)
    assert info.verified and info.trust == "hash" and info.path.read_bytes() == CONTENT
    assert fetch(item).path == info.path and len(server.ranges) == 1
    assert [path.name for path in cache.iterdir()] == ["net.pt"]


@pytest.mark.parametrize("resumable", [True, False])
def test_fetch_resumes_where_the_connection_broke(known, server, cache, resumable):
    item = known(source(git_blob=hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest(), urls=(server.url,)))
    server.stop_after = 100_000
    with pytest.raises(InputError, match="broke off after 100000 of 384000 bytes"):
        fetch(item)
    assert not (cache / "net.pt").exists()
    server.stop_after, server.resumable = None, resumable
    assert fetch(item).path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_a_finished_part_is_taken_without_its_bytes_coming_again(known, server, cache):
    item = known(source(sha256=sha256(CONTENT), urls=(server.url,)))
    cache.mkdir()
    (cache / "net.pt.part").write_bytes(CONTENT)
    assert fetch(item).trust == "hash"


def test_fetch_refuses_a_wrong_file_and_tries_the_next_address(known, server, cache):
    item = known(source(sha256=sha256(CONTENT), urls=(server.url, server.url)))
    server.content = b"<html>this link has expired</html>"
    with pytest.raises(InputError, match="not the known net.pt") as caught:
        fetch(item)
    assert len(server.ranges) == 2 and list(cache.iterdir()) == []
    assert "hpdm-eval weights add net.pt" in str(caught.value) and str(cache) in str(caught.value)


def test_offline_message_says_what_to_do(known, cache):
    item = known(source(sha256=sha256(CONTENT), urls=("http://127.0.0.1:1/net.pt",), page="https://example.org/page"))
    with pytest.raises(
        InputError,
        match="get net.pt from https://example.org/page on another machine and run `hpdm-eval weights add net.pt`",
    ):
        fetch(item)


def test_only_https_is_spoken(known, server):
    item = known(source(sha256=sha256(CONTENT), urls=(server.url,)))
    with pytest.raises(InputError, match="is not https"):
        download.fetch(item, quiet=True)
    assert server.ranges == []
    handler = download._HttpsRedirects()
    with pytest.raises(OSError, match="not https"):
        handler.redirect_request(urllib.request.Request("https://a.example/x"), None, 302, "", {}, "http://b.example/x")


def test_unknown_hash_is_pinned_at_first_use(known, server, cache):
    item = known(source(urls=(server.url,)))
    info = fetch(item)
    assert info.trust == "first-use" and not info.verified
    assert json.loads((cache / "pins.json").read_text())["net.pt"]["sha256"] == sha256(CONTENT)
    other = cache / "other.pt"
    other.write_bytes(CONTENT + b"!")
    with pytest.raises(InputError, match="seen first on"):
        files.add(other, name="net.pt")
    assert info.path.read_bytes() == CONTENT


def test_a_pin_lasts_as_long_as_its_file(known, server, cache):
    item = known(source(urls=(server.url,)))
    fetch(item).path.unlink()
    server.content = CONTENT + b"!"
    with pytest.raises(InputError, match="pass --unverified"):  # what is gone speaks for nothing
        (cache / "mine.pt").write_bytes(CONTENT)
        files.find("i3d-kinetics400", weights=cache / "mine.pt")
    info = fetch(item)
    assert info.trust == "first-use" and info.path.read_bytes() == CONTENT + b"!"
    assert files.find("i3d-kinetics400").trust == "first-use"


def scripted():
    """The bytes of a TorchScript file."""
    return torch.jit.script(torch.nn.Linear(3, 2)).save_to_buffer()


def arrays():
    """The bytes of an .npz."""
    file = io.BytesIO()
    np.savez(file, mean=np.arange(100.0))
    return file.getvalue()


@pytest.mark.parametrize("form, make, other", [("torchscript", scripted, arrays), ("npz", arrays, scripted)])
def test_what_cannot_be_the_file_is_not_pinned(known, server, tmp_path, cache, form, make, other):
    item, right = known(source(form=form, urls=(server.url,))), make()
    last = right.index(b"PK", 10) - 1  # of the first member's content
    damaged = right[:last] + bytes([right[last] ^ 1]) + right[last + 1 :]
    server.announced = False  # no Content-Length: a reply that breaks off looks finished
    for content, reason in (
        (b"<!doctype html><title>Sign in</title>", "begins with b'<!doctype html>"),
        (right[:-40], "not a whole"),
        (damaged, "not a whole"),
        (other(), "not a whole"),
        (b"", "0 bytes"),
    ):
        server.content = content
        with pytest.raises(InputError, match=reason) as caught:
            fetch(item)
        assert server.url in str(caught.value) and list(cache.iterdir()) == []
        (tmp_path / "mine.pt").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            files.add(tmp_path / "mine.pt", name="net.pt")
    server.content = right
    assert fetch(item).trust == "first-use"


@pytest.mark.parametrize("archive", [True, False])
def test_no_damage_to_tensors_is_anything_but_a_message(tmp_path, archive):
    path = tmp_path / "net.pt"
    torch.save({"a.b": torch.ones(3)}, path, _use_new_zipfile_serialization=archive)
    content = path.read_bytes()
    for damaged in each_byte_flipped(content, masks=[255]):
        path.write_bytes(damaged)
        assert not loading.is_torchscript(path)
        with contextlib.suppress(InputError):
            loading.read_tensors(path)


def test_what_is_more_than_tensors_is_refused_without_advice_to_run_it(tmp_path):
    torch.save({"a": Path("/")}, tmp_path / "net.pt")
    with pytest.raises(InputError, match="damaged, or more than tensors") as caught:
        loading.read_tensors(tmp_path / "net.pt")
    assert "weights_only" not in str(caught.value)


def test_no_damage_to_a_program_is_anything_but_a_message(tmp_path):
    path = tmp_path / "net.pt"
    for damaged in itertools.islice(each_byte_flipped(scripted(), masks=[1]), 0, None, 9):
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            loading.load_torchscript(path)


def test_a_file_of_another_form_needs_unverified(known, tmp_path):
    known(source(form="torchscript"))
    (tmp_path / "net.pt").write_bytes(b"a network of one's own")
    assert files.add(tmp_path / "net.pt", unverified=True).trust == "unverified"
    assert files.find("i3d-kinetics400").trust == "unverified"


def test_files_without_a_published_hash_have_a_form():
    for item in files.sources().values():
        assert item.hash_known or item.form in ("torchscript", "npz")


PIN = {"sha256": sha256(CONTENT), "bytes": len(CONTENT), "trust": "first-use", "origin": "x", "date": "2026-01-01"}


@pytest.mark.parametrize(
    "content",
    [[], {"net.pt": None}, {"net.pt": {}}, {"net.pt": {**PIN, "sha256": 1}}, {"net.pt": {**PIN, "trust": "hash"}}],
)
def test_damaged_list_of_pins_is_one_message(known, server, tmp_path, cache, content):
    item = known(source(urls=(server.url,)))
    cache.mkdir()
    (cache / "pins.json").write_text(json.dumps(content))
    (tmp_path / "mine.pt").write_bytes(CONTENT)
    for action in (
        lambda: fetch(item),
        lambda: files.add(tmp_path / "mine.pt", name="net.pt"),
        lambda: files.find("i3d-kinetics400", weights=tmp_path / "mine.pt"),
    ):
        with pytest.raises(InputError, match="pins.json: damaged list of pinned files; delete it"):
            action()
    assert not (cache / "net.pt").exists()


def test_pin_of_a_file_that_is_no_longer_known_is_left_alone(known, tmp_path, cache):
    known(source())
    cache.mkdir()
    (cache / "pins.json").write_text(json.dumps({"older.pt": PIN}))
    (tmp_path / "mine.pt").write_bytes(CONTENT)
    with pytest.raises(InputError, match="pass --unverified"):
        files.find("i3d-kinetics400", weights=tmp_path / "mine.pt")


def test_damage_in_the_cache_is_found(known, server, cache):
    item = known(source(sha256=sha256(CONTENT), urls=(server.url,)))
    path = fetch(item).path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="damaged or exchanged"):
        files.find("i3d-kinetics400")
    with pytest.raises(InputError, match="damaged or exchanged"):
        fetch(item)


def test_add_recognises_a_file_under_any_name(known, tmp_path, cache):
    known(source(sha256=sha256(CONTENT)))
    path = tmp_path / "download(1).bin"
    path.write_bytes(CONTENT)
    assert files.add(path).path == cache / "net.pt"
    assert files.find("i3d-kinetics400").verified


def test_add_of_an_unknown_file_needs_unverified_and_marks_it(known, tmp_path, cache):
    known(source(sha256=sha256(CONTENT)))
    path = tmp_path / "net.pt"
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="--unverified"):
        files.add(path)
    assert not cache.exists()
    assert files.add(path, unverified=True).trust == "unverified"
    assert not files.find("i3d-kinetics400").verified
    path.write_bytes(CONTENT)
    assert files.add(path).trust == "hash" and files.find("i3d-kinetics400").verified


def test_add_says_what_a_foreign_file_is(known, tmp_path):
    known(source(), source(file="other.pt", backbone=None, title="not the one", sha256=sha256(CONTENT)))
    path = tmp_path / "x.pt"
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match="this is other.pt, not the one"):
        files.add(path)
    path.write_bytes(b"?")
    with pytest.raises(InputError, match="say with --as"):
        files.add(path)


def test_given_file_of_another_backbone_is_refused(known, tmp_path):
    known(source(), source(file="c3d.pt", backbone="c3d", sha256=sha256(CONTENT)))
    path = tmp_path / "x.pt"
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match="this is c3d.pt"):
        files.find("i3d-kinetics400", weights=path, unverified=True)
    assert files.find("c3d", weights=path).verified


def test_commands(tmp_path, cache):
    def run(*words):
        return CliRunner().invoke(command, words)

    listing = run("list")
    assert listing.exit_code == 0 and "bec6519f66ea" in listing.stdout and str(cache) in listing.stdout
    rows = json.loads(run("list", "--json").stdout)
    assert {row["state"] for row in rows} == {"absent"}
    assert run("verify").exit_code == 0
    assert run("verify", "i3d_torchscript.pt").exit_code == 2
    assert run("fetch", "nonsense.pt").exit_code == 2
    path = tmp_path / "mine.pt"
    path.write_bytes(b"mine")
    refused = run("add", str(path), "--as", "i3d_pretrained_400.pt")
    assert refused.exit_code == 2 and "--unverified" in refused.stderr
    assert run("add", str(path), "--as", "i3d_pretrained_400.pt", "--unverified").exit_code == 0
    assert "i3d_pretrained_400.pt: unverified" in run("verify").stdout
    (cache / "i3d_pretrained_400.pt").write_bytes(b"changed")
    assert run("verify").exit_code == 2

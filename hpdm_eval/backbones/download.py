"""Downloading a weights file: progress, resume, checksum, and nothing under its final name until it is right."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.progress import progress
from hpdm_eval.backbones.weights import (
    Source,
    WeightsInfo,
    admit,
    cache_dir,
    check_cached,
    fingerprint,
    how_to_bring,
    read_pins,
)

TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 16


def fetch(
    source: Source,
    *,
    folder: Path | None = None,
    opener: Callable[[urllib.request.Request], Any] | None = None,
    quiet: bool = False,
) -> WeightsInfo:
    """Bring `source` into the cache unless it is there; returns its WeightsInfo.

    An interrupted download leaves `<file>.part` and goes on from there next time. `opener` takes a
    urllib.request.Request and returns the response; the default speaks https only. Raises InputError with what each
    address answered and how to bring the file by hand.
    """
    folder, opener = folder or cache_dir(), opener or open_https
    if info := check_cached(source, folder):
        return info
    read_pins(folder)  # a damaged list is said before anything is downloaded
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{source.file}.part"
    failures = []
    for url in source.urls:
        try:
            _download(url, part, source, opener, quiet)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {_reason(error)}")
            continue
        found = fingerprint(part)
        try:
            admit(source, part, found, folder, url)
        except InputError as error:
            part.unlink()
            failures.append(str(error))
            continue
        os.replace(part, folder / source.file)
        if (info := check_cached(source, folder)) is not None:
            return info
        failures.append(f"{url}: what was downloaded has gone from {folder}")
    tried = "; ".join(failures) or "it has no address that a program can use"
    raise InputError(f"{source.file} could not be fetched: {tried}. {how_to_bring(source, folder)}")


def open_https(request: urllib.request.Request) -> Any:
    """Open a request, refusing anything but https on the way."""
    if request.type != "https":
        raise urllib.error.URLError(f"refused: {request.full_url} is not https")
    return urllib.request.build_opener(_HttpsRedirects).open(request, timeout=TIMEOUT)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, url):
        if not url.lower().startswith("https://"):
            raise urllib.error.URLError(f"refused: redirected to {url}, which is not https")
        return super().redirect_request(request, response, code, message, headers, url)


def _download(url, part, source, opener, quiet):
    """Append to `part` what it still lacks; raises OSError where the connection fails or ends early."""
    start = part.stat().st_size if part.exists() else 0
    if source.bytes and start > source.bytes:
        start = 0
    request = urllib.request.Request(url, headers={"User-Agent": "hpdm-eval"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = opener(request)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing lies beyond what is here: the checksum decides
            return
        raise
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else source.bytes
        with (
            open(part, "ab" if start else "wb") as file,
            progress(total=total, unit="B", description=source.file, quiet=quiet, initial=start) as bar,
        ):
            bar.unit_scale = True
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    if total and size < total:
        raise ConnectionError(f"broke off after {size} of {total} bytes; the same command goes on from there")


def _reason(error):
    return str(getattr(error, "reason", None) or error or type(error).__name__)

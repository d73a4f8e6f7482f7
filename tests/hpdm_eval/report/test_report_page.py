"""The page of a report: what is on it, that it needs nothing else, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.video.writer import write_video
from hpdm_eval.commands.entry import main
from hpdm_eval.report.videos import choose_videos
from tests.support.report_records import base_record, save_records, study_records

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CLASSES = 3
LONG = "a-folder-with-quite-a-long-name/" * 6 + "averyveryverylongwordwithoutanyplacetobreakit" * 3 + "<b>&"

# What a browser makes of the page, written into its title. The browser's clock runs ahead of the decoder of videos as
# soon as the page is idle, so waiting for them is work.
PROBE = """<script>
addEventListener("load", async () => {
  const videos = [...document.querySelectorAll("video")];
  for (let turn = 0; turn < 2000 && videos.some(video => video.readyState < 2 && !video.error); turn++) {
    let work = 0;
    for (let i = 0; i < 5e6; i++) work += i;
    await new Promise(done => setTimeout(done, 10));
  }
  const box = element => { const r = element.getBoundingClientRect(); return [r.left, r.right, r.width, r.height]; };
  document.title = JSON.stringify({
    videos: videos.map(video => [video.videoWidth, video.videoHeight, ...box(video)]),
    images: [...document.querySelectorAll("img")].map(image => [image.naturalWidth, ...box(image)]),
    wide: [document.documentElement.scrollWidth, innerWidth],
    numbers: [...document.querySelectorAll("tbody td:not(.word)")].map(cell => getComputedStyle(cell).textAlign),
    colours: [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor],
    tables: [...document.querySelectorAll(".scroll")].map(scroll => scroll.scrollWidth - scroll.clientWidth),
  });
});
</script>"""


class Links(HTMLParser):
    """What a page asks for from elsewhere, and whether its tags close."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.urls, self.open, self.targets, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.urls += [values[key] for key in ("src", "href", "poster") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with a study, loose records with long names, and samples of three classes by two models."""
    folder = tmp_path_factory.mktemp("report")
    loose = replace(base_record(), samples={**base_record().samples, "path": LONG}, warnings=(LONG,), command=LONG)
    save_records(folder / "records", [*study_records(), loose])
    for name, seed in (("first", 1), ("second", 2)):
        for index in range(2 * CLASSES):
            label = index % CLASSES
            clip = procedural_clip(seed, index, 8, 32, 32, label=label)[0]
            path = folder / name / f"{index:05d}_c{label:03d}.mp4"
            path.parent.mkdir(exist_ok=True)
            if name == "first":
                write_video(path, clip)
            else:
                np.save(path.with_suffix(".npy"), clip)
    words = [
        "report",
        "--records",
        folder / "records",
        "--out",
        folder / "out",
        "--title",
        "Patches & <pyramids>",
        "--videos",
        f"first={folder / 'first'}",
        "--videos",
        f"second={folder / 'second'}",
    ]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return folder


def test_the_page_needs_no_other_file(made):
    text = (made / "out/index.html").read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert parser.open == []
    assert all(url.startswith(("data:", "#")) for url in parser.urls)
    assert {url[1:] for url in parser.urls if url.startswith("#")} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"url\(|@import|https?://", re.sub(r'"data:[^"]*"', "", text))


def test_words_are_escaped(made):
    text = (made / "out/index.html").read_text(encoding="utf-8")
    assert "<title>Patches &amp; &lt;pyramids&gt;</title>" in text
    assert html.escape(LONG) in text and "<b>" not in text


def test_samples_of_every_class_and_model(made):
    text = (made / "out/index.html").read_text(encoding="utf-8")
    assert text.count("<video ") == 2 * CLASSES and text.count("data:video/mp4;base64,") == 2 * CLASSES
    for label in range(CLASSES):
        assert f"<h3>class {label}</h3>" in text
    assert text.count("<figcaption>first</figcaption>") == CLASSES


def test_samples_that_do_not_fit_are_counted(made):
    folders = {"first": made / "first", "second": made / "second"}
    everything, left_out = choose_videos(folders, per_class=2, limit=1e9)
    videos = [video for row in everything.values() for own in row.values() for video in own]
    assert len(videos) == 4 * CLASSES and left_out == 0 and {video.size for video in videos} == {(8, 32, 32)}
    limit = sum(len(video.data) for row in everything.values() for own in row.values() for video in own[:1])
    some, left_out = choose_videos(folders, per_class=2, limit=limit)
    assert left_out == 2 * CLASSES
    assert all(len(own) == 1 for row in some.values() for own in row.values())  # each class before a second of any
    nothing, left_out = choose_videos(folders, per_class=1, limit=10)
    assert nothing == {} and left_out == 2 * CLASSES


def test_samples_without_classes(tmp_path):
    for index in range(3):
        write_video(tmp_path / f"{index}.mp4", procedural_clip(0, index, 4, 16, 16)[0])
    grid, _ = choose_videos({"mine": tmp_path}, per_class=2, limit=1e9)
    assert [video.name for video in grid["samples"]["mine"]] == ["0.mp4", "1.mp4"]
    with pytest.raises(InputError):
        choose_videos({"mine": tmp_path / "none"}, per_class=1, limit=1e9)


def browse(page, folder, *options):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs a browser: Debian's package chromium")
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=30000",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def probed(made):
    """The page with PROBE in it."""
    page = made / "probe.html"
    page.write_text(
        (made / "out/index.html").read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8"
    )
    return page


@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_lays_the_page_out(made, tmp_path, width):
    text = browse(probed(made), tmp_path, f"--window-size={width},900", "--dump-dom")
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", text)[1]))
    assert len(seen["videos"]) == 2 * CLASSES
    for own_width, own_height, left, right, shown_width, shown_height in seen["videos"]:
        assert (own_width, own_height) == (32, 32) and shown_width == shown_height == 128 and 0 <= left < right <= width
    assert len(seen["images"]) == 3
    for natural, left, right, shown_width, height in seen["images"]:
        assert natural > 0 and shown_width > 200 and height > 50 and 0 <= left < right <= width
    assert seen["wide"][0] <= seen["wide"][1]  # no page that scrolls sideways, whatever the words
    assert set(seen["numbers"]) == {"right"}
    assert seen["colours"] == ["rgb(26, 26, 26)", "rgb(255, 255, 255)"]
    if width == 1280:
        assert max(seen["tables"]) <= 0


def test_a_screenshot_shows_ink_on_paper(made, tmp_path):
    from PIL import Image

    shot = tmp_path / "page.png"
    browse(probed(made), tmp_path, "--window-size=1280,2400", f"--screenshot={shot}")
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert picture.shape == (2400, 1280, 3)
    light, dark = (picture.min(2) > 250).mean(), (picture.max(2) < 100).mean()
    assert light > 0.6 and 0.005 < dark < 0.2
    assert (picture.max(2) - picture.min(2) > 60).mean() > 0.01  # samples and bars are in colour
    assert (picture[:, :20].min(2) > 250).all() and (picture[:, -20:].min(2) > 250).all()  # margins


def test_figures_are_there_for_print(made):
    figures = made / "out/figures"
    assert {path.suffix for path in figures.iterdir()} == {".svg", ".pdf"}
    for path in figures.glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF") and b"CreationDate" not in path.read_bytes()
    for path in Path(figures).glob("*.svg"):
        assert "<dc:date>" not in path.read_text(encoding="utf-8")

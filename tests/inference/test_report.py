"""Report pages, opened in a browser without an internet connection."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lightning_reg
from lightning_reg.inference.report.again import report_again
from lightning_reg.inference.report.page import render
from lightning_reg.registry import DataError

QUICK = [
    "optimization.stages.0.steps=10",
    "optimization.stages.1.steps=5",
    "optimization.stages.2.steps=10",
    "optimization.stages.3.steps=3",
]


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory) -> Path:
    result = lightning_reg.conventional(
        "bspline", [*QUICK, "optimization.stages.4.steps=2"]
    ).register(**files)
    return result.save(tmp_path_factory.mktemp("report") / "out", inverse=True)


@pytest.fixture(scope="module")
def page(folder, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.errors, page.requests = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "console",
        lambda message: page.errors.append(message.text) if message.type == "error" else None,
    )
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_function("document.body.dataset.drawn")
    yield page
    page.close()


def pixels(page, plane: str) -> list[int]:
    """Every 97th byte of a canvas, a stand-in for what is seen."""
    script = (
        "id => { const c = document.getElementById(id); const d ="
        " c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    )
    return page.evaluate(script + "return Array.from(d).filter((_, i) => i % 97 === 0) }", plane)


@pytest.mark.slow
def test_the_sliders_move_the_planes(page) -> None:
    for plane in ("axial", "coronal", "sagittal"):
        before = pixels(page, plane)
        assert max(before) > 100
        slider = page.locator(f"#slice-{plane}")
        there = int(slider.get_attribute("max")) // 3
        slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')) }", there)
        assert pixels(page, plane) != before
        assert page.locator(f"#at-{plane}").inner_text().endswith("mm")
    assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["swipe", "checker", "overlay", "difference", "fixed", "other", "grid", "jacobian"]
)
def test_every_view_draws_and_before_differs_from_after(page, mode: str) -> None:
    page.uncheck("#points")
    page.uncheck("#contours")
    page.select_option("#mode", mode)
    page.check("input[value=after]")
    after = pixels(page, "axial")
    page.check("input[value=before]")
    assert (pixels(page, "axial") == after) == (mode in ("fixed", "jacobian"))
    assert page.errors == []


@pytest.mark.slow
def test_the_divider_moves_and_a_click_goes_there(page) -> None:
    page.select_option("#mode", "swipe")
    before = pixels(page, "coronal")
    page.locator("#split").evaluate("s => { s.value = 5; s.dispatchEvent(new Event('input')) }")
    assert pixels(page, "coronal") != before
    state = page.evaluate("document.body.dataset.drawn")
    page.locator("#axial").click(position={"x": 60, "y": 60})
    assert page.evaluate("document.body.dataset.drawn") != state
    page.locator("tr[data-at]").first.click()
    assert page.errors == []


@pytest.mark.slow
def test_the_page_asks_nothing_of_a_network(page, folder) -> None:
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert re.findall(r"(?:src|href)=[\"']?https?:", (folder / "report.html").read_text()) == []


def test_the_report_can_be_written_again(folder) -> None:
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert report_again(folder).read_text()[:300] == first[:300]


def test_what_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        report_again(tmp_path / "none")
    with pytest.raises(DataError, match="is no run, registration or evaluation"):
        report_again(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_from_files_are_text_and_not_markup() -> None:
    page = render("<script>alert(1)</script>", [], {"model": "</script><b>"}, warnings=["<i>"])
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page

"""Contents of the reports: numbers, order of rows and volumes read from the pages; the viewer's
planes, drawn in a browser.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lightning_reg
from lightning_reg import functional as LF
from lightning_reg.batch.evaluation.evaluation import Evaluation
from lightning_reg.inference.report import viewer
from lightning_reg.inference.report.again import report_again
from lightning_reg.inference.report.viewer import display_grid
from lightning_reg.inference.result import Result
from lightning_reg.io.images import write_image
from lightning_reg.spatial import Affine, Grid, Identity, Image, Pair, Transform

# RAS mm, in the fixed and the moving image
SPOT = (
    torch.tensor([-45.0, 28.0, 306.0]),
    torch.tensor([-39.0, 24.0, 311.0]),
)
STEP = SPOT[1] - SPOT[0]


def volumes(pair, transform, start):
    return viewer.volumes(Result(pair, transform, start, pair))


def oblique(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    turn: tuple[float, float, float],
) -> Grid:
    regular = Grid.regular(
        shape,
        spacing,
        [-42 - s * (n - 1) / 2 + o for n, s, o in zip(shape, spacing, (0, 68, 350), strict=True)],
    )
    parameters = torch.tensor([[0, 0, 0, *turn, 1, 1, 1, 0, 0, 0]], dtype=torch.float64)
    return Grid(shape, LF.affine_matrix(parameters, regular.center[0]).numpy() @ regular.affine)


def translation(grid: Grid, share: float = 1.0) -> Affine:
    """So much of the way from the fixed to the moving spot."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = share * STEP
    return Affine(matrix.unsqueeze(0), grid)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A spot in two oblique images, as intensity, mask and two labels; three landmarks whose errors
    differ.
    """
    grids = (
        oblique((22, 26, 18), (1.5, 1.2, 2.0), (0.2, -0.1, 0.15)),
        oblique((24, 20, 22), (1.4, 1.8, 1.6), (-0.1, 0.2, 0.1)),
    )
    images, masks, labels = [], [], []
    for grid, spot in zip(grids, SPOT, strict=True):
        away = (
            grid.to_world(grid.points(dtype=torch.float64)) - spot.double().view(1, 3, 1, 1, 1)
        ).norm(dim=1, keepdim=True)
        images.append(
            Image((400 * torch.exp(-((away / 4) ** 2))).float() - 1000, grid, padding=-1000.0)
        )
        masks.append(Image((away < 5).short(), grid, discrete=True))
        labels.append(Image((away < 6).short() + (away < 3).short(), grid, discrete=True))
    fixed = SPOT[0] + torch.tensor([[0.0, 0, 0], [3, 2, -4], [-4, 5, 1]])
    moving = fixed + STEP + torch.tensor([[0.0, 0, 1], [0, 3, 0], [2, 0, 0]])
    return Pair(*images, *masks, *labels, (fixed.double(),), (moving.double(),), name=("spots",))


@pytest.fixture(scope="module")
def grid(pair: Pair) -> Grid:
    return pair.fixed.grid


def unpacked(shown: dict[str, Any]) -> dict[str, np.ndarray]:
    """The volumes that the viewer reads: ``fixed``, ``before``, ``after``, ``jacobian``."""
    raw = {
        name: gzip.decompress(base64.b64decode(shown[name]))
        for name in ("fixed", "before", "after", "jacobian")
    }
    return {
        name: np.frombuffer(values, np.uint8).reshape(shown["shape"])
        for name, values in raw.items()
    }


def windowed(volume: np.ndarray, shown: dict[str, Any], side: str) -> np.ndarray:
    """Grey values that the viewer begins with, 0 to 255."""
    (least, most), (black, white) = shown["range"][side], shown["window"][side]
    return (
        ((least + volume / 255 * (most - least) - black) / (white - black) * 255)
        .clip(0, 255)
        .round()
        .astype(int)
    )


def brightest(volume: np.ndarray, shown: dict[str, Any]) -> Tensor:
    """The centre of mass of what is bright, RAS mm."""
    at = np.argwhere(volume > 80)
    index = np.average(at, axis=0, weights=volume[volume > 80])
    return torch.tensor(shown["origin"]) + shown["spacing"] * torch.from_numpy(index)


def no_motion(grid: Grid) -> Transform:
    return Identity(grid, torch.zeros(()))


def test_before_and_after_are_the_moving_image_through_the_two_transforms(pair, grid) -> None:
    shown = volumes(pair, translation(grid), no_motion(grid))
    found = unpacked(shown)
    for name, spot in (("fixed", SPOT[0]), ("before", SPOT[1]), ("after", SPOT[0])):
        torch.testing.assert_close(brightest(found[name], shown).float(), spot, atol=0.25, rtol=0)
    other = unpacked(volumes(pair, no_motion(grid), translation(grid)))
    assert np.array_equal(other["before"], found["after"])


def test_each_image_is_shown_in_its_own_window(pair, grid) -> None:
    """Intensities of another unit are as bright."""
    bright = Image(pair.moving.tensor * 50, pair.moving.grid, padding=-50000.0)
    found = unpacked(volumes(Pair(pair.fixed, bright), translation(grid), no_motion(grid)))
    for name in ("fixed", "before", "after"):
        assert int(found[name].max()) == 255
    assert np.abs(found["after"].astype(int) - found["fixed"]).mean() < 12


def test_the_viewers_grid_is_isotropic_and_holds_the_fixed_image(grid) -> None:
    shown = display_grid(grid)
    np.testing.assert_allclose(shown.affine[0, :3, :3], grid.spacing.min() * np.eye(3))
    assert grid.overlap(shown) == 1
    large = display_grid(Grid.regular((300, 200, 100), (1.0, 1.0, 1.0)))
    assert large.shape[0] == 144
    np.testing.assert_allclose(large.spacing[0], 300 / 144)


def test_the_viewer_begins_at_the_fixed_mask(pair, grid) -> None:
    shown = volumes(pair, translation(grid), no_motion(grid))
    at = torch.tensor(
        [o + shown["spacing"] * i for o, i in zip(shown["origin"], shown["start"], strict=True)]
    )
    torch.testing.assert_close(at, SPOT[0].double().to(at), atol=1.0, rtol=0)


def test_marks_are_what_is_missing_to_the_moving_landmarks(pair, grid) -> None:
    """From where the transform leads to: in voxels of the viewer, to the right, front and top; and
    in mm.
    """
    shown = volumes(pair, translation(grid), translation(grid, 0.5))
    rest = torch.tensor([[0.0, 0, 1], [0, 3, 0], [2, 0, 0]])
    for n, mark in enumerate(shown["landmarks"]):
        place = torch.tensor(
            [o + shown["spacing"] * i for o, i in zip(shown["origin"], mark["fixed"], strict=True)]
        )
        torch.testing.assert_close(place.double(), pair.fixed_landmarks[0][n], atol=0.02, rtol=0)
        for when, missing in (("before", rest[n] + STEP / 2), ("after", rest[n])):
            torch.testing.assert_close(
                torch.tensor(mark[when]) * shown["spacing"], missing, atol=0.02, rtol=0
            )
            assert mark["mm"][when] == pytest.approx(float(missing.norm()), abs=2e-3)


def test_the_jacobian_is_in_hundredths_inside_the_fixed_image_and_255_where_it_folds(
    pair, grid
) -> None:
    """The determinant of an affine map is that of its matrix; a mirrored axis folds everywhere."""
    for scale, expected in ((1.3, 130), (-1.0, 255)):
        matrix = torch.diag(torch.tensor([scale, 1.0, 1.0, 1.0], dtype=torch.float64)).unsqueeze(0)
        shown = volumes(pair, Affine(matrix, grid), no_motion(grid))
        found = unpacked(shown)["jacobian"]
        shape = torch.tensor(grid.shape).view(3, 1, 1, 1)
        voxels = display_grid(grid).voxel_map(grid)[0] @ np.stack(
            [*display_grid(grid).points()[0].flatten(1).numpy(), np.ones(found.size)]
        )
        at = torch.from_numpy(voxels[:3]).view(3, *found.shape)
        assert (found[((at >= 0) & (at <= shape - 1)).all(0).numpy()] == expected).all()
        assert (
            found[((at < -0.501) | (at > shape - 0.499)).any(0).numpy()] == 100
        ).all()  # beyond the outer faces


def test_the_viewers_field_leads_there_in_its_own_voxels(pair, grid) -> None:
    shown = volumes(pair, translation(grid), no_motion(grid))
    for when, expected in (("before", torch.zeros(3)), ("after", STEP / shown["spacing"])):
        field = np.frombuffer(
            gzip.decompress(base64.b64decode(shown["reach"][when])), np.float32
        ).reshape(3, *shown["coarse"])
        np.testing.assert_allclose(
            field.reshape(3, -1).T, expected.expand(field[0].size, 3), atol=1e-3
        )


Tables = dict[str, list[list[str]]]


def tables(page: str) -> Tables:
    """Rows of cells by the heading of their section."""
    found = {}
    for title, body in re.findall(r"<section>\s*<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL):
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
        found[html.unescape(title)] = [
            [html.unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
            for row in rows
        ]
    return found


@pytest.fixture(scope="module")
def folder(pair, grid, tmp_path_factory) -> Path:
    result = Result(
        pair,
        translation(grid),
        translation(grid, 0.25),
        pair,
        seconds={"read": 1.5, "network": 0.25},
    )
    return result.save(tmp_path_factory.mktemp("known") / "out")


def test_a_registrations_tables_have_before_and_after_and_the_worst_first(folder, grid) -> None:
    page = (folder / "report.html").read_text()
    found, metrics = tables(page), json.loads((folder / "metrics.json").read_text())["metrics"]
    rest = torch.tensor([[0.0, 0, 1], [0, 3, 0], [2, 0, 0]])
    before, after = (rest + 0.75 * STEP).norm(dim=1), rest.norm(dim=1)
    summary = {row[0]: row[1:] for row in found["Before and after"]}
    assert summary["TRE, mm"] == [f"{float(before.mean()):.2f}", f"{float(after.mean()):.2f}"]
    for title, key in (("Dice", "dice"), ("NCC", "ncc")):
        values = metrics["similarity"][key] if key == "ncc" else metrics[key]
        assert summary[title] == [f"{values[when]:.3f}" for when in ("before", "after")]
        assert float(summary[title][0]) < float(summary[title][1])
    assert found["Landmarks, worst first"][1:] == [
        [f"landmark {n + 1}", f"{before[n]:.2f}", f"{after[n]:.2f}"] for n in (1, 2, 0)
    ]  # fmt: skip
    header, *labels = found["Labels, worst first"]
    assert header == [
        "label",
        "Dice before",
        "after",
        "HD95 before, mm",
        "after",
        "ASSD before, mm",
        "after",
    ]
    assert float(labels[0][2]) < float(labels[1][2])
    for name, *cells in labels:
        values = [
            metrics[key]["labels"][name][when]
            for key in ("dice", "hd95_mm", "assd_mm")
            for when in ("before", "after")
        ]
        assert [float(cell) for cell in cells] == pytest.approx(values, abs=0.006)
    clicks = re.findall(r'data-at="([^"]*)"', page)
    marks = json.loads(re.search(r'id="volumes">(.*?)</script>', page, re.DOTALL)[1])["landmarks"]
    assert [[float(v) for v in click.split(",")] for click in clicks] == [
        marks[n]["fixed"] for n in (1, 2, 0)
    ]


HEADINGS = {
    "tre_after_mm": "TRE after, mm",
    "dice_after": "Dice after",
    "ncc_after": "NCC after",
    "mask_dice_after": "Dice of masks after",
    "field_error_after_mm": "field error after, mm",
}


def evaluated(values: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of the cases a to d."""
    cases = [{key: column[n] for key, column in values.items()} for n in range(4)]
    return [
        {"case": name, **case, "folding": 0.0, "sdlogj": 0.1}
        for name, case in zip("abcd", cases, strict=True)
    ]


@pytest.mark.parametrize(
    ("columns", "order"),
    [
        (
            {
                "tre_before_mm": [9.0, 8, 7, 6],
                "tre_after_mm": [2.0, 5, 1, 3],
                "dice_after": [0.1, 0.2, 0.3, 0.4],
            },
            "bdac",
        ),
        ({"dice_before": [0.1] * 4, "dice_after": [0.8, 0.5, 0.9, 0.6]}, "bdac"),
        ({"ncc_before": [0.1] * 4, "ncc_after": [0.8, 0.5, 0.9, 0.6]}, "bdac"),
        ({"mask_dice_before": [0.1] * 4, "mask_dice_after": [0.8, 0.5, 0.9, 0.6]}, "bdac"),
        (
            {"field_error_before_mm": [0.1] * 4, "field_error_after_mm": [0.8, 0.9, 0.5, 0.85]},
            "bdac",
        ),
    ],
)
def test_cases_are_listed_worst_first(columns, order, tmp_path: Path) -> None:
    """Large distances are bad, large overlaps good; landmarks decide where there are some."""
    rows = evaluated(columns)
    found = tables(
        (Evaluation({"model": rows}, {}).save(tmp_path / "out") / "report.html").read_text()
    )["Cases, worst first"]
    assert [row[0] for row in found[1:]] == list(order)
    name = next(key for key in columns if "after" in key)
    place = found[0].index(HEADINGS[name])
    assert [float(row[place]) for row in found[1:]] == [
        rows["abcd".index(case)][name] for case in order
    ]


def test_several_methods_have_tables_of_their_own_and_their_differences_from_the_best(
    tmp_path: Path,
) -> None:
    """Method minus best; a case that failed is in a table of failures, and left out of the
    comparison.
    """
    first = evaluated({"tre_before_mm": [9.0, 8, 7, 6], "tre_after_mm": [2.0, 5, 1, 3]})
    second = evaluated({"tre_before_mm": [9.0, 8, 7, 6], "tre_after_mm": [4.0, 5.5, 7, 3.5]})
    second[3] = {"case": "d", "error": "no such file"}
    folder = Evaluation({"ours": first, "theirs": second}, {}).save(tmp_path / "out")
    for page in ((folder / "report.html").read_text(), report_again(folder).read_text()):
        found = tables(page)
        assert [row[0] for row in found["Cases of theirs, worst first"][1:]] == list("cba")
        assert found["Failed, theirs"][1] == ["d", "no such file"]
        methods = {row[0]: row[1:] for row in found["Methods"]}
        assert methods["before"][0] == "8.00 ± 1.00"
        assert methods["ours"][0] == "2.67 ± 2.08 (best)"
        assert methods["theirs"][0] == "5.50 ± 1.50"
        assert "With 3 pairs p is at least 0.25" in page
        assert "Left out, because a method failed there: 1 pair (d)." in page
        means = {
            title: {row[0]: row for row in found[title]}
            for title in ("All cases, ours", "All cases, theirs")
        }
        assert means["All cases, ours"]["TRE after, mm"][1] == "2.75"
        assert means["All cases, ours"]["TRE after, mm"][-1] == "4"
        assert means["All cases, theirs"]["TRE after, mm"][1] == "5.5"
        assert found["Differences from the best"][1][:4] == ["TRE, mm", "theirs", "ours", "2.83"]


def test_a_report_written_again_has_the_same_volumes_and_tables(pair, tmp_path: Path) -> None:
    """Before is with the centres of the grids on each other, which lie 37 mm apart by the headers."""
    far = pair.moving.grid.affine.copy()
    far[0, :3, 3] += [30.0, -20.0, 10.0]
    write_image(tmp_path / "fixed.nii.gz", pair.fixed.tensor, pair.fixed.grid)
    write_image(tmp_path / "moving.nii.gz", pair.moving.tensor, Grid(pair.moving.grid.shape, far))
    stages = "optimization.stages=[{transform: affine, stride: 4, steps: 2}]"
    registrar = lightning_reg.conventional("bspline", [stages], start="centers")
    folder = registrar.register(tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz").save(
        tmp_path / "out"
    )
    first = (folder / "report.html").read_text()
    second = report_again(folder).read_text()
    shown = [
        json.loads(re.search(r'id="volumes">(.*?)</script>', page, re.DOTALL)[1])
        for page in (first, second)
    ]
    for name in ("fixed", "before", "after"):
        a, b = (unpacked(each)[name].astype(int) for each in shown)
        assert np.abs(a - b).max() <= 1
    assert np.abs(unpacked(shown[0])["before"].astype(int) - unpacked(shown[0])["after"]).max() > 20
    again = tables(second)
    assert [row for title, rows in tables(first).items() if title != "Time" for row in rows] == [
        row for title, rows in again.items() if title != "Time" for row in rows
    ]


@pytest.fixture(scope="module")
def page(folder, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto((folder / "report.html").as_uri())
    page.wait_for_function("document.body.dataset.drawn")
    for drawn_over in ("#points", "#cross", "#contours"):
        page.uncheck(drawn_over)
    yield page
    page.close()


@pytest.fixture(scope="module")
def drawn(page) -> Callable[[str, str, str], np.ndarray]:
    """Picture of a plane in a view, red, green and blue at every voxel, ``(height, width, 3)``."""
    script = """id => { const c = document.getElementById(id), data = JSON.parse(document.getElementById("volumes").textContent);
      const n = {axial: [0, 1], coronal: [0, 2], sagittal: [1, 2]}[id].map(a => data.shape[a]), zoom = c.width / n[0];
      const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, out = [];
      for (let y = 0; y < n[1]; y++) for (let x = 0; x < n[0]; x++) {
        const o = 4 * (Math.floor((y + .5) * zoom) * c.width + Math.floor((x + .5) * zoom)); out.push([d[o], d[o + 1], d[o + 2]]);
      }
      return [n[1], n[0], out]; }"""

    def look(plane: str, mode: str, when: str) -> np.ndarray:
        page.select_option("#mode", mode)
        page.check(f"input[value={when}]")
        height, width, values = page.evaluate(script, plane)
        return np.array(values).reshape(height, width, 3)

    return look


@pytest.fixture(scope="module")
def planes(page) -> Callable[[str, str], np.ndarray]:
    """Slice that a plane shows now, of one of the page's volumes: from the top, the patient's right
    on the left.
    """

    def cut(name: str, plane: str) -> np.ndarray:
        shown = json.loads(page.locator("#volumes").text_content())
        volume = windowed(unpacked(shown)[name], shown, "fixed" if name == "fixed" else "other")
        i, j, k = (int(v) for v in page.evaluate("document.body.dataset.drawn").split()[2:])
        if plane == "axial":
            return volume[::-1, ::-1, k].T
        return volume[::-1, j, ::-1].T if plane == "coronal" else volume[i, :, ::-1].T

    return cut


def equal(seen: np.ndarray, expected: np.ndarray) -> float:
    """Share of the voxels that look alike, of those that are not black in both; letters are drawn
    over some.
    """
    shown = (seen > 0) | (expected > 0)
    return float((np.abs(seen - expected) <= 1)[shown].mean())


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_viewer_shows_its_volumes_with_the_patients_right_on_the_left(
    plane, page, drawn, planes
) -> None:
    for mode, when, name in (
        ("fixed", "after", "fixed"),
        ("other", "after", "after"),
        ("other", "before", "before"),
    ):
        assert equal(drawn(plane, mode, when)[..., 0], planes(name, plane)) > 0.8
    assert equal(planes("after", plane), planes("before", plane)) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_swipe_and_overlay_show_the_fixed_image_on_the_left_and_in_blue(
    when, page, drawn, planes
) -> None:
    fixed, other = planes("fixed", "coronal"), planes(when, "coronal")
    page.locator("#split").evaluate("s => { s.value = 50; s.dispatchEvent(new Event('input')) }")
    swipe, half = drawn("coronal", "swipe", when)[..., 0], fixed.shape[1] // 2
    assert equal(swipe[:, : half - 1], fixed[:, : half - 1]) > 0.8
    assert equal(swipe[:, half + 1 :], other[:, half + 1 :]) > 0.8
    overlay = drawn("coronal", "overlay", when)
    assert min(equal(overlay[..., 2], fixed), equal(overlay[..., 0], other)) > 0.8


@pytest.mark.slow
def test_a_difference_is_red_where_the_other_image_is_brighter(drawn, planes) -> None:
    change, seen = (
        planes("before", "coronal") - planes("fixed", "coronal"),
        drawn("coronal", "difference", "before"),
    )
    for colour, where in (
        (seen[..., 0] - seen[..., 2], change > 25),
        (seen[..., 2] - seen[..., 0], change < -25),
    ):
        assert where.sum() > 10
        assert (colour[where] > 0).mean() > 0.9
    assert (
        np.abs(drawn("coronal", "difference", "after") - 255.0).mean()
        < 0.5 * np.abs(seen - 255.0).mean()
    )


@pytest.mark.slow
def test_a_click_on_a_row_or_a_plane_goes_to_the_place(page, folder) -> None:
    def at() -> list[int]:
        return [int(v) for v in page.evaluate("document.body.dataset.drawn").split()[2:]]

    shown = json.loads(page.locator("#volumes").text_content())
    for row, number in enumerate((1, 2, 0)):
        page.locator("tr[data-at]").nth(row).click()
        assert at() == pytest.approx(shown["landmarks"][number]["fixed"], abs=0.51)
    box = page.locator("#axial").bounding_box()
    page.locator("#axial").click(position={"x": 0.25 * box["width"], "y": 0.2 * box["height"]})
    assert at()[:2] == pytest.approx(
        [0.75 * shown["shape"][0] - 0.5, 0.8 * shown["shape"][1] - 0.5], abs=1.1
    )


def at(page) -> list[int]:
    return [int(v) for v in page.evaluate("document.body.dataset.drawn").split()[2:]]


@pytest.fixture
def fresh(page):
    """The page as it is opened."""
    page.select_option("#mode", "fixed")
    page.check("input[value=after]")
    page.locator("#axial").dblclick()
    page.locator("tr[data-at]").first.click()
    page.evaluate("document.activeElement.blur()")
    return page


@pytest.mark.slow
def test_all_planes_have_the_same_scale(fresh) -> None:
    """A voxel is as many pixels wide and high in every plane, to the page's rounding."""
    shape = json.loads(fresh.locator("#volumes").text_content())["shape"]
    sizes = []
    for plane, (u, v) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        box = fresh.locator(f"#{plane}").bounding_box()
        sizes += [box["width"] / shape[u], box["height"] / shape[v]]
    assert max(sizes) / min(sizes) < 1.03


@pytest.mark.slow
def test_wheel_and_keys_move_slice_and_crosshair(fresh) -> None:
    i, j, k = at(fresh)
    fresh.locator("#axial").hover()
    fresh.mouse.wheel(0, 100)
    assert at(fresh) == [i, j, k + 1]
    fresh.locator("#coronal").focus()
    for key, there in (
        ("ArrowLeft", [i + 1, j, k + 1]),
        ("ArrowUp", [i + 1, j, k + 2]),
        ("PageDown", [i + 1, j - 1, k + 2]),
    ):
        fresh.keyboard.press(key)
        assert at(fresh) == there
    fresh.keyboard.press("b")
    assert fresh.is_checked("input[value=before]")
    fresh.keyboard.press("4")
    assert fresh.input_value("#mode") == "difference"
    assert fresh.locator("#bar").is_visible()


@pytest.mark.slow
def test_zoom_keeps_the_place_under_the_pointer_and_a_double_click_ends_it(fresh, drawn) -> None:
    whole = drawn("coronal", "fixed", "after")
    i, _, k = at(fresh)
    for _ in range(4):
        fresh.keyboard.press("+")
    close = drawn("coronal", "fixed", "after")
    assert (close != whole).mean() > 0.05
    shown = json.loads(fresh.locator("#volumes").text_content())
    box = fresh.locator("#coronal").bounding_box()
    zoom = 1.25**4
    left = min(
        max(shown["shape"][0] - 1 - i + 0.5 - shown["shape"][0] / zoom / 2, 0),
        shown["shape"][0] * (1 - 1 / zoom),
    )
    fresh.locator("#coronal").click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    assert at(fresh)[0] == shown["shape"][0] - 1 - int(left + shown["shape"][0] / zoom / 4)
    assert abs(at(fresh)[2] - k) < shown["shape"][2] / 2
    fresh.locator("#coronal").dblclick()
    fresh.locator("tr[data-at]").first.click()
    assert (drawn("coronal", "fixed", "after") == whole).all()


@pytest.mark.slow
def test_a_drag_with_the_right_button_changes_contrast_and_brightness(fresh, drawn, planes) -> None:
    before = drawn("axial", "fixed", "after").astype(float)
    told = fresh.locator("#window-values").inner_text()
    box = fresh.locator("#axial").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    place = at(fresh)
    fresh.mouse.move(x, y)
    fresh.mouse.down(button="right")
    fresh.mouse.move(x, y - 60)
    fresh.mouse.up(button="right")
    brighter = drawn("axial", "fixed", "after").astype(float)
    assert brighter.mean() > before.mean() + 10
    assert at(fresh) == place
    assert fresh.locator("#window-values").inner_text() != told
    fresh.locator("#brightness").evaluate(
        "s => { s.value = 0; s.dispatchEvent(new Event('input')) }"
    )
    fresh.locator("#contrast").evaluate(
        "s => { s.value = -1; s.dispatchEvent(new Event('input')) }"
    )
    half = drawn("axial", "fixed", "after")[
        ..., 0
    ]  # a window of twice the width about the same level
    assert equal(half, (planes("fixed", "axial") + 127.5) / 2) > 0.9
    fresh.locator("#axial").dblclick()
    fresh.locator("tr[data-at]").first.click()
    assert (drawn("axial", "fixed", "after") == before).all()


@pytest.mark.slow
def test_the_values_under_the_pointer_are_those_of_the_images(fresh, pair) -> None:
    shown = json.loads(fresh.locator("#volumes").text_content())
    text = fresh.locator("#readout").inner_text()
    place = torch.tensor(
        [float(v) for v in re.search(r"\((.*)\) mm RAS", text)[1].split(",")], dtype=torch.float64
    )
    expected = torch.tensor(shown["origin"], dtype=torch.float64) + shown["spacing"] * torch.tensor(
        at(fresh)
    )
    torch.testing.assert_close(place, expected, atol=0.06, rtol=0)
    point = Grid.regular((1, 1, 1), (1, 1, 1), expected.tolist())
    step = (shown["range"]["fixed"][1] - shown["range"]["fixed"][0]) / 255
    value = float(pair.fixed.resampled(point).tensor)
    assert float(re.search(r"fixed (-?[\d.e+]+)", text)[1]) == pytest.approx(
        value, abs=step + 0.01 * abs(value)
    )
    assert re.search(r"displacement [\d.]+ mm, Jacobian determinant", text)


@pytest.mark.slow
def test_letters_can_be_read_on_a_bright_ground(fresh, drawn) -> None:
    """Each letter is white with a black edge."""
    script = """([id, x, y]) => { const c = document.getElementById(id);
      return Array.from(c.getContext("2d").getImageData(x < 0 ? c.width + x : x, c.height / 2 - 10, 20, 20).data); }"""
    fresh.locator("#brightness").evaluate(
        "s => { s.value = 1; s.dispatchEvent(new Event('input')) }"
    )
    fresh.locator("#contrast").evaluate(
        "s => { s.value = -2; s.dispatchEvent(new Event('input')) }"
    )
    assert (drawn("axial", "fixed", "after") > 100).mean() > 0.95  # no black but that of the edges
    for plane in ("axial", "coronal", "sagittal"):
        for x in (2, -22):
            values = np.array(fresh.evaluate(script, [plane, x, 0])).reshape(-1, 4)[:, :3]
            assert (values.min(1) > 230).any()
            assert (values.max(1) < 30).any()


@pytest.mark.slow
def test_contours_are_blue_for_the_fixed_and_orange_for_the_other_image(fresh, drawn) -> None:
    count = """id => { const c = document.getElementById(id), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      let blue = 0, orange = 0;
      for (let i = 0; i < d.length; i += 4) { blue += d[i] < 140 && d[i + 2] > 180; orange += d[i] > 180 && d[i + 2] < 90; }
      return [blue, orange]; }"""
    assert fresh.evaluate(count, "axial") == [0, 0]
    fresh.check("#contours")
    blue, orange = fresh.evaluate(count, "axial")
    fresh.uncheck("#contours")
    assert min(blue, orange) > 20

"""The report as a page, and runs compared: read back by a parser, and a browser if there is."""

import copy
import html.parser
import pathlib
import re
import runpy
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, made_run

from apq_jax import mapping
from apq_jax.mapping.pictures import compute_fill
from apq_jax.report import __main__ as report
from apq_jax.report import hardware_figures, make, markdown, one_run, search_figures, svg
from apq_jax.report.html import render_html
from apq_jax.run import write
from apq_jax.run.read import _read_rows, read_run
from apq_jax.system.errors import InputError

HOSTILE = "params/<script>alert(1)</script> $\\frac{x}$ `a` **b** | \"c\" & 'd'/kernel"
VOID = {"meta", "br", "img", "link", "input", "hr", "image"}


class Page(html.parser.HTMLParser):
    """What a page has; fails where its elements are not closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if "th" in self.open or "td" in self.open:
            self.tables[-1][-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.seen if name == tag]


@pytest.fixture
def result() -> dict[str, Any]:
    return made_run.result_of()


@pytest.fixture
def folder(result: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    return made_run.write_run(result, tmp_path / "run")


def page_of(folder: pathlib.Path) -> Page:
    """As it is written into the folder, without the pictures that Markdown needs."""
    return Page(render_html(one_run.build_report(folder, *read_run(folder))))


def test_the_page_is_well_formed_and_says_its_structure(folder: pathlib.Path) -> None:
    read = page_of(folder)
    assert [len(read.of(tag)) for tag in ("html", "main", "h1")] == [1, 1, 1]
    assert read.of("html") == [{"lang": "en"}]
    assert read.texts["h1"] == ["lenet5 on digits, compressed for isaac_ou"]
    headings = read.texts["h2"]
    assert headings == [
        "The answer",
        "Accuracy against cost",
        "Fine-tuning",
        "Layer by layer",
        "What is not mapped",
        "The search",
        "Fewer bits of the converters",
        "The mapping",
        "Where energy and area go",
        "What to know of these figures",
        "To repeat it",
    ]
    assert all(attrs["scope"] in ("row", "col") for attrs in read.of("th"))
    assert len(read.of("svg")) == 7
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in read.of("svg"))
    ids = [attrs["id"] for _, attrs in read.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    # What marks stand for, under the pointer.
    assert "conv1: 25.0 % kept" in read.texts["title"]
    assert "fc, dense, 8 bits: 280 slots" in read.texts["title"]
    assert any(re.match(r"evaluation \d+: 62 slots, ", title) for title in read.texts["title"])
    assert any("The converters are imaginary." in words for words in read.texts["p"])


def test_the_page_needs_nothing_else(folder: pathlib.Path, result: dict[str, Any]) -> None:
    made_run.write_mapping(result, folder)
    make.write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "a", "img"} & {
        tag for tag, _ in read.seen
    }
    for tag, attrs in read.seen:
        for name, value in attrs.items():
            if name.split(":")[-1] in ("src", "href"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), (tag, name)
            assert not name.startswith("on")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert any("default-src 'none'" in (attrs.get("content") or "") for attrs in read.of("meta"))
    assert len(text) < 1_000_000
    assert (folder / "fullness.png").exists()
    assert (folder / "occupancy.png").exists()


def test_the_answer_has_the_figures_of_the_result(
    folder: pathlib.Path, result: dict[str, Any]
) -> None:
    table = page_of(folder).tables[0]
    best, dense, ratios = result["best"], result["dense"], result["ratios"]
    assert table[0] == ["", "dense 16", "dense 8", "chosen", "over dense 8", "over dense 16"]
    rows = {row[0]: row[1:] for row in table}
    for words, field, ratio in (
        ("operation-unit slots", "slots", "slots"),
        ("crossbars", "crossbars", "crossbars"),
        ("area pro rata, mm²", "area_pro_rata_mm2", "area"),
        ("area of whole tiles, mm²", "area_rounded_mm2", "area_rounded"),
        ("energy an inference, nJ", "energy_nj", "energy"),
        ("latency of an inference, µs", "latency_us", "latency"),
    ):
        numbers = [float(cell.removesuffix("x").replace(",", "")) for cell in rows[words]]
        costs = [dense["16"][field], dense["8"][field], best[field]]
        over = [ratios[ratio]["dense_8"], ratios[ratio]["dense_16"]]
        np.testing.assert_allclose(numbers, [*costs, *over], rtol=0, atol=0.005)
    for words, split, count in (
        ("validation, selection half", "validation", "select"),
        ("test, measured once", "test", "test"),
    ):
        images, before, after, *_ = rows[words]
        assert int(images) == result["data"][count]
        accuracies = [float(cell.split()[0]) for cell in (before, after)]
        exact = [100 * result[of][f"{split}_accuracy"] for of in ("float", "best")]
        np.testing.assert_allclose(accuracies, exact, rtol=0, atol=0.051)
    assert rows["test, measured once"][-2:] == ["-0.25", "-1.10 to +0.60"]
    # sqrt(0.96 x 0.04 / 400) = 1.0.
    assert rows["test, measured once"][1] == "96.0 ± 1.0 %"


def test_the_page_says_what_the_text_says(folder: pathlib.Path) -> None:
    read = page_of(folder)
    text = markdown.render_markdown(one_run.build_report(folder, *read_run(folder)))
    for words in read.texts["p"]:
        said = words.removeprefix("Note.").strip()
        assert said in text.replace("`", "").replace("**", "")
    for row in (row for table in read.tables for row in table):
        assert "| " + " | ".join(row) + " |" in text


def test_hostile_names_stay_words(folder: pathlib.Path, result: dict[str, Any]) -> None:
    result["layers"][0]["name"] = HOSTILE
    result["best"]["bottleneck"] = HOSTILE
    result["data"]["name"] = "</title><script>alert(2)</script>\x1b[2J"
    result["command"] = "python </code><script>"
    result["notes"] = ["<img src=x onerror=alert(3)>"]
    made_run.write_run(result, folder)
    made_run.write_mapping(result, folder)
    read = page_of(folder)
    assert not {"script", "img"} & {tag for tag, _ in read.seen}
    assert not any("onerror" in attrs for _, attrs in read.seen)
    short = HOSTILE.removeprefix("params/").removesuffix("/kernel")
    assert any(row[0] == short for table in read.tables for row in table)
    assert f"{short}: 25.0 % kept" in read.texts["title"]
    # A bar in a name ends no cell.
    text = markdown.render_markdown(one_run.build_report(folder, *read_run(folder)))
    assert r"\*\* \| " in text
    assert r"\</title>\<script>alert(2)\</script>\x1b\[2J, compressed" in text


def test_crossbars_are_drawn_where_the_mapping_is(
    folder: pathlib.Path, result: dict[str, Any]
) -> None:
    read = page_of(folder)
    assert "It is not in this folder, so its crossbars are not drawn." in read.texts["p"]
    crossbars = made_run.write_mapping(result, folder)
    for layer_map in crossbars.maps:
        counts = mapping.count_layer_map(layer_map, crossbars.scheme, crossbars.accelerator)
        fill = compute_fill(layer_map)
        assert fill.sum() * layer_map.cells[0].size == pytest.approx(counts["cells"])
        assert 0 < fill.min() <= fill.max() <= 1
    labels = {attrs["aria-label"] for attrs in page_of(folder).of("svg")}
    assert "How much of each crossbar of each layer is used" in labels
    (folder / "mapping.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"mapping\.safetensors: not a safetensors file"):
        make.write_report(folder)


def test_the_files_hashes_can_be_checked(folder: pathlib.Path) -> None:
    read = page_of(folder)
    (lines,) = [words for words in read.texts["code"] if "search.csv" in words and "  " in words]
    names = [line.split("  ")[1] for line in lines.splitlines()]
    assert names == ["result.json", "search.csv"]
    assert all(re.fullmatch(r"[0-9a-f]{64}  \S+", line) for line in lines.splitlines())


def test_a_long_search_stays_small(result: dict[str, Any], folder: pathlib.Path) -> None:
    rows = {
        name: np.tile(column, 100) for name, column in _read_rows(folder / "search.csv").items()
    }
    for draw in (search_figures.draw_pareto, search_figures.draw_progress):
        text = svg.render_svg(draw(result, rows), "long", "a long search")
        assert "<image " in text
        assert len(text) < 300_000


def test_a_figure_keeps_its_ground(result: dict[str, Any], folder: pathlib.Path) -> None:
    figure = hardware_figures.draw_policy(result)
    text = svg.render_svg(figure, "policy", "bits")
    assert figure.patch.get_visible()
    assert "#ffffff" not in text
    assert "DejaVu" not in text
    assert "var(--blue)" in text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers", []),
        ("pareto", []),
        ("search", 3),
        ("best", "none"),
        ("best/slots", 0),
        ("layers/0/utilisation", 3),
        ("layers/0/keep", "half"),
        ("network/name", None),
    ],
)
def test_damaged_results_are_one_line(
    path: str, value: Any, folder: pathlib.Path, result: dict[str, Any], capsys: Any
) -> None:
    *way, last = path.split("/")
    place: Any = result
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    write.write_result(folder, result)
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr().err
    assert "result.json" in printed
    assert len(printed.splitlines()) == 1
    assert not (folder / "report.html").exists()


# --- several runs --------------------------------------------------------------------------------


@pytest.fixture
def second(result: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    """Half the slots, another strategy."""
    other = copy.deepcopy(result)
    other["best"]["slots"] = 30
    other["search"]["strategy"] = "genetic"
    return made_run.write_run(other, tmp_path / "other")


def test_runs_are_compared(
    folder: pathlib.Path,
    second: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in folder.iterdir()}
    assert report.main([str(folder), str(second)]) == 0
    printed = capsys.readouterr()
    # 480 / 60 and 480 / 30; 200 / 50.
    assert "| run | 60 (8.00x) | 3 (2.00x) | 0.0200 (3.00x) | 50.0 (4.00x) |" in printed.out
    assert "| other | 30 (16.00x) | 3 (2.00x)" in printed.out
    assert "| 96.0 ± 1.0 % | 1.0 | 0.25 | -0.60 to 1.10 | meets the limit |" in printed.out
    assert "same base, the unpruned network at 8 bits of `run`: `lenet5` on `digits`" in printed.out
    assert "by the strategy `genetic` with the scheme `column_vector`, in 40 eval" in printed.out
    assert "fair" not in printed.out
    assert "![" not in printed.out
    assert printed.err == "The page: comparison.html\n"
    read = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert read.texts["h1"] == ["2 runs compared"]
    assert [row[0] for row in read.tables[0]] == ["", "run", "other", "", "run", "other"]
    assert len(read.of("svg")) == 1
    assert any(title.startswith("other, chosen: 30 slots, ") for title in read.texts["title"])
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accelerator": "puma"}, "accelerator"),
        ({"limits": {"accuracy_drop": 2.0}}, "limits"),
        ({"data": {"name": "shirts", "train": 6, "search": 9, "select": 9, "test": 9}}, "data"),
        ({"float": {f"{s}_accuracy": 0.9 for s in ("search", "validation", "test")}}, "trained"),
    ],
)
def test_an_unfair_comparison_says_so(
    change: dict[str, Any],
    says: str,
    result: dict[str, Any],
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: Any,
) -> None:
    other = made_run.write_run(result | change, tmp_path / "other")
    path = tmp_path / "deeper" / "read.html"
    assert report.main([str(folder), str(other), "--html", str(path)]) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if "fair" in line]
    assert line.startswith(f"**Note.** Not a fair comparison: the runs differ in {says}")
    assert "fair" in path.read_text(encoding="utf-8")
    path.write_text("mine")
    assert report.main([str(folder), str(other), "--html", str(path)]) == 2
    assert "read.html: is there already; allowed: a new" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_names_of_folders_stay_words(result: dict[str, Any], tmp_path: pathlib.Path) -> None:
    names = ["_first", "$x$ <b>"]
    folders = [made_run.write_run(result, tmp_path / name) for name in names]
    make.write_comparison(folders, tmp_path / "page.html")
    read = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert set(names) <= set(read.texts["text"])
    assert not read.of("b")


def test_other_layers_and_missed_limits_are_said(
    result: dict[str, Any], folder: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    other = copy.deepcopy(result)
    other["layers"][1]["rows"] = 30
    other["best"] |= {"meets_limit": False}
    other["best"]["misses"] = [{"name": "accuracy_drop", "found": 1.5, "allowed": 1.0}]
    (folder / "accelerator.toml").write_text("read_ns = 1\n")
    made_run.write_run(other, tmp_path / "other")
    assert report.main([f"{tmp_path}/other", f"{folder}", f"--html={tmp_path / 'c.html'}"]) == 0
    text = capsys.readouterr().out
    assert "the runs differ in network, accelerator." in text
    assert "**Note.** `other` loses 1.5 points of accuracy, 1 allowed." in text


def test_runs_that_cannot_be_compared(
    folder: pathlib.Path, second: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    def refused(says: str, *arguments: Any) -> None:
        target = tmp_path / "never.html"
        assert report.main([*map(str, arguments), f"--html={target}"]) == 2
        printed = capsys.readouterr()
        assert says in printed.err
        assert len(printed.err.splitlines()) == 1
        assert printed.out == ""
        assert not target.exists()

    refused("the same run as", folder, second, folder.parent / "other" / ".." / "run")
    refused("none/result.json: cannot be read", folder, tmp_path / "none")
    refused("--html: of one run or with limits; allowed: to compare several runs", folder)
    refused("--html: of one run or with limits", folder, second, "--max-slots=300")
    (second / "result.json").write_text("{")
    refused("other/result.json: is not JSON", folder, second)
    damaged = made_run.result_of()
    del damaged["best"]["test_difference"]
    write.write_result(second, damaged)
    refused("result.json or search.csv lacks 'test_difference'", folder, second)


def test_one_run_is_made_again(folder: pathlib.Path, capsys: Any) -> None:
    assert report.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}/report.md\n{folder}/report.html\n"


def test_limits_are_asked_of_every_run(
    folder: pathlib.Path, second: pathlib.Path, capsys: Any
) -> None:
    assert report.main([str(folder), str(second), "--max-slots=400"]) == 0
    text = capsys.readouterr().out
    assert text.count("is evaluation 2.") == 2
    assert not (folder / "report.html").exists()


SHOTS = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))


@pytest.mark.skipif(SHOTS["browser"]() is None, reason="no Chromium")
def test_a_phone_need_not_scroll_sideways(
    folder: pathlib.Path, result: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    made_run.write_mapping(result, folder)
    make.write_report(folder)
    wide, high = SHOTS["measured"](folder / "report.html", 375, tmp_path)
    assert wide == 375
    assert high > 3000

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any, get_args

import pandas as pd
import pytest

from al_ray.report import wording
from al_ray.report.analysis.results import Estimate, Section, StudyResults
from al_ray.report.page.charts import Scale, assign_looks
from al_ray.report.page.render import render_page
from al_ray.report.stats.paired import Comparison
from tests.report.content_samples import (
    REASON,
    cell,
    comparison,
    interval,
    method,
    results,
    setting,
    study,
    without,
)

VOID = {"meta", "input", "br", "wbr", "hr", "img", "link", "source", "col", "base"}
OPTIONAL_TEXT = {"style", "script"}
LOADS = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "formaction", "ping"}
HOSTILE = "<script>alert('x')</script>\"&\x00\ud800"


class Page(HTMLParser):
    """Reads a page and complains about every tag that does not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str, str]] = []
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: list[str] = []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        (self.raw if self.open and self.open[-1] in OPTIONAL_TEXT else self.words).append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [(tag, name, value or "") for name, value in attrs if name in LOADS]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def whole() -> StudyResults:
    return study()


@pytest.fixture(scope="module")
def page(whole: StudyResults) -> Page:
    return Page(shown(whole))


def shown(whole: StudyResults) -> str:
    return render_page(whole, made_at="today", tables={"ranking": "the ranking, one row a method and setting"})


def test_every_tag_is_closed_in_its_place_and_every_id_is_once(page: Page) -> None:
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_asks_for_nothing_outside_itself(page: Page, whole: StudyResults) -> None:
    assert {value[:1] for _, _, value in page.links} == {"#"}
    assert {value[1:] for _, _, value in page.links} <= set(page.ids)
    assert not set(page.tags) & {"link", "img", "iframe", "object", "embed", "base"}
    code = "".join(page.raw)
    assert not re.search(r"url\(|@import|https?:|fetch|XMLHttp|import\(|//cdn", code)
    policy = next(a["content"] for tag, a in page.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_names_from_the_study_are_escaped_everywhere() -> None:
    whole = study(n_datasets=1, n_methods=4)
    names = {whole.settings[0].name: f"{HOSTILE} · minilm", list(whole.methods)[2]: HOSTILE, "trec6": HOSTILE}
    hostile = _renamed(whole, names)
    text = shown(without(hostile, study=HOSTILE, description=HOSTILE, notices=(HOSTILE,)))
    parsed = Page(text)
    assert parsed.wrong == []
    assert parsed.tags["script"] == 1
    assert "<script>alert" not in text
    assert "alert('x')" in parsed.text
    assert "alert" not in "".join(parsed.raw)
    text.encode("utf-8")
    assert "\x00" not in text


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Return the content with some names replaced, wherever they stand."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple):
        return tuple(_renamed(entry, names) for entry in value)
    if isinstance(value, pd.DataFrame):
        renamed = {name: [_renamed(entry, names) for entry in value[name]] for name in value}
        return pd.DataFrame(renamed, dtype=object)  # a column of texts holds no lone surrogate
    if isinstance(value, dict):
        return {_renamed(key, names): _renamed(entry, names) for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value)(**_renamed(fields, names))
    return value


def test_every_section_is_there_in_order(page: Page) -> None:
    sections = [a["id"] for tag, a in page.attributes if tag == "section"]
    assert sections == ["verdict", *get_args(Section)]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("state", "No cell is planned or recorded."),
        ("curves", "No cell has a learning curve yet."),
        ("ranking", "No query method has a finished cell, so there is no ranking."),
        ("clipping", "No method has finished cells both with and without a filter, so there is nothing to compare."),
        ("calibration", "No record holds calibration figures."),
        ("queries", "No record says what was queried."),
        ("cost", "No finished cell has recorded how long it took."),
        ("limits", "Nothing is noted on how the numbers were made."),
    ],
)
def test_a_section_that_is_not_there_says_why(section: Section, said: str) -> None:
    assert said in Page(shown(results())).text
    reason = "The records of this study were written without it."
    told = Page(shown(results(absences={section: reason}))).text
    assert reason in told
    assert said not in told


def test_a_study_without_cells_has_a_page() -> None:
    parsed = Page(shown(results()))
    assert parsed.wrong == []
    assert "This study has no cells yet, so there is nothing to say." in parsed.text


def test_failed_cells_are_all_listed_with_their_reason(page: Page, whole: StudyResults) -> None:
    failed = whole.cells[whole.cells["status"] == "failed"]
    assert len(failed) == 2
    assert f"2 cells: {REASON}" in page.text
    for one in failed.itertuples():
        assert f"{one.setting} · {one.method} · seed {one.seed}, after 4 rounds" in page.text
    assert "164 done 1 running 2 failed 1 waiting of 168 cells" in page.text


def test_a_long_reason_is_shown_whole() -> None:
    reason = "Traceback: " + "word " * 200 + "the end of it"
    failed = cell("d · m", "a", status="failed", reason=reason)
    assert "the end of it" in Page(shown(results([failed], [method("a")], [setting("d", "m")]))).text


def test_every_curve_is_drawn_and_its_numbers_are_in_a_table(page: Page, whole: StudyResults) -> None:
    drawn = [a for tag, a in page.attributes if tag == "g" and (a.get("class") or "").startswith("line")]
    with_index = [a for a in drawn if "data-m" in a]
    assert len(with_index) == len(whole.learning_curves) == 33
    assert len(drawn) - len(with_index) == 3  # the passive line of each data set
    last = whole.learning_curves[0]
    assert wording.percent(last.mean[-1]) in page.text


def test_pictures_have_words_that_stand_for_them(page: Page) -> None:
    pictures = [a for tag, a in page.attributes if tag == "svg"]
    assert len(pictures) > 100
    assert all(a.get("aria-hidden") == "true" or (a.get("role") == "img" and a.get("aria-label")) for a in pictures)
    labels = [a["aria-label"] or "" for a in pictures if "aria-label" in a]
    assert any(label.startswith("Learning curves on trec6 · minilm: test accuracy against labels") for label in labels)
    assert any(label.startswith("Critical-difference diagram over 13 blocks") for label in labels)


def test_no_text_is_smaller_than_twelve_pixels(page: Page) -> None:
    sizes = re.findall(r"font(?:-size)?:[^;}]*?([\d.]+)(px|rem|em|pt|%)", "".join(page.raw))
    assert len(sizes) > 10
    pixels = {"px": 1.0, "rem": 16.0, "em": 16.0, "pt": 4 / 3}
    assert min(float(size) * pixels[unit] for size, unit in sizes) >= 12


def test_pictures_are_never_shrunk_below_their_drawn_size(page: Page) -> None:
    code = "".join(page.raw)
    chart = re.search(r"\.chart \{([^}]*)\}", code)
    assert chart is not None
    least = re.search(r"min-width: (\d+)px", chart[1])
    assert least is not None
    text = re.search(r"svg text \{ font-size: (\d+)px", code)
    assert text is not None
    widths = {float(a["width"] or 0) for tag, a in page.attributes if tag == "svg" and a.get("class") == "chart"}
    assert float(text[1]) * float(least[1]) / max(widths) >= 12
    assert ".fixed { display: block; flex: none; }" in code


def test_regions_that_scroll_can_be_reached_by_keyboard(page: Page) -> None:
    regions = [a for _, a in page.attributes if a.get("class") == "wide"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("role") == "region" and a.get("aria-label") for a in regions)


def test_tables_have_heads_that_say_what_they_head(page: Page) -> None:
    heads = [a.get("scope") for tag, a in page.attributes if tag == "th"]
    assert len(heads) > 100
    assert set(heads) == {"col", "row"}


def test_a_refused_p_value_is_a_dash_and_a_sentence() -> None:
    whole = study(n_datasets=1, n_seeds=2)
    text = Page(shown(whole)).text
    assert "2 pairs are too few for a test at 5 %." in text
    assert "✓ softmax" not in text
    assert not re.search(r"p [=<] ?0", text.replace("chi-square 38.2, p < 0.001", "").replace("(p < 0.001)", ""))


def test_many_methods_stay_grey_and_the_best_stand_out(whole: StudyResults) -> None:
    looks = assign_looks(whole)
    ranked = [row.method for row in whole.rankings[0].rows if whole.methods[row.method].role == "query"]
    assert [looks[name].css for name in ranked] == ["s0", "s1", "s2", "s3", "s4", "s5", *["rest"] * 4]
    assert looks["softmax + random"].css == "random"
    few = assign_looks(study(n_datasets=1, n_methods=10))
    assert sorted(look.css for look in few.values()) == ["passive", "random", *(f"s{at}" for at in range(8))]


def test_a_large_study_stays_small_enough_to_send() -> None:
    large = study(n_datasets=7, n_methods=50, n_seeds=1, models=("bert-base-uncased", "roberta-base"))
    text = shown(large)
    assert len(large.settings) == 14
    assert len(text.encode()) < 10e6
    parsed = Page(text)
    assert parsed.wrong == []
    assert "42 other methods, drawn in grey" in parsed.text


def test_one_setting_shows_one_ranking_and_not_two() -> None:
    text = Page(shown(study(n_datasets=1))).text
    assert text.count("methods, ordered by accuracy averaged over the learning curve") == 1
    assert "trec6 · minilm: 11 methods, ordered by" in text


def test_parts_that_name_no_known_method_are_refused() -> None:
    with pytest.raises(AssertionError, match="'nobody' is not among the methods"):
        results([cell("d · m", "nobody")], settings=[setting("d", "m")])


def test_a_comparison_without_a_p_value_needs_a_reason() -> None:
    values: dict[str, Any] = {"method": "a", "against": "b", "n_pairs": 1, "difference": 0.1, "wins": 1, "ties": 0}
    values |= dict.fromkeys(("interval", "p_value", "p_holm", "effect_size", "more_seeds"))
    with pytest.raises(AssertionError, match="a sentence says why"):
        Comparison(**values, losses=0, refusal=None)
    with pytest.raises(AssertionError):
        Comparison(**values, losses=1, refusal="one pair")


def test_an_unknown_mean_is_never_nan() -> None:
    with pytest.raises(AssertionError, match="never NaN"):
        Estimate(mean=float("nan"), n=3, std=None, interval=None)


def test_significance_needs_a_corrected_p_value_below_the_level() -> None:
    assert comparison(p=0.049).is_significant(0.05)
    assert not comparison(p=0.05).is_significant(0.05)
    assert not comparison(p=None).is_significant(0.05)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(0.82449), "82.4 %"),
        (wording.percent(None), "–"),
        (wording.percent(-0.031), "−3.1 %"),
        (wording.points(0.0123), "+1.2 points"),
        (wording.points(-0.0004), "−0.04 points"),
        (wording.points(0.0), "0.0 points"),
        (wording.points(-0.0000001), "0.00 points"),
        (wording.size_in_points(-0.0123), "1.2 points"),
        (wording.p_value(0.34), "0.34"),
        (wording.p_value(0.0123), "0.012"),
        (wording.p_value(0.0004), "< 0.001"),
        (wording.p_value(None), "–"),
        (wording.p_words(0.0004), "p < 0.001"),
        (wording.p_words(0.05), "p = 0.050"),
        (wording.count(12345.4), "12,345"),
        (wording.count(-1200), "−1,200"),
        (wording.plural(1, "cell"), "1 cell"),
        (wording.plural(2, "cell"), "2 cells"),
        (wording.seconds_in_words(0.42), "0.42 s"),
        (wording.seconds_in_words(8.13), "8.1 s"),
        (wording.seconds_in_words(59.96), "1 min"),
        (wording.seconds_in_words(200), "3 min 20 s"),
        (wording.seconds_in_words(7500), "2 h 5 min"),
        (wording.seconds_in_words(-90), "−1 min 30 s"),
        (wording.number(-0.001), "0.00"),
        (wording.interval_points(interval(-0.004, 0.02)), "−0.4 to +2.0"),
        (wording.interval_points(None), "–"),
        (wording.joined(["a"]), "a"),
        (wording.joined(["a", "b", "c"]), "a, b and c"),
        (wording.some(["a", "b", "c", "d", "e"], "method"), "5 methods"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


def test_ticks_are_round_and_inside() -> None:
    scale = Scale(low=0.37, high=0.935, start=0, end=100)
    assert [round(tick, 9) for tick in scale.ticks(5)] == [0.4, 0.6, 0.8]
    assert Scale(low=25, high=525, start=0, end=100).ticks(5) == [100, 200, 300, 400, 500]
    assert scale(0.37) == 0
    assert scale(2.0) == 100


def test_the_styles_know_dark_print_and_reduced_motion(page: Page) -> None:
    code = "".join(page.raw)
    for query in ("prefers-color-scheme: dark", "@media print", "prefers-reduced-motion"):
        assert query in code
    used = set(re.findall(r"var\((--[a-z0-9]+)", code)) - {"--c", "--dash", "--v"}
    light, dark = (set(re.findall(r"(--[a-z0-9]+):", block)) for block in re.findall(r":root \{(.*?)\}", code, re.S))
    assert used <= light
    assert dark == light


def test_the_results_can_lack_any_one_part() -> None:
    whole = study(n_datasets=1, n_methods=4)
    parts = ("learning_curves", "rankings", "clipping", "calibrations", "queries", "method_costs", "notices")
    for changes in ({"notes": {}}, *({part: ()} for part in parts)):
        assert Page(shown(without(whole, **changes))).wrong == []


def test_without_the_pools_shares_no_distance_is_made_up() -> None:
    whole = study(n_datasets=1, n_methods=4)
    blind = dataclasses.replace(whole.queries[0], pool=(), jaccard_by_chance=None, acquired=())
    text = Page(shown(without(whole, queries=(blind,)))).text
    assert "The records do not say what the pool itself looks like" in text
    assert "distance to pool" not in text
    assert "By chance alone" not in text


def test_a_column_without_a_figure_is_left_out_and_said() -> None:
    whole = study(n_datasets=1, n_methods=4)
    assert "labels saved to random's final accuracy" in Page(shown(whole)).text
    text = Page(shown(whole)).text
    assert "labels saved to 95 % of passive" not in text
    assert "No column for 95 % of passive: no method has labels saved there." in text


def test_numbers_are_not_parted_from_their_units() -> None:
    text = shown(study(n_datasets=1))
    assert "525\u00a0labels that random queries need (57\u00a0%" in text


def test_settings_without_a_level_to_reach_have_a_verdict_without_labels_saved() -> None:
    whole = study()
    bare = tuple(
        dataclasses.replace(one, rows=tuple(dataclasses.replace(row, levels=()) for row in one.rows))
        for one in whole.rankings
    )
    table = shown(without(whole, rankings=bare)).partition("By data set and model")[2].partition("</table>")[0]
    assert table.count('<td class="num">–</td>') >= len(whole.settings)

"""The report: self-contained, complete, escaped, and the same whichever way the numbers fall."""

import re
from html.parser import HTMLParser

import pytest

from otreg.evaluation.diff import align_words
from otreg.evaluation.measures import MEASURES
from otreg.evaluation.report import write_report
from otreg.evaluation.results import merge_results
from synthetic import WER, make_results

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects text, ids and links, and checks that elements close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.tags, self.attributes = [], "", [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.text += " " if tag in ("td", "th") else ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, name):
        return [value for key, value in self.attributes if key == name]


def report(results, tmp_path, **options):
    html = write_report(results, tmp_path / "out" / "report.html", **options)
    return Page(html.read_text(encoding="utf-8"))


def test_the_page_is_self_contained_and_its_links_lead_somewhere(tmp_path):
    page = report(make_results(), tmp_path)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    targets = page.all("href") + page.all("src")
    assert all(value.startswith(("#", "data:image/png")) for value in targets)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in targets if value.startswith("#")} <= set(ids)


def test_every_number_asked_for_is_on_the_page(tmp_path):
    text = report(make_results(), tmp_path).text
    assert "0.75× of base's out of domain word error rate" in text  # otreg
    assert "1.33× of base's out of domain word error rate" in text  # worse
    assert "macro, out of domain 30.0" in text
    assert "macro, in domain 10.0" in text
    for measure in MEASURES.values():
        assert measure.title in text
        assert measure.source in text
    assert "otreg demo --seeds 2" in text
    assert "otreg-basic/2" in text
    assert "note: </pre><script>" in text  # escaped: it is text, not an element


def test_better_and_worse_arms_get_the_same_words(tmp_path):
    text = report(make_results(), tmp_path).text
    assert text.count("fewer errors in every seed") == 1
    assert text.count("more errors in every seed") == 1
    mixed = make_results(arms=("base", "otreg"))
    for row in mixed["rows"]:
        row["wer"] *= 3.0 if (row["arm"], row["seed"]) == ("otreg", 1) else 1.0
    assert "no difference that all seeds share" in report(mixed, tmp_path).text
    one = report(make_results(seeds=(0,)), tmp_path).text
    assert one.count("one seed: its spread is not known") == 2


def test_a_single_run_without_a_base_arm_is_enough(tmp_path):
    rows = make_results(arms=("otreg",), seeds=(3,), languages=("sw",))["rows"]
    page = report({"rows": rows}, tmp_path)
    assert "relative to" not in page.text
    assert "1 arm, 1 seed, 1 language (sw)" in page.text
    assert "#gap" not in page.all("href")
    only_in = [row for row in rows if row["domain"] == "in"]
    assert "10.0 % word error rate, in domain" in report({"rows": only_in}, tmp_path).text


def test_many_languages_are_all_listed(tmp_path):
    languages = [f"l{index}" for index in range(40)]
    text = report(make_results(seeds=(0,), languages=languages), tmp_path).text
    assert "40 languages" in text
    assert all(f" {language} " in text for language in languages)


def test_rows_without_counts_or_intervals_are_shown_as_far_as_known(tmp_path):
    results = make_results()
    for row in results["rows"]:
        for name in ("substitutions", "wer_low", "empty"):
            del row[name]
    assert "macro, out of domain 30.0" in report(results, tmp_path).text


def test_a_base_arm_without_errors_gives_no_ratio(tmp_path):
    wer = WER | {"base": dict.fromkeys(WER["base"], 0.0)}
    text = report(make_results(wer=wer), tmp_path).text
    assert "× of base's" not in text


def test_examples_mark_what_differs_and_escape_what_was_decoded(tmp_path):
    page = report(make_results(), tmp_path, examples_per_corpus=1)
    assert "the dog sat down" in page.text
    assert page.all("title").count("reference: <cat>") == 3 * 3
    assert "substitution" in page.all("class")
    other = [{"arm": "base", "seed": 0, "corpus": "c", "id": "i", "language": "en"}]
    other[0] |= {"reference": "one two", "hypothesis": ""}
    assert "one two" in report(make_results(), tmp_path, examples=other).text


def test_maps_are_drawn_for_one_utterance_of_each_domain(tmp_path):
    results = make_results(arms=("base",))
    (record,) = results["alignments"]
    for corpus, name, seed in (("noise", "a", 0), ("rate", "b", 0), ("noise", "a", 1)):
        results["alignments"].append(record | {"corpus": corpus, "id": name, "seed": seed})
    record |= {"text": "what was said here", "objective": "OTReg(of=this)"}
    text = report(results, tmp_path).text
    assert "what was said here" in text
    assert "OTReg(of=this)" in text
    assert text.count("base: transport plan") == 2
    assert "home, home-en, seed 0" in text
    assert "noise, a, seed 0" in text
    text = report(results, tmp_path, alignments_per_domain=2).text
    assert text.count("base: distances") == 3


def gated(held, **changes):
    """A judged row of `gates`, as `judge` makes it."""
    row = dict(name="retrieval", kind="gate", statement="", measure="m", corpus=["c"])
    row |= dict(arms=["otreg"], seeds=[0, 1], compared="m of <otreg> on c", comparison=">=")
    row |= dict(bound=0.1, held=held, figure=0.1234, low=0.05, high=0.2, resampled="utterances")
    return row | changes


def test_gates_and_controls_are_shown_whichever_way_they_fall(tmp_path):
    assert "Gates and controls" not in report(make_results(), tmp_path).text
    rows = [
        gated(True),
        gated(
            False, name="anchor", kind="control", reason="too <little> data", statement="Anchors."
        ),
        gated(None, name="later", missing="no arm best in the results"),
        gated(
            False,
            name="seeds",
            split="each",
            bound=[0.0, 0.05],
            comparison="within",
            cases=[{"seed": 0, "held": True}, {"seed": 1, "held": False}],
        ),
    ]
    del rows[2]["figure"]
    page = report(make_results() | {"gates": rows}, tmp_path)
    text = page.text
    assert "1 of 4 held" in text
    assert "retrieval gate 0.1230.050 to 0.2002 seeds; utterances >= 0.1 held" in text
    assert "m of <otreg> on c" in text
    assert "anchor control" in text
    assert "Anchors.too <little> data" in text
    assert "later gate – >= 0.1 not judged" in text
    assert "no arm best in the results" in text
    assert "within [0, 0.05] not heldin 1 of 2 cases; the worst is shown" in text
    assert "#gates" in page.all("href")


def test_measures_by_layer_are_drawn_where_there_are_any(tmp_path):
    results = make_results()
    assert "By layer" not in report(results, tmp_path).text
    layer = {"arm": "otreg", "seed": 0, "corpus": "home", "layer": 1, "retrieval_pooled_mrr": 0.4}
    text = report(results | {"gap_by_layer": [layer]}, tmp_path).text
    assert "By layer of the language model" in text
    assert "Retrieval, pooled, MRR" in text


def test_facts_of_all_runs_and_of_single_runs_are_both_shown(tmp_path):
    one, two = make_results(arms=("base",)), make_results(arms=("otreg",))
    two["config"] = {"seed": 77}
    merged = merge_results([one, two, {"seconds": {"towers trained": 12.5}}])
    text = report(merged, tmp_path).text
    assert "towers trained12.5" in text
    assert "seed: 77" in text
    assert text.count("otreg demo --seeds 2") == 1  # the same for both, so said once
    assert "otreg · seed 0 · seed 1" in text


def test_figures_of_the_caller_are_added_with_their_caption(tmp_path):
    from otreg.evaluation.plots import plot_distances

    figure = plot_distances([[0.5]], ["a"], 0.1)
    assert (
        "my <own> figure"
        in report(make_results(), tmp_path, figures={"my <own> figure": figure}).text
    )


def test_results_that_break_the_schema_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a list 'rows'"):
        write_report({}, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language", "kinds"),
    [
        ("The cat, sat.", "the cat sat", "en", "equal equal equal"),
        ("the cat sat", "the bat sat down", "en", "equal substitution equal insertion"),
        ("the cat sat", "cat sat", "en", "deletion equal equal"),
        ("the cat", "", "en", "deletion deletion"),
        ("", "oh no", "en", "insertion insertion"),
        ("我喜欢猫", "我喜欢 狗", "zh", "equal equal equal substitution"),
    ],
)
def test_words_are_aligned_with_the_fewest_edits(reference, hypothesis, language, kinds):
    assert " ".join(e.kind for e in align_words(reference, hypothesis, language)) == kinds


def test_the_number_of_edits_is_that_of_the_error_rates():
    from otreg.evaluation.wer import error_rates

    reference, hypothesis = "a b c d e f g", "a x c c d f f g h"
    edits = [e for e in align_words(reference, hypothesis, "en") if e.kind != "equal"]
    assert len(edits) / 7 == pytest.approx(
        error_rates([reference], [hypothesis], language="en").wer
    )

"""Whisper's normalisers: what they are known to do, and that no result hides which one it had."""

import json

import pytest
import transformers

from otreg.cli import main
from otreg.evaluation.normalizers import NORMALIZERS, find_normalizer, read_spelling_map
from otreg.evaluation.results import merge_results
from otreg.evaluation.wer import BASIC_NORMALIZER, error_rates

VERSION = f"transformers-{transformers.__version__}"


# The rules that appendix C of arXiv 2212.04356 lists, an example each.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Park visited Mrs. Kim", "mister park visited missus kim"),
        ("I won't, she can't, he'd been", "i will not she can not he had been"),
        ("Let's go, y'all; we're gonna", "let us go you all we are going to"),
        ("twenty one", "21"),
        ("two thousand and twenty", "2020"),
        ("two and a half", "2.5"),
        ("3,000 and $20 million", "3000 and $20000000"),
        ("Hmm, um, okay uh mhm", "okay"),
        ("[laughs] yes (door slams) no", "yes no"),
        ("Café, naïve: œuvre", "cafe naive oeuvre"),
    ],
)
def test_english_is_normalised_as_whisper_does(text, expected):
    assert find_normalizer("whisper")(text, "en-US") == expected


@pytest.mark.parametrize(
    ("name", "language"), [("whisper", "de"), ("basic", "de"), ("basic", "en"), ("whisper", "")]
)
def test_elsewhere_whispers_basic_normaliser_is_used(name, language):
    text = "Mr. Müller won't pay twenty-one (er lacht)!"
    assert find_normalizer(name)(text, language) == "mr müller won t pay twenty one"


def test_where_characters_are_words_the_spaces_go():
    assert find_normalizer("whisper")("我用 iPhone，很好。", "zh") == "我用iphone很好"
    rates = error_rates(
        ["我用 很好"], ["我 用很坏"], language="zh", normalizer=find_normalizer("basic")
    )
    assert (rates.substitutions, rates.num_words, rates.unit) == (1, 4, "character")


def test_a_spelling_map_joins_british_and_american_spellings(tmp_path):
    path = tmp_path / "normalizer.json"
    path.write_text(json.dumps({"colour": "color", "grey": "gray"}))
    with_map, without = find_normalizer("whisper", spelling_map=path), find_normalizer("whisper")
    assert with_map("Grey colour", "en") == "gray color"
    assert without("Grey colour", "en") == "grey colour"
    path.write_text(json.dumps({"grey": "gray", "colour": "color"}))
    assert str(with_map) == str(find_normalizer("whisper", spelling_map=path))
    path.write_text(json.dumps({"grey": "gray"}))
    assert str(with_map) != str(find_normalizer("whisper", spelling_map=path))
    assert with_map.name.startswith("whisper-spelling-")


def test_names_and_versions_say_which_normaliser_it_was():
    assert find_normalizer("otreg") is BASIC_NORMALIZER
    assert str(find_normalizer("whisper")) == f"whisper-no-spelling/{VERSION}"
    assert str(find_normalizer("basic")) == f"whisper-basic/{VERSION}"
    assert len({str(find_normalizer(name)) for name in NORMALIZERS}) == len(NORMALIZERS)


def test_the_normaliser_decides_the_error_rate():
    texts = (["Mr. Smith won't pay twenty one pounds"], ["mister smith will not pay 21 pounds"])
    rates = {
        n: error_rates(*texts, language="en", normalizer=find_normalizer(n)) for n in NORMALIZERS
    }
    assert rates["whisper"].wer == 0
    assert rates["whisper"].normalizer == f"whisper-no-spelling/{VERSION}"
    # mr/mister, won't/will + not, twenty one/21: by hand
    assert rates["otreg"].wer == 5 / 7
    assert rates["basic"].wer == 5 / 8  # "won t" is two words


@pytest.mark.parametrize(
    ("name", "spelling_map", "match"),
    [
        ("wisper", None, "did you mean 'whisper'"),
        ("basic", "x.json", "a spelling map belongs to the normaliser 'whisper', received one"),
        ("whisper", "x.json", "no such spelling map: 'x.json'; expected the normalizer.json"),
    ],
)
def test_a_normaliser_that_cannot_be_had_is_refused(name, spelling_map, match):
    with pytest.raises(ValueError, match=match):
        find_normalizer(name, spelling_map=spelling_map)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 1}', "{"])
def test_a_file_that_is_no_spelling_map_is_refused(tmp_path, text):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"map\.json': expected the normalizer\.json"):
        read_spelling_map(path)


def test_the_command_refuses_an_unknown_normaliser_before_it_loads_a_model(tmp_path, capsys):
    manifest = tmp_path / "test.jsonl"
    manifest.write_text("")
    command = ["evaluate", str(tmp_path / "no-run"), "--data", str(manifest)]
    assert main([*command, "--normalizer", "wisper"]) == 2
    assert "did you mean 'whisper'" in capsys.readouterr().err
    assert main([*command, "--spelling-map", str(manifest)]) == 2
    assert "a spelling map belongs to the normaliser 'whisper'" in capsys.readouterr().err


def part(arm, normalizer):
    rates = error_rates(["one two"], ["one two"], language="en", normalizer=normalizer)
    row = {"arm": arm, "seed": 0, "corpus": "c", "language": "en", "domain": "in"}
    named = {"name": normalizer.name, "version": normalizer.version}
    return {"rows": [row | rates.as_dict()], "normaliser": named}


def test_results_of_different_normalisers_are_not_merged():
    ours, theirs = part("a", find_normalizer("otreg")), part("b", find_normalizer("whisper"))
    with pytest.raises(ValueError, match="one normaliser in all results"):
        merge_results([ours, theirs])
    del theirs["normaliser"]  # the rows say it, too
    with pytest.raises(ValueError, match="evaluate the runs again with one --normalizer"):
        merge_results([ours, theirs])
    same = merge_results([ours, part("b", find_normalizer("otreg"))])
    assert same["normaliser"] == {"name": "otreg-basic", "version": "2"}

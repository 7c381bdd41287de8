"""The model as transformers' own tools meet it: Auto classes, the model card, pipelines."""

import os
import re
import subprocess
import sys

import pytest
import torch
from tiny_towers import make_audio
from transformers import pipeline

import otreg.model  # noqa: F401 (registers the model)

CLIP, OTHER = make_audio(1.1, 0.7)


def message(*parts, role="user"):
    return {"role": role, "content": list(parts)}


def audio(value):
    return {"type": "audio", "audio": value}


def text(value):
    return {"type": "text", "text": value}


@pytest.fixture
def clip_file(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "clip.wav", CLIP, 16_000, subtype="FLOAT")
    return str(tmp_path / "clip.wav")


@pytest.fixture
def saved(build, tmp_path):
    """(folder, model, processor) of a saved model, with or without a chat template."""

    def make(chat=False):
        model, processor = build(chat=chat)
        folder = tmp_path / f"model-{chat}"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder, model, processor

    return make


# The model card, and what Auto classes need.


def run(code, cwd):
    """Run code in a fresh Python, offline."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment
    )


def snippet(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


def test_the_snippet_of_the_model_card_transcribes(saved):
    folder, model, processor = saved()
    batch = processor(audio=[torch.ones(16_000).numpy() * 0.1])
    ids = model.generate(**batch, max_new_tokens=200)
    expected = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :])
    samples = "import numpy; samples = numpy.full(16_000, 0.1, dtype='float32')\n"
    ran = run(samples + snippet(folder), folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == repr(expected)


def test_without_the_snippets_import_the_auto_classes_do_not_know_the_model(saved):
    """Says why the import must be in every snippet."""
    folder, _, _ = saved()
    code = snippet(folder)
    line = next(line for line in code.splitlines() if line.startswith("import otreg.model"))
    ran = run("import otreg\n" + code.replace(line, ""), folder)
    assert ran.returncode == 1
    assert "otreg_speech_lm" in ran.stderr


def test_a_model_card_of_ones_own_stays(build, tmp_path):
    model, _ = build()
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    model.save_pretrained(tmp_path / "new", is_main_process=False)
    assert not (tmp_path / "new" / "README.md").exists()


# Conversations.


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("key", ["audio", "path", "url"])
def test_audio_alone_is_the_request_to_transcribe_it(build, clip_file, chat, key):
    _, processor = build(chat=chat)
    expected = processor(audio=[CLIP])
    asked = [message({"type": "audio", key: clip_file})]
    batch = processor.apply_chat_template(asked)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_conversation_is_rendered_by_the_language_models_chat_template(build):
    _, processor = build(chat=True)
    asked = [
        message(text("Be brief."), role="system"),
        message(audio(CLIP), text(" Who is it?")),
        message(text("Ada."), role="assistant"),
        message(text("And here? "), audio(OTHER)),
    ]
    batch = processor.apply_chat_template(asked)
    ids = batch["input_ids"][0]
    shown = processor.tokenizer.decode(ids[ids != processor.audio_token_id])
    assert shown == (
        "<s>system: Be brief.</s><s>user:  Who is it?</s><s>assistant: Ada.</s>"
        "<s>user: And here? </s><s>assistant: "
    )
    lengths = [processor.num_speech_frames(len(processor.features(c))) for c in (CLIP, OTHER)]
    assert batch["clips"][:, 2].tolist() == lengths
    assert not {"labels", "text_ids"} & batch.keys()


@torch.no_grad()
def test_a_batch_of_conversations_generates_what_each_does_alone(build):
    model, processor = build(chat=True)
    asked = [
        [message(audio(CLIP), text(" Who is it?"))],
        [message(audio(OTHER))],
        [{"role": "user", "content": "Nobody speaks."}],
    ]
    together = processor.apply_chat_template(asked)
    ids = model.generate(**together, max_new_tokens=6)[:, together["input_ids"].shape[1] :]
    for row, messages in zip(ids, asked, strict=True):
        alone = processor.apply_chat_template(messages)
        expected = model.generate(**alone, max_new_tokens=6)[0, alone["input_ids"].shape[1] :]
        assert row[: len(expected)].tolist() == expected.tolist()
        assert (row[len(expected) :] == processor.pad_token_id).all()


@pytest.mark.parametrize(
    ("asked", "options", "match"),
    [
        ([message(text("a"), role="assistant")], {}, "must end with the user's turn"),
        ([], {}, "must end with the user's turn"),
        ([message(text("a"), role="usr"), message(text("b"))], {}, "did you mean 'user'"),
        ([message({"type": "image"})], {}, "type must be 'text' or 'audio'; got 'image'"),
        ([message({"type": "audio"})], {}, "an audio part needs 'audio'"),
        (
            [message(text("a"), {"type": "text"})],
            {},
            r"messages\[0\], part 1: a text part needs 'text', a string; got None",
        ),
        ([message({"type": "text", "text": 3})], {}, r"part 0: a text part needs .*; got 3"),
        ([message("a")], {}, r"messages\[0\], part 0: expected an object such as .*; got 'a'"),
        ([message(audio("https://a.b/c.wav"))], {}, "path of a file"),
        ([message()], {}, "needs text or audio"),
        ([message(text("a"))], {"continue_final_message": True}, "can not be given"),
        ([message(text("a"))], {"tokenize": False}, "tokenize can only be True; got False"),
        ([message(text("a"))], {"tools": [1]}, "tools can not be given; got"),
    ],
)
def test_a_conversation_that_cannot_be_answered_is_refused(build, asked, options, match):
    _, processor = build(chat=True)
    with pytest.raises(ValueError, match=match):
        processor.apply_chat_template(asked, **options)


# Pipelines.


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["file", "array"])
def test_the_any_to_any_pipeline_transcribes_a_chat(saved, clip_file, chat, kind):
    folder, model, processor = saved(chat)
    batch = processor(audio=[CLIP])
    ids = model.generate(**batch, max_new_tokens=8)
    expected = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :])[0]
    pipe = pipeline("any-to-any", model=str(folder))
    asked = [message(audio(clip_file if kind == "file" else CLIP))]
    out = pipe(text=asked, max_new_tokens=8, return_full_text=False)
    assert out[0]["generated_text"] == expected
    out = pipe(text=[asked, asked], max_new_tokens=8, return_full_text=False)
    assert [one[0]["generated_text"] for one in out] == [expected] * 2


def test_the_any_to_any_pipeline_without_a_chat_says_what_to_pass(saved):
    folder, _, _ = saved()
    pipe = pipeline("any-to-any", model=str(folder))
    with pytest.raises(ValueError, match=r"takes no images, videos.*pass chat messages"):
        pipe(text="Transcribe.", audio=CLIP)


@pytest.mark.parametrize(
    "task", ["automatic-speech-recognition", "text-generation", "image-text-to-text"]
)
def test_other_pipelines_do_not_load_the_model(saved, task):
    """docs/model.md lists them under its limits; one that works should leave that list."""
    folder, _, _ = saved()
    with pytest.raises((ValueError, KeyError), match=r"Could not load model|Unknown task"):
        pipeline(task, model=str(folder))

"""The text twin: its ids, its index, and that it is what the language model itself would see."""

import pytest
import torch

from otreg.forwards import run_forwards, twin_of
from otreg.objectives import Distillation, OnPair, OTReg
from otreg.objectives.cross_entropy import labelled_tokens
from rows import transcribe_row


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_twin_is_the_row_with_transcripts_in_place_of_speech(tiny, collate, mixed_rows, side):
    model, processor = tiny
    rows, seconds = mixed_rows
    batch = collate(rows, seconds, padding_side=side)
    twin = twin_of(batch, model.config.pad_token_id)
    for number, row in enumerate(rows):
        ids = twin.input_ids[number][twin.attention_mask[number].bool()].tolist()
        as_text = [i for i in ids if i not in processor.tokenizer.all_special_ids]
        expected = "".join(segment.text for segment in row.segments[:-1])
        assert processor.tokenizer.decode(as_text).startswith(expected.strip())
        written = batch["input_ids"][number] != processor.audio_token_id
        written &= batch["attention_mask"][number].bool()
        places = twin.index[number][written]
        assert torch.equal(twin.input_ids[number][places], batch["input_ids"][number][written])
        assert torch.equal(twin.labels[number][places], batch["labels"][number][written])
        assert (twin.index[number][~written] == -1).all()
        assert (places.diff() > 0).all()
    for number, (row, start, length) in enumerate(twin.clips.tolist()):
        said = batch["text_ids"][number][batch["text_mask"][number]]
        assert torch.equal(twin.input_ids[row, start : start + length], said)
    assert (twin.labels != -100).sum() == (batch["labels"] != -100).sum()


def test_the_document_of_a_twin_is_its_text_tokenised_once(tiny, collate, mixed_rows):
    model, processor = tiny
    rows, seconds = mixed_rows
    twin = twin_of(collate(rows[:1], seconds[:1]), model.config.pad_token_id)
    whole = "".join(segment.text for segment in rows[0].segments)
    ids = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
    tokenizer = processor.tokenizer
    assert twin.input_ids[0].tolist() == [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


def test_the_twin_pass_is_the_language_models_own(tiny, collate, mixed_rows):
    """Difference 0, given the same ids and padding."""
    model, _ = tiny
    batch = collate(*mixed_rows)
    view = run_forwards(model, batch, needs={"text"}, layers={0, 1})
    twin = twin_of(batch, model.config.pad_token_id)
    positions = (twin.attention_mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        own = model.language_model(
            input_ids=twin.input_ids,
            attention_mask=twin.attention_mask,
            position_ids=positions,
            output_hidden_states=True,
        )
    assert torch.equal(view.text.logits, own.logits)
    assert len(own.hidden_states) == 3
    for ours, theirs in zip(view.text.hidden_states, own.hidden_states, strict=True):
        assert torch.equal(ours, theirs)
    assert not view.text.logits.requires_grad


def test_a_clip_without_a_transcript_has_no_twin(tiny, collate):
    model, _ = tiny
    batch = collate([transcribe_row("a dog"), transcribe_row("a cat")], [[0.5], [0.6]])
    batch["text_mask"][1] = False
    with pytest.raises(ValueError, match=r"the clips \[1\] of the batch have no transcript"):
        run_forwards(model, batch, needs={"text"})
    view = run_forwards(model, batch)  # who needs no twin may have such clips
    assert len(view.pair().speech) == 1


@pytest.mark.parametrize("compressed", [{}, {"merge_threshold": -1.0}, {"drop_threshold": 0.0}])
def test_pairs_at_a_layer_hold_the_clips_own_states(tiny, collate, mixed_rows, compressed):
    """Aligned through merging and dropping by source_index; oracle: one clip at a time."""
    model, _ = tiny
    before = {name: getattr(model.config, name) for name in compressed}
    for name, value in compressed.items():
        setattr(model.config, name, value)
    try:
        rows, seconds = mixed_rows
        batch = collate(rows, seconds)
        view = run_forwards(model, batch, needs={"text"}, layers={1})
        pair = view.pair(1)
        assert len(pair.speech) == 4
        embedded = view.pair()
        if "merge_threshold" in compressed:
            assert torch.equal(pair.speech_mask.sum(1), embedded.speech_mask.sum(1))
            assert (pair.speech_mask.sum(1) < batch["clips"][:, 2]).all()
        for number, (row, start, length) in enumerate(batch["clips"].tolist()):
            source = view.speech.source_index[row]
            inside = (source >= start) & (source < start + length)
            states = view.speech.hidden_states[1][row][inside]
            real = pair.speech_mask[number]
            assert torch.equal(pair.speech[number][real], states)
            assert int(pair.text_mask[number].sum()) == int(batch["text_mask"][number].sum())
        assert not pair.text.requires_grad
        assert pair.embedding_table is None
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


def test_distillation_is_zero_where_nothing_is_speech(tiny, collate, mixed_rows):
    model, _ = tiny
    rows, seconds = mixed_rows
    only_text = collate(rows[3:], seconds[3:])
    term = Distillation("text")(run_forwards(model, only_text, needs={"text"}))
    assert term.total.item() == 0.0
    spoken = collate(rows, seconds)
    term = Distillation("text")(run_forwards(model, spoken, needs={"text"}))
    assert term.total.item() > 0
    shares = term.by_row()
    assert float(shares[3]) == pytest.approx(0.0, abs=1e-6)
    assert (shares[:3] > 0).all()
    torch.testing.assert_close(shares.sum(), term.total.detach())


def test_distillation_is_the_sum_of_divergences_over_labelled_tokens(tiny, collate, mixed_rows):
    """Oracle: a loop over tokens in float64."""
    model, _ = tiny
    batch = collate(*mixed_rows)
    with torch.no_grad():
        view = run_forwards(model, batch, needs={"text"})
    twin = twin_of(batch, model.config.pad_token_id)
    expected, count = 0.0, 0
    for row in range(len(batch["labels"])):
        for column in range(1, batch["labels"].shape[1]):
            if batch["labels"][row, column] == -100:
                continue
            count += 1
            q = view.text.logits[row, twin.index[row, column] - 1].double().log_softmax(-1)
            p = view.speech.logits[row, column - 1].double().log_softmax(-1)
            expected += float((q.exp() * (q - p)).sum())
    assert count == int(Distillation().count(batch)) == int(labelled_tokens(batch["labels"]))
    assert Distillation("text")(view).total.item() == pytest.approx(expected, rel=1e-5)


def test_only_what_is_needed_is_computed(tiny, collate, mixed_rows):
    model, _ = tiny
    batch = collate(*mixed_rows)
    calls = []
    hook = model.language_model.register_forward_hook(lambda *_: calls.append(1))
    view = run_forwards(model, batch)
    assert (len(calls), view.text, view.twin_index) == (1, None, None)
    assert view.speech.hidden_states is None
    assert view.speech.loss is None
    run_forwards(model, batch, needs={"text"}, layers={0})
    assert len(calls) == 3
    hook.remove()
    with pytest.raises(ValueError, match="unknown need 'texts'; objectives can need text"):
        run_forwards(model, batch, needs={"texts"})
    with pytest.raises(ValueError, match="needs the weights at the stage's start"):
        run_forwards(model, batch, needs={"reference_text"})


def test_an_objective_at_a_layer_beyond_the_model_says_which_there_are(tiny, collate, mixed_rows):
    model, _ = tiny
    view = run_forwards(model, collate(*mixed_rows), needs={"text"}, layers={9})
    with pytest.raises(ValueError, match=r"layer must lie in \[0, 2\] for this language model"):
        OnPair(OTReg(loss="cost"), layer=9)(view)
    view = run_forwards(model, collate(*mixed_rows))
    with pytest.raises(ValueError, match="the speech pass kept no hidden states"):
        view.pair(0)


def test_rows_of_text_alone_have_no_pair_and_cost_nothing(tiny, collate, mixed_rows):
    model, _ = tiny
    rows, seconds = mixed_rows
    batch = collate(rows[3:], seconds[3:])
    objective = OnPair(OTReg())
    assert int(objective.count(batch)) == 0
    view = run_forwards(model, batch)
    assert objective(view).total.item() == 0
    with pytest.raises(ValueError, match="no clip with a transcript"):
        view.pair()


def test_gemmas_scaled_embeddings_reach_the_pair_as_the_language_model_receives_them(
    tiny, collate, mixed_rows
):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    model, _ = tiny
    plain = model.get_input_embeddings()
    scaled = Gemma3TextScaledWordEmbedding(*plain.weight.shape, padding_idx=0, embed_scale=4.0)
    scaled.weight = plain.weight
    batch = collate(*mixed_rows)
    try:
        model.set_input_embeddings(scaled)
        with torch.no_grad():
            pair = run_forwards(model, batch).pair()
        assert torch.equal(pair.pad_embedding, 4 * plain.weight[model.config.pad_token_id])
        assert torch.equal(
            pair.text[pair.text_mask], 4 * plain.weight[pair.token_ids[pair.text_mask]]
        )
        assert torch.equal(pair.embedding_table, plain.weight)  # directions; no copy of it
        assert torch.equal(model.pad_embedding(), pair.pad_embedding)
        assert torch.equal(model.embedding_table(), 4 * plain.weight)
    finally:
        model.set_input_embeddings(plain)

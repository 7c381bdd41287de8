"""`attach` in one family: options, wrappers, errors, and that a handle leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families.base import TEXTS, waveforms
from families_at_hand import DURATIONS_S, Load, steady
from peft import LoraConfig, get_peft_model
from torch import Tensor

from otreg import CTC, OTReg, attach
from otreg.integrations import UnsupportedModelError
from otreg.integrations.families import family_of
from otreg.objectives import Distillation, OnPair

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian")


@pytest.fixture
def qwen(load: Load) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """A fresh tiny Qwen2-Audio, its processor, and a batch of four."""
    family, model, processor = load("qwen2_audio")
    return model, processor, family.batch(processor, waveforms(*DURATIONS_S), TEXTS)


def added(model: Any, batch: dict[str, Any], *objective: Any, **options: Any) -> Tensor:
    """What a handle adds to the loss of a batch."""
    handle = attach(model, *objective, **options)
    model(**batch)
    handle.detach()
    return handle.loss.detach()


def test_detach_leaves_the_model_as_it_was(qwen) -> None:
    model, _, batch = qwen
    before = set(vars(model))
    decoder = model.get_decoder()
    plain = model(**batch).loss
    handle = attach(model, OTReg(), weight=0.3)
    assert model(**batch).loss > plain
    handle.detach()
    assert set(vars(model)) == before
    assert not decoder._forward_pre_hooks
    assert torch.equal(model(**batch).loss, plain)


def test_a_copy_of_the_model_is_not_attached(qwen) -> None:
    model, _, batch = qwen
    plain = model(**batch).loss
    handle = attach(model, OTReg(), weight=0.3)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**batch).loss, plain)
    assert model(**batch).loss > plain
    handle.detach()


def test_nothing_is_added_without_gradient_or_in_evaluation(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    with torch.no_grad():
        model(**batch)
    model.eval()
    model(**batch)
    assert handle.loss is None
    handle.detach()


def test_several_objectives_by_name(qwen) -> None:
    model, _, batch = qwen
    both = {"otreg": (OTReg(), 0.3), "paper": (OTReg.paper(), 0.5)}
    handle = attach(model, both)
    model(**batch)
    handle.detach()
    expected = 0.3 * handle.terms["otreg"] + 0.5 * handle.terms["paper"]
    assert torch.allclose(handle.loss, expected)
    assert {"otreg/vocabulary", "paper/cost", "paper/sparsity"} <= handle.terms.keys()


def test_transcripts_may_be_strings_of_the_batch(qwen) -> None:
    model, processor, batch = qwen
    options = {"weight": 0.3, "processor": processor}
    expected = added(model, batch, OTReg(), **options)
    spoken = batch | {"transcripts": list(TEXTS)}
    assert torch.allclose(added(model, spoken, OTReg(), text="transcripts", **options), expected)
    one_less = batch | {"transcripts": [*TEXTS[:3], None]}
    handle = attach(model, OTReg(), text="transcripts", **options)
    model(**one_less)
    mixed = handle.loss
    handle.detach()
    three = {"input_features", "feature_attention_mask", *batch}
    alone = {name: batch[name][:3] for name in three} | {"transcripts": list(TEXTS[:3])}
    assert torch.allclose(added(model, alone, OTReg(), text="transcripts", **options), mixed)
    handle = attach(model, OTReg(), text="transcripts", **options)
    model.eval()
    model(**spoken)  # the key is taken out where nothing is added, too
    handle.detach()


def test_transcripts_may_be_ids_of_the_batch(qwen) -> None:
    model, processor, batch = qwen
    rows = [processor.tokenizer(text)["input_ids"] for text in TEXTS]
    size = max(len(row) for row in rows)
    ids = torch.tensor([row + [-100] * (size - len(row)) for row in rows])
    expected = added(model, batch, OTReg(), weight=0.3)
    assert torch.allclose(
        added(model, batch | {"words": ids}, OTReg(), weight=0.3, text="words"), expected
    )


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft's
def test_lora_before_or_after_attach(qwen) -> None:
    model, _, batch = qwen
    torch.manual_seed(0)
    wrapped = get_peft_model(copy.deepcopy(model), LORA)
    steady(wrapped)
    handle = attach(wrapped, OTReg(), weight=0.3)
    before = wrapped(**batch).loss
    handle.detach()
    later = attach(model, OTReg(), weight=0.3)
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LORA)
    steady(wrapped)
    after = wrapped(**batch).loss
    later.detach()
    assert torch.equal(before, after)
    assert torch.equal(handle.loss, later.loss)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(qwen, reentrant: bool) -> None:
    model, _, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    model(**batch).loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model(**batch).loss.backward()
    handle.detach()
    for name, parameter in model.named_parameters():
        if name in expected:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_autocast_keeps_the_objective_in_float32(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    model(**batch)
    expected = handle.loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    handle.detach()
    assert handle.loss.dtype == torch.float32
    assert handle.loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_ai_stas_objective_reads_hidden_states_of_both_passes(qwen) -> None:
    model, _, batch = qwen
    layers = {f"layer{k}": (OnPair(OTReg(loss="cost"), layer=k), 0.3) for k in (0, 1, 2)}
    handle = attach(model, layers)
    output = model(**batch)
    handle.loss.backward()
    handle.detach()
    assert output.hidden_states is None  # nobody asked
    assert all(0 < handle.terms[name] < 2 for name in layers)
    assert any(p.grad.any() for p in model.model.multi_modal_projector.parameters())


def test_layer_0_of_the_pair_is_what_enters_the_decoder(qwen) -> None:
    model, _, batch = qwen
    at_input = added(model, batch, OTReg(loss="cost"), weight=1)
    at_layer_0 = added(model, batch, OnPair(OTReg(loss="cost"), layer=0), weight=1)
    assert torch.allclose(at_input, at_layer_0, rtol=1e-4)


def test_salads_objective_distils_from_the_start(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, Distillation(), weight=1)
    model(**batch)
    first = handle.loss.item()
    assert first > 0
    with torch.no_grad():  # the present weights move, those of the teacher do not
        model.lm_head.weight.normal_()
    model(**batch)
    assert handle.loss.item() > first
    handle.detach()
    speechless = attach(model, Distillation("text"), weight=1)
    text = {
        "input_ids": batch["input_ids"][:, :3].clamp(max=200),
        "labels": batch["labels"] * 0 + 5,
    }
    text["labels"] = text["labels"][:, :3]
    model(**text)
    speechless.detach()
    assert abs(speechless.loss.item()) < 1e-5  # without speech the row is its own twin


def test_padding_on_the_left_gives_the_same_pair(load: Load) -> None:
    family, model, processor = load("qwen2_audio")
    batch = family.batch(processor, waveforms(*DURATIONS_S), TEXTS)
    expected = added(model, batch, OTReg(tol=1e-5), weight=1)
    shift = [int(n) for n in (1 - batch["attention_mask"]).sum(1)]
    left = dict(batch)
    for name in ("input_ids", "attention_mask", "labels"):
        rows = [row.roll(by) for row, by in zip(batch[name], shift, strict=True)]
        left[name] = torch.stack(rows)
    assert torch.allclose(added(model, left, OTReg(tol=1e-5), weight=1), expected, rtol=1e-3)


def test_a_second_attach_is_refused(qwen) -> None:
    model, _, _ = qwen
    handle = attach(model, OTReg(), weight=0.3)
    with pytest.raises(ValueError, match="attached to already"):
        attach(model, OTReg(), weight=0.3)
    handle.detach()
    attach(model, OTReg(), weight=0.3).detach()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((OTReg(),), "needs weight="),
        (({},), "at least one objective"),
        ((OTReg(), -1.0), "weight"),
        ((OTReg(), float("nan")), "weight"),
        ((CTC(tied=False, dim=32, vocab_size=9), 0.3), "parameters of its own"),
    ],
)
def test_wrong_arguments_are_refused(qwen, arguments: tuple[Any, ...], message: str) -> None:
    model, _, _ = qwen
    options = {"weight": arguments[1]} if len(arguments) > 1 else {}
    with pytest.raises(ValueError, match=message):
        attach(model, arguments[0], **options)
    assert "forward" not in vars(model)
    assert not model.get_decoder()._forward_pre_hooks


def test_batches_that_cannot_be_read_are_refused(qwen) -> None:
    model, _processor, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    with pytest.raises(ValueError, match="has no labels"):
        model(**{name: value for name, value in batch.items() if name != "labels"})
    empty = batch["labels"].clone()
    empty[2] = -100
    with pytest.raises(ValueError, match="labels of row 2 of the batch hold no text"):
        model(**batch | {"labels": empty})
    without = {
        k: v for k, v in batch.items() if k not in ("input_features", "feature_attention_mask")
    }
    with pytest.raises(ValueError, match="not replaced by speech"):
        model(**without)
    two = torch.cat([batch["input_ids"], batch["input_ids"]], 1)
    with pytest.raises(ValueError, match="several clips"):
        model(**batch | {"input_ids": two, "labels": torch.cat([batch["labels"]] * 2, 1)})
    with pytest.raises(ValueError, match="needs input_ids"):
        model(inputs_embeds=torch.randn(1, 3, 32), labels=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="leave return_dict True"):
        model(**batch, return_dict=False)
    handle.detach()
    keyed = attach(model, OTReg(), weight=0.3, text="transcripts")
    with pytest.raises(ValueError, match="has no 'transcripts'"):
        model(**batch)
    with pytest.raises(ValueError, match="need the tokenizer"):
        model(**batch, transcripts=list(TEXTS))
    keyed.detach()


def test_too_few_placeholders_are_refused(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    audio = model.config.audio_token_id
    fewer = batch["input_ids"].clone()
    fewer[0, (fewer[0] == audio).nonzero()[0]] = 0
    with pytest.raises(ValueError, match=r"(?i)do not match"):
        model(**batch | {"input_ids": fewer})
    handle.detach()


def test_a_micro_batch_without_speech_adds_nothing(qwen) -> None:
    model, _, _ = qwen
    handle = attach(model, OTReg(), weight=0.3)
    ids = torch.arange(10, 16)[None]
    model(input_ids=ids, labels=ids)
    handle.detach()
    assert handle.loss.item() == 0


def test_begin_step_needs_to_know_what_is_counted(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, {"kl": (Distillation("text"), 1.0)})
    with pytest.raises(ValueError, match="does not count utterances"):
        handle.begin_step(num_utterances=4)
    with pytest.raises(ValueError, match="either num_utterances or batches"):
        handle.begin_step()
    handle.begin_step(batches=[batch, batch])
    model(**batch)
    assert handle.loss.item() == pytest.approx(handle.terms["kl"].item() / 2, rel=1e-4)
    handle.detach()


def test_begin_step_undoes_what_the_loop_divides_by(qwen) -> None:
    """What is added, divided by the number of micro-batches, is the sum over the step / N."""
    model, _, batch = qwen
    handle = attach(model, OTReg(vocabulary="all"), weight=0.3)
    handle.begin_step(batches=[batch, batch, batch])
    model(**batch)
    share = handle.loss.detach()
    handle.begin_step(batches=[batch, batch, batch], divided_by=3)
    model(**batch)
    handle.detach()
    assert torch.allclose(handle.loss.detach() / 3, share)


def test_the_placeholder_may_be_named_where_the_configuration_does_not(qwen) -> None:
    model, _, batch = qwen
    expected = added(model, batch, OTReg(), weight=0.3)
    placeholder = model.config.audio_token_id
    assert torch.equal(
        added(model, batch, OTReg(), weight=0.3, audio_token_id=placeholder), expected
    )
    absent = min(set(range(200)) - set(batch["input_ids"].flatten().tolist()))
    silent = attach(model, OTReg(), weight=0.3, audio_token_id=absent)
    model(**batch)  # without the placeholder these are rows of text alone
    silent.detach()
    assert silent.loss.item() == 0
    model.config.audio_token_id = None
    with pytest.raises(UnsupportedModelError, match="pass attach"):
        attach(model, OTReg(), weight=0.3)
    handle = attach(model, OTReg(), weight=0.3, audio_token_id=placeholder)
    assert handle.port.audio_token_id == placeholder
    handle.detach()


def test_a_named_placeholder_leaves_the_familys_other_facts(load: Load) -> None:
    _, model, _ = load("gemma3n")
    known = family_of(model)
    named = family_of(model, 77)
    assert named.audio_token_id(model.config) == 77
    assert known.true_rows is not None
    assert named.true_rows is known.true_rows


def test_evaluation_mode_is_said_once(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """from_pretrained gives it, and a loop that forgets train() would train without the objective."""
    from otreg.integrations.attached_forward import _warn_of_evaluation_mode

    family, model, processor = load("qwen2_audio")
    batch = family.batch(processor, waveforms(*DURATIONS_S), TEXTS)
    _warn_of_evaluation_mode.cache_clear()
    handle = attach(model.eval(), OTReg(), weight=0.3)
    with caplog.at_level("WARNING"):
        model(**batch)
        model(**batch)
    handle.detach()
    assert caplog.text.count("adds nothing in evaluation mode") == 1


def test_labels_in_front_of_the_speech_are_refused(qwen) -> None:
    """labels = input_ids.clone(): the system prompt once was every clip's transcript."""
    model, _, batch = qwen
    audio = model.config.audio_token_id
    whole = batch["input_ids"].masked_fill(batch["input_ids"] == audio, -100)
    handle = attach(model, OTReg(), weight=0.3)
    with pytest.raises(ValueError, match="labels in front of its speech"):
        model(**batch | {"labels": whole})
    handle.detach()


def test_ids_that_only_the_configuration_calls_special_stay_text(qwen) -> None:
    model, processor, batch = qwen
    first = int(batch["labels"][0][batch["labels"][0] >= 0][0])
    model.config.text_config.bos_token_id = first
    handle = attach(model, OTReg(), weight=0.3, processor=processor)
    ids = handle.port.completed(batch)["text_ids"]
    handle.detach()
    assert int(ids[0, 0]) == first


def test_a_second_attach_is_noticed_behind_a_wrapper(qwen) -> None:
    model, _, _ = qwen
    handle = attach(model, OTReg(), weight=0.3)
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    with pytest.raises(ValueError, match="attached to already"):
        attach(model, OTReg(), weight=0.3)
    del model.forward
    handle.detach()


def test_a_copy_of_a_model_with_a_forward_of_its_own_computes_by_its_own_weights(qwen) -> None:
    model, _, batch = qwen
    model.forward = type(model).forward.__get__(model)
    handle = attach(model, OTReg(), weight=0.3)
    copied = copy.deepcopy(model)
    before = copied(**batch).loss
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert torch.equal(copied(**batch).loss, before)
    handle.detach()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_reference_that_peft_has_overtaken_is_refused(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, Distillation(), weight=1)
    wrapped = steady(get_peft_model(model, LORA))
    with pytest.raises(ValueError, match="what trains has changed since attach"):
        wrapped(**batch)
    handle.detach()


def test_a_batch_without_an_attention_mask_stays_without(qwen) -> None:
    """A mask of ones would hide from transformers where packed rows begin."""
    model, _, batch = qwen
    seen: list[bool] = []
    one = {name: value[:1] for name, value in batch.items() if name != "attention_mask"}
    real = batch["attention_mask"][0].bool()
    one |= {name: one[name][:, real] for name in ("input_ids", "labels")}

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs.get("attention_mask") is None)

    hook = model.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    handle = attach(model, OTReg(), weight=0.3)
    model(**one)
    handle.detach()
    hook.remove()
    assert seen == [True]


def test_what_begin_step_said_ends(qwen) -> None:
    model, _, batch = qwen
    handle = attach(model, OTReg(), weight=0.3)
    model(**batch)
    own_mean = handle.loss.item()
    handle.begin_step(num_utterances=8)
    model(**batch)
    assert handle.loss.item() == pytest.approx(own_mean / 2, rel=1e-5)
    handle.end_step()
    model(**batch)
    assert handle.loss.item() == pytest.approx(own_mean, rel=1e-5)
    handle.detach()


def test_hooks_on_the_embedding_do_not_reach_the_targets(qwen) -> None:
    model, _, batch = qwen
    expected = added(model, batch, OTReg(pad_anchor=True), weight=0.3)
    model.enable_input_require_grads()

    def noise(
        module: Any, args: Any, output: Tensor
    ) -> Tensor:  # as NEFTune's, which wants a batch axis
        return output + output.size(2) * torch.randn_like(output) if module.training else output

    hook = model.get_input_embeddings().register_forward_hook(noise)
    handle = attach(model, OTReg(pad_anchor=True), weight=0.3)
    pair = handle.port.vocabulary().embed(torch.tensor([3, 4]))
    assert not pair.requires_grad
    assert torch.equal(pair, model.get_input_embeddings().weight[[3, 4]])
    handle.detach()
    hook.remove()
    model.disable_input_require_grads()
    assert torch.equal(added(model, batch, OTReg(pad_anchor=True), weight=0.3), expected)


def test_what_is_no_hugging_face_model_is_refused() -> None:
    with pytest.raises(ValueError, match="takes a Hugging Face model"):
        attach(torch.nn.Linear(2, 2), OTReg(), weight=0.3)

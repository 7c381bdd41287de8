"""What is decoded together, in which order, and what happens to a batch that fails."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from planted_speech import Planted
from serving_tools import wait_until

from otreg.data.audio import AudioError
from otreg.data.utterance import Utterance
from otreg.serving.batching import Batcher
from otreg.serving.errors import RequestError, hung_up
from otreg.serving.recognizer import Piece
from otreg.transcription import Chunk


def pieces(name, *durations_s):
    return [
        Piece(
            Utterance(f"{name}{number}", Path(__file__), f"{name}{number}"),
            Chunk(0.0, duration_s, "end"),
        )
        for number, duration_s in enumerate(durations_s)
    ]


@pytest.fixture
def make():
    made = []

    def batcher(decoder, **options):
        made.append((Batcher(decoder, **options), decoder))
        made[-1][0].start()
        wait_until(lambda: made[-1][0].state != "loading")
        return made[-1][0]

    yield batcher
    for batcher, decoder in made:
        batcher.close()
        getattr(decoder, "gate", Planted().gate).set()
        batcher.join(20)


def behind_a_closed_gate(make, decoder, **options):
    """A batcher that is busy with one piece, so that what is submitted next waits."""
    decoder.gate.clear()
    batcher = make(decoder, **options)
    busy = batcher.submit(pieces("busy", 1.0))
    assert decoder.began.wait(20)
    return batcher, busy


def texts(ticket):
    return [result.result(20).hypothesis for result in ticket.results]


def test_what_waits_is_decoded_as_one_batch(make):
    decoder = Planted()
    batcher, busy = behind_a_closed_gate(make, decoder)
    tickets = [batcher.submit(pieces(name, 1.0)) for name in "abc"]
    assert batcher.num_waiting == 3
    decoder.gate.set()
    assert [texts(ticket) for ticket in tickets] == [["a0"], ["b0"], ["c0"]]
    assert texts(busy) == ["busy0"]
    assert decoder.batches == [["busy0"], ["a0", "b0", "c0"]]


def test_a_batch_has_no_more_pieces_than_allowed(make):
    decoder = Planted()
    batcher, _ = behind_a_closed_gate(make, decoder, max_batch=2)
    last = [batcher.submit(pieces(name, 1.0)) for name in "abc"][-1]
    decoder.gate.set()
    assert texts(last) == ["c0"]
    assert decoder.batches[1:] == [["a0", "b0"], ["c0"]]


def test_a_batch_has_no_more_seconds_than_allowed_padding_counted(make):
    decoder = Planted()
    batcher, _ = behind_a_closed_gate(make, decoder, max_batch_s=10.0)
    durations = {"a": 1.0, "b": 1.0, "c": 4.0, "d": 30.0, "e": 5.0, "f": 5.0}
    last = [batcher.submit(pieces(name, seconds)) for name, seconds in durations.items()][-1]
    decoder.gate.set()
    assert texts(last) == ["f0"]
    # a and b with c would be 3 x 4 s; d is longer than all that is allowed and goes alone.
    assert decoder.batches[1:] == [["a0", "b0"], ["c0"], ["d0"], ["e0", "f0"]]


def test_a_long_recording_does_not_keep_short_ones_waiting(make):
    decoder = Planted()
    batcher, _ = behind_a_closed_gate(make, decoder, max_batch=2)
    long = batcher.submit(pieces("l", 1.0, 1.0, 1.0, 1.0))
    batcher.submit(pieces("a", 1.0))
    batcher.submit(pieces("b", 1.0))
    decoder.gate.set()
    assert texts(long) == ["l0", "l1", "l2", "l3"]
    assert decoder.batches[1:] == [["l0", "a0"], ["b0", "l1"], ["l2", "l3"]]


def test_a_piece_that_fails_leaves_its_batch_mates_alone(make):
    decoder = Planted(fails=lambda text: AudioError("cut off") if text == "c0" else None)
    batcher, _ = behind_a_closed_gate(make, decoder)
    tickets = {name: batcher.submit(pieces(name, 1.0)) for name in "abcd"}
    decoder.gate.set()
    for name in "abd":
        assert texts(tickets[name]) == [f"{name}0"]
    with pytest.raises(RequestError, match="cut off") as caught:
        texts(tickets["c"])
    assert caught.value.status == 400
    assert decoder.batches[1:] == [
        ["a0", "b0", "c0", "d0"],
        ["a0", "b0"],
        ["c0", "d0"],
        ["c0"],
        ["d0"],
    ]


def test_what_is_not_the_clients_fault_is_logged_and_not_told(make, caplog):
    decoder = Planted(fails=lambda text: RuntimeError("weights at /secret"))
    ticket = make(decoder).submit(pieces("a", 1.0))
    with pytest.raises(RequestError) as caught:
        texts(ticket)
    assert caught.value.status == 500
    assert "secret" not in str(caught.value.body)
    assert "weights at /secret" in caplog.text


def test_a_dropped_request_is_never_decoded_and_settles_once(make):
    decoder, settled = Planted(), []
    batcher, _ = behind_a_closed_gate(make, decoder)
    dropped = batcher.submit(pieces("a", 1.0, 1.0), lambda: settled.append("a"))
    kept = batcher.submit(pieces("b", 1.0), lambda: settled.append("b"))
    assert batcher.drop(dropped, hung_up()) == 2
    assert batcher.drop(dropped, hung_up()) == 0
    assert settled == ["a"]
    assert batcher.num_waiting == 1
    decoder.gate.set()
    assert texts(kept) == ["b0"]
    assert decoder.batches[1:] == [["b0"]]
    assert settled == ["a", "b"]
    assert batcher.metrics.dropped.labels("hung_up")._value.get() == 1


def test_at_the_end_the_running_batch_is_finished_and_the_rest_fails(make):
    decoder = Planted()
    batcher, busy = behind_a_closed_gate(make, decoder)
    waiting = batcher.submit(pieces("a", 1.0))
    batcher.close()
    with pytest.raises(RequestError, match="shutting down") as caught:
        waiting.results[0].result(20)
    assert caught.value.status == 503
    assert not busy.results[0].done()
    decoder.gate.set()
    assert texts(busy) == ["busy0"]
    batcher.join(20)
    assert decoder.batches == [["busy0"]]
    with pytest.raises(RequestError, match="shutting down"):
        batcher.submit(pieces("b", 1.0))


def test_a_model_that_cannot_be_loaded_is_kept_as_the_failure(make):
    def broken():
        raise ValueError("no such model")

    failed = []
    batcher = make(broken, when_failed=lambda: failed.append(True))
    batcher.join(20)
    assert batcher.state == "failed"
    assert str(batcher.failure) == "no such model"
    assert failed == [True]
    batcher.close()
    with pytest.raises(RequestError, match="the model could not be loaded") as caught:
        batcher.submit(pieces("a", 1.0))
    assert caught.value.status == 503


def test_a_failed_pass_holds_no_memory_while_its_halves_are_decoded(make):
    class Pass:
        """What a pass makes and its frames hold."""

    class Full(Planted):
        passes = ()
        alive = ()

        def transcribe(self, utterances):
            self.alive = (*self.alive, sum(made() is not None for made in self.passes))
            held = Pass()
            self.passes = (*self.passes, weakref.ref(held))
            if len(utterances) > 1:
                raise torch.OutOfMemoryError("no memory for two")
            return super().transcribe(utterances)

    decoder = Full()
    batcher, _ = behind_a_closed_gate(make, decoder)
    tickets = [batcher.submit(pieces(name, 1.0)) for name in "abcd"]
    decoder.gate.set()
    assert [texts(ticket) for ticket in tickets] == [["a0"], ["b0"], ["c0"], ["d0"]]
    assert decoder.alive == (0,) * 8


def test_a_device_that_failed_is_not_asked_again(make):
    error_type = getattr(torch, "AcceleratorError", None)
    if error_type is None:  # an older torch: such an error is any other there
        return
    broken = error_type("CUDA error: an illegal memory access was encountered")
    decoder = Planted(fails=lambda text: broken if text != "busy0" else None)
    batcher, busy = behind_a_closed_gate(make, decoder, max_batch=2)
    tickets = [batcher.submit(pieces(name, 1.0)) for name in "abc"]
    decoder.gate.set()
    assert texts(busy) == ["busy0"]
    for ticket in tickets:
        with pytest.raises(RequestError, match="the device that decodes has failed") as caught:
            texts(ticket)
        assert (caught.value.status, caught.value.code) == (503, "failed")
    assert batcher.state == "failed"
    assert decoder.batches[1:] == [["a0", "b0"]]
    with pytest.raises(RequestError, match="the device that decodes has failed"):
        batcher.submit(pieces("d", 1.0))


def test_failures_in_a_row_give_the_model_up_and_damaged_audio_does_not(make):
    errors = {"x": RuntimeError("lost"), "y": AudioError("cut off"), "o": None}
    batcher = make(Planted(fails=lambda text: errors[text[0]]))
    said = []
    for name in "xxxxoxyxyyyyyxx":
        ticket = batcher.submit(pieces(name, 1.0))
        error = ticket.results[0].exception(20)
        said.append(error.status if error else 200)
    assert said == [500] * 4 + [200, 500, 400, 500] + [400] * 5 + [500] * 2
    assert batcher.state == "ready"
    with pytest.raises(RequestError, match="failed to decode"):
        texts(batcher.submit(pieces("x", 1.0)))
    wait_until(lambda: batcher.state == "failed")
    with pytest.raises(RequestError, match="5 pieces of audio in a row") as caught:
        batcher.submit(pieces("o", 1.0))
    assert caught.value.status == 503


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_batch_s": 0.0}])
def test_an_empty_batch_is_refused(options):
    with pytest.raises(ValueError, match="at least 1 and max_batch_s above 0"):
        Batcher(Planted(), **options)

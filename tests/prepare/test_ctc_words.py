from __future__ import annotations

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from otreg.data.manifest import Utterance, read_manifest
from otreg.prepare.ctc_words import CtcWords, with_any
from otreg.prepare.program import Unusable
from otreg.prepare.viterbi import monotone_path


@pytest.fixture
def source(tmp_path: Path) -> CtcWords:
    return CtcWords(
        planted.PlantedCtc(), planted.feature_extractor(), planted.tokenizer(tmp_path / "ctc")
    )


def test_planted_words_are_found_to_the_frame(source: CtcWords, tmp_path: Path) -> None:
    plain, exact = planted.save_planted(tmp_path, num_utterances=12)
    for row, truth in zip(read_manifest(plain), read_manifest(exact), strict=True):
        found = source.align(row)
        assert [word.word for word in found] == [word.word for word in truth.words]
        for word, true in zip(found, truth.words, strict=True):
            assert word.start_s == pytest.approx(true.start_s, abs=1e-4)
            assert word.end_s == pytest.approx(true.end_s, abs=1e-4)


def test_a_segment_counts_time_from_its_own_start(source: CtcWords, tmp_path: Path) -> None:
    words = planted.speak(tmp_path / "a.wav", "see book", np.random.default_rng(1))
    start_s = round(words[1].start_s - planted.FRAME_S, 4)
    row = Utterance("u", tmp_path / "a.wav", "book", "en", start_s=start_s)
    assert source.align(row)[0].start_s == pytest.approx(planted.FRAME_S, abs=1e-4)


def test_a_digit_may_stand_for_any_character(source: CtcWords, tmp_path: Path) -> None:
    words = planted.speak(tmp_path / "a.wav", "see book", np.random.default_rng(1))
    row = Utterance("u", tmp_path / "a.wav", "see 4", "en")
    (refused,) = source([row])
    assert isinstance(refused, Unusable)
    assert "'4'" in str(refused)
    source.unknown = "any"
    found = source.align(row)
    assert found[0] == words[0]
    assert words[1].start_s - 1e-4 <= found[1].start_s <= words[1].end_s


def test_a_transcript_longer_than_the_speech_is_unusable(source: CtcWords, tmp_path: Path) -> None:
    planted.speak(tmp_path / "a.wav", "a", np.random.default_rng(1))
    (made,) = source([Utterance("u", tmp_path / "a.wav", "mammal " * 20, "en")])
    assert isinstance(made, Unusable)
    assert made.reason == "more characters than frames"


def test_damaged_audio_is_unusable_and_named(source: CtcWords, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    (made,) = source([Utterance("u", tmp_path / "a.wav", "a", "en")])
    assert isinstance(made, Unusable)
    assert made.reason == "audio that cannot be used"
    assert "a.wav" in str(made)


def test_any_character_has_all_the_mass_but_the_blanks() -> None:
    log_probs = torch.randn(5, 7).double().log_softmax(-1).numpy()
    scores = with_any(log_probs, blank=2)
    assert np.allclose(np.exp(scores[:, -1]) + np.exp(log_probs[:, 2]), 1)
    assert np.array_equal(scores[:, :-1], log_probs)


@pytest.fixture(scope="module")
def saved_ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random wav2vec 2.0 for CTC in Hugging Face format."""
    folder = tmp_path_factory.mktemp("ctc")
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(planted.VOCABULARY),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[8, 8, 8],
            conv_kernel=[10, 8, 4],
            conv_stride=[10, 8, 4],
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    planted.tokenizer(folder).save_pretrained(folder)
    planted.feature_extractor().save_pretrained(folder)
    return folder


def test_a_saved_hugging_face_model_is_loaded_and_aligns(saved_ctc: Path, tmp_path: Path) -> None:
    plain, _ = planted.save_planted(tmp_path, num_utterances=3)
    source = CtcWords.from_pretrained(saved_ctc)
    assert len(source.settings["model"]["sha256"]) == 64
    for row in read_manifest(plain):
        words = source.align(row)
        assert " ".join(word.word for word in words) == row.text
        times = [time for word in words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)


def test_the_best_path_is_where_torchs_ctc_likelihood_goes_when_it_is_sharpened(
    saved_ctc: Path,
) -> None:
    model = Wav2Vec2ForCTC.from_pretrained(saved_ctc).eval()
    with torch.no_grad():
        log_probs = model(torch.randn(1, 16_000)).logits[0].double().log_softmax(-1)
    ids = torch.tensor([5, 5, 7, 9])
    needs = np.array([False, True, False, False])
    _, best = monotone_path(log_probs[:, ids].numpy(), log_probs[:, 0].numpy(), needs)

    def likelihood(scale: float) -> float:
        loss = torch.nn.functional.ctc_loss(
            scale * log_probs[:, None], ids[None], [len(log_probs)], [len(ids)], reduction="sum"
        )
        return -float(loss) / scale

    assert best < likelihood(1)
    assert best == pytest.approx(likelihood(1000), abs=0.05)  # where the sum is the maximum


def test_what_is_no_ctc_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load a CTC model from .*give a folder or Hub id"):
        CtcWords.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unknown must be one of refuse, any; got 'drop'"):
        CtcWords(planted.PlantedCtc(), None, None, unknown="drop")

"""What the miniature's language model learns from: kinds of examples, mixed by shares.

With X a sentence, X~ its noisy copy and Y an answer (such as a translation):

    text      <bos> X <eos>                              all of it learned
    copy      <bos> X~ <asr> X <eos>                     X and <eos> learned
    answer    <bos> X~ instruction <asr> Y <eos>         Y and <eos> learned

The noise (tokens lost, replaced, repeated) is what a speech path does to a sentence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from otreg.names import nearest
from otreg.synthetic.fit import MiniatureSettings

PAD, UNK, BOS, EOS, ASR = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>", "<asr>")
KINDS = ("text", "copy", "answer")

Example = tuple[list[int], int]  # token ids, and how many of them are the prompt, unsupervised


@dataclass(frozen=True)
class Exchange:
    """A sentence, what is asked of it, and the answer.

    Attributes:
        text: the sentence, such as "the red lamp".
        instruction: what is asked, such as "translate".
        answer: what the language model is to say.
    """

    text: str
    instruction: str
    answer: str


def write_exchanges(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Write exchanges as JSON, one object a line."""
    lines = [json.dumps(asdict(exchange), ensure_ascii=False) + "\n" for exchange in exchanges]
    path.write_text("".join(lines), encoding="utf-8")


def read_exchanges(path: Path | str) -> list[Exchange]:
    """Read what `write_exchanges` wrote.

    Raises:
        ValueError: naming the line, for anything but {"text": …, "instruction": …, "answer": …}.
    """
    exchanges = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            exchange = Exchange(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{path}:{number}: expected {{"text": …, "instruction": …, "answer": …}}: {error}'
            ) from error
        if not all(isinstance(part, str) and part.strip() for part in asdict(exchange).values()):
            raise ValueError(f"{path}:{number}: text, instruction and answer must hold text")
        exchanges.append(exchange)
    if not exchanges:
        raise ValueError(f"{path} holds no exchange; expected one JSON object a line")
    return exchanges


def check_mixture(mixture: Mapping[str, float], exchanges: Sequence[Exchange]) -> None:
    """Raise a ValueError for a mixture of unknown kinds, without weight, or without its exchanges."""
    for kind, share in mixture.items():
        if kind not in KINDS:
            raise ValueError(f"unknown kind of example {kind!r}; {nearest(kind, KINDS)}")
        if not share >= 0:
            raise ValueError(f"the share of {kind!r} must not be negative, got {share}")
    if not sum(mixture.values()) > 0:
        raise ValueError(f"the shares of the mixture {dict(mixture)} add up to nothing")
    if bool(exchanges) != (mixture.get("answer", 0) > 0):
        raise ValueError(
            f"the mixture {dict(mixture)} and {len(exchanges)} exchanges do not go together: give "
            "both the kind 'answer' a share and exchanges to learn it from, or neither"
        )


def draw_batches(
    sentences: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    settings: MiniatureSettings,
    seed: int,
    exchanges: Sequence[Exchange] = (),
) -> list[list[Example]]:
    """Draw every training batch.

    Early batches copy random tokens, which teaches to copy much sooner than sentences do (a share
    of `settings.random_tokens` at the start, none from the middle on). Of the sentences, a share of
    `settings.random_words` is a random draw of the text's words, so that copying does not lean on
    what words tend to follow each other.

    Args:
        sentences: for text and copies.
        tokenizer: with `SPECIAL_TOKENS` as its first ids.
        settings: shares, noise, number and size of batches.
        seed: of every draw.
        exchanges: for answers.

    Returns:
        `settings.language_model_steps` batches of examples.

    Raises:
        ValueError: see `check_mixture`.
    """
    check_mixture(settings.mixture, exchanges)
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    bos, eos, asr = vocabulary[BOS], vocabulary[EOS], vocabulary[ASR]
    first = len(SPECIAL_TOKENS)

    def encode(texts: Iterable[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    encoded = encode(sentences)
    word_ids = encode(sorted({word for text in sentences for word in text.split()}))
    word_counts = [len(text.split()) for text in sentences]
    asked = []
    if exchanges:
        columns = (encode(getattr(e, name) for e in exchanges) for name in asdict(exchanges[0]))
        asked = list(zip(*columns, strict=True))
    total = sum(settings.mixture.values())
    shares = {kind: settings.mixture.get(kind, 0) / total for kind in KINDS}

    def noisy(tokens: list[int]) -> list[int]:
        heard: list[int] = []
        for token in tokens:
            event = rng.random()
            if event >= settings.deletion:
                replaced = event < settings.deletion + settings.substitution
                what = rng.randrange(first, len(tokenizer)) if replaced else token
                heard += [what] * (1 + (rng.random() < settings.repetition))
        return heard

    def draw(progress: float) -> Example:
        if rng.random() < settings.random_tokens * (1 - 2 * progress):
            tokens = [rng.randrange(first, len(tokenizer)) for _ in range(rng.randint(5, 25))]
            return [bos, *tokens, asr, *tokens, eos], len(tokens) + 2
        if rng.random() < settings.random_words:
            tokens = [
                token for _ in range(rng.choice(word_counts)) for token in rng.choice(word_ids)
            ]
        else:
            tokens = rng.choice(encoded)
        kind = rng.random()
        if kind < shares["text"]:
            return [bos, *tokens, eos], 1
        if kind < shares["text"] + shares["copy"] or not asked:
            prompt = [bos, *noisy(tokens), asr]
            return [*prompt, *tokens, eos], len(prompt)
        source, instruction, answer = rng.choice(asked)
        prompt = [bos, *noisy(source), *instruction, asr]
        return [*prompt, *answer, eos], len(prompt)

    # Four batches are drawn at a time and cut from their examples sorted by length: less padding.
    batches: list[list[Example]] = []
    size = settings.language_model_batch_size
    while len(batches) < settings.language_model_steps:
        progress = len(batches) / settings.language_model_steps
        pool = sorted(
            (draw(progress) for _ in range(4 * size)), key=lambda example: len(example[0])
        )
        group = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(group)
        batches += group
    return batches[: settings.language_model_steps]

"""How close the vocabulary loss of fewer rows comes to that of all rows: loss and gradient.

    python benchmarks/vocabulary_gradient.py

A table of the real size, 152,064 x 3,584, whose rows have a common direction and come in families of
near synonyms, as those of language models do. Frames stand at several cosines from the row that they
should become, as in training: at the start, on the way, and near its end. For each setting of
`vocabulary`: the cosine of its gradient with that of "all", the ratio of their norms, and the loss.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from otreg import SpeechTextPair
from otreg.objectives.log_probabilities import log_probabilities
from otreg.objectives.vocabulary import pair_classes


def make_table(vocab: int, dim: int, shared: float, family: float, size: int = 4) -> Tensor:
    """Rows with a cosine of about `shared` to any other, and of `family` to the others of `size`."""
    common = torch.randn(dim)
    table = torch.empty(vocab, dim, dtype=torch.bfloat16)
    for start in range(0, vocab, 4096 * size):
        count = min(4096 * size, vocab - start)
        heads = torch.randn(-(-count // size), dim).repeat_interleave(size, 0)[:count]
        own = torch.randn(count, dim)
        rows = shared**0.5 * common + (family - shared) ** 0.5 * heads + (1 - family) ** 0.5 * own
        table[start : start + count] = 0.02 * rows
    return table


def at_cosine(rows: Tensor, cosine: float) -> Tensor:
    """Vectors at a cosine from each row, in a random direction."""
    unit = torch.nn.functional.normalize(rows.float(), dim=-1)
    away = torch.randn_like(unit)
    away = away - (away * unit).sum(-1, keepdim=True) * unit
    away = torch.nn.functional.normalize(away, dim=-1)
    return cosine * unit + (1 - cosine**2) ** 0.5 * away


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocab", type=int, default=152064)
    parser.add_argument("--dim", type=int, default=3584)
    parser.add_argument("--tokens", type=int, default=512, help="transcripts' tokens in the step")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--settings", default="step,512,2048,8192,16384,32768")
    parser.add_argument("--cosines", default="0.1,0.3,0.5,0.7,0.9")
    parser.add_argument("--temperatures", default="0.05,0.1")
    parser.add_argument("--shared", type=float, default=0.1)
    parser.add_argument("--family", type=float, default=0.5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    table = make_table(arguments.vocab, arguments.dim, arguments.shared, arguments.family)
    step_ids = torch.randperm(arguments.vocab)[: arguments.tokens].sort().values
    settings = [int(s) if s.isdecimal() else s for s in arguments.settings.split(",")]
    print("| temperature | cosine to its row | vocabulary | gradient's cosine | norm | loss |")
    print("|" + "---|" * 6)
    for temperature in map(float, arguments.temperatures.split(",")):
        for cosine in map(float, arguments.cosines.split(",")):
            # An utterance a frame, so that each has a target of its own.
            ids = step_ids[torch.randint(len(step_ids), (arguments.frames, 1))]
            speech = at_cosine(table[ids], cosine)
            outcomes: dict[str | int, tuple[Tensor, Tensor]] = {}
            for setting in ["all", *settings]:
                frames = speech.clone().requires_grad_()
                pair = SpeechTextPair(
                    frames,
                    table[ids],
                    token_ids=ids,
                    embedding_table=table,
                    step_ids=step_ids,
                    draw_seed=0,
                )
                among = pair_classes(pair, with_pad=False, setting=setting)
                assert pair.speech_mask is not None
                loss = -log_probabilities(frames, pair.speech_mask, ids, among, temperature)
                (gradient,) = torch.autograd.grad(loss.sum(), frames)
                outcomes[setting] = (loss.detach(), gradient)
            exact = outcomes["all"][1]
            for setting, (loss, gradient) in outcomes.items():
                alike = torch.cosine_similarity(gradient, exact, dim=-1).mean()
                norm = (gradient.norm(dim=-1) / exact.norm(dim=-1)).mean()
                print(
                    f"| {temperature:g} | {cosine:g} | {setting} | {alike:.3f} | {norm:.3f} "
                    f"| {loss.mean():.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

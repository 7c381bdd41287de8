"""An objective of your own, outside of the package: no registration, no subclass.

    otreg train digits … "stages.align.objectives.pooled={type: outside_objective:Pooled, weight: 0.1}"

with this file's folder on PYTHONPATH. It pulls the mean hidden state of the speech, at layer 2 of the
language model, to that of the transcript.
"""

import torch

from otreg.objectives import Term, transcribed_clips


class Pooled:
    """1 - cos(mean speech state, mean text state) at a layer, summed over transcribed clips."""

    def __init__(self, layer: int = 2) -> None:
        self.layer = layer
        self.needs = frozenset({"text"})  # the pass over the transcripts, without gradient
        self.layers = frozenset({layer})  # hidden states to keep, of both passes

    def count(self, batch):
        """What the step's sum is divided by: known before the forward pass."""
        return transcribed_clips(batch).sum()

    def __call__(self, view):
        """The sum over this micro-batch, and what to log."""
        if not view.transcribed().any():  # rows without speech
            return Term(view.speech.logits.new_zeros(()))
        pair = view.pair(self.layer)
        # (clips, dim) sums over the frames; the cosine needs no mean
        speech = (pair.speech * pair.speech_mask[..., None]).sum(1)
        text = (pair.text * pair.text_mask[..., None]).sum(1)
        cosine = torch.cosine_similarity(speech, text)
        return Term((1 - cosine).sum(), {"cosine": cosine.detach()})

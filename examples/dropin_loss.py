"""OTReg in a training loop of your own: no otreg model, no trainer, torch alone.

A toy in a few seconds on a CPU. "Speech" is a sequence of acoustic vectors, each token lasting two to
four frames; an adapter maps them into the embedding space of a small recurrent language model, which
then writes the transcript. The adapter is trained with and without OTReg, and the script prints what
each of them does to the speech embeddings.

    python examples/dropin_loss.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otreg import OTReg, SpeechTextPair

VOCAB, DIM, ACOUSTIC, TOKENS, FRAMES = 40, 32, 24, 6, 24
BOS = 0


class LanguageModel(nn.Module):
    """Reads a prompt of embeddings, then predicts the transcript: yours to replace."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, DIM)
        self.rnn = nn.GRU(DIM, 64, batch_first=True)
        self.query = nn.Linear(64, 64)
        self.head = nn.Linear(128, VOCAB)

    def forward(self, prompt: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        memory, _ = self.rnn(prompt)
        previous = F.pad(ids[:, :-1], (1, 0), value=BOS)
        hidden, _ = self.rnn(self.embedding(previous))
        scores = self.query(hidden) @ memory.transpose(1, 2)
        attention = scores.masked_fill(~mask.unsqueeze(1), -1e4).softmax(-1)
        return self.head(torch.cat([hidden, attention @ memory], -1))


def speak(ids: Tensor, sounds: Tensor, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    """(batch, frames, acoustic) noisy frames of a transcript, with their mask."""
    durations = torch.randint(2, 5, ids.shape)
    ends = durations.cumsum(1)
    frame = torch.arange(FRAMES)
    spoken = (frame >= ends.unsqueeze(2)).sum(1).clamp(max=TOKENS - 1)  # (batch, frames)
    acoustic = sounds[ids.gather(1, spoken)] + noise * torch.randn(*spoken.shape, ACOUSTIC)
    return acoustic, frame < ends[:, -1:]


def train(otreg_weight: float, steps: int = 200) -> tuple[float, float]:
    """Train an adapter; its last cross-entropy and how often a frame reads as its transcript."""
    torch.manual_seed(0)
    sounds = torch.randn(VOCAB, ACOUSTIC)
    language_model = LanguageModel()
    adapter = nn.Sequential(nn.Linear(ACOUSTIC, 64), nn.GELU(), nn.Linear(64, DIM))
    parameters = [*adapter.parameters(), *language_model.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    objective = OTReg()

    for _ in range(steps):
        ids = torch.randint(1, VOCAB, (24, TOKENS))
        acoustic, mask = speak(ids, sounds)
        speech = adapter(acoustic)
        logits = language_model(speech, mask, ids)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), ids.flatten())

        table = language_model.embedding.weight
        pair = SpeechTextPair(speech, table[ids], mask, token_ids=ids, embedding_table=table)
        loss = cross_entropy + otreg_weight * objective(pair).loss.mean()

        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    with torch.no_grad():
        nearest = F.normalize(speech, dim=-1) @ F.normalize(table, dim=-1).T
        said = (nearest.argmax(-1).unsqueeze(2) == ids.unsqueeze(1)).any(2)
    return float(cross_entropy.detach()), float(said[mask].float().mean())


if __name__ == "__main__":
    print("OTReg weight   cross-entropy   frames whose nearest token is in the transcript")
    for weight in (0.0, 0.3):
        final, readable = train(weight)
        print(f"{weight:12.1f} {final:15.3f} {readable:17.2f}")

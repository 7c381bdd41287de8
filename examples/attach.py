"""Fine-tune a Hugging Face speech language model with OTReg: python attach.py MODEL MANIFEST."""

import sys

import torch

from otreg import OTReg, attach
from otreg.data import load_audio, read_manifest
from otreg.integrations import TranscriptionCollator, load

model, processor = load(sys.argv[1])
handle = attach(model.train(), OTReg(), weight=0.3, processor=processor)
rows = [{"audio": load_audio(row), "text": row.text} for row in read_manifest(sys.argv[2])]
collate = TranscriptionCollator(processor)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for batch in torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True, collate_fn=collate):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print({name: round(float(term), 3) for name, term in handle.terms.items()})

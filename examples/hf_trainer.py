"""OTReg inside your own Hugging Face Trainer, right under gradient accumulation.

    python examples/hf_trainer.py

The model is a toy of this file, made on the spot: frames -> adapter -> language model. Yours takes its
place; what matters is `AlignedTrainer`, and the numbers printed at the end: one optimiser step over
1 x 8, 2 x 4 and 8 x 1 utterances must have one gradient.

The trap: a model that takes `num_items_in_batch` normalises its cross-entropy over all micro-batches of
a step, so Trainer adds the micro-batches' losses up without dividing them. A plain mean of the
objective, added to that, would count once per micro-batch: 8 times its weight at 8 x 1. Divide by the
utterances of the whole step instead.
"""

import tempfile

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from otreg import OTReg, SpeechTextPair

NUM_MELS, DIM, VOCAB, PAD, BEGIN, EOS = 16, 32, 40, 0, 1, 2


class SpeechLM(nn.Module):
    """Speech frames, projected into a causal language model's prompt."""

    accepts_loss_kwargs = True  # tells Trainer that forward() uses num_items_in_batch

    def __init__(self):
        super().__init__()
        self.adapter = nn.Sequential(nn.Linear(NUM_MELS, 64), nn.GELU(), nn.Linear(64, DIM))
        self.language_model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=VOCAB,
                hidden_size=DIM,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=PAD,
                eos_token_id=EOS,
            )
        )
        self.language_model.requires_grad_(False)

    def forward(self, speech, speech_mask, text_ids, text_mask, labels, num_items_in_batch=None):
        embed = self.language_model.get_input_embeddings()
        speech_embeds = self.adapter(speech)  # (batch, frames, dim)
        begin = torch.full((len(labels), 1), BEGIN)  # between speech, padded, and transcript
        ids = torch.cat([begin, labels.clamp_min(0)], dim=1)  # (batch, 1 + tokens + 1)
        ignored = torch.full((len(labels), speech.shape[1] + 1), -100)
        mask = torch.cat([speech_mask, begin >= 0, labels >= 0], dim=1)
        output = self.language_model(
            inputs_embeds=torch.cat([speech_embeds, embed(ids)], dim=1),
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(1) - 1).clamp_min(0),
            labels=torch.cat([ignored, labels], dim=1),
            num_items_in_batch=num_items_in_batch,
        )
        return {"loss": output.loss, "speech_embeds": speech_embeds}


class AlignedTrainer(Trainer):
    """Trainer with an alignment objective beside the model's own loss."""

    def __init__(self, *, objective, weight, **arguments):
        super().__init__(**arguments)
        self.objective = objective
        self.weight = weight

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # All micro-batches of the coming optimiser step; on several ranks, sum the counts over them
        # (self.accelerator.gather) and multiply the objective by their number, for DDP averages.
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.utterances_in_step = sum(len(batch["text_ids"]) for batch in batches)
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        table = model.language_model.get_input_embeddings().weight.detach()
        pair = SpeechTextPair(
            outputs["speech_embeds"],
            table[inputs["text_ids"]],
            inputs["speech_mask"],
            inputs["text_mask"],
            token_ids=inputs["text_ids"],
            pad_embedding=table[PAD],
            embedding_table=table,
        )
        aligned = self.objective(pair).loss  # (batch,)
        utterances = self.utterances_in_step if model.training else len(aligned)
        loss = loss + self.weight * aligned.sum() / utterances
        return (loss, outputs) if return_outputs else loss


def make_data(num_utterances=64):
    """Every token is spoken as a few noisy frames of its own; half of the words come twice as slow."""
    sound = torch.randn(VOCAB, NUM_MELS)
    data = []
    for _ in range(num_utterances):
        text = torch.randint(3, VOCAB, (int(torch.randint(2, 6, ())),))
        frames = sound[text].repeat_interleave(torch.randint(2, 5, text.shape), dim=0)
        data.append({"speech": frames + 0.3 * torch.randn_like(frames), "text": text})
    return data


def collate(examples):
    def pad(rows, value):
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    speech = [example["speech"] for example in examples]
    text = [example["text"] for example in examples]
    labels = [torch.cat([ids, torch.tensor([EOS])]) for ids in text]
    return {
        "speech": pad(speech, 0.0),
        "speech_mask": pad([torch.ones(len(s), dtype=torch.bool) for s in speech], False),
        "text_ids": pad(text, PAD),
        "text_mask": pad([torch.ones(len(t), dtype=torch.bool) for t in text], False),
        "labels": pad(labels, -100),
    }


def train(data, *, batch_size, accumulation, steps, **arguments):
    set_seed(0)
    model = SpeechLM()
    with tempfile.TemporaryDirectory() as folder:
        trainer = AlignedTrainer(
            model=model,
            objective=OTReg(),
            weight=0.3,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                remove_unused_columns=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                **arguments,
            ),
            train_dataset=data,
            data_collator=collate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model, trainer.state.log_history


def main():
    set_seed(0)
    data = make_data()
    print("one optimiser step over the same 8 utterances:")
    steps = []
    for batch_size, accumulation in ((8, 1), (4, 2), (1, 8)):
        _, log = train(
            data[:8],
            batch_size=batch_size,
            accumulation=accumulation,
            steps=1,
            logging_steps=1,
            train_sampling_strategy="sequential",
        )
        loss, norm = log[0]["loss"], log[0]["grad_norm"]
        steps.append((loss, norm))
        print(f"  {accumulation} x {batch_size}: loss {loss:.4f}, gradient {norm:.4f}")
    if any(abs(a - b) > 1e-3 * b for step in steps for a, b in zip(step, steps[0], strict=True)):
        raise SystemExit("the steps differ")
    print("training:")
    _, log = train(
        data, batch_size=4, accumulation=2, steps=40, logging_steps=10, learning_rate=1e-2
    )
    for entry in log[:-1]:
        print(f"  step {entry['step']}: loss {entry['loss']:.3f}")


if __name__ == "__main__":
    main()

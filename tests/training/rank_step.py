"""One step of gradient descent on every objective at once; run by torchrun on each rank.

torchrun --nproc_per_node=2 rank_step.py TOWERS MANIFEST OUT
"""

import sys
from pathlib import Path

import torch
from transformers import set_seed

sys.path.append(str(Path(__file__).parent))

from test_trainer import everything, make_trainer

from otreg.data import SpeechTextDataset
from otreg.model import set_trainable
from otreg.objectives import OnPair, OTReg
from otreg.training.building import build_model
from otreg.training.config import ModelConfig
from otreg.training.objectives import WeightedObjective


def main(towers: Path, manifest: Path, out: Path, *, batch_size: int) -> None:
    set_seed(0)
    names = {"audio_tower": "audio_tower", "language_model": "language_model"}
    config = ModelConfig(
        **{key: str(towers / name) for key, name in names.items()},
        adapter_type="stack_mlp",
        adapter_stack=3,
        short_mel=True,
    )
    model, processor = build_model(config)
    set_trainable(model, ["adapter"])
    before = {k: v.clone() for k, v in model.multi_modal_projector.state_dict().items()}
    dataset = SpeechTextDataset(manifest, processor)
    # The step's own tokens as the vocabulary: what one rank sees must be what both have.
    step = {"step": WeightedObjective(OnPair(OTReg(vocabulary="step")), 0.2)}
    trainer = make_trainer(
        (model, processor, dataset),
        out.parent / "trainer",
        batch_size=batch_size,
        objectives=everything() | step,
        ddp_find_unused_parameters=False,
    )
    trainer.train()
    if trainer.args.process_index == 0:
        after = model.multi_modal_projector.state_dict()
        change = {name: after[name] - value for name, value in before.items()}
        torch.save({"change": change, "log": trainer.state.log_history[0]}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), batch_size=int(sys.argv[4]))

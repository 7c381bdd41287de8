"""Training: configuration, stages and the trainer.

`train(load_config("run.yaml"), "runs/first")` is the whole of it; see docs/training.md.
"""

from otreg.model.loading import load_model, model_folder
from otreg.training.config import (
    ConfigError,
    DataConfig,
    InterleaveConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    StageConfig,
    WatchConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    save_config,
)
from otreg.training.run_folder import RunFolder
from otreg.training.stages import train
from otreg.training.trainer import NonFiniteLossError, SpeechLMTrainer, TrainingCollator

__all__ = [
    "ConfigError",
    "DataConfig",
    "InterleaveConfig",
    "LoraConfig",
    "ModelConfig",
    "NonFiniteLossError",
    "ObjectiveConfig",
    "RunConfig",
    "RunFolder",
    "SpeechLMTrainer",
    "StageConfig",
    "TrainingCollator",
    "WatchConfig",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "load_model",
    "model_folder",
    "save_config",
    "train",
]

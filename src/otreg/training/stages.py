"""Running a configuration: one model through its stages, into a run folder."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from otreg.data import SpeechTextCollator, SpeechTextDataset, SpeechTextStream
from otreg.data.sources import Source, read_sources
from otreg.forwards import Reference, port_of
from otreg.model import SpeechLMForConditionalGeneration
from otreg.prepare.encoder_states import build_encoder_cache
from otreg.training.batches import EqualEpochs
from otreg.training.building import build_model
from otreg.training.callbacks import EpochOfData, JsonLog, ProgressBar
from otreg.training.config import RunConfig, StageConfig
from otreg.training.data import enter_stage_data, training_augmentation, training_stream
from otreg.training.long_audio import fit_long_audio
from otreg.training.model_parts import enter_stage, finish
from otreg.training.objectives import WeightedObjective, build_objectives
from otreg.training.run_folder import RunFolder, is_finished
from otreg.training.trainer import LOG_KEYS, SpeechLMTrainer, TrainingCollator
from otreg.training.watching import Measure, check_watch, watched
from otreg.training.yaml_config import ConfigError

__all__ = ["train"]

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    measure: Measure | None = None,
) -> Path:
    """Train a model through the stages of a configuration.

    Args:
        config: what to train.
        out: the run folder, see `otreg.training.run_folder`; new or empty unless resumed.
        resume: go on from the newest checkpoint of an interrupted run with the same configuration.
        quiet: no progress bars.
        measure: makes the callback that measures what `config.watch` asks for:
            `otreg.evaluation.watching.MeasureWhileTraining`.

    Returns:
        The folder of the final model, `out`/model, for `from_pretrained`.

    Raises:
        ConfigError: the configuration cannot be run, or `out` cannot be written or resumed.
        NonFiniteLossError: a loss or gradient became NaN or infinite.
    """
    config.check_ready()
    folder = RunFolder(out)
    arguments = _training_arguments(config, config.stages[0], folder)
    is_main = arguments.process_index == 0
    check_watch(config, arguments, measure)
    if is_main:
        folder.prepare(config, resume=resume)
    if resume and folder.model.is_dir():
        logger.info("%s is complete", folder.root)
        return folder.model
    set_seed(config.seed)
    with _no_loading_bars():
        model, processor = build_model(config.model)
    objectives = [_stage_objectives(config, stage, model) for stage in config.stages]
    with arguments.main_process_first(local=False, desc="encoder cache"):
        train_set, validation_set = _datasets(
            config, folder, model, processor, arguments.device, progress=is_main and not quiet
        )
    first, checkpoint = (
        folder.resume_point([stage.name for stage in config.stages]) if resume else (0, None)
    )
    for index, stage in enumerate(config.stages):
        _enter_stage(config, stage, model)
        if index < first:
            continue
        enter_stage_data(train_set, config, stage_seed(config.seed, stage.name))
        reference = _reference(folder, stage, model, objectives[index], is_main, checkpoint)
        with _attached_heads(model, objectives[index]), _no_loading_bars():
            trainer = _trainer(
                config,
                stage,
                folder,
                model=model,
                processor=processor,
                objectives=objectives[index],
                reference=reference,
                train_set=train_set,
                validation_set=validation_set,
                quiet=quiet,
            )
            if checkpoint is not None and is_finished(checkpoint):
                logger.info(
                    "stage %s is complete; its weights come from %s", stage.name, checkpoint
                )
                trainer._load_from_checkpoint(str(checkpoint))
            else:
                with watched(trainer, config.watch, folder, stage.name, processor, measure):
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                    if validation_set is not None:
                        trainer.evaluate()
        checkpoint = None
    finish(model)
    if is_main:
        with _no_loading_bars():
            folder.save_model(model, processor)
    return folder.model


def stage_seed(seed: int, name: str) -> int:
    """The seed of a stage: of its data order and of what it adds to the model.

    It depends on the stage's name alone, so that a stage draws the same numbers whether it follows
    another in one run or starts from that one's saved model.
    """
    return (seed + zlib.crc32(name.encode())) % 2**32


def _stage_objectives(
    config: RunConfig, stage: StageConfig, model: Any
) -> dict[str, WeightedObjective]:
    vocab_size, dim = model.get_input_embeddings().weight.shape
    return build_objectives(
        stage.active(),
        dim=dim,
        vocab_size=vocab_size,
        seed=stage_seed(config.seed, stage.name),
    )


def _datasets(
    config: RunConfig,
    folder: RunFolder,
    model: Any,
    processor: Any,
    device: torch.device,
    *,
    progress: bool,
) -> tuple[SpeechTextDataset | SpeechTextStream, SpeechTextDataset | None]:
    """The training set and, where there is one, the validation set."""
    if not config.data.train:
        raise ConfigError("data.train is missing: give manifests, e.g. data.train=train.jsonl")

    def dataset(sources: Sequence[Source], change: Any = None) -> SpeechTextDataset:
        utterances = read_sources(sources, root=config.data.root)
        stretch = 1.0 if change is None else change.longest
        utterances = fit_long_audio(utterances, config.data, processor, stretch=stretch)
        cut = config.data.interleaving()
        found = SpeechTextDataset(utterances, processor, interleaving=cut, augmentation=change)
        if not config.data.cache_encoder:
            return found
        path = config.data.cache_dir or folder.encoder_cache
        if not isinstance(model, SpeechLMForConditionalGeneration):
            raise ConfigError(
                f"data.cache_encoder keeps what otreg's own models encode; {type(model).__name__} "
                "encodes by its own code: leave it out"
            )
        size = config.data.cache_batch_size
        cache = build_encoder_cache(model, found, path, batch_size=size, progress=progress)
        return SpeechTextDataset(utterances, processor, interleaving=cut, encoder_cache=cache)

    if config.data.cache_encoder:
        model.to(device)
    if config.data.streams:
        train_set: Any = training_stream(config, processor)
    else:
        train_set = dataset(config.data.train, training_augmentation(config))
    return train_set, dataset(config.data.validation) if config.data.validation else None


def _enter_stage(config: RunConfig, stage: StageConfig, model: Any) -> None:
    """Draw what the stage adds by its own seed."""
    set_seed(stage_seed(config.seed, stage.name))
    enter_stage(config, stage, model)


def _reference(
    folder: RunFolder,
    stage: StageConfig,
    model: Any,
    objectives: Mapping[str, WeightedObjective],
    is_main: bool,
    checkpoint: Path | None,
) -> Reference | None:
    """The weights at the stage's start, where an objective looks back at them."""
    needs = {need for o in objectives.values() for need in getattr(o.objective, "needs", ())}
    if not needs & {"reference_speech", "reference_text"}:
        return None
    path = folder.stage(stage.name) / "reference.safetensors"
    if checkpoint is not None:  # the model in memory is not at the stage's start
        return Reference.load(model, path)
    reference = Reference(model)
    if is_main:
        reference.save(path)
    return reference


@contextlib.contextmanager
def _attached_heads(
    model: nn.Module, objectives: Mapping[str, WeightedObjective]
) -> Iterator[None]:
    """Attach objectives with parameters to the model, so that they train and are checkpointed."""
    heads = {
        name: weighted.objective
        for name, weighted in objectives.items()
        if isinstance(weighted.objective, nn.Module) and list(weighted.objective.parameters())
    }
    if not heads:
        yield
        return
    model.objective_heads = nn.ModuleDict(heads)
    try:
        yield
    finally:
        del model.objective_heads


@contextlib.contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar of its own for every checkpoint it reads or writes."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _trainer(
    config: RunConfig,
    stage: StageConfig,
    folder: RunFolder,
    *,
    model: Any,
    processor: Any,
    objectives: dict[str, WeightedObjective],
    reference: Reference | None,
    train_set: SpeechTextDataset | SpeechTextStream,
    validation_set: SpeechTextDataset | None,
    quiet: bool,
) -> SpeechLMTrainer:
    arguments = _training_arguments(config, stage, folder)
    sampler = None
    if stage.max_tokens is not None and isinstance(train_set, SpeechTextDataset):
        micro_batches = stage.gradient_accumulation_steps * arguments.world_size
        sampler = EqualEpochs(
            train_set.lengths(),
            stage.max_tokens,
            seed=stage_seed(config.seed, stage.name),
            num_batches=None if stage.steps is None else stage.steps * micro_batches,
            num_epochs=stage.epochs,
            world_size=arguments.world_size,
        )
    callbacks: list[Any] = [JsonLog(folder.log, stage.name)]
    if isinstance(train_set, SpeechTextDataset):  # a stream counts its passes itself
        callbacks.append(EpochOfData(train_set))
    if not quiet:
        callbacks.append(ProgressBar(stage.name, [LOG_KEYS.get(name, name) for name in objectives]))
    trainer = SpeechLMTrainer(
        model=model,
        args=arguments,
        data_collator=TrainingCollator(SpeechTextCollator(processor)),
        train_dataset=train_set,
        eval_dataset=validation_set,
        callbacks=callbacks,
        objectives=objectives,
        reference=reference,
        batch_sampler=sampler,
        port=port_of(model, processor),
    )
    trainer.remove_callback(PrinterCallback)  # the log file and the bar say it
    return trainer


def _training_arguments(
    config: RunConfig, stage: StageConfig, folder: RunFolder
) -> TrainingArguments:
    """Trainer's arguments of a stage; what `stage.trainer` gives replaces our defaults."""
    seed = stage_seed(config.seed, stage.name)
    arguments: dict[str, Any] = {
        "logging_steps": 10,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": 500,
        "save_total_limit": 2,
        "report_to": "none",
        "prediction_loss_only": True,
        "per_device_eval_batch_size": stage.batch_size or 8,
        "label_names": ["labels"],
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Apple's GPUs have no float64, which the implicit gradient needs, and no CTC.
        "use_cpu": torch.backends.mps.is_available(),
        "data_seed": seed,
        # Heads of objectives stand outside forward(), where DDP would take them for unused.
        "ddp_find_unused_parameters": False,
        # Batches of a token budget have no one size to fill up to.
        "accelerator_config": {"even_batches": stage.max_tokens is None},
        **stage.trainer,
    }
    try:
        result = TrainingArguments(
            output_dir=str(folder.stage(stage.name)),
            seed=seed,
            max_steps=-1 if stage.steps is None else stage.steps,
            num_train_epochs=1.0 if stage.epochs is None else stage.epochs,
            per_device_train_batch_size=stage.batch_size or 1,
            gradient_accumulation_steps=stage.gradient_accumulation_steps,
            learning_rate=stage.learning_rate,
            optim=stage.optimizer,
            lr_scheduler_type=stage.scheduler,
            warmup_steps=stage.warmup_fraction,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            remove_unused_columns=False,
            disable_tqdm=True,  # a bar of our own
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"stage {stage.name!r}: {error}") from error
    if result.n_gpu > 1:
        logger.warning("using one of %d GPUs; start with torchrun to use them all", result.n_gpu)
        result._n_gpu = 1
    return result

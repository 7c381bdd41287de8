"""What all programs over manifests share: resuming after a kill, progress, provenance.

A program that writes OUT keeps beside it, while it runs,

    OUT.journal           every finished result, by utterance, content and settings
    OUT.lock              held by the process that works on OUT

and leaves, when it is done,

    OUT                   the manifest, published in one step
    OUT.provenance.json   what it was made of: see `Program`
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from otreg.data.manifest import Utterance, read_manifests, write_manifest
from otreg.data.messages import audio_files
from otreg.prepare.digests import content_digest, file_digest
from otreg.prepare.journal import Journal
from otreg.prepare.provenance import read_provenance, write_provenance

Compute = Callable[[Sequence[Utterance]], Sequence[Any]]

logger = logging.getLogger(__name__)


class Unusable(ValueError):
    """A row that a program can make nothing of.

    Args:
        reason: its kind in a few words, the same for all rows of that kind; provenance counts them.
        detail: what exactly is wrong with this row, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Program:
    """One run of a program: used as a context manager, it holds OUT's lock.

        with Program("words", [train], out, settings) as program:
            rows = program.read()
            if not program.is_done(rows):
                results = program.map(rows, compute, settings)
                program.publish(richer_rows)

    The provenance file holds command, program, settings, versions, inputs and output (path,
    sha256), content (a digest of all input rows and their audio), counts (rows, skipped by reason,
    and the program's own) and created.

    Args:
        name: of the program, such as "words".
        inputs: the files that it reads.
        out: the file that it writes.
        settings: all that decides the result besides the inputs, as JSON.
        root: folder that audio paths start from, in inputs and out alike, and that all audio lies
            below; None = each manifest's own folder, so OUT must lie above all audio.
        skip: leave unusable rows out and count them; otherwise the first is an error.
        overwrite: replace an OUT that was made otherwise.
        quiet: no progress bar.
        command: the command line, for the provenance file.

    Raises:
        ValueError: OUT is one of the inputs, is worked on by another process, or was made
            otherwise and overwrite is not given.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str | Path],
        out: str | Path,
        settings: Mapping[str, Any],
        *,
        root: str | Path | None = None,
        skip: bool = False,
        overwrite: bool = False,
        quiet: bool = False,
        command: str = "",
    ) -> None:
        self.name = name
        self.inputs = [Path(path) for path in inputs]
        self.out = Path(out)
        self.settings = dict(settings)
        self.root = None if root is None else Path(root)
        self.skip = skip
        self.overwrite = overwrite
        self.quiet = quiet
        self.command = command
        self.skipped: Counter[str] = Counter()
        self._content = ""
        self._lock = FileLock(self._beside(".lock"), timeout=0)
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder; name a file to write")
        for path in self.inputs:
            if path.resolve() == self.out.resolve():
                raise ValueError(
                    f"{path} is both read and written; give --out another name beside it"
                )

    def __enter__(self) -> Program:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"another process is working on {self.out}; wait for it, or name another --out"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        journal = self._beside(".journal")
        if journal.exists() and not journal.stat().st_size:
            journal.unlink()
        self._beside(".lock").unlink(missing_ok=True)  # while it is ours
        self._lock.release()

    def read(self, paths: Sequence[str | Path] | None = None) -> list[Utterance]:
        """Read manifests and see that OUT may name their audio.

        Args:
            paths: those of the inputs that are manifests; None = all.

        Raises:
            ManifestError: a manifest that cannot be used.
            ValueError: audio that does not lie below OUT's folder, or below the root.
        """
        rows = read_manifests(self.inputs if paths is None else paths, root=self.root)
        folder = (self.out.parent if self.root is None else self.root).resolve()
        for row in rows:
            for audio in (file.resolve() for file in audio_files(row)):
                if not audio.is_relative_to(folder):
                    above = os.path.commonpath([folder, audio])
                    raise ValueError(
                        f"{row.name}: its audio {audio} does not lie below {folder}, the folder of "
                        f"--out; write to a folder above all audio, such as {above}, or give "
                        "--root FOLDER: paths in IN and OUT then start there"
                    )
        return rows

    def is_done(self, rows: Sequence[Utterance]) -> bool:
        """Tell whether OUT was already made from these rows by these settings.

        Raises:
            ValueError: OUT is there, was made otherwise, and may not be overwritten.
        """
        digests = "\n".join(content_digest(row) for row in rows)
        self._content = hashlib.sha256(digests.encode()).hexdigest()
        if not self.out.exists():
            return False
        made = read_provenance(self.out)
        same = (
            made.get("program") == self.name
            and made.get("settings") == json.loads(json.dumps(self.settings))
            and made.get("content") == self._content
            and made.get("output", {}).get("sha256") == file_digest(self.out)
        )
        if same:
            logger.info("%s is up to date", self.out)
            self._beside(".journal").unlink(missing_ok=True)  # left by a kill at the very end
        elif not self.overwrite:
            raise ValueError(
                f"{self.out} exists and was not made from this by these settings; name another "
                "--out, or give --overwrite"
            )
        return same

    def map(
        self,
        rows: Sequence[Utterance],
        compute: Compute,
        settings: Mapping[str, Any],
        *,
        batch_size: int = 1,
        decode: Callable[[Any], Any] = lambda result: result,
    ) -> list[Any]:
        """Compute a result for each row, those apart that the journal holds.

        Batches are fixed slices of the rows and are computed whole, so a program that was killed
        gives the same results as one that was not, even where a row's result depends on its batch.

        Args:
            rows: of them, and of the settings, the journal's keys are made.
            compute: gives one result a row, JSON or an `Unusable`.
            settings: what decides these results besides the rows.
            batch_size: rows given to compute at once.
            decode: applied to what the journal gives back.

        Returns:
            The results in order, as the journal gives them back; None for skipped rows.

        Raises:
            ValueError: a row is unusable and rows are not to be skipped.
        """
        keys = [_key(row, self.name, settings) for row in rows]
        with Journal(self._beside(".journal")) as journal:
            known = sum(key in journal for key in keys)
            if known:
                logger.info("%s: %d of %d rows are in the journal", self.name, known, len(rows))
            with self._bar(len(rows)) as bar:
                for first in range(0, len(rows), batch_size):
                    span = slice(first, first + batch_size)
                    if not all(key in journal for key in keys[span]):
                        made = compute(rows[span])
                        for row, key, result in zip(rows[span], keys[span], made, strict=True):
                            journal[key] = self._record(row, result)
                    bar.update(len(keys[span]))
            return [
                self._result(row, journal[key], decode) for row, key in zip(rows, keys, strict=True)
            ]

    def publish(
        self, rows: Sequence[Utterance], *, facts: Mapping[str, Any] | None = None, **counts: Any
    ) -> None:
        """Write OUT and its provenance, each in one step, and remove the journal.

        Args:
            rows: what OUT is to hold.
            facts: what else the provenance is to say.
            counts: by name, for the provenance.

        Raises:
            ManifestError: for rows that make no manifest.
        """
        if not rows:
            raise ValueError(
                f"{self.name}: no row is left to write to {self.out}; skipped: "
                f"{dict(self.skipped) or 'none'}"
            )
        staged = self._beside(".staged")
        write_manifest(staged, rows, root=self.root)
        write_provenance(
            self.out,
            self.name,
            self.settings,
            self.inputs,
            command=self.command,
            content=self._content,
            output={"path": str(self.out), "sha256": file_digest(staged)},
            counts={"rows": len(rows), **counts, "skipped": dict(sorted(self.skipped.items()))},
            **(facts or {}),
        )
        os.replace(staged, self.out)
        self._beside(".journal").unlink(missing_ok=True)

    def _record(self, row: Utterance, result: Any) -> dict[str, Any]:
        if not isinstance(result, Unusable):
            return {"result": result}
        if not self.skip:
            raise _refuse(row, str(result))
        return {"reason": result.reason, "detail": str(result)}

    def _result(self, row: Utterance, record: Mapping[str, Any], decode: Any) -> Any:
        if "reason" not in record:
            return decode(record["result"])
        if not self.skip:
            raise _refuse(row, record["detail"])
        self.skipped[record["reason"]] += 1
        return None

    def _bar(self, total: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=self.name, unit="row", disable=self.quiet, file=sys.stderr)

    def _beside(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)


def _key(row: Utterance, name: str, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode())
    digest.update(f"\n{row.id}\n{content_digest(row)}".encode())
    return digest.hexdigest()


def _refuse(row: Utterance, detail: str) -> ValueError:
    return ValueError(f"{row.name}: {detail} (--skip leaves such rows out and counts them)")

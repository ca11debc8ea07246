"""An eye on the work of a command: every piece that is kept leaves a line, so that what is made twice shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from cdgmae.generators.train import latent_cache
from cdgmae.shards import packing
from cdgmae.storage.journal import JournalWriter
from cdgmae.training import loop, session


class Trace:
    """Lines of a command and of those that went on with its work: `done NAME`, `saved STEPS`, `step NUMBER`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.is_file() else []

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def kept(self) -> int:
        """Pieces of work that a kill no longer loses."""
        return sum(not line.startswith("step") for line in self.lines())

    def doubled(self) -> list[str]:
        """Pieces that were made again although they were kept."""
        done, saved, twice = set(), 0, []
        for line in self.lines():
            word, name = line.split(" ", 1)
            if (word == "done" and name in done) or (word == "step" and int(name) < saved):
                twice.append(line)
            done.add(name)
            saved = max(saved, int(name)) if word == "saved" else saved
        return twice

    def watch(self) -> None:
        """In the process of the command: note all work from here on."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def say(*lines: str) -> None:
            os.write(descriptor, "".join(line + "\n" for line in lines).encode())

        def after(owner: Any, name: str, describe: Callable[..., list[str]]) -> None:
            function = getattr(owner, name)

            @wraps(function)
            def watched(*args: Any, **options: Any) -> Any:
                result = function(*args, **options)
                say(*describe(*args))
                return result

            setattr(owner, name, watched)

        after(JournalWriter, "append", lambda _, records: [f"done {record.name}" for record in records])
        after(packing, "_write_recorded", lambda _settings, _manifest, index, *_: [f"done shard {index}"])
        after(latent_cache, "_write_part", lambda _folder, first, _arrays: [f"done latents {first}"])
        after(session, "save_state", lambda _folder, state, *_: [f"saved {state.step}"])
        after(loop, "_take_step", lambda _session, step, *_: [f"step {step}"])

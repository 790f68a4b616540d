"""Writes a walk through latent space to a file, or its frames to a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from service.offline.halving import Stopped
from service.runtime.files import CannotWrite, replacing
from service.runtime.generation import execute, frame_plan, style_plan
from service.runtime.images.animation import AnimationSpec
from service.runtime.images.encoding import ImageFormat, Pixels, encode
from service.runtime.latent.interpolation import Interpolation
from service.runtime.models.model import Model
from service.runtime.parallel import map_in_order
from service.runtime.video.walk_output import WalkOutput


def write_walk(
    model: Model,
    walk: Interpolation,
    output: WalkOutput,
    out: Path,
    on_progress: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Write the file `out`, or for the format ``frames`` a folder of PNG files.

    `out` appears when it is complete. `on_progress` is called with the number of finished frames.
    Raises Stopped, CannotWrite and VideoUnavailable.
    """
    manifest = model.manifest
    identity = {"model": manifest.name, "version": manifest.version, "digest": model.digest}
    spec = output.spec(manifest, walk, identity)
    frames = _Frames(model, walk, output, spec, should_stop)
    if output.format == "frames":
        _write_folder(frames, out, on_progress)
        return
    with replacing(out) as temporary, temporary.open("wb") as file:
        writer = output.writer(spec, temporary)
        file.write(writer.begin())
        for done, encoded in enumerate(frames.encoded(writer.encode), 1):
            file.write(writer.add(encoded))
            on_progress(done)
        file.write(writer.end())


class _Frames:
    """The frames of a walk, generated in parallel batches and encoded in the same threads."""

    def __init__(
        self,
        model: Model,
        walk: Interpolation,
        output: WalkOutput,
        spec: AnimationSpec,
        should_stop: Callable[[], bool],
    ) -> None:
        self.spec = spec
        self._model, self._walk, self._output = model, walk, output
        self._should_stop = should_stop
        self._w = None
        if walk.space == "w":
            self._w = execute(style_plan(model.manifest, walk.keys), model.run)

    def encoded(self, encode: Callable[[int, Pixels], bytes]) -> Iterator[bytes]:
        """Yield each frame as `encode` returns it, in order. Raises Stopped."""
        count, size = self._walk.frames, self._model.plan.max_rows
        batches = [range(first, min(first + size, count)) for first in range(0, count, size)]

        def render(frames: Sequence[int]) -> list[bytes]:
            positions = [self._walk.position(frame) for frame in frames]
            plan = frame_plan(self._model.manifest, self._walk, positions, self._w)
            pixels = execute(plan, self._model.run, size)
            enlarged = map(self._output.enlarge, pixels)
            return [encode(frame, each) for frame, each in zip(frames, enlarged, strict=True)]

        for batch in map_in_order(render, batches, self._model.plan.workers):
            for encoded in batch:
                if self._should_stop():
                    raise Stopped
                yield encoded


def _write_folder(frames: _Frames, out: Path, on_progress: Callable[[int], None]) -> None:
    """Write a PNG with metadata for each frame."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    digits = len(str(frames.spec.frames - 1))
    try:
        temporary.mkdir(parents=True)
        files = frames.encoded(
            lambda i, pixels: encode(pixels, ImageFormat.PNG, frames.spec.frame_provenance(i))
        )
        for i, file in enumerate(files):
            (temporary / f"{i:0{digits}}.png").write_bytes(file)
            on_progress(i + 1)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise CannotWrite(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

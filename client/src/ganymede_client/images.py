"""Images of the service: Pillow images with their provenance, as lists and as animations."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ganymede_client import notebook
from ganymede_client.files import write_files
from ganymede_client.provenance import (
    NotReadable,
    Provenance,
    read_provenance,
    read_video_provenance,
)

# More images than this are shown in several rows.
_ONE_ROW = 6
# Pixels between the images of a grid.
_GAP = 2
# The first bytes of video files, with their offset.
VIDEO_SIGNATURES = {"video/mp4": (4, b"ftyp"), "video/webm": (0, b"\x1a\x45\xdf\xa3")}


# Attributes of an image that Pillow's pickles do not contain.
_OWN = ("provenance", "file", "name", "arrays", "score")


class Image(PIL.Image.Image):
    """A Pillow image with its provenance. The pixels are decoded when they are first needed.

    Images that Pillow derives from it, for example by `resize`, are plain Pillow images.

    Attributes:
        provenance: the model and the parameters that reproduce the image.
        file: the encoded file as the service sent it, with its provenance as metadata.
        name: a file name without extension.
        arrays: arrays that were requested with the image, by name: `z` and `w`.
        score: the score of the discriminator, for a request with `rank`; otherwise None.
    """

    provenance: Provenance
    file: bytes
    name: str
    arrays: dict[str, NDArray[np.float32]]
    score: float | None = None

    @property
    def seed(self) -> int | None:
        """The seed; None if the image has another source."""
        return self.provenance.seed

    @property
    def url(self) -> str | None:
        """The permanent address; None if the image has none."""
        return self.provenance.url

    @property
    def extension(self) -> str:
        """The usual file name extension of `file`, without the dot."""
        return "jpg" if self.format == "JPEG" else str(self.format).lower()

    @property
    def media_type(self) -> str:
        """The media type of `file`."""
        return f"image/{str(self.format).lower()}"

    def numpy(self) -> NDArray[np.uint8]:
        """Return the pixels ``[H, W, C]``; C is 1 for gray images."""
        pixels = np.array(self, np.uint8)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def save_original(self, path: str | os.PathLike[str]) -> None:
        """Write `file` unchanged, with its metadata. `save` encodes the pixels again, without it.

        Raises FileExistsError if another file exists there.
        """
        write_files([(Path(path), self.file)])

    @property
    def is_edited(self) -> bool:
        """True if the pixels were changed, so that they are not those of `file`."""
        with PIL.Image.open(io.BytesIO(self.file)) as original:
            return not np.array_equal(np.asarray(self), np.asarray(original))

    def figure(self) -> notebook.Figure:
        """Return the image as notebooks show it: the current pixels."""
        file, media_type, caption = self.file, self.media_type, self.provenance.caption
        if self.is_edited:
            file, media_type = self._repr_png_() or file, "image/png"
            caption = f"{caption} (edited)"
        text = self.provenance.describe()
        return notebook.Figure(file, media_type, self.size, caption, text, self.url)

    def _repr_html_(self) -> str | None:
        """Return the image with its caption for notebooks."""
        return notebook.html([self.figure()], 1)

    def __repr__(self) -> str:
        """Return the provenance and the size."""
        return f"<Image: {self.provenance.describe()}, {self.mode} {self.width}×{self.height}>"

    def __getstate__(self) -> list[Any]:
        """Return the state for pickles."""
        own = {name: getattr(self, name) for name in _OWN}
        return [*super().__getstate__(), own]

    def __setstate__(self, state: list[Any]) -> None:
        """Restore the state."""
        self.__dict__.update(state[-1])
        super().__setstate__(state[:-1])


class _Png(Image, PngImageFile):
    pass


class _Jpeg(Image, JpegImageFile):
    pass


class _WebP(Image, WebPImageFile):
    pass


_TYPES: list[tuple[bytes, Any]] = [(b"\x89PNG", _Png), (b"\xff\xd8\xff", _Jpeg), (b"RIFF", _WebP)]


def read_image(
    file: bytes,
    base_url: str,
    request_id: str | None = None,
    *,
    name: str | None = None,
    arrays: Mapping[str, NDArray[np.float32]] | None = None,
) -> Image:
    """Read a file of the service: PNG, JPEG or WebP. Raises NotReadable."""
    for signature, image_type in _TYPES:
        if file.startswith(signature):
            try:
                image: Image = image_type(io.BytesIO(file))
            except (SyntaxError, OSError, ValueError) as error:
                raise NotReadable(f"the image is damaged: {error}") from error
            image.provenance = read_provenance(image, base_url, request_id)
            image.file = file
            seed = image.provenance.seed
            image.name = name or ("image" if seed is None else f"seed-{seed}")
            image.arrays = dict(arrays or {})
            return image
    raise NotReadable("the image is neither a PNG nor a JPEG nor a WebP file")


class Images(Sequence[Image]):
    """A list of images that notebooks show as a grid.

    Attributes:
        columns: the columns of the grid; None to choose them by the number of images.
    """

    def __init__(self, images: Iterable[Image], columns: int | None = None) -> None:
        self._images = tuple(images)
        self.columns = columns

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Image | Images:
        """Return one image, or the images of a slice."""
        if isinstance(index, slice):
            return Images(self._images[index])
        return self._images[index]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __add__(self, other: Iterable[Image]) -> Images:
        """Return the images of both."""
        return Images([*self._images, *other], self.columns)

    def __repr__(self) -> str:
        """Return the number of images, and their models."""
        models = ", ".join(sorted({image.provenance.model for image in self}))
        return f"<Images: {len(self)}{f' of {models}' if models else ''}>"

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each image; None for an image with another source."""
        return [image.seed for image in self]

    def numpy(self) -> NDArray[np.uint8]:
        """Return the pixels ``[N, H, W, C]``. Raises ValueError if the images differ in shape."""
        arrays = [image.numpy() for image in self]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) != 1:
            raise ValueError(f"expected images of one shape, got {shapes}")
        return np.stack(arrays)

    def grid(self, columns: int | None = None, gap: int = _GAP) -> PIL.Image.Image:
        """Return one image with all images side by side, `gap` pixels apart on white.

        Raises ValueError if there are no images.
        """
        return notebook.grid(self._images, self._columns(columns), gap)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the files as the service sent them, with their metadata; return the paths.

        Raises FileExistsError before anything is written, if a file would replace another one and
        `overwrite` is false.
        """
        digits = len(str(max(len(self) - 1, 0)))
        paths = [
            Path(folder) / f"{i:0{digits}}-{image.name}.{image.extension}"
            for i, image in enumerate(self)
        ]
        write_files(
            [(path, image.file) for path, image in zip(paths, self, strict=True)],
            overwrite=overwrite,
        )
        return paths

    def _columns(self, columns: int | None = None) -> int:
        default = len(self) if len(self) <= _ONE_ROW else math.ceil(math.sqrt(len(self)))
        chosen = columns or self.columns or default
        if chosen < 0:
            raise ValueError(f"columns: expected at least 1, got {chosen}")
        return max(1, min(chosen, len(self)))

    def _repr_png_(self) -> bytes | None:
        """Return the grid for notebooks and other displays without HTML."""
        return notebook.png(self._images, self._columns(), _GAP) if self._images else None

    def _repr_html_(self) -> str | None:
        """Return the images with their captions for notebooks; None if they are too large."""
        return notebook.html([image.figure() for image in self], self._columns())


@dataclass(frozen=True)
class Animation:
    """An animation: a WebP, GIF or APNG file; or a video: MP4 or WebM.

    Attributes:
        file: the file as the service sent it.
        media_type: ``image/webp``, ``image/gif``, ``image/png``, ``video/mp4`` or ``video/webm``.
        provenance: its `parameters` are `walk` and `fps`, and `scale`, `filter` and `quality` where
            they apply.
    """

    file: bytes
    media_type: str
    provenance: Provenance

    @property
    def is_video(self) -> bool:
        """True for MP4 and WebM."""
        return self.media_type in VIDEO_SIGNATURES

    def image(self) -> PIL.Image.Image:
        """Return the animation as a Pillow image of several frames.

        Raises ValueError for a video, which Pillow cannot read.
        """
        if self.is_video:
            raise ValueError(f"Pillow does not read {self.media_type}: save it, or use webp")
        return PIL.Image.open(io.BytesIO(self.file))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file. Raises FileExistsError if another file exists there."""
        write_files([(Path(path), self.file)])

    def _repr_html_(self) -> str | None:
        """Return the animation for notebooks."""
        text = self.provenance.describe()
        if self.is_video:
            return notebook.video(self.file, self.media_type, text)
        size = self.image().size
        return notebook.html([notebook.Figure(self.file, self.media_type, size, "", text)], 1)


def read_animation(
    file: bytes, media_type: str, base_url: str, request_id: str | None = None
) -> Animation:
    """Read an animation of the service. Raises NotReadable."""
    types: dict[str, Any] = {
        "image/webp": WebPImageFile,
        "image/gif": GifImageFile,
        "image/png": PngImageFile,
    }
    if media_type in VIDEO_SIGNATURES:
        offset, signature = VIDEO_SIGNATURES[media_type]
        if file[offset : offset + len(signature)] != signature:
            raise NotReadable("the video is damaged: its header is missing")
        return Animation(file, media_type, read_video_provenance(file, base_url, request_id))
    if media_type not in types:
        raise NotReadable(f"expected an animation, got {media_type or 'nothing'}")
    try:
        image = types[media_type](io.BytesIO(file))
    except (SyntaxError, OSError, ValueError) as error:
        raise NotReadable(f"the animation is damaged: {error}") from error
    return Animation(file, media_type, read_provenance(image, base_url, request_id))

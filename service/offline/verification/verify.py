"""Finds out what an image, a video or audio is: what its file states, and what of it can be proven.

The statements are the mark (IPTC's digital source type), a credential (C2PA), and the parameters
that Ganymede embeds. Anybody can add and remove all of them. Two things are proofs: the model of
the parameters makes the same pixels, or somebody whom the reader trusts has signed the file.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image

from service.offline.originals import check_audio, is_ours, read_parameters
from service.offline.reproduce import CannotReproduce, Reproduction, reproduce
from service.offline.verification import wording
from service.offline.verification.texts import (
    NoTexts,
    TextReproduction,
    has_texts,
    reproduce_texts,
)
from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.metadata import (
    audio_format_of,
    audio_provenance,
    audio_source_type,
)
from service.runtime.credentials.reading import Credential, Validity, read_credential
from service.runtime.files import open_regular
from service.runtime.images import xmp
from service.runtime.images.file_formats import content_of, image_format_of
from service.runtime.video import ffmpeg
from service.runtime.video.metadata import video_format_of, video_source_type


class Verdict(StrEnum):
    """What is known about the statements of a file."""

    # A proof confirms what the file states.
    VERIFIED = "verified"
    # A proof contradicts it: the file was changed, or its statements are wrong.
    CONTRADICTED = "contradicted"
    # Nothing proves or contradicts it, or it states nothing.
    UNPROVEN = "unproven"
    # It is not an image, a video or audio, or damaged.
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Verification:
    """The answer for one file.

    Attributes:
        answer: the result in one line, without the name of the file.
        source_type: the URI of the digital source type in the mark, or None without a mark.
        parameters: the parameters that Ganymede embedded, or None.
        reproduction: the comparison with what the model makes, or None without one.
        not_reproduced: why there is no comparison although there are parameters.
    """

    file: Path
    verdict: Verdict
    answer: str
    source_type: str | None = None
    credential: Credential | None = None
    parameters: Mapping[str, Any] | None = None
    reproduction: Reproduction | TextReproduction | None = None
    not_reproduced: str | None = None

    @property
    def lines(self) -> list[str]:
        """The answer, and the statements of the file in indented lines."""
        lines = [f"{self.file}: {self.answer}"]
        if self.verdict is Verdict.UNREADABLE:
            return lines
        lines.append(f"  mark: {wording.mark(self.source_type)}")
        lines.append(f"  credential: {wording.credential(self.credential)}")
        lines.append(f"  parameters: {wording.parameters(self.parameters)}")
        if self.reproduction is not None:
            lines.append(f"  reproduction: {self.reproduction.summary}")
        elif self.not_reproduced is not None:
            lines.append(f"  reproduction: not possible: {self.not_reproduced}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        credential, reproduction = self.credential, self.reproduction
        return {
            "file": str(self.file),
            "verdict": self.verdict,
            "answer": self.answer,
            "source_type": self.source_type,
            "credential": None
            if credential is None
            else {
                "validity": credential.validity,
                "reason": credential.reason or None,
                "signer": credential.signer,
                "generator": credential.generator,
                "source_type": credential.source_type,
                "generation": credential.generation,
            },
            "parameters": self.parameters,
            "reproduction": None if reproduction is None else reproduction.as_json(),
            "not_reproduced": self.not_reproduced,
        }


@dataclass
class _Statements:
    """What a file states."""

    source_type: str | None = None
    parameters: Mapping[str, Any] | None = None
    # Why the parameters could not be read.
    unread: str | None = field(default=None)


def verify(file: Path, models: Path, trust_anchors: str | None = None) -> Verification:
    """Return what `file` is. `models` is the models folder.

    `trust_anchors` are certificates in PEM whose signatures are trusted. Files are never executed
    or sent anywhere. Errors of the file are a verdict and not an exception.
    """
    try:
        with open_regular(file) as opened:
            content = opened.read()
    except OSError as error:
        return _unreadable(file, f"cannot be read: {error.strerror}")
    if has_texts(file):
        return _verify_texts(file, models)
    try:
        statements = _read(content)
    except _Unreadable as error:
        return _unreadable(file, str(error))
    credential = read_credential(content, trust_anchors)
    reproduction, reason = None, statements.unread
    if statements.parameters is not None:
        try:
            reproduction = reproduce(file, models)
        except CannotReproduce as error:
            reason = _without_name(error, file)
    verdict, answer = _judge(statements, credential, reproduction, reason)
    return Verification(
        file,
        verdict,
        answer,
        statements.source_type,
        credential,
        statements.parameters,
        reproduction,
        reason,
    )


def _without_name(error: CannotReproduce, file: Path) -> str:
    return wording.reason(str(error).removeprefix(f"{file} ").removeprefix(f"{file}: "))


def _verify_texts(file: Path, models: Path) -> Verification:
    """Return what a file of texts is. It has no mark and no credential."""
    try:
        reproduction = reproduce_texts(file, models)
    except NoTexts as error:
        return _unreadable(file, _without_name(error, file))
    except CannotReproduce as error:
        reason = _without_name(error, file)
        answer = f"states how its texts were made; not checked: {reason}"
        return Verification(file, Verdict.UNPROVEN, answer, not_reproduced=reason)
    origins = " and ".join(wording.clean(name) for name in reproduction.models)
    if reproduction.equal:
        equal = "file is equal, byte for byte" if reproduction.identical else "texts are equal"
        verdict, answer = Verdict.VERIFIED, f"made by {origins}: the {equal}"
    else:
        verdict = Verdict.CONTRADICTED
        answer = (
            f"states that it was made by {origins}, but {len(reproduction.different):,} of "
            f"{reproduction.texts:,} texts differ: it was changed since, or the statement is wrong"
        )
    return Verification(file, verdict, answer, reproduction=reproduction)


class _Unreadable(Exception):
    """The content of a file is not an image, a video or audio, or damaged."""


def _unreadable(file: Path, reason: str) -> Verification:
    return Verification(file, Verdict.UNREADABLE, reason)


def _read(content: bytes) -> _Statements:
    """Return what a file states. The pixels of images are decoded, to notice damage.

    Raises _Unreadable.
    """
    if (audio_format := audio_format_of(content)) is not None:
        return _read_audio(content, audio_format)
    source_type = xmp.read_source_type(content)
    if (image_format := image_format_of(content)) is None and video_format_of(content):
        return _read_video(content, source_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except Image.DecompressionBombError as error:
            raise _Unreadable("has too many pixels to be decoded safely") from error
        except Exception as error:  # decoders may raise anything
            if image_format is not None and image_format.upper() not in Image.OPEN:
                # Its metadata can be read all the same.
                return _Statements(source_type)
            what = image_format and f"a damaged or truncated {image_format} file"
            raise _Unreadable(
                f"is {what or content_of(content) or 'not an image, a video, WAV or FLAC'}"
            ) from error
    return _Statements(source_type, _ours(read_parameters(content)))


def _read_audio(content: bytes, audio_format: AudioFormat) -> _Statements:
    try:
        check_audio(content)
    except Exception as error:  # decoders may raise anything
        raise _Unreadable(f"is a damaged or truncated {audio_format.upper()} file") from error
    return _Statements(audio_source_type(content), _ours(audio_provenance(content)))


def _read_video(content: bytes, source_type: str | None) -> _Statements:
    if not ffmpeg.is_installed():
        return _Statements(
            source_type,
            unread="parameters of videos need the extra video: pip install 'ganymede[video]'",
        )
    try:
        with ffmpeg.load().open(io.BytesIO(content)) as video:
            source_type = video_source_type(content, video)
        return _Statements(source_type, _ours(read_parameters(content)))
    except Exception as error:  # decoders may raise anything
        raise _Unreadable("is a damaged or truncated video") from error


def _ours(parameters: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the parameters if Ganymede wrote them: other software uses comments, too."""
    return parameters if is_ours(parameters) else None


def _judge(
    statements: _Statements,
    credential: Credential | None,
    reproduction: Reproduction | None,
    reason: str | None,
) -> tuple[Verdict, str]:
    """Return the verdict, and the answer in one line."""
    validity = None if credential is None else credential.validity
    if statements.parameters is not None:
        origin = wording.origin(statements.parameters)
        if reproduction is not None and reproduction.equal:
            return _judge_equal(origin, reproduction, statements.source_type, credential)
        if reproduction is not None and reproduction.largest > reproduction.rounding:
            return Verdict.CONTRADICTED, wording.different(origin, reproduction, credential)
        claim = f"states that it was made by {origin}"
        unproven = f"{claim}; not checked: {reason}"
        if reproduction is not None:
            unproven = (
                f"{claim}; the {reproduction.unit} differ from it by at most "
                f"{reproduction.rounding} of {reproduction.full_scale:,}, as they do if they were "
                "generated on a GPU"
            )
    else:
        claim = wording.claim(statements.source_type, credential)
        unproven = claim
    if credential is None or validity is Validity.UNREAD:
        return Verdict.UNPROVEN, unproven
    if validity is Validity.INVALID:
        return (
            Verdict.CONTRADICTED,
            f"{claim}, but its credential is invalid: {wording.reason(credential.reason)}",
        )
    signed = f"signed by {wording.signer(credential)} and unchanged since"
    if validity is Validity.TRUSTED:
        return Verdict.VERIFIED, f"{signed}: {claim}"
    return Verdict.UNPROVEN, f"{unproven}; {signed}, with a certificate that is not trusted"


def _judge_equal(
    origin: str,
    reproduction: Reproduction,
    source_type: str | None,
    credential: Credential | None,
) -> tuple[Verdict, str]:
    proven = f"made by {origin}: the "
    equal = f"{reproduction.unit} are equal"
    proven += "file is equal, byte for byte" if reproduction.identical else equal
    if credential is not None and credential.validity is Validity.INVALID:
        return (
            Verdict.CONTRADICTED,
            f"{proven}, but its credential is invalid: {wording.reason(credential.reason)}",
        )
    if (capture := wording.capture(source_type, credential)) is not None:
        return Verdict.CONTRADICTED, f"{proven}, but it is marked as {capture}"
    return Verdict.VERIFIED, proven

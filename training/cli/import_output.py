"""What `ganymede import` prints about networks and their formats."""

from __future__ import annotations

from pathlib import Path

import typer

from training.importers.formats.base import ConvertedModel, readable_key
from training.importers.recognition import Candidate, nearest_candidates


def print_summary(label: str, title: str, converted: ConvertedModel) -> None:
    """Print the format of a network, what was inferred, and what the tensors do not determine."""
    details = ", ".join(f"{name} {value}" for name, value in converted.details)
    typer.echo(f"{label}: {title}; {details}")
    for note in converted.notes:
        typer.echo(note)
    for line in _record(converted):
        typer.echo(line)


def _record(converted: ConvertedModel) -> list[str]:
    """Return what the file does not determine, and what of it is left out, in lines."""
    lines = []
    if converted.assumptions:
        lines += ["the tensors do not determine:", *(f"  {each}" for each in converted.assumptions)]
    if converted.left_out:
        lines += ["left out:", *(f"  {each}" for each in converted.left_out)]
    return lines


def print_candidates(file: Path, candidates: list[Candidate]) -> None:
    """Print each network's format, or the nearest formats and the keys that they require."""
    names = list(dict.fromkeys(candidate.network.name for candidate in candidates))
    if not names:
        typer.echo(f"{file}: the file contains no network: nothing in it maps names to tensors")
    for name in names:
        own = [candidate for candidate in candidates if candidate.network.name == name]
        network = own[0].network
        typer.echo(
            f"{own[0].label}: {len(network.tensors)} tensors, {network.parameters:,} values"
            + (", averaged" if network.averaged else "")
        )
        matching = next((candidate for candidate in own if candidate.converted), None)
        if matching is not None and matching.converted is not None:
            typer.echo(f"  matches {matching.format.title}, from {matching.format.origin}")
            for key in matching.match.present:
                typer.echo(f"    present: {readable_key(key)}")
            for detail, value in matching.converted.details:
                typer.echo(f"    {detail}: {value}")
            for line in _record(matching.converted):
                typer.echo(f"    {line}")
            continue
        for candidate in nearest_candidates(own):
            reason = f": {candidate.match.reason}" if candidate.match.reason else ""
            typer.echo(f"  does not match {candidate.format.title}{reason}")
            for key in candidate.match.missing:
                typer.echo(f"    missing: {readable_key(key)}")

"""A dry run as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.runtime.formatting import counted, duration, format_size
from training.dry_run.measurement import DryRun, Phase, Player


def lines(measured: DryRun) -> list[str]:
    """Return the report: the layers of both players, then memory, speed, time and disk space."""
    report = []
    for name, player in measured.players.items():
        report += [*_layers(name, player), ""]
    return [*report, *_summary(measured)]


def _layers(name: str, player: Player) -> list[str]:
    rows = [
        (layer["name"], layer["kind"], _shape(layer["shape"]), f"{layer['parameters']:,}")
        for layer in player.layers
    ]
    if player.unlisted_parameters:
        rows.append(("(other)", "", "", f"{player.unlisted_parameters:,}"))
    rows.append(("total", "", "", f"{player.parameters:,}"))
    return _table((name, "layer", "output", "parameters"), rows)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(["N", *map(str, shape)])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines; the last column is aligned to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)),
                row[-1].rjust(widths[-1]),
            ]
        )
        for row in (header, *rows)
    ]


def _summary(measured: DryRun) -> list[str]:
    processes = f", {measured.processes} processes" if measured.processes > 1 else ""
    rows = [
        ("run", _state(measured)),
        *(("", f"changed from here on: {change}") for change in measured.changes),
        *(("", note) for note in measured.notes),
        ("device", f"{measured.device}, {measured.precision}{processes}"),
        ("data", _data(measured.data)),
        *(("", line) for line in measured.data["warnings"]),
        ("memory", _memory(measured)),
        ("speed", _speed(measured.phases, measured.data["kind"])),
    ]
    if len(measured.phases) > 1:
        kind = measured.data["kind"]
        rows += [
            (
                "",
                f"from {phase.from_images:,} {kind}: {_rate(phase.images_per_second, kind)}, "
                f"{duration(phase.seconds)}",
            )
            for phase in measured.phases
        ]
    rows += [("time", _time(measured)), ("disk", _disk(measured))]
    return [f"{name:8}{text}" for name, text in rows]


def _state(measured: DryRun) -> str:
    total = f"{measured.images:,} {measured.data['kind']}"
    if measured.resumes_at is None:
        return f"{measured.run}: starts anew, {total}; nothing was written"
    if not measured.phases:
        return f"{measured.run}: complete at {measured.resumes_at:,} of {total}"
    return f"{measured.run}: resumes at {measured.resumes_at:,} of {total}; nothing was written"


def _data(data: Mapping[str, Any]) -> str:
    classes = f" in {data['classes']} classes" if data["classes"] else ""
    return (
        f"{data['title']}: {data['images']:,} {data['kind']}{classes}, "
        f"{format_size(data['decoded_bytes'])} decoded, opened in "
        f"{duration(data['seconds_to_open'])}"
    )


def _memory(measured: DryRun) -> str:
    players = measured.players.values()
    weights = sum(player.weights_bytes for player in players)
    optimizers = sum(player.optimizer_bytes for player in players)
    parts = (
        f"weights {format_size(weights)}, average {format_size(measured.average_bytes)}, "
        f"optimizers {format_size(optimizers)}"
    )
    if not measured.phases:
        return parts
    where = "of the GPU" if measured.peak_of == "gpu" else "of the process"
    return f"{parts}; peak {where} during a turn {format_size(measured.peak_bytes)}"


def _speed(phases: Sequence[Phase], kind: str) -> str:
    if not phases:
        return "not measured: no turns are left"
    seconds = sum(phase.seconds for phase in phases)
    images = phases[-1].to_images - phases[0].from_images
    share = sum(phase.data_share * phase.seconds for phase in phases) / seconds
    turns = sum(phase.turns for phase in phases)
    return (
        f"{_rate(images / seconds, kind)}, measured over {turns} turns; "
        f"drawing batches takes {share:.1%} of a turn"
    )


def _rate(per_second: float, kind: str) -> str:
    return f"{per_second:,.{0 if per_second >= 10 else 2}f} {kind}/s"


def _time(measured: DryRun) -> str:
    parts = [f"turns {duration(sum(phase.seconds for phase in measured.phases))}"]
    for name, work in (
        ("sample sheet", measured.sheets),
        ("checkpoint", measured.checkpoints),
        ("evaluation", measured.evaluations),
    ):
        if work.times:
            parts.append(f"{counted(work.times, name)} {duration(work.seconds)}")
    return f"{duration(measured.seconds)} in all: {', '.join(parts)}"


def _disk(measured: DryRun) -> str:
    each = format_size(measured.checkpoint_bytes)
    both = " and best.pt of as much" if measured.checkpoint_files > 1 else ""
    text = (
        f"{format_size(measured.disk_bytes)}: checkpoint.pt {each}{both}, a copy while it is "
        f"written, sample sheets {format_size(measured.sheets_bytes)}; "
        f"{format_size(measured.free_bytes)} are free"
    )
    return f"{text}: NOT ENOUGH" if measured.disk_bytes > measured.free_bytes else text

"""What a measurement says, and how it is shown: lines on the terminal, JSON in .cache/bench, a table in the docs."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".cache" / "bench"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `ratio` is ours / the peer's unless `ratio_of` says otherwise; `met` is None without aim."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    aim: str = ""
    met: bool | None = None

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The figure as the cells of a row."""
        peer = "" if self.peer_value is None else f"{_number(self.peer_value)} {self.unit} ({self.peer})"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        verdict = "" if self.met is None else "yes" if self.met else "**no**"
        return (self.name, f"{_number(self.value)} {self.unit}", peer, ratio, self.aim, verdict)


HEADINGS = ("figure", "presence", "peer, same run", "ratio", "aim", "met")


@dataclass(slots=True)
class Section:
    """The figures of one sub-command, what was done, and everything that was measured on the way."""

    bench: str
    title: str
    method: str
    command: str = ""
    date: str = ""
    quick: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        """Take in a figure and show it."""
        self.figures.append(figure)
        name, value, peer, ratio, aim, met = figure.cells
        parts = [f"  {name:<58} {value:>16}"]
        if peer:
            parts.append(f"peer {peer}, ratio {ratio}")
        if aim:
            parts.append(f"aim {aim}: {'met' if figure.met else 'MISSED' if met else '-'}")
        print("  ".join(parts), flush=True)

    def save(self) -> Path:
        """Write the results; a quick run never replaces those of a real one."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{'quick-' if self.quick else ''}{self.bench}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Section:
        """The results that `save` wrote."""
        data = json.loads(path.read_text())
        data["figures"] = [Figure(**each) for each in data["figures"]]
        return cls(**data)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def now() -> str:
    """The date of a run."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed; NaN when there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def write_docs(sections: list[Section], page: Path = PAGE) -> None:
    """Put the tables between the markers of the page; the rest of it stays as it is."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{page} needs one line {BEGIN} and after it one line {END}: write them where the tables go")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    blocks = "\n\n".join(_markdown(each) for each in sections)
    page.write_text(f"{head}{BEGIN}\n{blocks}\n{END}{tail}")


def _markdown(section: Section) -> str:
    lines = [
        f"### {section.title}",
        "",
        section.method,
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---" * len(HEADINGS) + "|",
        *("| " + " | ".join(each.cells) + " |" for each in section.figures),
        "",
        _origin(section),
    ]
    return "\n".join(lines)


def _origin(section: Section) -> str:
    machine = section.machine
    return (
        f"`{section.command}` on {section.date}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['kernel']}, Python {machine['python']}; "
        f"other programs used {machine.get('cores_used_by_others', 'an unknown number of')} cores meanwhile."
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.095 else f"{value:.3f}"

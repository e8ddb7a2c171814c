from __future__ import annotations

from pathlib import Path

from presence.reference import updated

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def test_the_reference_says_what_the_parsers_do() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "run python -m presence.reference docs/cli.md"


def test_every_variable_that_is_read_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (PAGE.parents[1] / "cli" / "presence").rglob("*.py"))
    for name in ("AGENT", "MODEL", "PROJECT", "URL", "SESSION", "NAMESPACE", "TIMEOUT"):
        assert f"PRESENCE_{name}" in sources
        assert f"`PRESENCE_{name}`" in page

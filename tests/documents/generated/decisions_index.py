"""The list of decision records."""

from tests.documents.blocks import ROOT
from tests.documents.generated.markdown import NOTE, joined, table


def page() -> str:
    """docs/decisions/index.md."""
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    rows = [(path.name[:4], f"[{_title(path.read_text('utf-8'))}]({path.name})") for path in records]
    return joined(
        "# Decisions",
        "Why things are as they are: context, decision, consequences, with the measurements that led there. A record is not changed later; "
        f"what replaces it says so. {NOTE}",
        table(("number", "decision"), rows),
    )


def _title(text: str) -> str:
    return text.splitlines()[0].removeprefix("# ").partition(". ")[2]

"""Write the derived pages anew: `python -m tests.documents.generated`."""

from tests.documents.blocks import ROOT
from tests.documents.generated.pages import PAGES

if __name__ == "__main__":
    for name, page in PAGES.items():
        path = ROOT / "docs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(page(), "utf-8")
        print(path.relative_to(ROOT))

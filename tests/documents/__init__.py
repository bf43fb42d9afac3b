"""The documents are run: every code block of README.md, CONTRIBUTING.md and docs/."""

"""Pages of docs/ that are derived from the code; each module has `page()`."""

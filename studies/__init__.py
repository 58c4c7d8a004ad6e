"""One-off experiments whose results are the pages in docs/."""

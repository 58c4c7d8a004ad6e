"""One-off experiments behind the pages in docs/."""

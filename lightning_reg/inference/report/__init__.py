"""Reports as self-contained HTML files that need no internet connection."""

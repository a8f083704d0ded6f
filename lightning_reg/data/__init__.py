"""Scans and pairs: reading, checking, preprocessing and sampling."""

"""Coloured text for terminals (`ansi`), and pictures of it (`pictures`)."""

"""Text of many languages: read from any source, kept as Arrow files, tokenised and masked."""

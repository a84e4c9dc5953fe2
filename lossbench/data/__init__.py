"""Data: sources, splits by content, corruptions, the manifest, expectations."""

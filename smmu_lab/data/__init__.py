"""Data with sources: cost profiles (TOML) and recorded guests. No code."""

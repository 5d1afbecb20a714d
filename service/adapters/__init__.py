"""Adapters on disk and on their way to live: manifest and file checks, registry, rollout."""

"""The constitution: principles by which the model itself criticises, revises and compares replies.

Constitutional AI (Bai et al., arXiv 2212.08073). The service uses it while it serves, the learner to train; neither
torch nor the store is needed to read one, or to put a request into words.
"""

from __future__ import annotations

from service.constitution.principles import (
    FORMAT_VERSION,
    Comparison,
    Constitution,
    Principle,
    Revision,
    built_in,
    parse,
    read,
)

__all__ = ["FORMAT_VERSION", "Comparison", "Constitution", "Principle", "Revision", "built_in", "parse", "read"]

"""The one vocabulary of gpt-oss, o200k_base as OpenAI published it: a line for each token, in the order of the ranks,
``base64(token) SPACE rank LF``."""

from __future__ import annotations

from installer.formats.fields import FormatError

PATH = "tokenizer/o200k_base.tiktoken"  # in a release
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
RANKS = 199_998  # special tokens follow; they are not in the file


def check_digest(sha256: str) -> None:
    """Refuse every other file.

    Raises:
        FormatError: the digest is another.
    """
    if sha256 != SHA256:
        raise FormatError(f"is not the o200k_base vocabulary: SHA-256 is {sha256}, not {SHA256}")

"""Files of secret keys: one key (hex) a line, readable by their owner alone. The first is used, the others were."""

from __future__ import annotations

from pathlib import Path

from ml_core.base.errors import ConfigError
from ml_core.base.files import write_whole

__all__ = ["KEY_BYTES", "make_key_file", "read_keys"]

KEY_BYTES = 32


def read_keys(path: Path, what: str) -> list[bytes]:
    """The keys in a file, in its order.

    Parameters
    ----------
    what : the keys are for, for the message

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no key.
    """
    try:
        keys = [bytes.fromhex(line) for line in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"the key of {what} cannot be read: {type(error).__name__}") from error
    if not keys or any(len(key) < KEY_BYTES for key in keys):
        raise ConfigError(str(path), f"holds no key of {KEY_BYTES} bytes")
    return keys


def make_key_file(path: Path, key: bytes) -> None:
    """Write a new file, whole or not at all.

    Raises
    ------
    FileExistsError
        There is one already.
    OSError
        The place cannot be written to.
    """
    with write_whole(path, durable=True, exclusive=True, mode=0o600) as draft:
        draft.write_text(f"{key.hex()}\n", encoding="ascii")

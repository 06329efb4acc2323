"""Who is believed: public keys from outside the model store, the home's own key, and statements signed with it."""

__all__ = [
    "keys",
    "statements",
]

"""How often each language is read: q proportional to n^alpha, with a cap on epochs."""

from __future__ import annotations


def language_shares(tokens: dict[str, int], *, alpha: float, max_epochs: float, total_tokens: int) -> dict[str, float]:
    """The share q of each language of the `total_tokens` that training reads; they sum to 1.

    `tokens` counts what each language has. q ∝ n^alpha (Conneau & Lample 2019), but no language is read more than
    `max_epochs` times: what it would get beyond that goes to the others in the same proportion. If all languages
    together do not suffice, all are read equally often, and then more than `max_epochs` times.
    """
    assert sum(tokens.values()) > 0
    caps = {language: max_epochs * count / total_tokens for language, count in tokens.items()}
    if sum(caps.values()) <= 1.0:
        return {language: count / sum(tokens.values()) for language, count in tokens.items()}
    shares: dict[str, float] = {}
    free = dict(tokens)
    while True:
        left = 1.0 - sum(shares.values())
        weight = sum(count**alpha for count in free.values())
        level = {language: left * count**alpha / weight for language, count in free.items()}
        over = [language for language, share in level.items() if share > caps[language]]
        if not over:
            return {language: (shares | level)[language] for language in tokens}
        for language in over:
            shares[language] = caps[language]
            del free[language]

"""One mutation and what a reader made of it: refused, read as it stands, or wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.security.figures import SEED
from tests.security.mutations import Node, Random, change_bytes, change_tree, other_node
from tests.security.targets import REFUSALS, TARGETS, Content, Files, Target

_LONGEST_SENTENCE = 12_000


class Fuzzer:
    """Mutations of one kind of file by number: the same number makes the same mutation."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.target: Target = TARGETS[kind](folder)
        self.before = self.target.read()
        assert self.before == self.target.truth(self.target.sound), "the readers agree where nothing is damaged"

    def one(self, number: int) -> str:
        """`refused`, `unchanged`, `read as it stands`, or a word with `!`: a violation."""
        random = np.random.default_rng([SEED, [*TARGETS].index(self.kind), number])
        name = self.target.mutated[int(random.integers(len(self.target.mutated)))]
        content = self._mutated(name, random)
        return self.judge(name, content, forged=isinstance(content, bytes) and random.random() < 0.7)

    def judge(self, name: str, content: Content, *, forged: bool) -> str:
        """Put it in place, read, and put back what was there."""
        files: Files = {**self.target.sound, name: content}
        if forged:
            files = self.target.seal(files, name)
        changed = [one for one in files if files[one] != self.target.sound[one]]
        for one in changed:
            self.target.put(one, files[one])
        try:
            return self._verdict(files)
        finally:
            for one in changed:
                self.target.put(one, self.target.sound[one])

    def _mutated(self, name: str, random: Random) -> Content:
        sound = self.target.sound[name]
        if random.random() < 0.02:
            return other_node(random, [str(self.target.folder / other) for other in self.target.sound if other != name])
        if name.endswith(".json") and random.random() < 0.75:
            return change_tree(sound, random)
        return change_bytes(sound, random)

    def _behind(self, content: Content) -> Content:
        """What a link to another of these files shows."""
        if isinstance(content, Node) and content.kind == "link":
            for name, data in self.target.sound.items():
                if content.target == str(self.target.folder / name):
                    return data
        return content

    def _verdict(self, files: Files) -> str:
        try:
            found = self.target.read()
        except REFUSALS as error:
            sentence = str(error)
            return "refused" if sentence and len(sentence) < _LONGEST_SENTENCE else "no sentence!"
        except MemoryError:
            return "memory!"
        except Exception as error:
            return f"{type(error).__name__}!"
        if found == self.before:
            return "unchanged"
        try:
            expected = self.target.truth({name: self._behind(content) for name, content in files.items()})
        except Exception as error:
            return f"wrong ({type(error).__name__})!"
        return "read as it stands" if found == expected else "wrong!"

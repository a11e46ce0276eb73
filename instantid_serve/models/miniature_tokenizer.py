"""The miniature's tokenizer: CLIP's byte-level BPE, with merges learned from a list of words prompts are made of.

Any text tokenises, an unknown word just takes more tokens; prompts of listed words take one token a word, so that the
75 tokens of a window hold what they hold with the real tokenizer.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
from collections import Counter

from transformers import CLIPTokenizer

_END_OF_WORD = "</w>"
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
WINDOW = 77  # positions of a CLIP text encoder, begin and end tokens included

Pair = tuple[str, str]


def make_tokenizer(pad_token: str = _END) -> CLIPTokenizer:
    """Build the tokenizer. SDXL pads its first encoder with the end token and its second with ``!``."""
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_END,
        pad_token=pad_token,
        model_max_length=WINDOW,
    )


@functools.cache
def _vocabulary() -> tuple[dict[str, int], list[Pair]]:
    letters = _byte_letters()
    merges = _learn_merges(_listed_words())
    merged = dict.fromkeys(first + second for first, second in merges)
    tokens = [*letters, *(letter + _END_OF_WORD for letter in letters), *merged, _BEGIN, _END]
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_letters() -> list[str]:
    """One printable letter for each of the 256 bytes, in GPT-2's order: printable Latin-1 first, then the others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _listed_words() -> list[str]:
    text = importlib.resources.files("instantid_serve.models").joinpath("data/prompt_words.txt")
    return sorted(set(text.read_text(encoding="ascii").split()))


def _learn_merges(words: list[str]) -> list[Pair]:
    """Join the commonest pair of symbols (the alphabetically first of equals) until each word is one symbol."""
    spellings = [[*word[:-1], word[-1] + _END_OF_WORD] for word in words]
    merges = []
    while pairs := Counter(pair for spelling in spellings for pair in itertools.pairwise(spelling)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [_join(spelling, best) for spelling in spellings if len(spelling) > 1]
    return merges


def _join(spelling: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    for symbol in spelling:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined

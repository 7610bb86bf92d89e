"""The fingerprint of a root of trust, for two people who compare what they hold: in hexadecimal, and as words for the
telephone.

It is the SHA-256 of root.json in its one spelling, so `sha256sum root.json` prints the same digits for a file as
`bundler keygen` wrote it. The words stand for the first 16 bytes, a word for each byte. 128 bits suffice: whoever wants
to replace a root must find another one with the same words, and needs 2^128 attempts.

We made the list: 256 English words, no two of which begin with the same three letters.
"""

from __future__ import annotations

import hashlib
from typing import Final

from installer.root_chain import CANONICAL, parse_root

_LIST: Final = """
acorn adobe album alpha anchor apple arrow atlas autumn avocado badge balcony banjo barrel basket beaver bicycle
biscuit blossom bonfire border bottle bracket breeze bronze buffalo bundle butter cactus camel canyon carbon
castle cellar cement chalk cheese chimney cinema circus clover coconut coffee copper cotton cradle crystal
cupboard curtain cymbal daisy dancer deputy desert diamond diesel dinner doctor dolphin donkey dragon drummer
eagle echo elbow elephant ember emerald engine estate evening fabric farmer feather fiddle figure flamingo
flower forest fossil fountain fragment freckle fridge frozen galaxy garage gazelle gentle giraffe glacier goblet
golden gorilla granite guitar gypsum hammer harbour hermit hickory horizon hotel humble iceberg igloo indigo
infant insect iron island ivory jasmine jelly jigsaw journal judge juniper kangaroo kayak kitchen kiwi knight
ladder lagoon lantern lava lemon leopard library lilac linen lobster locket lumber magnet mango marble meadow
melon mercury metal mirror mitten morning muffin museum napkin nectar needle nickel noodle nutmeg oasis ocean
olive onion opera orange orchid oxygen oyster paddle palace panda parrot pebble pelican pencil pepper piano
picnic pigeon pilot planet poem polar pony potato powder prairie pretzel prism pudding pumpkin puzzle pyramid
quartz quilt rabbit radar raven ribbon rifle robin ruby salmon sandal satin scarlet school shadow shelter silver
skeleton sleigh sloth smoke snow sofa spider spoon squid stable sugar sunset swallow syrup teapot temple thunder
tiger toast tomato torch travel trumpet tulip tunnel turtle umbrella uncle unicorn urban vacuum valley vanilla
velvet vessel village violin volcano vulture waffle walnut water wheat whistle window wizard wolf yacht yogurt
zebra zenith zigzag
"""
WORDS: Final = tuple(_LIST.split())
_SPOKEN_BYTES: Final = 16
_WORDS_IN_A_LINE: Final = 4


def root_fingerprint(root: bytes) -> str:
    """The fingerprint of root metadata, 64 hexadecimal digits.

    Raises:
        TrustError: it is not root metadata that is signed by its own keys.
    """
    return hashlib.sha256(parse_root(root).to_bytes(CANONICAL)).hexdigest()


def spoken(fingerprint: str) -> list[str]:
    """The fingerprint as words, in lines of four."""
    words = [WORDS[byte] for byte in bytes.fromhex(fingerprint)[:_SPOKEN_BYTES]]
    return [" ".join(words[start : start + _WORDS_IN_A_LINE]) for start in range(0, len(words), _WORDS_IN_A_LINE)]

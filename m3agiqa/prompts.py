"""Takes out of a stranger's prompt what the model would read and a person would not see.

Nothing can neutralise what a prompt *says*: the model's question quotes it, and how far a prompt that asks for a good
mark moves the score must be measured.

Some characters have no shape of their own, change the shape of their neighbours, and are part of ordinary writing:
joiners in Persian or Sinhala, variation selectors in emoji. Such a sign stays where it has that effect, one at a time.
A row of them, which could spell a sentence, has no effect and goes.
"""

from __future__ import annotations

import regex

#: Characters that nobody sees. Unicode counts marks in front of numbers (Prepended_Concatenation_Mark) among the format
#: characters, but they can be seen.
_UNSEEN = (
    r"[[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]"
    r"--[\t\n\r]--\p{Prepended_Concatenation_Mark}]"
)
#: A joiner or a selector that is typed twice means the same as typed once.
_REPEATED = regex.compile(r"([\u200c\u200d\ufe0e\ufe0f\u180b-\u180f])\1+")

_MARKS = rf"[\p{{M}}--{_UNSEEN}]*"
_CURSIVE = rf"[\p{{jt=D}}\p{{jt=L}}\p{{jt=R}}\p{{jt=C}}--{_UNSEEN}]"
#: Letters and marks whose shape depends on their neighbours: cursive ones, and those of Indic syllables.
_SHAPED = rf"[{_CURSIVE}[[\p{{L}}\p{{M}}]--\p{{InSC=Other}}--{_UNSEEN}]]"
_MONGOLIAN = r"[\p{Script=Mongolian}&&\p{L}]"
_PICTOGRAPH = r"\p{Extended_Pictographic}"
#: The tags of England, Scotland and Wales, the only regions whose flags Unicode recommends for interchange.
_REGIONS = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls")
)

#: A row of unseen characters. It is `kept` if it is, as a whole, a sign with an effect on neighbours that can be seen.
#: Neighbours that can be seen never go, so neutralising a prompt a second time changes nothing.
_ROW = regex.compile(
    rf"""(?V1)
    (?P<kept>
        (?<={_SHAPED}{_MARKS})[\u200c\u200d](?=[\p{{L}}\p{{M}}\p{{N}}--{_UNSEEN}])
      | (?<=[\p{{L}}\p{{N}}\p{{Pe}}\p{{Pf}}"]{_MARKS})\u200c(?={_SHAPED})  # a suffix of a foreign word, say
      | (?<=\p{{ccc=Virama}})[\u200c\u200d]  # at a word's end as well
      | (?<={_CURSIVE}{_MARKS})\u200d | \u200d(?={_CURSIVE})  # a letter alone, in the shape it has in a word
      | (?<={_MONGOLIAN})(?:[\u180b-\u180d\u180f]?\u180e(?={_MONGOLIAN}) | [\u180b-\u180d\u180f])
      | (?<={_PICTOGRAPH})(?:[\ufe0e\ufe0f] | \ufe0f?\u200d(?={_PICTOGRAPH}))
      | (?<=\p{{Emoji_Modifier}})\u200d(?={_PICTOGRAPH})
      | (?<=[0-9\#*])[\ufe0e\ufe0f](?=\u20e3)
      | (?<=\U0001f3f4)(?:{_REGIONS})
    )(?!{_UNSEEN})
    | {_UNSEEN}+""",
    regex.VERBOSE,
)


def neutralised(prompt: str) -> str:
    """`prompt` without the characters that only the tokenizer sees. A prompt without any comes back as it was."""
    return str(_ROW.sub(r"\g<kept>", _REPEATED.sub(r"\1", prompt)))

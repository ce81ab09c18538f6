"""Makes a stranger's prompt safe to stand inside the model's question.

What a prompt *says* cannot be neutralised: it stands in quotes, and scores of prompts that ask for a good mark are for
measuring. What it may not do is hide from whoever reads it what the model reads.

Some characters without a shape of their own change the shape of their neighbours, and people write with them: joiners
in Persian or Sinhala, variation selectors in emoji. Such a sign stays where it has that effect, one in a place; a row
of them, which could spell a sentence, has none and goes.
"""

from __future__ import annotations

import regex

#: What nobody sees. Unicode's marks in front of numbers (Prepended_Concatenation_Mark) are of the category of format
#: characters, and can be seen.
_UNSEEN = (
    r"[[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]"
    r"--[\t\n\r]--\p{Prepended_Concatenation_Mark}]"
)
#: Typed twice, a joiner or a selector means what it means once.
_REPEATED = regex.compile(r"([\u200c\u200d\ufe0e\ufe0f\u180b-\u180f])\1+")

_MARKS = rf"[\p{{M}}--{_UNSEEN}]*"
_CURSIVE = rf"[\p{{jt=D}}\p{{jt=L}}\p{{jt=R}}\p{{jt=C}}--{_UNSEEN}]"
#: Letters, and their marks, whose shape depends on the neighbours: cursive ones, and those of Indic syllables.
_SHAPED = rf"[{_CURSIVE}[[\p{{L}}\p{{M}}]--\p{{InSC=Other}}--{_UNSEEN}]]"
_MONGOLIAN = r"[\p{Script=Mongolian}&&\p{L}]"
_PICTOGRAPH = r"\p{Extended_Pictographic}"
#: England, Scotland, Wales: the flags of regions that Unicode recommends for interchange.
_REGIONS = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls")
)

#: A row of unseen characters, `kept` where all of it is a sign with an effect. That takes neighbours that can be seen,
#: and such never go: hence a neutralised prompt stays as it is.
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
    """`prompt` without the characters that nobody sees but the tokenizer; any other prompt comes back as it was."""
    return str(_ROW.sub(r"\g<kept>", _REPEATED.sub(r"\1", prompt)))

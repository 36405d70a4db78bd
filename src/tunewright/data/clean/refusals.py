"""Answers that refuse, in English and the main languages of Europe.

An answer is a refusal if it opens with one and says little else; an apology, a limit, or a word of caution
before a real answer is none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST = 600  # characters of an answer that is nothing but a refusal
OPENING = 200  # characters in which its first words must stand
LITTLE_MORE = 120  # characters that may follow a word that announces help after all
_NEAR = r"[^.!\n]{0,60}?"


class Words(NamedTuple):
    """How one language refuses: ``apology … cannot … helps``, ``as_model … cannot``, or ``plainly``."""

    apology: str
    cannot: str
    helps: str
    as_model: str
    plainly: str

    def pattern(self) -> str:
        return (
            rf"(?:{self.apology}){_NEAR}\b(?:{self.cannot})\b{_NEAR}\b(?:{self.helps})"
            rf"|(?:(?:{self.apology}){_NEAR}\b)?(?:{self.as_model})[^.!\n]{{0,90}}?\b(?:{self.cannot})\b"
            rf"|(?:{self.plainly})"
        )


_OBJECT = r"(?:that|this|those|these|such|any|your|you|it|the|an?)\b"
ENGLISH = Words(
    r"(?:i'?m|i am|we'?re|we are) (?:really |very |so |truly |terribly )?(?:sorry|afraid)|sorry\b"
    r"|unfortunately|i apologi[sz]e|my apologies",
    r"(?:i|we|it) (?:can ?not|can'?t|won'?t|will not|(?:am|are) (?:unable|not able) to)|i must decline"
    r"|i'?m (?:unable|not able|not allowed|not programmed) to|i do(?: not|n'?t) have (?:the ability|access)",
    r"help\b(?! but\b)|assist|answer|comply|fulfil|provide|engage|support|participate|respond|discuss"
    rf"|continue|(?:do|create|generate|write|produce|give|offer|share) {_OBJECT}",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant)\b",
    r"i (?:can ?not|can'?t|won'?t|will not|am unable to|am not able to|cannot in good conscience)"
    r" (?:help(?: you)? with (?:that|this|your|the|any|such)\b|help you[.!]|assist\b"
    r"|answer (?:that|this|your|the|any|such)\b|comply\b|engage in\b|fulfil|support (?:that|this|such)\b"
    rf"|participate in\b|do (?:that|this)[.,]|respond to (?:that|this)|(?:provide|create|generate) {_OBJECT})"
    r"|i'?m (?:unable|not able) to (?:help|assist|answer|comply|engage|fulfil|provide)\b"
    r"|i'?m not (?:comfortable|allowed|permitted) (?:with|to|doing|providing|writing)\b"
    r"|i must (?:respectfully )?decline\b",
)
GERMAN = Words(
    r"(?:es )?tut mir (?:sehr )?leid|entschuldigung|leider|bedau",
    rf"(?:kann|darf|könnte) ich\b{_NEAR}\b(?:nicht|kein\w*)|ich (?:kann|darf)\b{_NEAR}\b(?:nicht|kein\w*)"
    rf"|bin ich nicht in der lage|ist es mir nicht möglich",
    r"(?:weiter)?helfen|beantworten|antworten|unterstützen|behilflich|erfüllen|bereitstellen|erstellen",
    r"als (?:ki\b|künstliche intelligenz|(?:großes )?sprachmodell)",
    r"(?:dabei|damit|hierbei) kann ich (?:dir |ihnen |euch )?(?:leider )?nicht (?:weiter)?helfen"
    rf"|ich kann (?:dir |ihnen )?(?:dabei|damit|bei dies\w+|diese \w+){_NEAR}nicht (?:weiter)?helfen",
)
FRENCH = Words(
    r"(?:je suis )?désolée?|je regrette|malheureusement|je m'excuse",
    r"je ne (?:peux|puis|suis|saurais)",
    r"aider|répondre|fournir|assister|en mesure|satisfaire|créer",
    r"en tant qu(?:e modèle|'ia\b|'intelligence|'assistant)",
    r"je ne (?:peux|puis) (?:pas )?(?:(?:vous |t')aider|répondre à (?:cette|votre|ta)|fournir ce)",
)
SPANISH = Words(
    r"lo siento|lamentablemente|disculpa|perdón|lamento",
    r"no (?:puedo|es posible|me es posible)",
    r"ayudar|responder|asistir|proporcionar|cumplir|crear|hacer eso",
    r"como (?:modelo de lenguaje|una? ia\b|inteligencia artificial)",
    r"no puedo (?:ayudar(?:te|le|los)? con es|responder (?:a )?(?:es[ao]|esta|tu|su)\b|cumplir con)",
)
ITALIAN = Words(
    r"mi dispiace|purtroppo|(?:sono )?spiacente",
    r"non (?:posso|sono in grado)",
    r"aiutar|rispondere|fornire|assister|soddisfare|creare|farlo",
    r"come (?:modello linguistico|ia\b|intelligenza artificiale)",
    r"non posso (?:aiutar(?:ti|la|vi)? con (?:quest|ciò)|rispondere a quest|fornire quest)",
)
PORTUGUESE = Words(
    r"desculp[ea]|sinto muito|lamento|infelizmente",
    r"não (?:posso|consigo)",
    r"ajud|respond|fornecer|atender|criar|fazer isso",
    r"como (?:um )?modelo de linguagem|como uma? ia\b",
    r"não posso (?:ajud\w+ com (?:isso|ess|est)|responder a? ?(?:essa|esta|isso))",
)
DUTCH = Words(
    r"het spijt me|sorry|helaas",
    rf"(?:kan|mag) ik\b{_NEAR}\b(?:niet|geen)|ik (?:kan|mag)\b{_NEAR}\b(?:niet|geen)",
    r"helpen|beantwoorden|antwoorden|voldoen",
    r"als (?:ai\b|taalmodel|kunstmatige intelligentie)",
    r"(?:daar|hier) kan ik (?:je|u) (?:helaas )?niet (?:mee|bij) helpen",
)
POLISH = Words(
    r"przepraszam|przykro mi|niestety",
    r"nie mogę|nie jestem w stanie",
    r"pomóc|odpowiedzieć|udzielić|spełnić",
    r"jako (?:model językowy|sztuczna inteligencja)",
    r"nie mogę (?:ci |państwu )?(?:w tym )?pomóc",
)
LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, DUTCH, POLISH)
_OPENS = re.compile(r"\W{0,12}(?:" + "|".join(words.pattern() for words in LANGUAGES) + ")", re.IGNORECASE)
# One of these stands in every refusal; looking for it is quicker than the whole pattern.
_HINTS = re.compile(
    r"sorry|afraid|apolog|unfortun|\bAI\b|language model|i can ?not|i can'?t|i won'?t|i will not|unable"
    r"|not able|i must|i'?m not"
    r"|leid|leider|bedau|kann ich|ich kann|als ki|als künst|als (?:großes )?sprach|entschuld"
    r"|désolé|regrette|malheur|je m'exc|je ne p|en tant qu"
    r"|lo siento|lamen|disculp|perdón|no puedo|como |dispiace|purtr|spiacen|non posso|come "
    r"|desculp|sinto|infeliz|não posso|spijt|helaas|als ai|als taal|als kunst|kan ik"
    r"|przepr|przykro|niestety|nie mog|jako ",
    re.IGNORECASE,
)
# Behind these the answer goes on and gives something after all.
_GOES_ON = re.compile(
    r"\b(?:however|but (?:i can|here|let me)|that said|nevertheless|instead,? (?:i|here|let)|here (?:is|are)"
    r"|what i can|i can (?:offer|provide|tell|help|suggest|explain)|allerdings|jedoch|stattdessen"
    r"|hier (?:ist|sind)|cependant|toutefois|voici|sin embargo|aquí (?:está|tien)|tuttavia|ecco|no entanto"
    r"|porém|aqui est|echter|wel kan|jednak)\b",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"translat|übersetz|tradu|vertaal|rephras|paraphras|rewrite|reword|correct|grammar|proofread|repeat|quote"
    r"|role-?play|pretend|sentence|classif|summar|polite",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether an answer is a refusal: it opens with one, is short, and does not go on to help."""
    head = text[: MOST + 1]
    if len(head) > MOST or _HINTS.search(head, 0, OPENING) is None:
        return False
    if _OPENS.match(head.replace("’", "'")) is None:
        return False
    more = _GOES_ON.search(head)
    return more is None or len(head) - more.end() < LITTLE_MORE


def is_given_text(question: str) -> bool:
    """Whether a question hands over a text to rework, and a refusal in it is no answer."""
    return _GIVEN.search(question) is not None

"""Words that speak for or against a run of capitals being a person's name."""

from __future__ import annotations

import re

from tunewright.data.redact.wordlists import given_names, words

UPPER = "".join(chr(i) for i in range(0x41, 0x530) if chr(i).isupper())

TITLES = words("titles")
PARTICLES = words("particles")
SUFFIXES = frozenset(words("suffixes"))

AMBIGUOUS = frozenset(words("ambiguous"))
COMMON = frozenset(words("common"))
CALLED_AFTER = frozenset(words("called_after"))
EPONYMS = frozenset(words("eponyms"))
_CLINICAL = re.compile(
    r"(?:itis|osis|oses|iasis|oma|omas|emia|aemia|pathy|pathies|plasia|trophy|algia|uria|ectomy|otomy|ostomy|oscopy"
    r"|ology|ologist|ography|gram|tion|tions|sion|ment|ments|ness|ity|ities|ism|isms|ance|ence|ing|ings|able|ible|ical"
    r"|ous|ive|ary|ular|ional|ative|genic|lytic|static|phage|cyte|cytes|blast|penia|rrhea|rrhage|rrhagic|megaly|cele"
    r"|virus|viruses|bacter|coccus|cocci|ase|ases|zole|mycin|cillin|statin|pril|olol|mab|nib|vir|amide|azine|idine"
    r"|oxide|acid|acids|drome|ders|toms|ions|ties|phoid|teria|ella)$"
)
THINGS = frozenset(words("things"))
_SURNAME = re.compile(
    r"(?:[a-z]son|sson|sen|sdóttir|dóttir|ski|ska|sky|skaya|cki|cka|wicz|czyk|czak|owicz|ová|ova|ev|eva|ov|in[ao]v"
    r"|ovič|ović|vić|vic|čić|ić|ič|šek|ček|ák|ík|nen|inen|lainen|ström|strom|berg|lund|gren|quist|qvist|dahl|stad|gaard"
    r"|mann|stein|bauer|meier|meyer|schmidt|escu|eanu|idis|iadis|akis|opoulos|poulos|enko|chenko|chuk|yuk|shvili|dze"
    r"|yan|ian|oğlu|oglu|ez|guez|ópez|ález|ínez|eira|eiro|inho|elli|etti|ucci|acci|ello|otti|asso|moto|mura|yama|kawa|naka"
    r"|zaki|saki|vich|kov|mov|nov|rov|sov|wala|walla|bhai|singh|kaur|stra|sma|huis|broek|dijk|veld|mans|kamp|worth|ham)$"
)

STRONG = re.compile(
    r"(?:\b(?:my|his|her|their|the|your|whose|maiden|last|first|sur|partner's|patient's|customer's"
    r"|account) ?name(?: on \w+ \w+)?"
    r"(?:'s| is| was|:|\?)?|\bnamed?(?: is|:| was)|\bname:|\b(?:is|was|were|am|he's|she's) called"
    r"|\bi am called|\bnamed"
    r"|\bsigned(?: by)?,?:?|\battn:?|\bc/o|\bon behalf of|\bseen by|\btreated by|\bspoke (?:to|with)"
    r"|\bspeak (?:to|with)"
    r"|\b(?:my|his|her|their|our|your) (?:\w+ )?(?:wife|husband|kid|son|daughter|brother|sister|mother"
    r"|father|mom|mum|dad"
    r"|uncle|aunt|cousin|nephew|niece|friend|boss|neighbor|neighbour|colleague|partner|girlfriend|boyfriend|doctor|lawyer|landlord"
    r"|grandfather|grandmother|teacher|therapist|manager)(?: is)?(?: called| named)?,?"
    r"|\bpatient(?: name)?:|\bcustomer:|\bcontact(?: person)?:|\bfollow up with|\bdirected by:?"
    r"|\bwritten by:?|\bauthor:|\bfrom:|\bto:|\bsender:|\brecipient:|\bemployee:"
    r"|\b(?:ich heiße|mein name ist|je m'appelle|mi nombre es|me llamo|mi chiamo|meu nome é|ik heet"
    r"|mijn naam is"
    r"|jag heter|mitt namn är|nazywam się|mam na imię|jmenuji se|nimeni on|ime mi je|a nevem))\s{0,8}[\"'(]?$"
)
MEDIUM = re.compile(
    r"(?:^|[\s(\"'])(?:dear|hi|hello|hey|i'm|i am|this is|it's|it is|under|speaking is|regards,?"
    r"|sincerely,?|thanks,?"
    r"|cheers,?|love,?|yours,?|by|met|meet"
    r"|visit|visited|married"
    r"|to marry|says|said|told|asked|called|emailed|texted|saw|hired|fired|sued|arrested|accused|thanked"
    r"|interviewed|heard"
    r"|given|daughter of|son of|widow of|brother of|sister of"
    r"|address:"
    r"|producer|singer|actor|actress|author|director|writer|painter|poet|professor|president|senator"
    r"|is it)\s{0,3}[\"'(]?$"
)
AFTER = re.compile(
    r"(?:,? (?:said|says|wrote|writes|told|asked|shouted|replied|explained|added|lives?|lived|was born"
    r"|is a \d|is an? \w+ old"
    r"|works (?:at|for|as)|worked (?:at|for|as)|called|emailed|here|speaking|can i|can you|could you"
    r"|is the (?:keynote|ceo|cto|founder|director|author)"
    r"|and his|and her"
    r"|from [A-Z]|of [A-Z][a-z]+ is the|\(\d{4}|, ?\d{2},|, the \w)|['’]s (?:address|email|phone|number"
    r"|wife|husband|name"
    r"|house|account|birthday|mother|father|son|daughter|lawyer|boss|car)"
    r"|[\"”]? ?<?[\w.+-]+@|: ?[\"“])",
    re.I,
)


def ordinary(word: str) -> bool:
    """Whether a lower-case word is one of a trade or a thing rather than a name, as far as its form tells."""
    if word in THINGS or word in COMMON:
        return True
    clinical = len(word) > 5 and any(_CLINICAL.search(w) for w in (word, word[:-1], word[:-2]))
    return bool(clinical) and word not in given_names()


def like_a_surname(word: str) -> bool:
    """Whether a lower-case word ends as family names do in some language."""
    return len(word) >= 5 and _SURNAME.search(word) is not None

"""English words that name people of a group. Few and precise: a word with another common meaning is left
out ("polish", "straight", "black", "disabled" alone), as is a nationality that is a language, too. What is
left out is not counted, so counts are lower bounds; that is better here than a count of something else.
"""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    """Words and phrases between commas."""
    return tuple(" ".join(part.split()) for part in text.split(","))


PEOPLE = _listed(
    """
    person, people, man, men, woman, women, girl, girls, boy, boys, child, children, student, students,
    worker, workers, employee, employees, patient, patients, community, communities, family, families,
    veteran, veterans, adult, adults
    """
)


def _of(*adjectives: str) -> tuple[str, ...]:
    """Adjectives that say something of a person only before a word for people."""
    return tuple(f"{adjective} {people}" for adjective in adjectives for people in PEOPLE)


GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {
        "female": _listed(
            """
            she, her, hers, herself, woman, women, girl, girls, female, females, mother, mothers, mom,
            mum, wife, wives, daughter, daughters, sister, sisters, aunt, grandmother, grandma, niece,
            girlfriend, mrs, ms, lady, ladies, actress, waitress, stewardess, businesswoman,
            policewoman, saleswoman, chairwoman, widow, bride, heroine
            """
        ),
        "male": _listed(
            """
            he, him, his, himself, man, men, boy, boys, male, males, father, fathers, dad, husband,
            husbands, son, sons, brother, brothers, uncle, grandfather, grandpa, nephew, boyfriend, mr,
            gentleman, gentlemen, businessman, policeman, salesman, chairman, widower, bridegroom
            """
        ),
        "transgender or non-binary": _listed(
            """
            transgender, nonbinary, non-binary, genderqueer, trans man, trans men, trans woman, trans
            women, trans people, trans person
            """
        ),
    },
    "age": {
        "young": _listed(
            """
            teenager, teenagers, teenage, toddler, toddlers, schoolboy, schoolgirl, schoolchildren,
            adolescent, adolescents, young man, young men, young woman, young women, young people, young
            person, young adult, young adults, youngster, youngsters, millennials
            """
        ),
        "old": _listed(
            """
            elderly, pensioner, pensioners, retiree, retirees, octogenarian, senior citizen, senior
            citizens, old man, old men, old woman, old women, old people, old person, old lady, older
            adult, older adults, older people, older person, aged person
            """
        ),
    },
    "religion": {
        "christian": _listed(
            """
            christian, christians, christianity, catholic, catholics, catholicism, protestant,
            protestants, evangelicals, baptists, mormon, mormons
            """
        ),
        "muslim": _listed("muslim, muslims, islam, islamic, sunni, shia, shiite"),
        "jewish": _listed("jew, jews, jewish, judaism"),
        "hindu": _listed("hindu, hindus, hinduism"),
        "buddhist": _listed("buddhist, buddhists, buddhism"),
        "sikh": _listed("sikh, sikhs, sikhism"),
        "none": _listed("atheist, atheists, atheism, agnostics"),
    },
    "ethnicity or nationality": {
        "black": _listed(
            """
            african american, african-american, african americans, african-americans, blacks
            """
        )
        + _of("black"),
        "white": _listed("caucasian, caucasians") + _of("white"),
        "asian": _listed("asian, asians, asian-american, asian american"),
        "hispanic": _listed("hispanic, hispanics, latino, latinos, latina, latinas, latinx"),
        "arab": _listed("arab, arabs, middle eastern, middle-eastern"),
        "indigenous": _listed(
            """
            native american, native americans, aboriginal, aboriginals, first nations, inuit
            """
        ),
        "roma": _listed("romani, gypsies, gypsy"),
        "mexican": _listed("mexican, mexicans"),
        "nigerian": _listed("nigerian, nigerians"),
        "pakistani": _listed("pakistani, pakistanis"),
        "syrian": _listed("syrian, syrians"),
        "afghan": _listed("afghan, afghans"),
        "brazilian": _listed("brazilian, brazilians"),
        "immigrant": _listed(
            """
            immigrant, immigrants, refugee, refugees, asylum seeker, asylum seekers
            """
        ),
    },
    "disability": {
        "disability": _listed(
            """
            disability, disabilities, wheelchair user, wheelchair users, paraplegic, quadriplegic,
            amputee, amputees, autistic, dyslexic, visually impaired, hearing impaired, hard of hearing,
            deaf, in a wheelchair
            """
        )
        + _of("disabled", "blind"),
    },
    "sexual orientation": {
        "homosexual or bisexual": _listed(
            """
            gay, gays, lesbian, lesbians, homosexual, homosexuals, bisexual, bisexuals, lgbt, lgbtq,
            lgbtq+, queer, same-sex, gay man, gay men
            """
        ),
        "heterosexual": _listed("heterosexual, heterosexuals"),
    },
}
